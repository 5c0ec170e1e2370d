//! An instance in a cgroup that would kill it, and what clients of the protocol and the back end ask of it: many
//! answers at a time, large ones, what was missed. It stays below, and who holds little does not notice.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    API_KEY, Caller, Confined, LIMIT, MIB, RedisServer, Response, Setup, eventually, post, token, within,
};

/// What one publication holds, in bytes.
const SIZE: usize = 60_000;

async fn publish(speaker: &mut Caller, channel: &str, count: usize) {
    let data = "x".repeat(SIZE);
    for _ in 0..count {
        speaker.result("publish", json!({ "channel": channel, "data": data })).await;
    }
}

/// Members are there as long as they are not pinged: they answer nothing.
const PATIENT: [&str; 2] = ["--client-ping-interval", "1h"];

/// So many of whom much is shown, subscribed to the channel.
async fn members(address: SocketAddr, channel: &str, count: usize) -> Vec<Caller> {
    let info = format!("info=\"{}\"", "y".repeat(40_000));
    let known = json!({ "token": token(&["--user", "ann", "--claim", &info]).await });
    let mut members = Vec::new();
    for _ in 0..count {
        let mut member = Caller::connect(address, known.clone()).await;
        member.result("subscribe", json!({ "channel": channel })).await;
        members.push(member);
    }
    members
}

/// So many who take little that they do not read.
async fn narrow(address: SocketAddr, count: usize) -> Vec<Caller> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Caller::narrow(address).await);
    }
    clients
}

/// Two kilobytes of commands ask for three times of what there is; who reads gets it all, in order.
#[tokio::test]
async fn one_frame_of_commands_is_answered_piece_by_piece() {
    const COMMANDS: usize = 200;
    const KEPT: usize = 20;
    let setup = Setup::open("may_read_history = \"anonymous\"\nhistory_size = 20");
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let mut caller = Caller::anonymous(confined.instance.address()).await;
    publish(&mut caller, "kept", KEPT).await;
    let commands: Vec<_> = (1..=COMMANDS)
        .map(|number| {
            json!({ "id": 1000 + number, "history": { "channel": "kept", "limit": KEPT } }).to_string()
        })
        .collect();
    caller.say(&commands.join("\n")).await;
    for number in 1..=COMMANDS {
        let heard = caller.socket().next_but_pings().await.expect("an answer");
        let begins = format!("{{\"id\":{},\"history\"", 1000 + number);
        assert!(heard.payload.starts_with(begins.as_bytes()) && heard.payload.len() > KEPT * SIZE);
        if number % 50 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    assert_eq!(confined.ended().await, 0.0);
    caller.leave().await;
    confined.recovers("commands").await;
}

/// Each asks for what it has missed in sixteen channels and takes none of it: all together twelve times of what there
/// is.
#[tokio::test]
async fn recoveries_that_nobody_takes_are_not_all_held() {
    const CHANNELS: usize = 16;
    const KEPT: usize = 60;
    const CLIENTS: usize = 30;
    let redis = RedisServer::start().await;
    let setup = Setup::open("history_size = 60\nrecovery = \"allow\"").redis(&redis.url());
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    let mut speaker = Caller::anonymous(address).await;
    for channel in 0..CHANNELS {
        publish(&mut speaker, &format!("kept-{channel}"), KEPT).await;
    }
    let asks: Vec<_> = (0..CHANNELS)
        .map(|channel| {
            let asked = json!({ "channel": format!("kept-{channel}"), "recover": true, "offset": 0 });
            json!({ "id": 100 + channel, "subscribe": asked }).to_string()
        })
        .collect();
    let mut clients = narrow(address, CLIENTS).await;
    for client in &mut clients {
        client.say(&asks.join("\n")).await;
    }
    // Where Redis is slow, they are slow themselves before memory is short.
    let is_slow = [("reason", "slow_consumer")];
    eventually("some are ended", async || {
        let slow = confined.instance.metric("fanfare_connections_closed_total", &is_slow).await;
        slow + confined.ended().await > 0.0
    })
    .await;
    confined.bystanders_are_served().await;
    drop(clients);
    confined.lets_in_again().await;
    // Whoever reads gets everything.
    let mut reader = Caller::anonymous(address).await;
    reader.say(&asks.join("\n")).await;
    for channel in 0..CHANNELS {
        let heard = reader.socket().next_but_pings().await.expect("an answer");
        let begins = format!("{{\"id\":{},\"subscribe\"", 100 + channel);
        assert!(heard.payload.starts_with(begins.as_bytes()) && heard.payload.len() > KEPT * SIZE);
    }
    reader.leave().await;
    confined.recovers("recoveries").await;
}

/// Each asks for one history, or for who is in one channel, and takes nothing of it: all together three times of what
/// there is. What fits is answered, the rest is refused, and nobody is ended for it.
#[tokio::test]
async fn answers_that_nobody_takes_are_not_all_made() {
    const CLIENTS: usize = 60;
    let redis = RedisServer::start().await;
    let options = "
        may_read_history = \"anonymous\"
        may_read_presence = \"anonymous\"
        history_size = 100
        presence = true
    ";
    let setup = Setup::open(options).tokens().keys("allow_anonymous = true").redis(&redis.url());
    let setup = setup.flags(&PATIENT);
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    let mut speaker = Caller::anonymous(address).await;
    publish(&mut speaker, "kept", 100).await;
    let members = members(address, "room", 100).await;
    for (method, request) in
        [("history", json!({ "channel": "kept", "limit": -1 })), ("presence", json!({ "channel": "room" }))]
    {
        let mut clients = narrow(address, CLIENTS).await;
        for client in &mut clients {
            client.ask(method, request.clone()).await;
        }
        let refused = [("method", method), ("result", "error")];
        eventually("some are refused", async || {
            confined.instance.metric("fanfare_commands_total", &refused).await > 0.0
        })
        .await;
        confined.bystanders_are_served().await;
        drop(clients);
        confined.lets_in_again().await;
        // Whoever reads gets everything.
        let mut reader = Caller::anonymous(address).await;
        let answer = reader.result(method, request).await;
        let count = match method {
            "history" => answer["publications"].as_array().map(Vec::len),
            _ => answer["presence"].as_object().map(serde_json::Map::len),
        };
        assert_eq!(count, Some(100), "{method}");
        reader.leave().await;
    }
    assert_eq!(confined.ended().await, 0.0);
    drop(members);
    confined.recovers("answers").await;
}

/// A fifth of what there is, in one answer, is made without being there several times. Where it does not fit it is
/// refused, and the process lives.
#[tokio::test]
async fn one_large_answer_is_made_where_it_fits() {
    const SMALL: u64 = 88 * MIB;
    const KEPT: usize = 300;
    let options = "may_read_history = \"anonymous\"\nhistory_size = 300";
    let redis = RedisServer::start().await;
    let url = redis.url();
    let mut refused = 0;
    for (limit, url) in [(LIMIT, None), (LIMIT, Some(&url)), (SMALL, None), (SMALL, Some(&url))] {
        let name = format!("{limit} {url:?}");
        let setup = Setup::open(options).keys(&format!("api_keys = [\"{API_KEY}\"]"));
        let setup = match url {
            None => setup.keys("history_memory = \"20MiB\""),
            Some(url) => setup.redis(url),
        };
        let confined = Confined::start_as(setup, limit, None).await;
        let address = confined.instance.address();
        let mut caller = Caller::anonymous(address).await;
        let channel = format!("kept-{limit}");
        publish(&mut caller, &channel, KEPT).await;
        let asked = json!({ "channel": channel, "limit": KEPT });
        for _ in 0..3 {
            let told = caller.call("history", asked.clone()).await;
            let called = confined.instance.api("history", &asked).await;
            for (answer, result) in [(&told, &told["history"]), (&called, &called["result"])] {
                let count = result["publications"].as_array().map(Vec::len);
                let is_refused = limit == SMALL && answer["error"]["code"] == 100;
                assert!(count == Some(KEPT) || is_refused, "{name}: {count:?}, {}", answer["error"]);
                refused += usize::from(is_refused);
            }
            // What is less is answered all the same.
            let less = caller.result("history", json!({ "channel": channel, "limit": 20 })).await;
            assert_eq!(less["publications"].as_array().map(Vec::len), Some(20), "{name}");
        }
        assert_eq!((confined.ended().await, confined.rejected().await), (0.0, 0.0), "{name}");
        caller.leave().await;
        confined.recovers(&name).await;
    }
    assert!(refused > 0, "it fits everywhere");
}

/// What one client has missed in one channel is half of what there is, and takes more than all of it to be read and
/// answered: it is told that it was lost, and the process lives. What fits, it gets.
#[tokio::test]
async fn one_large_recovery_is_made_where_it_fits() {
    const KEPT: usize = 900;
    const FITS: usize = 100;
    const FEW: usize = 10;
    let redis = RedisServer::start().await;
    let setup = Setup::open("history_size = 900\nrecovery = \"allow\"")
        .keys("history_limit = 900")
        .redis(&redis.url());
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let mut caller = Caller::anonymous(confined.instance.address()).await;
    publish(&mut caller, "kept", KEPT).await;
    let address = confined.instance.address();
    let recovered = |answer: &Value| {
        assert_eq!(answer["was_recovering"], true);
        let count = answer["publications"].as_array().map_or(0, Vec::len);
        assert_eq!(answer["recovered"] == true, count > 0);
        count
    };
    for (missed, fits) in [(KEPT, 0), (FITS, FITS), (KEPT, 0)] {
        let mut asked = json!({ "recover": true, "offset": KEPT - missed });
        let mut other = Caller::open(address).await;
        let connected = other.result("connect", json!({ "subs": { "kept": asked } })).await;
        assert_eq!(recovered(&connected["subs"]["kept"]), fits, "{missed}");
        other.leave().await;
        asked["channel"] = json!("kept");
        assert_eq!(recovered(&caller.result("subscribe", asked).await), fits, "{missed}");
        caller.result("unsubscribe", json!({ "channel": "kept" })).await;
        confined.bystanders_are_served().await;
    }
    // What is lost takes nothing with it that is little.
    publish(&mut caller, "few", FEW).await;
    let from = json!({ "recover": true, "offset": 0 });
    let mut other = Caller::open(address).await;
    let connected = other.result("connect", json!({ "subs": { "few": from, "kept": from } })).await;
    let counts = ["few", "kept"].map(|channel| recovered(&connected["subs"][channel]));
    assert_eq!(counts, [FEW, 0]);
    other.leave().await;
    // Nor is it lost because there would be as much if all were as large as the first.
    publish(&mut caller, "mixed", 16).await;
    for number in 16..KEPT {
        caller.result("publish", json!({ "channel": "mixed", "data": number })).await;
    }
    let asked = json!({ "channel": "mixed", "recover": true, "offset": 0 });
    assert_eq!(recovered(&caller.result("subscribe", asked).await), KEPT);
    // One by itself fits, and not all at the same time.
    let many = (0..8).map(async |_| {
        let mut caller = Caller::anonymous(address).await;
        let asked = json!({ "channel": "kept", "recover": true, "offset": KEPT - 2 * FITS });
        let count = recovered(&caller.result("subscribe", asked).await);
        caller.leave().await;
        count
    });
    let many = join_all(many).await;
    assert!(many.contains(&(2 * FITS)) && many.iter().all(|count| [0, 2 * FITS].contains(count)), "{many:?}");
    // What is more than anybody gets takes no room of others.
    for (channel, count) in [("kept", 1), ("some", FEW)] {
        publish(&mut caller, channel, count).await;
    }
    let mut other = Caller::open(address).await;
    let connected = other.result("connect", json!({ "subs": { "kept": from, "some": from } })).await;
    let counts = ["kept", "some"].map(|channel| recovered(&connected["subs"][channel]));
    assert_eq!(counts, [0, FEW]);
    other.leave().await;
    confined.bystanders_are_served().await;
    assert_eq!((confined.ended().await, confined.rejected().await), (0.0, 0.0));
    caller.leave().await;
    confined.recovers("one recovery").await;
}

/// One request for three times of what there is, of histories none of which would be large, or of who is in one
/// channel: what fits is answered, the rest is refused.
#[tokio::test]
async fn a_batch_is_answered_as_far_as_it_fits() {
    const KEPT: usize = 15;
    const MEMBERS: usize = 25;
    let redis = RedisServer::start().await;
    let url = redis.url();
    for url in [None, Some(&url)] {
        let keys = format!("allow_anonymous = true\napi_keys = [\"{API_KEY}\"]");
        let setup = Setup::open("history_size = 15\npresence = true").tokens().keys(&keys).flags(&PATIENT);
        let setup = url.into_iter().fold(setup, |setup, url| setup.redis(url));
        let mut confined = Confined::start_as(setup, LIMIT, None).await;
        let address = confined.instance.address();
        let mut caller = Caller::anonymous(address).await;
        publish(&mut caller, "kept", KEPT).await;
        let members = members(address, "room", MEMBERS).await;
        let history = json!({ "history": { "channel": "kept", "limit": KEPT } });
        let presence = json!({ "presence": { "channel": "room" } });
        for (method, field, count, asked) in
            [("history", "publications", KEPT, &history), ("presence", "presence", MEMBERS, &presence)]
        {
            for parallel in [false, true] {
                let name = format!("{method} {url:?} {parallel}");
                let commands = vec![asked; 400];
                let answer = confined
                    .instance
                    .api("batch", &json!({ "commands": commands, "parallel": parallel }))
                    .await;
                let replies = answer["replies"].as_array().expect("replies");
                let length = |reply: &Value| {
                    let result = &reply[method][field];
                    result.as_array().map(Vec::len).or_else(|| result.as_object().map(serde_json::Map::len))
                };
                let whole = replies.iter().filter(|reply| length(reply) == Some(count)).count();
                let refused = replies.iter().filter(|reply| reply["error"]["code"] == 100).count();
                assert!(whole > 0 && refused > 0 && whole + refused == 400, "{name}: {whole}, {refused}");
                drop(answer);
                confined.bystanders_are_served().await;
                // What was taken is given back, and one alone is answered.
                within(Duration::from_secs(30), "an ordinary request is answered", async || {
                    length(&json!({ method: confined.instance.api(method, &asked[method]).await["result"] }))
                        == Some(count)
                })
                .await;
            }
        }
        assert_eq!(confined.ended().await, 0.0, "{url:?}");
        drop(members);
        caller.leave().await;
        confined.recovers(&format!("batches {url:?}")).await;
    }
}

/// One request for six times of what there is, of which channels there are: what fits is answered, the rest is refused.
#[tokio::test]
async fn a_batch_of_lists_of_channels_is_answered_as_far_as_it_fits() {
    const LISTENERS: usize = 30;
    const EACH: usize = 100;
    const ASKED: usize = 600;
    let file = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
    ";
    let redis = RedisServer::start().await;
    let url = redis.url();
    for url in [None, Some(&url)] {
        let setup = Setup::new(file).keys(&format!("api_keys = [\"{API_KEY}\"]"));
        let setup = url.into_iter().fold(setup, |setup, url| setup.redis(url));
        // Those who are subscribed answer no ping.
        let setup = setup.flags(&["--client-ping-interval", "10m"]);
        let mut confined = Confined::start_as(setup, LIMIT, None).await;
        let mut listeners = Vec::new();
        for listener in 0..LISTENERS {
            let mut caller = Caller::anonymous(confined.instance.address()).await;
            for channel in 0..EACH {
                let name = format!("{:a<250}", format!("{listener}-{channel}-"));
                caller.result("subscribe", json!({ "channel": name })).await;
            }
            listeners.push(caller);
        }
        let asked = json!({ "pattern": "*aaa" });
        let count = |answer: &Value| answer["channels"].as_object().map(serde_json::Map::len);
        let is_whole = |answer: &Value| count(answer) == Some(LISTENERS * EACH);
        within(Duration::from_secs(30), "all are listed", async || {
            is_whole(&confined.instance.api("channels", &asked).await["result"])
        })
        .await;
        for parallel in [false, true] {
            let name = format!("{url:?} {parallel}");
            let commands = vec![json!({ "channels": asked }); ASKED];
            let answer =
                confined.instance.api("batch", &json!({ "commands": commands, "parallel": parallel })).await;
            let replies = answer["replies"].as_array().expect("replies");
            let whole = replies.iter().filter(|reply| is_whole(&reply["channels"])).count();
            let refused = replies.iter().filter(|reply| reply["error"]["code"] == 100).count();
            assert!(whole > 0 && refused > 0 && whole + refused == ASKED, "{name}: {whole}, {refused}");
            drop(answer);
            confined.bystanders_are_served().await;
            // What was taken is given back, and one alone is answered.
            within(Duration::from_secs(30), "an ordinary request is answered", async || {
                is_whole(&confined.instance.api("channels", &asked).await["result"])
            })
            .await;
        }
        assert_eq!(confined.ended().await, 0.0, "{url:?}");
        drop(listeners);
        confined.recovers(&format!("lists {url:?}")).await;
    }
}

/// Calls a method of the HTTP API with any bytes.
async fn asked_for(confined: &Confined, method: &str, body: &str) -> Response {
    let (path, headers) = (format!("/api/{method}"), [("X-API-Key", API_KEY)]);
    let answer = post(confined.instance.internal_address(), &path, &headers, body.as_bytes()).await;
    answer.expect("the instance answers")
}

/// Requests of two bytes an entry, which would take a hundred times of that, and sixty at a time of 4 MB: what fits is
/// done, and the rest is refused.
#[tokio::test]
async fn requests_are_read_as_far_as_they_fit() {
    let setup = Setup::open("").keys(&format!("api_keys = [\"{API_KEY}\"]"));
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let nothing = "0,".repeat(2_000_000);
    for (method, body) in [
        ("batch", format!("{{\"commands\":[{nothing}0]}}")),
        ("broadcast", format!("{{\"data\":1,\"channels\":[{}\"x\"]}}", "\"x\",".repeat(1_000_000))),
        (
            "batch",
            format!("{{\"commands\":[{{\"batch\":1}},{{\"broadcast\":{{\"channels\":[{nothing}0]}}}}]}}"),
        ),
    ] {
        let answer = asked_for(&confined, method, &body).await.json();
        let error = if answer["replies"].is_null() { &answer } else { &answer["replies"][1] };
        assert_eq!(error["error"]["code"], 100, "{method}: {answer}");
        confined.bystanders_are_served().await;
    }
    let large = format!("{{\"channel\":\"x\",\"data\":\"{}\"}}", "x".repeat(4_000_000));
    let many = join_all((0..60).map(|_| asked_for(&confined, "publish", &large))).await;
    // It was read, and is more than may be published.
    let read =
        many.iter().filter(|answer| answer.status == 200 && answer.json()["error"]["code"] == 107).count();
    let refused = many.iter().filter(|answer| answer.status == 503 && answer.json()["code"] == 100).count();
    assert!(read > 0 && read + refused == 60, "{read}, {refused}");
    confined.bystanders_are_served().await;
    let channels: Vec<_> = (0..10_000).map(|number| format!("channel-{number}")).collect();
    let answer = confined.instance.api("broadcast", &json!({ "channels": channels, "data": 1 })).await;
    assert_eq!(answer["result"]["responses"].as_array().map(Vec::len), Some(10_000));
    assert_eq!((confined.ended().await, confined.rejected().await), (0.0, 0.0));
    confined.recovers("requests").await;
}

/// One request publishes 84 MB, nearly all of them tags: what is on its way to Redis at a time is bounded by all of it.
#[tokio::test]
async fn tags_count_as_the_payload_does_on_the_way() {
    const CHANNELS: usize = 3000;
    let redis = RedisServer::start().await;
    let setup =
        Setup::open("history_size = 1").keys(&format!("api_keys = [\"{API_KEY}\"]")).redis(&redis.url());
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let channels: Vec<_> = (0..CHANNELS).map(|number| format!("channel-{number}")).collect();
    let tags: serde_json::Map<_, _> =
        (0..64).map(|number| (format!("{number:0>200}"), json!("x".repeat(250)))).collect();
    for _ in 0..2 {
        let asked = json!({ "channels": channels, "tags": tags, "data": 1 });
        let answer = confined.instance.api("broadcast", &asked).await;
        assert_eq!(answer["result"]["responses"].as_array().map(Vec::len), Some(CHANNELS));
        confined.bystanders_are_served().await;
    }
    confined.recovers("tags").await;
}

//! What becomes of a client that asks for much in one frame and does not read the answers, when its time is over or
//! the back end wants something of it: it is done at once, and what is published afterwards is not for it. How much
//! it may leave unread is `slow`'s business.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Duration, interval};

use crate::centrifuge::now;
use crate::harness::{API_KEY, Caller, Frame, Instance, RedisServer, Setup, eventually, post, token};

/// Nobody is pinged; and, where nothing else is said, nobody is cut for what it leaves unread.
const CHANNELS: &str = "
    refresh_grace = \"0s\"
    close_timeout = \"30s\"
    [channels]
    may_subscribe = \"client\"
    presence = true
    [namespaces.h]
    may_subscribe = \"client\"
    may_read_history = \"client\"
    history_size = 21
    recovery = \"allow\"
";

/// Channels of `h`, each with so many publications of such a size: more than two sockets take that nobody reads.
const CHANNELS_OF_H: usize = 24;
const PUBLICATIONS: usize = 20;
const SIZE: usize = 30_000;

/// What it has asked for.
#[derive(Debug, Clone, Copy)]
enum Busy {
    /// Next to nothing.
    Idle,
    Histories,
    Recoveries,
}

impl Busy {
    /// The commands, in one frame.
    fn frame(self) -> String {
        let ask = |number: usize| match self {
            Self::Idle | Self::Histories => json!({ "history": { "channel": "h:0", "limit": PUBLICATIONS } }),
            Self::Recoveries => {
                json!({ "subscribe": { "channel": format!("h:{number}"), "recover": true, "offset": 0 } })
            }
        };
        let count = if matches!(self, Self::Idle) { 1 } else { CHANNELS_OF_H };
        let commands = (0..count).map(|number| {
            let mut command = ask(number);
            command["id"] = json!(1000 + number);
            command.to_string()
        });
        commands.collect::<Vec<_>>().join("\n")
    }
}

/// Who subscribed the client to `news`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Server,
}

/// What ends.
#[derive(Debug)]
enum Ends {
    Connection,
    Subscription,
    /// Nothing by itself: the back end calls this method.
    Called(&'static str, Value),
}

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The code, and the reason that is counted.
    Closed(u16, &'static str),
    Unsubscribed(u64),
}

/// Two instances: the client is at the first, the back end calls the second.
struct Pair {
    _redis: RedisServer,
    near: Instance,
    far: Instance,
}

impl Pair {
    async fn start() -> Self {
        Self::start_with("client_ping_interval = \"1h\"\noutbox_limit = \"64MiB\"").await
    }

    async fn start_with(keys: &str) -> Self {
        let redis = RedisServer::start().await;
        let setup = Setup::new(CHANNELS).keys(keys).tokens().api().redis(&redis.url());
        let (near, far) = (setup.start().await, setup.start().await);
        for instance in [&near, &far] {
            let up = async || instance.metric("fanfare_broker_up", &[]).await == 1.0;
            eventually("Redis is there", up).await;
        }
        let pair = Self { _redis: redis, near, far };
        let channels: Vec<_> = (0..CHANNELS_OF_H).map(|number| format!("h:{number}")).collect();
        for _ in 0..PUBLICATIONS {
            pair.call("broadcast", json!({ "channels": channels, "data": "x".repeat(SIZE) })).await;
        }
        pair
    }

    async fn call(&self, method: &str, body: Value) -> Value {
        let (path, key) = (format!("/api/{method}"), [("X-API-Key", API_KEY)]);
        let answer = post(self.far.internal_address(), &path, &key, body.to_string().as_bytes()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{method}: {}", answer.body);
        assert!(answer.json().get("error").is_none(), "{method}: {}", answer.body);
        answer.json()
    }

    async fn publish(&self, channel: &str, data: &str) {
        self.call("publish", json!({ "channel": channel, "data": data })).await;
    }

    /// A client that has asked for much, has read the first answer, and reads nothing more.
    async fn busy(&self, connect: Value, news: Option<Value>, frame: &str) -> Caller {
        let mut slow = Caller::narrow_as(self.near.address(), connect).await;
        if let Some(news) = news {
            slow.result("subscribe", news).await;
        } else {
            let (channel, kind, _) = slow.push().await;
            assert_eq!((&*channel, &*kind), ("news", "subscribe"));
        }
        slow.say(frame).await;
        assert_eq!(slow.message().await.unwrap()["id"], 1000);
        slow
    }

    async fn closed(&self, reason: &str) -> f64 {
        self.near.metric("fanfare_connections_closed_total", &[("reason", reason)]).await
    }

    async fn listeners(&self, channel: &str) -> u64 {
        let stats = self.call("presence_stats", json!({ "channel": channel })).await;
        stats["result"]["num_clients"].as_u64().unwrap_or_default()
    }
}

/// What the client finds when it reads at last: the publications of `news`, and how it was told that it is over.
async fn heard(slow: &mut Caller) -> (Vec<Value>, Option<Told>) {
    let (mut heard, mut told) = (Vec::new(), None);
    let last = slow.ask("rpc", json!({})).await;
    loop {
        match slow.message().await {
            Ok(message) if message["id"] == last => return (heard, told),
            Ok(message) if message["push"]["channel"] == "news" => match &message["push"] {
                push if push["pub"].is_object() => heard.push(push["pub"]["data"].clone()),
                push => told = push["unsubscribe"]["code"].as_u64().map(Told::Unsubscribed),
            },
            Ok(_) => {}
            Err((code, _)) => return (heard, Some(Told::Closed(code, ""))),
        }
    }
}

#[tokio::test]
async fn an_end_does_not_wait_for_whoever_reads_slowly() {
    let banned = json!({ "disconnect": { "code": 4503, "reason": "banned" } });
    let rows = [
        (By::Client, Ends::Connection, Told::Closed(3005, "token_expired")),
        (By::Server, Ends::Connection, Told::Closed(3005, "token_expired")),
        (By::Client, Ends::Subscription, Told::Unsubscribed(2501)),
        (By::Server, Ends::Subscription, Told::Closed(3006, "subscription_expired")),
        (By::Client, Ends::Called("disconnect", banned.clone()), Told::Closed(4503, "kicked")),
        (By::Server, Ends::Called("disconnect", banned), Told::Closed(4503, "kicked")),
        (By::Client, Ends::Called("unsubscribe", json!({ "channel": "news" })), Told::Unsubscribed(2000)),
        (By::Server, Ends::Called("unsubscribe", json!({ "channel": "news" })), Told::Unsubscribed(2000)),
        (
            By::Client,
            Ends::Called("refresh", json!({ "expired": true })),
            Told::Closed(3005, "token_expired"),
        ),
    ];
    // Together, for most of it is waiting for times to end that are long enough for a busy machine.
    let all = [Busy::Idle, Busy::Histories, Busy::Recoveries].map(async |busy| {
        let pair = Pair::start().await;
        for (number, (by, ends, told)) in rows.iter().enumerate() {
            let row = format!("{busy:?} {by:?} {ends:?}");
            let (user, frame) = (format!("{number}-{busy:?}"), busy.frame());
            let soon = now() + 10;
            let claim = format!("expire_at={soon}");
            let mut of_connection = vec!["--user", &user];
            let mut of_news = vec!["--user", &user, "--channel", "news"];
            match ends {
                Ends::Connection => of_connection.extend(["--claim", &claim]),
                Ends::Subscription => of_news.extend(["--claim", &claim]),
                Ends::Called(..) => {}
            }
            let connect = json!({ "token": token(&of_connection).await });
            let before = match told {
                Told::Closed(_, reason) => pair.closed(reason).await,
                Told::Unsubscribed(_) => 0.0,
            };
            let mut slow = if *by == By::Client {
                let news = json!({ "channel": "news", "token": token(&of_news).await });
                pair.busy(connect, Some(news), &frame).await
            } else {
                let mut subscribe = json!({ "user": user, "channel": "news" });
                if matches!(ends, Ends::Subscription) {
                    subscribe["expire_at"] = json!(soon);
                }
                let subscribed = async {
                    eventually("it is there", async || pair.near.metric("fanfare_users", &[]).await >= 1.0)
                        .await;
                    pair.call("subscribe", subscribe).await;
                };
                tokio::join!(pair.busy(connect, None, &frame), subscribed).0
            };
            pair.publish("news", "before").await;
            if let Ends::Called(method, body) = ends {
                let mut body = body.clone();
                body["user"] = json!(user);
                pair.call(method, body).await;
            }
            match told {
                Told::Closed(_, reason) => {
                    let is_closed = async || pair.closed(reason).await > before;
                    eventually(&row, is_closed).await;
                }
                Told::Unsubscribed(_) => {
                    eventually(&row, async || pair.listeners("news").await == 0).await;
                }
            }
            pair.publish("news", "after").await;
            let expected = match *told {
                Told::Closed(code, _) => Told::Closed(code, ""),
                told => told,
            };
            assert_eq!(heard(&mut slow).await, (vec![json!("before")], Some(expected)), "{row}");
            drop(slow);
            let is_gone = async || pair.near.metric("fanfare_connections", &[]).await == 0.0;
            eventually("it is gone", is_gone).await;
        }
    });
    join_all(all).await;
}

#[tokio::test]
async fn what_a_client_waits_for_can_be_taken_back() {
    let pair = Pair::start().await;
    let connect = json!({ "token": token(&["--user", "ann"]).await });
    let frame = Busy::Recoveries.frame();
    let mut slow = pair.busy(connect, Some(json!({ "channel": "news" })), &frame).await;
    let ann = |channel: &str| json!({ "user": "ann", "channel": channel });
    // One it waits for, one it has, one it does not know of yet, and one that it gets all the same. All in this order.
    pair.call("unsubscribe", ann("h:9")).await;
    pair.call("unsubscribe", ann("h:0")).await;
    pair.call("subscribe", ann("h:other")).await;
    pair.call("subscribe", ann("h:10")).await;
    pair.call("unsubscribe", ann("news")).await;
    eventually("all that is done", async || pair.listeners("news").await == 0).await;
    for channel in ["h:0", "h:1", "h:9", "h:10", "h:other"] {
        pair.publish(channel, "after").await;
    }
    let last = slow.ask("rpc", json!({})).await;
    let (mut answers, mut pushes) = (Vec::new(), Vec::new());
    loop {
        let message = slow.message().await.unwrap();
        if let Some(push) = message["push"].as_object() {
            let (kind, event) = push.iter().find(|(key, _)| *key != "channel").unwrap();
            let what = if kind == "pub" { event["data"].clone() } else { event["code"].clone() };
            pushes.push(json!([push["channel"], kind, what]));
            continue;
        }
        let id = message["id"].as_u64().unwrap();
        if id == u64::from(last) {
            break;
        }
        answers.push((id, message["error"]["code"].as_u64()));
        // Or it came early enough to be among what was missed.
        let missed = message["subscribe"]["publications"].as_array();
        if missed.is_some_and(|missed| missed.iter().any(|one| one["data"] == "after")) {
            pushes.push(json!([format!("h:{}", id - 1000), "pub", "after"]));
        }
    }
    let expected = (1001..1000 + CHANNELS_OF_H as u64).map(|id| (id, (id == 1009).then_some(100)));
    assert_eq!(answers, expected.collect::<Vec<_>>());
    pushes.sort_by_key(Value::to_string);
    let expected = [
        json!(["h:0", "unsubscribe", 2000]),
        json!(["h:1", "pub", "after"]),
        json!(["h:10", "pub", "after"]),
        json!(["h:9", "unsubscribe", 2000]),
        json!(["h:other", "pub", "after"]),
        json!(["h:other", "subscribe", null]),
        json!(["news", "unsubscribe", 2000]),
    ];
    assert_eq!(pushes, expected);
}

/// What is missed in a channel that the back end has a client subscribed to is read when the client can take it, as
/// with one that the client asks for. It was read at once, whatever it took, and cut whoever did not read as fast.
#[tokio::test]
async fn what_the_back_end_has_a_client_recover_waits_for_the_client() {
    // Less than two channels' worth.
    let pair = Pair::start_with("client_ping_interval = \"1h\"\noutbox_limit = \"1MiB\"").await;
    let connect = json!({ "token": token(&["--user", "ann"]).await });
    let mut slow = Caller::narrow_as(pair.near.address(), connect).await;
    let since = |number| {
        let history = json!({ "channel": format!("h:{number}"), "limit": 0 });
        async { pair.call("history", history).await["result"]["epoch"].take() }
    };
    let mut wishes = Vec::new();
    for number in 0..CHANNELS_OF_H {
        let since = json!({ "offset": 0, "epoch": since(number).await });
        wishes.push(json!({ "user": "ann", "channel": format!("h:{number}"), "recover_since": since }));
    }
    for wish in &wishes {
        pair.call("subscribe", wish.clone()).await;
    }
    pair.call("subscribe", json!({ "user": "ann", "channel": "news" })).await;
    eventually("what need not wait does not", async || pair.listeners("news").await == 1).await;
    // What waits can be taken back.
    pair.call("unsubscribe", json!({ "user": "ann", "channel": "h:9" })).await;
    pair.call("unsubscribe", json!({ "user": "ann", "channel": "news" })).await;
    eventually("all that is done", async || pair.listeners("news").await == 0).await;
    let missed = (0..CHANNELS_OF_H).filter(|number| *number != 9).flat_map(|number| {
        let subscribed = std::iter::once(format!("h:{number} subscribe 0"));
        subscribed.chain((1..=PUBLICATIONS).map(move |offset| format!("h:{number} pub {offset}")))
    });
    let mut found = Vec::new();
    let expected: Vec<_> = missed.collect();
    while found.len() < expected.len() {
        let (channel, kind, event) = slow.push().await;
        if channel != "news" {
            found.push(format!("{channel} {kind} {}", event["offset"].as_u64().unwrap_or(0)));
        }
    }
    assert_eq!(found, expected);
    pair.publish("h:9", "not for ann").await;
    pair.publish("h:3", "after").await;
    assert_eq!(slow.publication().await, "after");
}

/// What the back end wants of a channel that the client itself has asked for is done if that comes to nothing. It was
/// lost.
#[tokio::test]
async fn what_the_back_end_wants_is_done_where_the_client_fails() {
    let pair = Pair::start().await;
    let connect = json!({ "token": token(&["--user", "ann"]).await });
    let frame = (0..10).map(|number| {
        let mut command = json!({
            "id": 1000 + number,
            "subscribe": { "channel": format!("h:{number}"), "recover": true, "offset": 0 },
        });
        if number >= 8 {
            // Of an epoch that there is none of, or nothing.
            command["subscribe"]["flag"] = json!(2);
            command["subscribe"]["epoch"] = json!("nonesuch");
        }
        command.to_string()
    });
    let frame: Vec<_> = frame.collect();
    let mut slow = pair.busy(connect, Some(json!({ "channel": "news" })), &frame.join("\n")).await;
    for channel in ["h:7", "h:8", "h:9"] {
        pair.call("subscribe", json!({ "user": "ann", "channel": channel })).await;
    }
    // And one of them is taken back.
    for channel in ["h:8", "news"] {
        pair.call("unsubscribe", json!({ "user": "ann", "channel": channel })).await;
    }
    eventually("all that is done", async || pair.listeners("news").await == 0).await;
    let (mut answers, mut pushes) = (Vec::new(), Vec::new());
    while pushes.len() < 3 {
        let message = slow.message().await.unwrap();
        match message["id"].as_u64() {
            Some(id) => answers.push((id, message["error"]["code"].as_u64())),
            None => {
                let push = message["push"].as_object().unwrap();
                let kind = push.keys().find(|key| *key != "channel").unwrap();
                pushes.push(json!([push["channel"], kind]));
            }
        }
    }
    let failed = |id| match id {
        1008 => Some(100),
        1009 => Some(112),
        _ => None,
    };
    assert_eq!(answers, (1001..=1009).map(|id| (id, failed(id))).collect::<Vec<_>>());
    let expected =
        [json!(["h:8", "unsubscribe"]), json!(["news", "unsubscribe"]), json!(["h:9", "subscribe"])];
    assert_eq!(pushes, expected);
    for channel in ["h:8", "h:9", "h:7"] {
        pair.publish(channel, channel).await;
    }
    for channel in ["h:9", "h:7"] {
        assert_eq!(slow.publication().await, channel);
    }
}

/// Whoever reads the answers to a long frame and answers pings stays, although what it says is not read meanwhile,
/// and also where it says more than that; whoever never answers is cut, although it reads.
#[tokio::test]
async fn a_long_frame_neither_cuts_who_answers_pings_nor_keeps_who_does_not() {
    const ANSWERS: usize = 80;
    let keys = "client_ping_interval = \"4s\"\nclient_pong_timeout = \"3900ms\"\noutbox_limit = \"1MiB\"";
    let pair = Pair::start_with(keys).await;
    let frame = |first: usize| {
        let history = json!({ "channel": "h:0", "limit": PUBLICATIONS });
        let commands = (first..first + ANSWERS).map(|id| json!({ "id": id, "history": history }).to_string());
        commands.collect::<Vec<_>>().join("\n")
    };
    let rows = [("answers", true, 1), ("answers and asks for more", true, 2), ("is silent", false, 1)];
    let clients = rows.map(async |(row, does_answer, frames)| {
        let mut slow =
            Caller::narrow_as(pair.near.address(), json!({ "token": token(&["--user", row]).await })).await;
        let socket = slow.socket();
        for number in 0..frames {
            socket.send(Frame::TEXT, frame(1000 + number * ANSWERS).as_bytes()).await.unwrap();
        }
        // Some megabytes a second: it is about time, for there is nothing else that makes a client late.
        let mut pace = interval(Duration::from_millis(300));
        let (mut answers, mut pings) = (0, 0);
        while answers < ANSWERS {
            let Some(frame) = socket.next().await else { return (row, None, pings) };
            if let Some((code, _)) = frame.close() {
                return (row, Some(code), pings);
            }
            let text = String::from_utf8(frame.payload).unwrap();
            for line in text.split('\n') {
                if line != "{}" {
                    answers += 1;
                    pace.tick().await;
                    continue;
                }
                pings += 1;
                if does_answer {
                    let _ = socket.send(Frame::TEXT, b"{}").await;
                }
            }
        }
        (row, Some(0), pings)
    });
    let [answering, asking, silent]: [_; 3] = join_all(clients).await.try_into().unwrap();
    // Clients go when they are not pinged any more.
    assert!(answering.1 == Some(0) && answering.2 > 2, "{answering:?}");
    assert!(asking.1 == Some(0) && asking.2 > 2, "{asking:?}");
    // It is told so, if it reads so far before it is cut.
    assert!(matches!(silent.1, Some(3012) | None) && silent.2 == 1, "{silent:?}");
    assert_eq!(pair.closed("timed_out").await, 1.0);
}

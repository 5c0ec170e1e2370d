//! For people without a library: server-sent events and raw WebSockets that come back to where they were.

use tokio::sync::watch;

use crate::harness::{
    Client, Event, EventStream, Instance, LoadBalancer, RedisServer, Said, Setup, Socket, eventually,
    request, token,
};

pub const CHANNELS: &str = "
    allow_anonymous = true
    history_limit = 10000
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    [namespaces.kept]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 100000
    recovery = \"allow\"
    [namespaces.brief]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 3
    recovery = \"allow\"
    [namespaces.silent]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 3
    [namespaces.closed]
    may_subscribe = \"token\"
    may_publish = \"subscriber\"
";

/// Tokens, these keys, and the channels.
pub fn setup(keys: &str) -> Setup {
    Setup::new(CHANNELS).tokens().keys(keys)
}

fn named(event: &str, data: &str) -> Event {
    Event { event: Some(event.to_owned()), data: Some(data.to_owned()), ..Event::default() }
}

pub fn gap(channel: &str) -> Event {
    named("gap", &format!(r#"{{"fanfare":"gap","channel":"{channel}"}}"#))
}

#[tokio::test]
async fn what_is_published_comes_as_events() {
    let instance = setup("client_ping_interval = \"50ms\"\nclient_pong_timeout = \"20ms\"").start().await;
    let own = format!("http://{}", instance.address());
    let mut lobby = EventStream::connect(instance.address(), "/sse", &[("Origin", &own)]).await;
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
        ("access-control-allow-origin", &own),
        ("vary", "Origin"),
    ] {
        assert_eq!(lobby.head.header(name), Some(value), "{name}");
    }
    assert!(lobby.head.header("fanfare-connection").is_some() && lobby.head.header("date").is_some());
    let mut kept = EventStream::connect(instance.address(), "/sse/kept:a", &[]).await;
    assert_eq!(kept.head.header("access-control-allow-origin"), None);
    let start = kept.block().await.unwrap();
    assert!(start.id.as_ref().unwrap().starts_with("0:") && start.data.is_none(), "{start:?}");
    let epoch = start.id.unwrap().split_off(2);
    let mut speaker = Client::connect(instance.url("lobby")).await;
    let mut keeper = Client::connect(instance.url("kept:a")).await;
    let text = "ž: \"one\"\n two\n\nid: 7";
    for said in [Said::from(text), Said::from(""), Said::Binary(vec![0, 0xFF])] {
        speaker.send(said.clone()).await;
        keeper.send(said).await;
    }
    for (stream, ids) in [(&mut lobby, false), (&mut kept, true)] {
        for (offset, event, data) in [(1, None, text), (2, None, ""), (3, Some("binary"), "AP8=")] {
            let heard = stream.next().await.unwrap();
            let id = ids.then(|| format!("{offset}:{epoch}"));
            let expected =
                Event { id, event: event.map(str::to_owned), data: Some(data.to_owned()), comment: false };
            assert_eq!(heard, expected);
        }
        let beat = stream.block().await.unwrap();
        assert!(beat.comment, "a heartbeat is no event: {beat:?}");
    }
    assert_eq!(instance.metric("fanfare_connections", &[("protocol", "raw")]).await, 4.0);
    drop((lobby, kept));
    eventually("they have gone", async || {
        instance.metric("fanfare_connections", &[("protocol", "raw")]).await == 2.0
    })
    .await;
}

#[tokio::test]
async fn who_cannot_listen_is_told_why() {
    let instance = setup("").start().await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        request(instance.address(), method, path, headers).await.unwrap()
    };
    let wrong = token(&["--channel", "closed:b"]).await;
    for (method, path, headers, status, says) in [
        ("POST", "/sse/a", &[][..], 405, "expected GET"),
        ("HEAD", "/sse/a", &[], 405, ""),
        ("GET", "/sse/a/b", &[], 400, "slash"),
        ("GET", "/sse/", &[], 400, "empty"),
        ("GET", "/sse/%FF", &[], 400, "UTF-8"),
        ("GET", "/sse/nowhere:a", &[], 404, "nowhere"),
        ("GET", "/sse/closed:a", &[], 403, "token"),
        ("GET", "/sse/closed:a?token=nonsense", &[], 401, "refused"),
        ("GET", &format!("/sse/closed:a?token={wrong}"), &[], 401, "refused"),
        ("GET", "/sse/a", &[("Authorization", "Basic YTpi")], 401, "expected Bearer"),
        ("GET", "/sse/a", &[("Origin", "https://elsewhere.example")], 403, "allowed_origins"),
        ("OPTIONS", "/sse/a", &[("Origin", "https://elsewhere.example")], 403, "allowed_origins"),
        ("GET", "/sse/kept:a", &[("Content-Length", "0"), ("Transfer-Encoding", "chunked")], 400, ""),
        ("GET", "/sse/kept:a?since=nonsense", &[], 400, "expected a position such as 42:kRtA"),
        ("GET", "/sse/kept:a?since=-1", &[], 400, "expected a position"),
    ] {
        let answer = ask(method, path, headers).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(answer.body.contains(says), "{method} {path}: {}", answer.body);
    }
    let preflight = ask("OPTIONS", "/sse/a", &[("Origin", &format!("http://{}", instance.address()))]).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some("GET")));
    // HTTP/1.0 knows no chunks.
    let old = raw(&instance, b"GET /sse/a HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 505") && old.contains("HTTP/1.1"), "{old}");
    let right = token(&["--channel", "closed:a"]).await;
    EventStream::connect(instance.address(), &format!("/sse/closed:a?token={right}"), &[]).await;
    let bearer = format!("Bearer {right}");
    EventStream::connect(instance.address(), "/sse/closed:a", &[("Authorization", &bearer)]).await;
    for (path, status, says) in [
        ("kept:a?since=nonsense", 400, "expected a position such as 42:kRtA"),
        ("kept:a?since=1:a:b:c", 101, ""),
        ("silent:a?since=1:a", 400, "lets nobody recover"),
        ("a?since=", 400, "lets nobody recover"),
    ] {
        let answer = Client::try_connect(&instance.url(path), &[]).await;
        let (got, said) = answer.map_or_else(|answer| (answer.status, answer.body), |_| (101, String::new()));
        assert_eq!(got, status, "{path}: {said}");
        assert!(said.contains(says), "{path}: {said}");
    }
}

async fn raw(instance: &Instance, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(instance.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_cannot_be_recovered_is_a_gap() {
    let instance = setup("").start().await;
    let mut speaker = Client::connect(instance.url("brief:a?echo=false")).await;
    let mut first = EventStream::connect(instance.address(), "/sse/brief:a", &[]).await;
    let epoch = first.block().await.unwrap().id.unwrap().split_off(2);
    for number in 1..=5 {
        speaker.send(number.to_string().as_str()).await;
    }
    assert_eq!(first.take(5).await, ["1", "2", "3", "4", "5"]);
    let at = |offset: u64| format!("{offset}:{epoch}");
    // (where it was, whether there is a gap, what comes before 6)
    let rows: Vec<(String, bool, &[&str])> = vec![
        (at(5), false, &[]),
        (at(4), false, &["5"]),
        (at(2), false, &["3", "4", "5"]),
        (at(1), true, &[]),
        (at(0), true, &[]),
        (at(6), true, &[]),
        ("5:other".to_owned(), true, &[]),
        ("2:".to_owned(), false, &["3", "4", "5"]),
        ("3".to_owned(), false, &["4", "5"]),
        ("nonsense".to_owned(), true, &[]),
    ];
    let mut streams = Vec::new();
    for (since, has_gap, missed) in &rows {
        let headers = [("Last-Event-ID", since.as_str())];
        let path = format!("/sse/brief:a?since={}", at(5));
        let mut stream = EventStream::connect(instance.address(), &path, &headers).await;
        if *has_gap {
            assert_eq!(stream.next().await, Some(gap("brief:a")), "{since}");
        }
        assert_eq!(stream.take(missed.len()).await, *missed, "{since}");
        let place = stream.block().await.unwrap();
        assert_eq!((place.id, place.data), (Some(at(5)), None), "{since}");
        streams.push((since, stream));
    }
    // The same on WebSockets, where positions and gaps are messages.
    let notice = |kind: &str, since: &str| format!(r#"{{"fanfare":"{kind}","channel":"brief:a"{since}}}"#);
    let place = notice("position", &format!(r#","since":"{}""#, at(5)));
    let mut sockets = Vec::new();
    for (since, has_gap, missed) in rows.iter().filter(|(since, ..)| since != "nonsense") {
        for quiet in [false, true] {
            let query = if quiet { "&notices=false" } else { "" };
            let mut socket =
                Client::connect(format!("{}?since={since}{query}", instance.url("brief:a"))).await;
            if *has_gap && !quiet {
                assert_eq!(socket.next().await, Said::Text(notice("gap", "")), "{since}");
            }
            let missed: Vec<_> = missed.iter().map(|text| Said::from(*text)).collect();
            assert_eq!(socket.take(missed.len()).await, missed, "{since}");
            if !quiet {
                assert_eq!(socket.next().await, Said::Text(place.clone()), "{since}");
            }
            sockets.push((since, socket));
        }
    }
    let mut now = Client::connect(format!("{}?since=", instance.url("brief:a"))).await;
    assert_eq!(now.next().await, Said::Text(place));
    sockets.push((&rows[0].0, now));
    speaker.send("6").await;
    for (since, stream) in &mut streams {
        let heard = stream.next().await.unwrap();
        assert_eq!((heard.id, heard.data.as_deref()), (Some(at(6)), Some("6")), "{since}");
    }
    for (since, socket) in &mut sockets {
        assert_eq!(socket.next().await, Said::from("6"), "{since}");
    }
    for (outcome, count) in [("recovered", 12.0), ("up_to_date", 3.0), ("other_epoch", 4.0), ("too_far", 9.0)]
    {
        let counted = instance.metric("fanfare_recoveries_total", &[("outcome", outcome)]).await;
        assert_eq!(counted, count, "{outcome}");
    }
    // Where nothing recovers, a browser that comes back hears that it has missed something.
    let headers = [("Last-Event-ID", "5:kRtA")];
    for channel in ["silent:a", "a"] {
        let mut stream = EventStream::connect(instance.address(), &format!("/sse/{channel}"), &headers).await;
        assert_eq!(stream.next().await, Some(gap(channel)));
    }
}

/// Whoever comes back again and again, here and there, while somebody publishes without pause, gets each once and in
/// order. Nobody stays for more than `MOST`, so each comes at least 15 times.
#[tokio::test]
async fn who_comes_back_loses_nothing_and_gets_nothing_twice() {
    const COUNT: usize = 1500;
    const MOST: usize = 100;
    let redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let alone = setup("").start().await;
    let balancer = LoadBalancer::start(&[&one, &other], "").await;
    for (publisher, addresses) in [
        (&alone, vec![alone.address()]),
        (&one, vec![one.address(), other.address()]),
        (&other, vec![balancer.address()]),
    ] {
        let channel = format!("kept:{}", addresses.len() + usize::from(addresses[0] == balancer.address()));
        let url = publisher.url(&format!("{channel}?echo=false"));
        // It stays a little ahead of whoever has come furthest.
        let (progress, mut heard) = watch::channel(0);
        let speaking = async {
            let mut speaker = Client::connect(url).await;
            for number in 1..=COUNT {
                heard.wait_for(|heard| number < heard + 50).await.unwrap();
                speaker.send(number.to_string().as_str()).await;
            }
            speaker
        };
        let advance = |to: usize| {
            progress.send_if_modified(|heard| {
                let further = to > *heard;
                *heard = to.max(*heard);
                further
            });
        };
        let listening = async |by_events: bool| {
            let (mut since, mut next, mut turn) = ("0".to_owned(), 1, 0);
            while next <= COUNT {
                let address = addresses[turn % addresses.len()];
                turn += 1;
                let most = fastrand::usize(1..=MOST);
                if by_events {
                    let headers = [("Last-Event-ID", since.as_str())];
                    let path = format!("/sse/{channel}");
                    let mut stream = EventStream::connect(address, &path, &headers).await;
                    for _ in 0..most.min(COUNT + 1 - next) {
                        let heard = stream.next().await.unwrap();
                        assert_eq!(heard.data, Some(next.to_string()), "after {since}: {heard:?}");
                        since = heard.id.unwrap();
                        advance(next);
                        next += 1;
                    }
                } else {
                    let path = format!("ws://{address}/ws/{channel}?since={since}&notices=false");
                    let mut socket = Client::connect(path).await;
                    for _ in 0..most.min(COUNT + 1 - next) {
                        assert_eq!(socket.next().await, Said::Text(next.to_string()), "after {since}");
                        // Offsets have no holes, so whoever counts knows where it is.
                        since = next.to_string();
                        advance(next);
                        next += 1;
                    }
                }
            }
        };
        tokio::join!(speaking, listening(true), listening(true), listening(false));
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_is_made_good_or_told() {
    let mut redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let mut stream = EventStream::connect(one.address(), "/sse/kept:a", &[]).await;
    let mut speaker = Client::connect(other.url("kept:a?echo=false")).await;
    let mut last = 0;
    let mut speak = async |count: usize| {
        for _ in 0..count {
            last += 1;
            speaker.send(last.to_string().as_str()).await;
        }
        last
    };
    // The subscriber's connection breaks, again and again; what it missed is read, and nobody is told.
    let mut next = 1;
    for _ in 0..5 {
        let until = speak(50).await;
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let until = until.max(speak(50).await);
        while next <= until {
            let heard = stream.next().await.unwrap();
            assert_eq!((heard.event.as_deref(), heard.data), (None, Some(next.to_string())));
            next += 1;
        }
    }
    // An empty Redis has a history of its own: that is a gap, in its place, and then it goes on.
    redis.kill().await;
    eventually("they are alone", async || {
        one.metric("fanfare_broker_up", &[]).await + other.metric("fanfare_broker_up", &[]).await == 0.0
    })
    .await;
    redis.restart().await;
    eventually("they are joined again", async || {
        one.metric("fanfare_broker_up", &[]).await + other.metric("fanfare_broker_up", &[]).await == 2.0
    })
    .await;
    let until = speak(3).await;
    assert_eq!(stream.next().await, Some(gap("kept:a")));
    let mut heard = stream.next().await.unwrap();
    while heard.data != Some(until.to_string()) {
        heard = stream.next().await.unwrap();
    }
    // And it can be come back to.
    let id = heard.id.unwrap();
    let until = speak(2).await;
    let headers = [("Last-Event-ID", id.as_str())];
    let mut again = EventStream::connect(other.address(), "/sse/kept:a", &headers).await;
    assert_eq!(again.take(2).await, [(until - 1).to_string(), until.to_string()]);
}

/// Whoever goes on to send behind its request floods; a request or two more are only never answered.
#[tokio::test]
async fn who_talks_instead_of_listening_is_cut() {
    const MOST: usize = 64 << 10;
    let instance = setup("internal_listen = \"127.0.0.1:0\"").start().await;
    let ask = async || {
        let mut socket = Socket::connect(instance.address()).await;
        socket
            .write(b"GET /sse/talk HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(socket.response().await.status, 200);
        socket
    };
    let (mut modest, mut loud) = (ask().await, ask().await);
    modest.write(&[b'x'; MOST]).await.unwrap();
    loud.write(&[b'x'; MOST + 1]).await.unwrap();
    loud.ended().await;
    let closed =
        async || instance.metric("fanfare_connections_closed_total", &[("reason", "not_permitted")]).await;
    assert_eq!(closed().await, 1.0);
    // One more byte of the other one's, and it is its turn: until then it was heard, and kept.
    assert!(!modest.has_ended().await);
    modest.write(b"x").await.unwrap();
    modest.ended().await;
    assert_eq!(closed().await, 2.0);
}

#[tokio::test]
async fn a_stream_ends_with_its_reason() {
    let instance =
        setup("internal_listen = \"127.0.0.1:0\"\noutbox_limit = \"64KiB\"\nmessage_limit = \"32KiB\"\ndrain_delay = \"0s\"\ndrain_window = \"0s\"").start().await;
    let close =
        |code: u16, reason: &str| Some(named("close", &format!(r#"{{"code":{code},"reason":"{reason}"}}"#)));
    let mut kicked = EventStream::connect(instance.address(), "/sse/a", &[]).await;
    let id = kicked.head.header("fanfare-connection").unwrap();
    let path = format!("/connections/{id}");
    assert_eq!(request(instance.internal_address(), "DELETE", &path, &[]).await.unwrap().status, 200);
    assert_eq!(kicked.next().await, close(1008, "kicked"));
    assert_eq!(kicked.next().await, None);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let brief = token(&["--claim", &format!("expire_at={}", now + 10)]).await;
    let mut brief = EventStream::connect(instance.address(), &format!("/sse/a?token={brief}"), &[]).await;
    let slow = EventStream::connect(instance.address(), "/sse/flood", &[]).await;
    let mut flood = Client::connect(instance.url("flood?echo=false")).await;
    let large = "x".repeat(30 << 10);
    eventually("the slow one is cut, and nobody else", async || {
        flood.send(large.as_str()).await;
        instance.metric("fanfare_slow_consumers_total", &[]).await == 1.0
    })
    .await;
    drop(slow);
    assert_eq!(brief.next().await, close(1008, "token expired"));
    assert_eq!(brief.next().await, None);
    let mut last = EventStream::connect(instance.address(), "/sse/a", &[]).await;
    instance.signal("TERM").await;
    assert_eq!(last.next().await, close(1012, "service restart"));
    assert_eq!(last.next().await, None);
}

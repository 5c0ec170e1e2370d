//! What is sent to a channel reaches everybody in it: as it was, once, in one order, on every instance.

use std::collections::BTreeSet;

use crate::harness::{
    Client, Frame, Instance, LoadBalancer, RedisServer, Said, Socket, fence, frame, request,
};

/// So many instances over one Redis, each with two workers; one alone goes without.
struct Cluster {
    redis: Option<RedisServer>,
    instances: Vec<Instance>,
}

impl Cluster {
    async fn of(count: usize) -> Self {
        if count == 1 {
            return Self { redis: None, instances: vec![Instance::start(&["--workers", "2"]).await] };
        }
        let redis = RedisServer::start().await;
        let url = redis.url();
        let mut instances = Vec::new();
        for _ in 0..count {
            instances.push(Instance::start(&["--workers", "2", "--redis", &url]).await);
        }
        Self { redis: Some(redis), instances }
    }

    /// The address of `channel` on each instance in turn.
    fn url(&self, turn: usize, channel: &str) -> String {
        self.instances[turn % self.instances.len()].url(channel)
    }
}

#[tokio::test]
async fn messages_arrive_byte_for_byte_and_as_the_same_kind() {
    let texts = ["", "hello", "\0", "žluťoučký kůň 🎺", "{\"fanfare\":\"gap\"}"].map(str::to_owned);
    let long = [125, 126, 127, 65_535, 65_536].map(|length| "x".repeat(length));
    // The last ones look like what instances say to each other, or are no UTF-8.
    let bytes = [
        vec![],
        vec![0],
        vec![0xFA, 1, 36, 0],
        vec![0xFF, 0xFE],
        vec![0xFA],
        (0..=255).collect(),
        vec![7; 65_536],
    ];
    let rows: Vec<Said> =
        texts.into_iter().chain(long).map(Said::Text).chain(bytes.into_iter().map(Said::Binary)).collect();

    for count in [1, 2] {
        let cluster = Cluster::of(count).await;
        let mut sender = Client::connect(cluster.url(0, "bytes")).await;
        let mut other = Client::connect(cluster.url(1, "bytes")).await;
        for row in &rows {
            sender.send(row.clone()).await;
            assert_eq!(sender.next().await, *row, "to the sender, {count} instances");
            assert_eq!(other.next().await, *row, "to another, {count} instances");
        }
    }
}

#[tokio::test]
async fn a_name_is_a_channel_however_it_is_written() {
    let cluster = Cluster::of(2).await;
    // Who speaks in the first hears the second, whatever the instance.
    let rows = [
        ("lobby", "lobby"),
        ("chat%3Aroom%201", "chat:room%201"),
        ("a%2Fb", "a%2fb"),
        ("%C3%A9", "%c3%a9"),
        ("100%25", "100%25"),
        ("..%2F", "..%2f"),
    ];
    let mut stranger = Client::connect(cluster.url(1, "stranger")).await;
    for (one, other) in rows {
        let mut speaker = Client::connect(cluster.url(0, one)).await;
        let mut listener = Client::connect(cluster.url(1, other)).await;
        speaker.send("here").await;
        assert_eq!(listener.next().await, "here".into(), "{one} and {other}");
    }
    let lobby = cluster.url(0, "").trim_end_matches('/').to_owned();
    let mut speaker = Client::connect(lobby).await;
    let mut listener = Client::connect(cluster.url(1, "lobby")).await;
    fence(&mut speaker, &mut listener).await;
    // None of it was heard in another channel.
    let mut neighbour = Client::connect(cluster.url(0, "stranger")).await;
    fence(&mut neighbour, &mut stranger).await;
}

#[tokio::test]
async fn bad_names_are_refused() {
    let instance = Instance::start(&[]).await;
    let longest = "x".repeat(255);
    assert!(Client::try_connect(&instance.url(&longest), &[]).await.is_ok(), "255 bytes are a name");
    let too_long = "x".repeat(256);
    let too_long_decoded = "%C3%A9".repeat(128);
    let rows = [too_long.as_str(), &too_long_decoded, "%FF", "%C3"];
    for name in rows {
        let answer = Client::try_connect(&instance.url(name), &[]).await.err().expect("refused");
        assert_eq!(answer.status, 400, "{name}");
    }
    let counted = instance.metric("fanfare_handshakes_rejected_total", &[("reason", "channel_name")]).await;
    assert_eq!(counted, rows.len() as f64);
    let nameless = request(instance.address(), "GET", "/ws/", &[]).await.unwrap();
    assert!((400..500).contains(&nameless.status), "{nameless:?}");
}

#[tokio::test]
async fn everybody_hears_one_order() {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 250;
    for count in [1, 3] {
        let cluster = Cluster::of(count).await;
        let mut listeners = Vec::new();
        for turn in 0..6 {
            listeners.push(Client::connect(cluster.url(turn, "order")).await);
        }
        let mut speaking = Vec::new();
        for publisher in 0..PUBLISHERS {
            let mut client = Client::connect(cluster.url(publisher, "order?echo=false")).await;
            speaking.push(tokio::spawn(async move {
                for number in 0..EACH {
                    client.send(format!("{publisher} {number}").as_str()).await;
                }
                client
            }));
        }
        let mut heard = Vec::new();
        for listener in &mut listeners {
            heard.push(listener.take(PUBLISHERS * EACH).await);
        }
        for (turn, other) in heard.iter().enumerate() {
            assert!(*other == heard[0], "listener {turn} of {count} instances heard another order");
        }
        for publisher in 0..PUBLISHERS {
            let own: Vec<&Said> = heard[0]
                .iter()
                .filter(|said| matches!(said, Said::Text(text) if text.starts_with(&format!("{publisher} "))))
                .collect();
            let expected: Vec<Said> =
                (0..EACH).map(|number| Said::Text(format!("{publisher} {number}"))).collect();
            assert!(own.iter().copied().eq(expected.iter()), "publisher {publisher}, {count} instances");
        }
        for task in speaking {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_sender_can_leave_itself_out() {
    for count in [1, 2] {
        let cluster = Cluster::of(count).await;
        let mut quiet = Client::connect(cluster.url(0, "echo?echo=false")).await;
        let mut beside = Client::connect(cluster.url(0, "echo")).await;
        let mut elsewhere = Client::connect(cluster.url(1, "echo")).await;
        quiet.send("mine").await;
        assert_eq!(beside.next().await, "mine".into());
        assert_eq!(elsewhere.next().await, "mine".into());
        // The next thing it hears is what another said, so its own never came.
        elsewhere.send("theirs").await;
        assert_eq!(quiet.next().await, "theirs".into());
    }
}

#[tokio::test]
async fn anybody_can_publish_through_redis() {
    let cluster = Cluster::of(2).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut clients =
        [Client::connect(cluster.url(0, "lobby")).await, Client::connect(cluster.url(1, "lobby")).await];
    assert_eq!(redis.cli(&["PUBLISH", "fanfare:channel:lobby", "hello"]).await, "2");
    redis.publish_bytes("fanfare:channel:lobby", "žluťoučký".as_bytes()).await;
    redis.publish_bytes("fanfare:channel:lobby", &[0xFF, 0, 0xFE]).await;
    // These begin as what instances write and are broken: counted, and told to nobody.
    redis.publish_bytes("fanfare:channel:lobby", &[0xFA]).await;
    redis.publish_bytes("fanfare:channel:lobby", &[0xFA, 99, 36, 0]).await;
    redis.cli(&["PUBLISH", "fanfare:channel:lobby", "last"]).await;
    for client in &mut clients {
        let expected = ["hello".into(), "žluťoučký".into(), Said::Binary(vec![0xFF, 0, 0xFE]), "last".into()];
        assert_eq!(client.take(4).await, expected);
    }
    for instance in &cluster.instances {
        assert_eq!(instance.metric("fanfare_unknown_envelopes_total", &[]).await, 2.0);
    }
}

#[tokio::test]
async fn a_load_balancer_needs_no_stickiness() {
    let cluster = Cluster::of(3).await;
    let balancer = LoadBalancer::start(&cluster.instances.iter().collect::<Vec<_>>(), "").await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::connect(balancer.url("balanced")).await);
    }
    for instance in &cluster.instances {
        assert_eq!(instance.metric("fanfare_connections", &[("protocol", "raw")]).await, 2.0);
    }
    for speaker in 0..clients.len() {
        clients[speaker].send(format!("from {speaker}").as_str()).await;
        for client in &mut clients {
            assert_eq!(client.next().await, Said::Text(format!("from {speaker}")));
        }
    }
}

/// The first frames may come in the same segment as the handshake, before it is answered.
#[tokio::test]
async fn what_comes_with_the_handshake_is_heard() {
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::connect(instance.address()).await;
    let mut bytes = b"GET /ws/early HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    bytes.extend(frame(0x80 | Frame::TEXT, b"first", true));
    bytes.extend(frame(0x80 | Frame::BINARY, &[0; 9000], true));
    let whole = frame(0x80 | Frame::TEXT, b"third", true);
    bytes.extend(&whole[..3]);
    socket.write(&bytes).await.unwrap();
    let answer = socket.response().await;
    assert_eq!(answer.status, 101);
    // The example of RFC 6455 section 1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    socket.write(&whole[3..]).await.unwrap();
    let expected = [
        Frame { opcode: Frame::TEXT, payload: b"first".to_vec() },
        Frame { opcode: Frame::BINARY, payload: vec![0; 9000] },
        Frame { opcode: Frame::TEXT, payload: b"third".to_vec() },
    ];
    for row in expected {
        assert_eq!(socket.next_but_pings().await, Some(row));
    }
}

/// Text and binary by turns, each cut in two frames at every byte, each frame cut on its way as well.
#[tokio::test]
async fn a_message_is_whole_and_of_its_kind_wherever_it_is_cut() {
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::join(instance.address(), "cuts").await;
    let mut other = Client::connect(instance.url("cuts")).await;
    let text = "a\u{e9}\u{20ac}\u{1f980}\u{10ffff}\0";
    for cut in 0..=text.len() {
        for opcode in [Frame::TEXT, Frame::BINARY] {
            let (head, tail) = text.as_bytes().split_at(cut);
            let frames = [frame(opcode, head, true), frame(0x80, tail, true)].concat();
            for piece in frames.chunks(cut + 1) {
                socket.write(piece).await.unwrap();
            }
            let expected =
                if opcode == Frame::TEXT { Said::from(text) } else { Said::Binary(text.as_bytes().to_vec()) };
            assert_eq!(other.next().await, expected, "cut at {cut}");
        }
    }
}

/// Surrogates, overlong forms, what is beyond Unicode, and what breaks off, each in two frames: 1007, and nobody
/// hears it.
#[tokio::test]
async fn text_of_no_utf8_is_refused_wherever_it_is_cut() {
    let instance = Instance::start(&[]).await;
    let mut other = Client::connect(instance.url("cuts")).await;
    let rows: [&[u8]; 7] = [
        b"a\xed\xa0\x80",
        b"a\xc0\x80",
        b"a\xe0\x80\xaf",
        b"a\xf4\x90\x80\x80",
        b"a\xf0\x9f\xa6",
        b"a\x80b",
        b"a\xff",
    ];
    for text in rows {
        for cut in 0..=text.len() {
            let (head, tail) = text.split_at(cut);
            let mut socket = Socket::join(instance.address(), "cuts").await;
            let frames = [frame(Frame::TEXT, head, true), frame(0x80, tail, true)].concat();
            socket.write(&frames).await.unwrap();
            assert_eq!(socket.closed().await, (1007, "invalid UTF-8".into()), "{text:x?} cut at {cut}");
        }
    }
    other.send("all that is heard").await;
    assert_eq!(other.next().await, "all that is heard".into());
}

#[tokio::test]
async fn thousands_of_crumbs_become_one_message() {
    const CRUMBS: usize = 8000;
    let instance = Instance::start(&[]).await;
    let mut listener = Client::connect(instance.url("crumbs")).await;
    let mut socket = Socket::join(instance.address(), "crumbs?echo=false").await;
    let mut bytes = frame(Frame::TEXT, b"x", true);
    for _ in 2..CRUMBS {
        bytes.extend(frame(0, b"x", true));
        bytes.extend(frame(0, b"", true));
    }
    bytes.extend(frame(0x80, b"x", true));
    socket.write(&bytes).await.unwrap();
    assert_eq!(listener.next().await, "x".repeat(CRUMBS).as_str().into());
}

#[tokio::test]
async fn fragments_become_one_message() {
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::join(instance.address(), "fragments").await;
    let mut other = Client::connect(instance.url("fragments")).await;
    // A two-byte letter is cut in the middle, and a ping comes in between.
    socket.write(&frame(Frame::TEXT, b"caf\xC3", true)).await.unwrap();
    socket.send(Frame::PING, b"still there?").await.unwrap();
    socket.write(&frame(0, b"", true)).await.unwrap();
    socket.write(&frame(0x80, b"\xA9", true)).await.unwrap();
    assert_eq!(other.next().await, "café".into());
    let heard = [socket.next_but_pings().await, socket.next_but_pings().await];
    let frames = BTreeSet::from(heard.map(|frame| frame.expect("it goes on")));
    let expected = BTreeSet::from([
        Frame { opcode: Frame::PONG, payload: b"still there?".to_vec() },
        Frame { opcode: Frame::TEXT, payload: "café".into() },
    ]);
    assert_eq!(frames, expected);
}

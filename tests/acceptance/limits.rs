//! What one client may take: each limit at its bound and one beyond, with bystanders who must not notice.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::harness::{Client, Frame, Instance, Said, Socket, eventually, fence, frame, request};

#[tokio::test]
async fn a_message_may_have_the_limit_and_no_byte_more() {
    const LIMIT: usize = 1000;
    let instance = Instance::start(&["--message-limit", "1000"]).await;
    let mut listener = Client::connect(instance.url("size")).await;
    // (the frames of one message, whether it is within the limit)
    let whole = |length| vec![frame(0x80 | Frame::BINARY, &vec![7; length], true)];
    let parts = |first, second| {
        vec![frame(Frame::BINARY, &vec![7; first], true), frame(0x80, &vec![7; second], true)]
    };
    let rows = [
        ("at the limit", whole(LIMIT), true),
        ("one beyond", whole(LIMIT + 1), false),
        ("two halves", parts(LIMIT / 2, LIMIT / 2), true),
        ("two halves and one", parts(LIMIT / 2, LIMIT / 2 + 1), false),
    ];
    for (name, frames, fits) in rows {
        let mut socket = Socket::join(instance.address(), "size?echo=false").await;
        socket.write(&frames.concat()).await.unwrap();
        if fits {
            assert_eq!(listener.next().await, Said::Binary(vec![7; LIMIT]), "{name}");
        } else {
            assert_eq!(socket.closed().await, (1009, "message too big".into()), "{name}");
        }
    }
    let mut other = Client::connect(instance.url("size?echo=false")).await;
    fence(&mut other, &mut listener).await;
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[("reason", "too_big")]).await, 2.0);
}

#[tokio::test]
async fn a_slow_consumer_is_cut_and_nobody_else_notices() {
    const SIZE: usize = 16 * 1024;
    let instance = Instance::start(&["--workers", "1", "--outbox-limit", "256KiB"]).await;
    let mut slow = Socket::connect_narrow(instance.address()).await;
    assert_eq!(slow.upgrade("flood", &[]).await.status, 101);
    let mut publisher = Client::connect(instance.url("flood?echo=false")).await;
    let mut bystander = Client::connect(instance.url("flood")).await;
    let mut neighbour = Client::connect(instance.url("elsewhere")).await;

    let mut slowest = Duration::ZERO;
    let mut published = 0;
    let cut = async || instance.metric("fanfare_slow_consumers_total", &[]).await == 1.0;
    while !cut().await {
        let start = Instant::now();
        publisher.send(Said::Binary(vec![published as u8; SIZE])).await;
        assert_eq!(bystander.next().await, Said::Binary(vec![published as u8; SIZE]));
        neighbour.send("me too").await;
        assert_eq!(neighbour.next().await, "me too".into());
        slowest = slowest.max(start.elapsed());
        published += 1;
        let outbox = instance.metric("fanfare_outbox_bytes", &[]).await;
        assert!(outbox <= 256.0 * 1024.0, "an outbox of {outbox} bytes");
        assert!(published < 2000, "never cut, after {published} messages of {SIZE} bytes");
    }
    assert!(published >= 16, "cut after {published} messages, before its outbox was full");
    assert!(slowest < Duration::from_secs(1), "bystanders waited {slowest:?}");
    // It can still read what was on its way, whole frames in order, and then why it was cut.
    let mut heard = 0;
    let end = loop {
        match slow.next_but_pings().await {
            Some(Frame { opcode: Frame::BINARY, payload }) => {
                assert_eq!(payload, vec![heard as u8; SIZE]);
                heard += 1;
            }
            other => break other,
        }
    };
    assert_eq!(end.expect("a close frame").close(), Some((1008, "slow consumer".into())));
    assert!(heard < published);
    instance.log().find("the slow consumer", |line| line["reason"] == "slow_consumer").await;
    eventually("nothing of it stays", async || {
        let metrics = instance.metrics().await;
        metrics.value("fanfare_outbox_bytes", &[]) == 0.0
            && metrics.value("fanfare_connections", &[]) == 3.0
            && metrics.value("fanfare_connections_closed_total", &[("reason", "slow_consumer")]) == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_connection_may_burst_and_then_keep_to_its_rate() {
    let instance = Instance::start(&["--message-rate", "5", "--message-burst", "10"]).await;
    let mut bystander = Client::connect(instance.url("rate")).await;
    let mut greedy = Client::connect(instance.url("rate?echo=false")).await;
    for number in 0..10 {
        greedy.send(format!("{number}").as_str()).await;
        assert_eq!(bystander.next().await, Said::Text(number.to_string()));
    }
    while greedy.try_send("more").await && greedy.try_send("and more").await {
        if instance.metric("fanfare_connections_closed_total", &[("reason", "rate_limited")]).await == 1.0 {
            break;
        }
    }
    assert_eq!(greedy.closed().await, (1008, "rate limited".into()));
    // The bucket is each connection's own.
    let mut other = Client::connect(instance.url("rate?echo=false")).await;
    for number in 0..10 {
        other.send(format!("other {number}").as_str()).await;
    }
    while bystander.next().await != Said::Text("other 9".into()) {}
}

#[tokio::test]
async fn an_instance_holds_so_many_connections() {
    let instance = Instance::start(&["--max-connections", "3", "--retry-after", "7s"]).await;
    let url = instance.url("full");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&url).await);
    }
    let answer = Client::try_connect(&url, &[]).await.err().expect("refused");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert_eq!(
        instance.metric("fanfare_handshakes_rejected_total", &[("reason", "instance_full")]).await,
        1.0
    );
    // Health and metrics are not connections, and a place that is left is free again.
    assert_eq!(instance.page("/livez").await.status, 200);
    clients.pop().unwrap().close().await;
    eventually("there is a place again", async || Client::try_connect(&url, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn an_address_holds_so_many_connections() {
    let flags = ["--max-connections-per-address", "2", "--trusted-proxies", "127.0.0.0/8"];
    let instance = Instance::start(&flags).await;
    let url = instance.url("addresses");
    let from = async |address: &str| Client::try_connect(&url, &[("x-forwarded-for", address)]).await;
    let mut first = vec![from("192.0.2.1").await.unwrap(), from("192.0.2.1").await.unwrap()];
    let answer = from("192.0.2.1").await.err().expect("refused");
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("5")));
    let _other = from("192.0.2.2").await.expect("another address");
    assert_eq!(
        instance.metric("fanfare_handshakes_rejected_total", &[("reason", "address_full")]).await,
        1.0
    );
    first.pop().unwrap().close().await;
    eventually("there is a place again", async || from("192.0.2.1").await.is_ok()).await;
}

/// Open files run out because of sockets that never say anything. The instance goes on for those that are
/// there, does not spin, and takes new ones as soon as it can.
#[tokio::test]
async fn running_out_of_files_is_survived() {
    const FILES: u32 = 100;
    let mut instance =
        Instance::start_with_open_files(FILES, &["--workers", "1", "--header-timeout", "10s"]).await;
    let mut client = Client::connect(instance.url("files")).await;
    let mut flood = Vec::new();
    for _ in 0..2 * FILES {
        flood.push(Socket::connect(instance.address()).await);
    }
    instance.log().find("that files ran out", |line| line.to_string().to_lowercase().contains("files")).await;
    let before = instance.cpu_time();
    let mut ticks = interval(Duration::from_millis(100));
    for _ in 0..10 {
        ticks.tick().await;
        fence_alone(&mut client).await;
    }
    let used = instance.cpu_time() - before;
    assert!(used < Duration::from_millis(450), "{used:?} of CPU in a second");
    // Who comes now is told so, or waits; nobody is left without an end.
    let answer = flood.last_mut().unwrap();
    answer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();

    drop(flood);
    eventually("served again", async || {
        request(instance.address(), "GET", "/livez", &[]).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let metrics = instance.metrics().await;
    assert!(metrics.value("fanfare_accept_errors_total", &[]) > 0.0);
    assert!(metrics.value("process_max_fds", &[]) <= f64::from(FILES));
    fence_alone(&mut client).await;
    let mut late = Client::connect(instance.url("files")).await;
    fence(&mut client, &mut late).await;
    assert!(instance.is_running());
}

async fn fence_alone(client: &mut Client) {
    client.send("echo").await;
    assert_eq!(client.next().await, "echo".into());
}

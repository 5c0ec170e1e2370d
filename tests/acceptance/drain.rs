//! SIGTERM with thousands of connections: at an even pace, in random order, with what was queued written
//! first.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Frame, Instance, RedisServer, Said, Socket, eventually};

const CONNECTIONS: usize = 3000;
const WINDOW: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_leave_at_an_even_pace() {
    let flags = ["--drain-delay", "500ms", "--drain-window", "6s", "--log-level", "info"];
    let mut instance = Instance::start(&flags).await;
    let mut watches = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = Socket::join(instance.address(), "drain").await;
        watches.push(tokio::spawn(async move {
            let close = loop {
                let frame = socket.next_or_end().await.expect("a close frame comes before the end");
                if let Some(close) = frame.close() {
                    break close;
                }
            };
            assert_eq!(close, (1012, "service restart".to_owned()));
            let at = Instant::now();
            socket.send(Frame::CLOSE, &1012_u16.to_be_bytes()).await.unwrap();
            at
        }));
    }
    let start = Instant::now();
    instance.signal("TERM").await;
    eventually("it says how many are left", async || {
        let left = instance.metric("fanfare_drain_remaining_connections", &[]).await;
        left > 0.0 && left < CONNECTIONS as f64
    })
    .await;
    let mut ends = Vec::new();
    for watch in watches {
        ends.push(watch.await.unwrap() - start);
    }
    assert_eq!(instance.ended().await.code(), Some(0));

    let first = *ends.iter().min().unwrap();
    let last = *ends.iter().max().unwrap();
    assert!(first >= Duration::from_millis(500), "the first was closed after {first:?}");
    assert!(last > WINDOW * 8 / 10, "all were closed after {last:?}");
    assert!(last < WINDOW + Duration::from_secs(4), "the last was closed after {last:?}");
    assert_even(&ends);
    // In random order: of those who came in the first half, about half went in the first half.
    let mut sorted = ends.clone();
    sorted.sort();
    let middle = sorted[CONNECTIONS / 2];
    let early = ends[..CONNECTIONS / 2].iter().filter(|end| **end < middle).count();
    assert!((CONNECTIONS / 5..=CONNECTIONS * 3 / 10).contains(&early), "{early} of {CONNECTIONS}");
}

/// No second above twice the mean, wherever the second begins.
fn assert_even(ends: &[Duration]) {
    let mut sorted = ends.to_vec();
    sorted.sort();
    let mean = ends.len() as f64 / WINDOW.as_secs_f64();
    for (index, from) in sorted.iter().enumerate() {
        let in_a_second =
            sorted[index..].iter().take_while(|end| **end < *from + Duration::from_secs(1)).count();
        assert!(
            in_a_second as f64 <= 2.0 * mean,
            "{in_a_second} in the second after {from:?}; the mean is {mean}"
        );
    }
}

#[tokio::test]
async fn what_is_queued_is_written_first() {
    const MESSAGES: usize = 60;
    const SIZE: usize = 60_000;
    let flags = ["--outbox-limit", "16MiB", "--drain-delay", "0s", "--drain-window", "0s"];
    let mut instance = Instance::start(&flags).await;
    let mut slow = Socket::connect_narrow(instance.address()).await;
    assert_eq!(slow.upgrade("queued", &[]).await.status, 101);
    let mut publisher = Client::connect(instance.url("queued?echo=false")).await;
    for number in 0..MESSAGES {
        publisher.send(Said::Binary(vec![number as u8; SIZE])).await;
    }
    eventually("something waits to be written", async || {
        let metrics = instance.metrics().await;
        metrics.value("fanfare_deliveries_total", &[]) == MESSAGES as f64
            && metrics.value("fanfare_outbox_bytes", &[]) > SIZE as f64
    })
    .await;
    instance.signal("TERM").await;
    instance.log().find("that it drains", |line| line.to_string().contains("drain")).await;
    for number in 0..MESSAGES {
        let frame = slow.next_but_pings().await.expect("a queued message");
        assert_eq!(
            (frame.opcode, frame.payload.len(), frame.payload[0]),
            (Frame::BINARY, SIZE, number as u8)
        );
    }
    assert_eq!(slow.next_but_pings().await.unwrap().close(), Some((1012, "service restart".into())));
    slow.send(Frame::CLOSE, &1012_u16.to_be_bytes()).await.unwrap();
    publisher.closed().await;
    assert_eq!(instance.ended().await.code(), Some(0));
}

/// Somebody who never reads holds up nothing for longer than `close_timeout`.
#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_it_up() {
    let flags = [
        "--outbox-limit",
        "16MiB",
        "--drain-delay",
        "0s",
        "--drain-window",
        "0s",
        "--close-timeout",
        "500ms",
    ];
    let mut instance = Instance::start(&flags).await;
    let mut stuck = Socket::connect_narrow(instance.address()).await;
    assert_eq!(stuck.upgrade("stuck", &[]).await.status, 101);
    let mut publisher = Client::connect(instance.url("stuck?echo=false")).await;
    for _ in 0..100 {
        publisher.send(Said::Binary(vec![1; 60_000])).await;
    }
    eventually("something waits to be written", async || {
        instance.metric("fanfare_outbox_bytes", &[]).await > 100_000.0
    })
    .await;
    let start = Instant::now();
    instance.signal("TERM").await;
    publisher.closed().await;
    assert_eq!(instance.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_now() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "INT")] {
        let mut instance = Instance::start(&["--drain-delay", "30s", "--drain-window", "60s"]).await;
        let mut client = Client::connect(instance.url("hurry")).await;
        instance.signal(first).await;
        eventually("it drains", async || instance.page("/readyz").await.status == 503).await;
        let start = Instant::now();
        instance.signal(second).await;
        instance.ended().await;
        assert!(start.elapsed() < Duration::from_secs(10), "{first} {second}: {:?}", start.elapsed());
        assert_eq!(client.closed().await.0, 1012, "{first} {second}");
        instance.log().find("why", |line| line["reason"] == "shut_down").await;
    }
}

#[tokio::test]
async fn an_empty_instance_does_not_wait_out_its_window() {
    let mut instance = Instance::start(&["--drain-delay", "0s", "--drain-window", "60s"]).await;
    let start = Instant::now();
    instance.signal("TERM").await;
    assert_eq!(instance.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

/// As whoever comes while an instance is emptied, and not as one for whom too much was published meanwhile.
#[tokio::test]
async fn an_event_stream_that_waits_for_redis_is_told_of_the_drain() {
    let redis = RedisServer::start().await;
    let flags = ["--redis", &redis.url(), "--drain-delay", "0s", "--drain-window", "0s"];
    let mut instance = Instance::start(&flags).await;
    eventually("it has found Redis", async || instance.page("/readyz").await.status == 200).await;
    // It does not go while somebody does not read.
    let mut slow = Socket::connect_narrow(instance.address()).await;
    assert_eq!(slow.upgrade("slow", &[]).await.status, 101);
    redis.pause().await;
    let mut socket = Socket::connect(instance.address()).await;
    socket.write(b"GET /sse/new HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("it has asked", async || instance.metric("fanfare_subscriptions", &[]).await == 2.0).await;
    instance.signal("TERM").await;
    let answer = socket.response().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    let log = instance.log();
    log.find("why", |line| line["reason"] == "draining" && line["message"].is_string()).await;
    assert_eq!(instance.ended().await.code(), Some(0));
}

/// It had been let in before, and what it wants has come since: nobody who drains the others finds it any more.
#[tokio::test]
async fn a_session_that_begins_in_the_drain_ends_at_once() {
    let flags = ["--workers", "1", "--drain-delay", "0s", "--drain-window", "10m"];
    let instance = Instance::start(&flags).await;
    let mut late = Socket::connect(instance.address()).await;
    let body = r#"{"id":1,"connect":{}}"#;
    let head = format!(
        "POST /connection/http_stream HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{{",
        body.len()
    );
    late.write(head.as_bytes()).await.unwrap();
    // While one is left it does not end as a whole, and one alone leaves at the end of the window.
    let _bystander = Client::connect(instance.url("others")).await;
    instance.signal("TERM").await;
    eventually("it is being emptied", async || {
        Client::try_connect(&instance.url("late"), &[]).await.is_err_and(|answer| answer.status == 503)
    })
    .await;
    late.write(&body.as_bytes()[1..]).await.unwrap();
    assert_eq!(late.response().await.status, 200);
    late.ended().await;
    let closed = [("reason", "drained")];
    assert_eq!(instance.metric("fanfare_connections_closed_total", &closed).await, 1.0);
    assert_eq!(instance.metric("fanfare_connections", &[]).await, 1.0);
}

/// New clients are told to go elsewhere once the delay is over.
#[tokio::test]
async fn a_draining_instance_takes_nobody_in() {
    // So long that nobody's turn comes while this looks.
    let instance = Instance::start(&["--drain-delay", "0s", "--drain-window", "10m"]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(instance.url("late")).await);
    }
    instance.signal("TERM").await;
    eventually("new clients are refused", async || {
        match Client::try_connect(&instance.url("late"), &[]).await {
            Err(answer) => answer.status == 503 && answer.header("retry-after").is_some(),
            Ok(_) => false,
        }
    })
    .await;
    assert!(instance.metric("fanfare_handshakes_rejected_total", &[("reason", "draining")]).await >= 1.0);
    // Those who are still here are served until it is their turn.
    clients[0].send("still here").await;
    for client in &mut clients {
        assert_eq!(client.next().await, "still here".into());
    }
    assert_eq!(clients.pop().unwrap().close().await, 1000);
}

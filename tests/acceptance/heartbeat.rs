//! Pings and idle connections, with intervals short enough to watch.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Frame, Instance, Socket};

/// No shorter: whoever has to answer may stand still for a while on a busy machine.
const FAST: [&str; 4] = ["--ping-interval", "1s", "--idle-timeout", "4s"];

#[tokio::test]
async fn pings_are_spread_not_in_step() {
    const SOCKETS: usize = 40;
    const INTERVAL: Duration = Duration::from_secs(4);
    let instance = Instance::start(&["--ping-interval", "4s"]).await;
    let (start, mut watches) = (Instant::now(), Vec::new());
    for _ in 0..SOCKETS {
        let mut socket = Socket::join(instance.address(), "beat").await;
        watches.push(tokio::spawn(async move {
            assert_eq!(socket.next().await.unwrap().opcode, Frame::PING);
            start.elapsed()
        }));
    }
    let mut at = Vec::new();
    for watch in watches {
        at.push(watch.await.unwrap());
    }
    at.sort();
    // No tenth of the interval has more than half of them, and they do not come all at once.
    let fullest = at
        .iter()
        .map(|from| at.iter().filter(|other| (*from..*from + INTERVAL / 10).contains(*other)).count());
    assert!(fullest.max().unwrap() <= SOCKETS / 2, "{at:?}");
    assert!(at[SOCKETS - 1] - at[0] > INTERVAL * 3 / 8, "{at:?}");
}

#[tokio::test]
async fn silence_ends_a_connection_in_time() {
    let instance = Instance::start(&FAST).await;
    let start = Instant::now();
    let mut socket = Socket::join(instance.address(), "beat").await;
    assert_eq!(socket.closed().await, (1001, "idle timeout".to_owned()));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(3800) && took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn any_frame_counts_as_life() {
    // What is sent whenever a ping comes, and with what; nothing is the ping's own payload.
    let rows = [
        ("a pong", Frame::PONG, None),
        ("an unasked pong", Frame::PONG, Some("unasked")),
        ("a ping", Frame::PING, Some("")),
        ("a message", Frame::TEXT, Some("hello")),
    ];
    let instance = Instance::start(&FAST).await;
    let mut watches = Vec::new();
    for (name, opcode, payload) in rows {
        let mut socket =
            Socket::join(instance.address(), &format!("beat-{}?echo=false", watches.len())).await;
        watches.push(tokio::spawn(async move {
            let start = Instant::now();
            // More than two idle timeouts.
            while start.elapsed() < Duration::from_secs(9) {
                let frame = socket.next().await.unwrap_or_else(|| panic!("{name} did not keep it alive"));
                assert_eq!(frame.close(), None, "{name} did not keep it alive");
                if frame.opcode == Frame::PING {
                    let answer = payload.map_or(frame.payload.as_slice(), str::as_bytes);
                    socket.send(opcode, answer).await.unwrap();
                }
            }
            socket
        }));
    }
    let mut alive = Vec::new();
    for watch in watches {
        alive.push(watch.await.unwrap());
    }
    assert_eq!(instance.metric("fanfare_connections", &[("protocol", "raw")]).await, 4.0);
}

/// A client that only listens, and answers pings as libraries do, stays.
#[tokio::test]
async fn a_listener_with_a_library_stays() {
    let instance = Instance::start(&FAST).await;
    let mut listener = Client::connect(instance.url("quiet")).await;
    let mut speaker = Socket::join(instance.address(), "late?echo=false").await;
    // Ten pings to another are more than two idle timeouts.
    let wait = tokio::spawn(async move {
        for _ in 0..10 {
            let ping = speaker.next().await.expect("pinged");
            speaker.send(Frame::PONG, &ping.payload).await.unwrap();
        }
    });
    let heard = tokio::spawn(async move { listener.next().await });
    wait.await.unwrap();
    let mut other = Client::connect(instance.url("quiet")).await;
    other.send("still there?").await;
    assert_eq!(heard.await.unwrap(), "still there?".into());
}

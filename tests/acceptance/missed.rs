//! An instance in a cgroup that would kill it, and much that was missed: by itself, and by clients that have no
//! library to come back with; and what no instance would publish. What is asked for by the protocol is `answers`'
//! business.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Caller, Confined, Fault, LIMIT, MIB, RedisServer, Setup, Socket, TcpProxy, eventually};

/// An instance that was cut off from Redis while much was published in many channels, all together four times of what
/// there is. Its clients read all the while.
#[tokio::test]
async fn what_was_missed_of_redis_is_made_good_a_piece_at_a_time() {
    const CHANNELS: usize = 24;
    const MISSED: usize = 100;
    let keys = "redis_timeout = \"20s\"\nclient_ping_interval = \"10m\"\noutbox_limit = \"8MiB\"";
    let setup = Setup::open("history_size = 1000\nrecovery = \"force\"").keys(keys);
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let near = setup.clone().redis(&redis.url()).start().await;
    let behind = setup.redis(&format!("redis://{}", proxy.address()));
    let mut confined = Confined::start_as(behind, LIMIT, None).await;
    let mut listeners = Vec::new();
    for channel in 0..CHANNELS {
        let mut listener = Caller::anonymous(confined.instance.address()).await;
        listener.result("subscribe", json!({ "channel": format!("kept-{channel}") })).await;
        listeners.push(listener);
    }
    proxy.set(Fault::Blackhole);
    proxy.reset_all();
    let up = async || confined.instance.metric("fanfare_broker_up", &[]).await;
    eventually("it is cut off", async || up().await == 0.0).await;
    let mut speaker = Caller::anonymous(near.address()).await;
    for number in 0..MISSED {
        for channel in 0..CHANNELS {
            let data = json!([number, "x".repeat(60_000)]);
            speaker.ask("publish", json!({ "channel": format!("kept-{channel}"), "data": data })).await;
        }
        // Behind all of them.
        speaker.call("rpc", json!({})).await;
    }
    proxy.set(Fault::None);
    let hear = listeners.iter_mut().map(async |listener| {
        for number in 0..MISSED {
            let heard = listener.socket().next_but_pings().await.expect("nobody is ended");
            let begins = format!("[{number},");
            let at = heard.payload.windows(7).position(|some| some == b"\"data\":").map(|at| at + 7);
            let data = at.map(|at| &heard.payload[at..]).unwrap_or_default();
            let start = String::from_utf8_lossy(&heard.payload[..heard.payload.len().min(200)]);
            assert!(data.starts_with(begins.as_bytes()), "{number}: {start}");
        }
    });
    join_all(hear).await;
    assert_eq!(confined.ended().await, 0.0);
    confined.bystanders_are_served().await;
    drop(listeners);
    confined.recovers("made good").await;
}

/// Each has missed 18 MB, and comes back without a library: all together eight times of what there is.
#[tokio::test]
async fn who_comes_back_by_itself_is_given_a_piece_at_a_time() {
    const KEPT: usize = 300;
    const CLIENTS: usize = 60;
    let redis = RedisServer::start().await;
    let setup = Setup::open("history_size = 300\nrecovery = \"allow\"").redis(&redis.url());
    let setup = setup.keys("client_ping_interval = \"10m\"");
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    let mut speaker = Caller::anonymous(address).await;
    let place = speaker.result("subscribe", json!({ "channel": "kept", "recoverable": true })).await;
    speaker.result("unsubscribe", json!({ "channel": "kept" })).await;
    for number in 0..KEPT {
        let data = json!([number, "x".repeat(60_000)]);
        speaker.result("publish", json!({ "channel": "kept", "data": data })).await;
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Socket::connect_narrow(address).await);
    }
    let path = format!("kept?since=0:{}", place["epoch"].as_str().unwrap());
    let back = clients.iter_mut().map(async |client| client.upgrade(&path, &[]).await.status);
    assert_eq!(join_all(back).await, [101; CLIENTS]);
    confined.bystanders_are_served().await;
    // Who reads gets everything; the others can wait.
    for client in &mut clients[..3] {
        for number in 0..KEPT {
            let heard = client.next_but_pings().await.expect("nobody is ended");
            assert!(heard.payload.starts_with(format!("[{number},").as_bytes()), "{number}");
        }
    }
    confined.bystanders_are_served().await;
    drop(clients);
    confined.recovers("came back").await;
}

/// Something else publishes as much at once as Redis lets a subscriber have: it is dropped before it is there twice.
#[tokio::test]
async fn what_no_instance_would_publish_is_passed_over() {
    const SMALL: u64 = 80 * MIB;
    let redis = RedisServer::start().await;
    let mut confined = Confined::start_as(Setup::default().redis(&redis.url()), SMALL, None).await;
    let mut listener = confined.join("strange").await;
    for _ in 0..3 {
        let heard = redis.publish_bytes("fanfare:channel:strange", &[7; 25_000_000]).await;
        assert_eq!(heard, "1");
        confined.bystanders_are_served().await;
    }
    redis.publish_bytes("fanfare:channel:strange", b"hello").await;
    assert_eq!(listener.next_but_pings().await.map(|frame| frame.payload), Some(b"hello".to_vec()));
    confined.recovers("strange").await;
}

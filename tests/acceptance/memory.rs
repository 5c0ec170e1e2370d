//! An instance in a cgroup that would kill it: whatever clients do, it stays below, ends those that hold the
//! most, and serves the others.

use std::time::Duration;

use futures_util::StreamExt;

use crate::harness::{Cgroup, Client, Frame, Instance, Said, Socket, eventually, frame, within};

const MIB: u64 = 1 << 20;

/// What the container of these tests may take.
const LIMIT: u64 = 128 * MIB;

/// An instance in its cgroup, and somebody on it who reads what comes. The instance goes first.
struct Confined {
    instance: Instance,
    bystander: Client,
    cgroup: Cgroup,
    said: u32,
}

impl Confined {
    async fn start(flags: &[&str]) -> Self {
        let cgroup = Cgroup::limited(LIMIT);
        let flags = [&["--workers", "2", "--internal-listen", "127.0.0.1:0"], flags].concat();
        let instance = Instance::start_in(&cgroup, &flags).await;
        let limit = instance.metric("fanfare_memory_limit_bytes", &[]).await;
        assert_eq!(limit as u64, LIMIT - LIMIT / 4, "auto, and a quarter in reserve");
        let bystander = Client::connect(instance.url("bystander")).await;
        Self { instance, bystander, cgroup, said: 0 }
    }

    async fn ended(&self) -> f64 {
        let reason = [("reason", "memory_pressure")];
        self.instance.metric("fanfare_connections_closed_total", &reason).await
    }

    /// Somebody who reads and speaks as it should hears itself at once.
    async fn bystander_is_served(&mut self) {
        self.said += 1;
        let said = Said::Text(format!("still here {}", self.said));
        self.bystander.send(said.clone()).await;
        assert_eq!(self.bystander.next().await, said);
    }

    /// It lives, has never come near being killed, and is as it was before, whoever has been ended.
    async fn recovers(mut self, by: &str) {
        self.bystander_is_served().await;
        within(Duration::from_secs(60), "clients are let in again", async || {
            self.instance.page("/readyz").await.status == 200
        })
        .await;
        Client::connect(self.instance.url("late")).await;
        eventually("memory is given back", async || {
            self.instance.metric("fanfare_memory_used_bytes", &[]).await < (LIMIT / 2) as f64
        })
        .await;
        self.bystander_is_served().await;
        assert!(self.instance.is_running());
        let peak = self.cgroup.peak();
        assert_eq!(self.cgroup.killed(), 0, "{by}");
        assert!(peak <= LIMIT, "{by}: {peak} bytes");
    }
}

/// Many channels, each with a reader that has stopped: nothing is shared, and all outboxes together would
/// take four times of what there is.
async fn readers_that_stop(by: &str, payload: usize) {
    const READERS: usize = 500;
    let mut confined = Confined::start(&["--outbox-limit", "1MiB"]).await;
    let mut stopped = Vec::new();
    let mut publishers = Vec::new();
    for number in 0..READERS {
        let mut reader = Socket::connect_narrow(confined.instance.address()).await;
        assert_eq!(reader.upgrade(&format!("{by}-{number}"), &[]).await.status, 101);
        stopped.push(reader);
        publishers
            .push(Socket::join(confined.instance.address(), &format!("{by}-{number}?echo=false")).await);
    }
    let batch = frame(0x80 | Frame::BINARY, &vec![7; payload], true).repeat((64 << 10) / payload.max(64));
    let mut refused = false;
    // As much as would fill all outboxes, unless some have been ended before.
    'flood: for _ in 0..16 {
        for publisher in &mut publishers {
            let _ = publisher.write(&batch).await;
        }
        confined.bystander_is_served().await;
        if !refused && confined.instance.page("/readyz").await.status == 503 {
            let answer = Client::try_connect(&confined.instance.url("late"), &[]).await;
            if let Err(answer) = answer {
                assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
                assert!(answer.body.contains("memory"), "{answer:?}");
                refused = true;
            }
        }
        if refused && confined.ended().await >= 100.0 {
            break 'flood;
        }
    }
    assert!(refused, "{by}: nobody was turned away");
    assert!(confined.ended().await > 0.0, "{by}: nobody was ended");
    let rejected = [("reason", "memory")];
    assert!(confined.instance.metric("fanfare_handshakes_rejected_total", &rejected).await >= 1.0);
    drop((stopped, publishers));
    confined.recovers(by).await;
}

#[tokio::test]
async fn stopped_readers_of_large_messages_are_ended_and_the_process_is_not() {
    readers_that_stop("large", 60_000).await;
}

#[tokio::test]
async fn stopped_readers_of_small_messages_are_ended_and_the_process_is_not() {
    readers_that_stop("small", 100).await;
}

/// Everybody sends most of a large message and stops: what has come is given up, and the sender is told.
#[tokio::test]
async fn unfinished_messages_are_given_up() {
    const SENDERS: usize = 600;
    let mut confined = Confined::start(&["--message-limit", "512KiB"]).await;
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        senders.push(Socket::join(confined.instance.address(), "unfinished").await);
    }
    let begun = &frame(0x80 | Frame::BINARY, &vec![7; 512 << 10], true)[..400 << 10];
    // Together twice of what there is. A sender whose bytes are not read any more would wait for ever.
    let sending = senders.iter_mut().map(async |sender| {
        let _ = tokio::time::timeout(Duration::from_secs(5), sender.write(begun)).await;
    });
    futures_util::future::join_all(sending).await;
    eventually("some are given up", async || confined.ended().await > 0.0).await;
    confined.bystander_is_served().await;
    let ended = confined.ended().await as usize;
    let ends = senders.iter_mut().map(|sender| Box::pin(sender.closed()));
    let told = futures_util::stream::iter(ends).buffer_unordered(SENDERS).take(ended / 2);
    let told: Vec<_> = told.collect().await;
    // Whoever was still sending may have been cut before it could hear.
    let heard = told.iter().filter(|end| **end == (1013, "memory pressure".into())).count();
    assert!(heard * 2 > told.len(), "{heard} of {} were told: {told:?}", told.len());
    drop(senders);
    confined.recovers("unfinished").await;
}

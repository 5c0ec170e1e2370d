//! An instance in a cgroup that would kill it: whatever sockets do, it stays below, ends those that hold the
//! most, and serves the others. What clients of the protocol have it hold is in `holdings`, and what they ask of it in
//! `answers`.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::harness::{
    Certificates, Cgroup, Client, Confined, Frame, Instance, LIMIT, MIB, OWED, PART, Setup, Socket,
    eventually, frame,
};

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
        confined.bystanders_are_served().await;
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
    assert!(confined.rejected().await >= 1.0);
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
        let _ = timeout(Duration::from_secs(5), sender.write(begun)).await;
    });
    join_all(sending).await;
    eventually("some are given up", async || confined.ended().await > 0.0).await;
    confined.bystanders_are_served().await;
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

/// What somebody sends who never finishes asking: at first, and then, so much that all together would take twice of
/// what there is.
struct Unfinished {
    name: &'static str,
    begun: Vec<u8>,
    rest: Vec<u8>,
}

/// A head that goes on and on.
fn a_head() -> Unfinished {
    let begun = b"GET /ws/x HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    Unfinished { name: "heads", begun, rest: vec![b'a'; 15_500] }
}

/// A body whose end never comes.
fn a_body(name: &'static str, path: &str) -> Unfinished {
    let begun = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n").into_bytes();
    Unfinished { name, begun, rest: vec![b'x'; 65_000] }
}

/// A ClientHello that claims to be of 64 KiB, in records of 16,000 bytes (RFC 8446 sections 4 and 5.1).
fn a_hello() -> Unfinished {
    let mut hello = vec![0; 64_000];
    hello[..4].copy_from_slice(&[1, 0, 0xFF, 0xFF]);
    let records = hello.chunks(16_000).flat_map(|part| {
        let length = (part.len() as u16).to_be_bytes();
        [&[22, 3, 1, length[0], length[1]][..], part].concat()
    });
    let mut begun: Vec<u8> = records.collect();
    let rest = begun.split_off(100);
    Unfinished { name: "hellos", begun, rest }
}

/// They are cut for memory, and for nothing else.
const PATIENT: [&str; 4] = ["--handshake-timeout", "5m", "--header-timeout", "5m"];

/// So many come with it; fewer than may be unfinished at a time.
const UNFINISHED: usize = 4000;

/// All begin, and then send the rest. It is they who are cut, and nobody who is in.
async fn who_never_finishes_asking_goes_first(unfinished: Unfinished, certificates: Option<Certificates>) {
    let Unfinished { name, begun, rest } = unfinished;
    let mut confined = Confined::start_as(Setup::default().flags(&PATIENT), LIMIT, certificates).await;
    let mut slow = confined.slow_readers().await;
    let mut senders = Vec::new();
    for _ in 0..UNFINISHED {
        let mut sender = Socket::connect(confined.instance.address()).await;
        sender.write(&begun).await.unwrap();
        senders.push(sender);
    }
    eventually("all of them wait", async || {
        let waiting = confined.instance.metric("fanfare_unfinished_handshakes", &[]).await;
        waiting + confined.rejected().await >= UNFINISHED as f64
    })
    .await;
    // Together, but no faster than is heard: what a machine sends itself at once, the kernel has to hold.
    for some in senders.chunks_mut(25) {
        let sending = some.iter_mut().map(async |sender| {
            let _ = timeout(Duration::from_secs(5), sender.write(&rest)).await;
        });
        join_all(sending).await;
        confined.bystanders_are_served().await;
    }
    eventually("some are cut", async || confined.rejected().await > 0.0).await;
    confined.bystanders_are_served().await;
    drop(senders);
    assert_eq!(confined.ended().await, 0.0, "{name}: somebody who was in was ended");
    for reader in &mut slow {
        for _ in 0..OWED {
            let heard = reader.next_but_pings().await.expect("who is in gets what it is owed");
            assert_eq!(heard.payload.len(), PART, "{name}");
        }
    }
    confined.recovers(name).await;
}

#[tokio::test]
async fn heads_that_never_end_are_cut_before_anybody_who_is_in() {
    who_never_finishes_asking_goes_first(a_head(), None).await;
}

#[tokio::test]
async fn bodies_that_never_end_are_cut_before_anybody_who_is_in() {
    who_never_finishes_asking_goes_first(a_body("bodies", "/connection/http_stream"), None).await;
    who_never_finishes_asking_goes_first(a_body("emulation", "/emulation"), None).await;
}

#[tokio::test]
async fn tls_hellos_that_never_end_are_cut_before_anybody_who_is_in() {
    who_never_finishes_asking_goes_first(a_hello(), Some(Certificates::new())).await;
}

/// Half a record of TLS each, on connections that are in: it counts as theirs, so they are ended and not who speaks.
#[tokio::test]
async fn half_records_count_for_those_who_sent_them() {
    const SENDERS: usize = 1000;
    const SMALL: u64 = 44 * MIB;
    let mut confined = Confined::start_as(Setup::default(), SMALL, Some(Certificates::new())).await;
    let client = confined.certificates.as_ref().unwrap().client(&["first"]);
    let mut senders = Vec::new();
    while senders.len() < SENDERS {
        let mut sender = client.connect(confined.instance.address()).await;
        // Some come too late for that, if those who are in take so much already.
        if sender.upgrade("half", &[]).await.status != 101 {
            break;
        }
        senders.push(sender);
    }
    let half = [&[23, 3, 3, 0x41, 0][..], &[7; 16_600]].concat();
    for sender in &senders {
        // The socket is empty; and what it does not take at once, nobody waits for.
        let _ = sender.tcp().try_write(&half);
    }
    eventually("some are given up", async || confined.ended().await > 0.0).await;
    confined.bystanders_are_served().await;
    drop(senders);
    confined.recovers("half records").await;
}

/// Past the limit those go first who hold the most, wherever they are: who holds less gets all that it is owed.
#[tokio::test]
async fn the_largest_outboxes_go_first() {
    const SMALL: usize = 50;
    const LARGE: usize = 150;
    const PIECES: usize = 3;
    let confined = Confined::start(&["--outbox-limit", "1MiB"]).await;
    let address = confined.instance.address();
    let message = frame(0x80 | Frame::BINARY, &[7; 60_000], true);
    let stop = async |channel: &str| {
        let mut reader = Socket::connect_narrow(address).await;
        assert_eq!(reader.upgrade(channel, &[]).await.status, 101);
        reader
    };
    let (mut small, mut large, mut publishers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..SMALL {
        small.push(stop(&format!("small-{number}")).await);
        let mut publisher = Socket::join(address, &format!("small-{number}?echo=false")).await;
        publisher.write(&message.repeat(PIECES)).await.unwrap();
    }
    for number in 0..LARGE {
        large.push(stop(&format!("large-{number}")).await);
        publishers.push(Socket::join(address, &format!("large-{number}?echo=false")).await);
    }
    'flood: for _ in 0..15 {
        for publisher in &mut publishers {
            let _ = publisher.write(&message).await;
            if confined.ended().await > 0.0 {
                break 'flood;
            }
        }
    }
    eventually("some are ended", async || confined.ended().await > 0.0).await;
    for reader in &mut small {
        for _ in 0..PIECES {
            let heard = reader.next_but_pings().await.expect("whoever holds less stays");
            assert_eq!((heard.opcode, heard.payload.len()), (Frame::BINARY, 60_000));
        }
    }
    drop((large, small, publishers));
    confined.recovers("largest first").await;
}

/// Who asks for more than the container has is told at the start what there will be.
#[tokio::test]
async fn what_a_container_does_not_allow_is_said_at_the_start() {
    let allowed = LIMIT - LIMIT / 4;
    // (flags, what is asked for, what is possible; nothing for what is not cut)
    let memory = ["--memory-limit", "1GiB"];
    let rows = [
        (&memory[..], "memory_limit", Some((1 << 30, allowed))),
        (&["--history-memory", "500MiB"], "history_memory", Some((500 * MIB, allowed / 2))),
        (
            &[&memory[..], &["--history-memory", "512MiB"]].concat(),
            "history_memory",
            Some((512 * MIB, allowed / 2)),
        ),
        (&["--history-memory", "48MiB"], "history_memory", None),
    ];
    for (flags, key, expected) in rows {
        let cgroup = Cgroup::limited(LIMIT);
        let mut instance = Setup::default().within(&cgroup).flags(flags).start().await;
        // It has started to listen, so all of it has been said.
        let lines = instance.log().lines();
        let said = lines
            .iter()
            .find(|line| line["level"] == "WARN" && line["possible"].is_u64() && line[key].is_u64());
        let said = said.map(|line| (line[key].as_u64().unwrap(), line["possible"].as_u64().unwrap()));
        assert_eq!(said, expected, "{flags:?}");
        instance.kill().await;
    }
}

/// Without a container, what is asked for holds: bodies that would take four times as much.
#[tokio::test]
async fn a_limit_in_bytes_holds_without_a_container() {
    const MOST: u64 = 64 * MIB;
    let flags = ["--workers", "2", "--internal-listen", "127.0.0.1:0", "--memory-limit", "64MiB"];
    let mut instance = Instance::start(&[&flags[..], &PATIENT].concat()).await;
    assert_eq!(instance.metric("fanfare_memory_limit_bytes", &[]).await as u64, MOST);
    let mut bystander = Client::connect(instance.url("bystander")).await;
    let Unfinished { begun, rest, .. } = a_body("bodies", "/emulation");
    let mut senders = Vec::new();
    for _ in 0..UNFINISHED {
        let mut sender = Socket::connect(instance.address()).await;
        sender.write(&begun).await.unwrap();
        senders.push(sender);
    }
    let sending = senders.iter_mut().map(async |sender| {
        let _ = timeout(Duration::from_secs(5), sender.write(&rest)).await;
    });
    join_all(sending).await;
    bystander.send("still here").await;
    assert_eq!(bystander.next().await, "still here".into());
    let rejected = [("reason", "memory")];
    assert!(instance.metric("fanfare_handshakes_rejected_total", &rejected).await > 0.0);
    let peak = instance.peak();
    assert!(peak < MOST + MOST / 4, "{peak} bytes");
    assert!(instance.is_running());
}

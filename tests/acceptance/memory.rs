//! An instance in a cgroup that would kill it: whatever clients do, it stays below, ends those that hold the
//! most, and serves the others.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::{
    Caller, Certificates, Cgroup, Client, Frame, Instance, RedisServer, Setup, Socket, eventually, frame,
    within,
};

const MIB: u64 = 1 << 20;

/// What the container of these tests may take.
const LIMIT: u64 = 128 * MIB;

/// How many of them there are who do as they should.
const BYSTANDERS: usize = 20;

/// What the slow ones are owed: more than the kernel takes for them, and less than would have them cut.
const OWED: usize = 12;
const PART: usize = 60_000;

/// An instance in its cgroup, and some on it who read what comes. The instance goes first.
struct Confined {
    instance: Instance,
    certificates: Option<Certificates>,
    bystanders: Vec<Socket>,
    cgroup: Cgroup,
    limit: u64,
    said: u32,
}

impl Confined {
    async fn start(flags: &[&str]) -> Self {
        Self::start_as(Setup::default().flags(flags), LIMIT, None).await
    }

    async fn start_as(setup: Setup, limit: u64, certificates: Option<Certificates>) -> Self {
        let cgroup = Cgroup::limited(limit);
        let tls = certificates.as_ref().map(|certificates| certificates.flags("first"));
        let tls = tls.unwrap_or_else(|| ["--internal-listen", "127.0.0.1:0"].map(str::to_owned).to_vec());
        let tls: Vec<_> = tls.iter().map(String::as_str).collect();
        let instance = setup.within(&cgroup).flags(&["--workers", "2"]).flags(&tls).start().await;
        let most = instance.metric("fanfare_memory_limit_bytes", &[]).await;
        assert_eq!(most as u64, limit - limit / 4, "auto, and a quarter in reserve");
        let mut confined = Self { instance, certificates, bystanders: Vec::new(), cgroup, limit, said: 0 };
        for number in 0..BYSTANDERS {
            confined.bystanders.push(confined.join(&format!("bystander-{number}")).await);
        }
        confined
    }

    async fn join(&self, channel: &str) -> Socket {
        let address = self.instance.address();
        match &self.certificates {
            None => Socket::join(address, channel).await,
            Some(certificates) => certificates.client(&["first"]).join(address, channel).await,
        }
    }

    /// Some who are slow, and who hold the most of all who are in: `OWED` messages of `PART` bytes wait for each.
    async fn slow_readers(&self) -> Vec<Socket> {
        let mut slow = Vec::new();
        for _ in 0..3 {
            let mut reader = match &self.certificates {
                None => Socket::connect_narrow(self.instance.address()).await,
                Some(certificates) => {
                    certificates.client(&["first"]).narrow().connect(self.instance.address()).await
                }
            };
            assert_eq!(reader.upgrade("slow", &[]).await.status, 101);
            slow.push(reader);
        }
        let mut publisher = self.join("slow?echo=false").await;
        for _ in 0..OWED {
            publisher.send(Frame::BINARY, &[7; PART]).await.unwrap();
        }
        publisher.send(Frame::CLOSE, &1000_u16.to_be_bytes()).await.unwrap();
        assert_eq!(publisher.closed().await.0, 1000, "all was taken before");
        slow
    }

    async fn ended(&self) -> f64 {
        let reason = [("reason", "memory_pressure")];
        self.instance.metric("fanfare_connections_closed_total", &reason).await
    }

    /// How many were turned away, or cut before they had asked, for want of memory.
    async fn rejected(&self) -> f64 {
        self.instance.metric("fanfare_handshakes_rejected_total", &[("reason", "memory")]).await
    }

    /// Somebody who reads and speaks as it should hears itself at once.
    async fn bystanders_are_served(&mut self) {
        self.said += 1;
        let said = format!("still here {}", self.said);
        for bystander in &mut self.bystanders {
            bystander.send(Frame::TEXT, said.as_bytes()).await.unwrap();
        }
        for bystander in &mut self.bystanders {
            let heard = bystander.next_but_pings().await;
            assert_eq!(heard, Some(Frame { opcode: Frame::TEXT, payload: said.clone().into_bytes() }));
        }
    }

    /// It lives, has never come near being killed, and is as it was before, whoever has been ended.
    async fn recovers(mut self, by: &str) {
        self.bystanders_are_served().await;
        within(Duration::from_secs(60), "clients are let in again", async || {
            self.instance.page("/readyz").await.status == 200
        })
        .await;
        self.join("late").await;
        within(Duration::from_secs(30), "memory is given back", async || {
            self.instance.metric("fanfare_memory_used_bytes", &[]).await < (self.limit / 2) as f64
        })
        .await;
        self.bystanders_are_served().await;
        assert!(self.instance.is_running());
        let peak = self.cgroup.peak();
        assert_eq!(self.cgroup.killed(), 0, "{by}");
        assert!(peak <= self.limit, "{by}: {peak} bytes");
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

/// What somebody sends who never finishes asking: at first, and then, so much that all together would take twice of what
/// there is.
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

/// So many come with it; fewer than may be unfinished at a time.
const UNFINISHED: usize = 4000;

/// All begin, and then send the rest. It is they who are cut, and nobody who is in.
async fn who_never_finishes_asking_goes_first(unfinished: Unfinished, certificates: Option<Certificates>) {
    let Unfinished { name, begun, rest } = unfinished;
    let mut confined = Confined::start_as(Setup::default(), LIMIT, certificates).await;
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

/// Without a container, what is asked for holds: bodies that would take four times as much.
#[tokio::test]
async fn a_limit_in_bytes_holds_without_a_container() {
    const MOST: u64 = 64 * MIB;
    let flags = ["--workers", "2", "--internal-listen", "127.0.0.1:0", "--memory-limit", "64MiB"];
    let mut instance = Instance::start(&flags).await;
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

/// Two kilobytes of commands ask for three times of what there is; who reads gets it all, in order.
#[tokio::test]
async fn one_frame_of_commands_is_answered_piece_by_piece() {
    const COMMANDS: usize = 200;
    const KEPT: usize = 20;
    let file = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        may_read_history = \"anonymous\"
        history_size = 20
    ";
    let mut confined = Confined::start_as(Setup::new(file), LIMIT, None).await;
    let mut caller = Caller::anonymous(confined.instance.address()).await;
    for _ in 0..KEPT {
        caller.result("publish", json!({ "channel": "kept", "data": "x".repeat(60_000) })).await;
    }
    let commands: Vec<_> = (1..=COMMANDS)
        .map(|number| {
            json!({ "id": 1000 + number, "history": { "channel": "kept", "limit": KEPT } }).to_string()
        })
        .collect();
    caller.say(&commands.join("\n")).await;
    for number in 1..=COMMANDS {
        let heard = caller.socket().next_but_pings().await.expect("an answer");
        let begins = format!("{{\"id\":{},\"history\"", 1000 + number);
        assert!(heard.payload.starts_with(begins.as_bytes()) && heard.payload.len() > KEPT * 60_000);
        if number % 50 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    assert_eq!(confined.ended().await, 0.0);
    caller.leave().await;
    confined.recovers("commands").await;
}

/// Clients may subscribe to what they like, and publish.
const OPEN: &str = "
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
";

/// An instance that does not ping those who only wait for their turn here.
fn patient() -> Setup {
    Setup::new(OPEN).flags(&["--client-ping-interval", "1h"])
}

/// The name of a channel that nobody else is in, nearly as long as may be.
fn own_channel(client: usize, number: usize) -> String {
    format!("{:x<250}", format!("{client}-{number}-"))
}

/// All of these in one frame; how many were answered with a subscription, and the codes of the errors, or how it was closed.
async fn subscribe_to(caller: &mut Caller, channels: &[String]) -> Result<(usize, Vec<u64>), (u16, String)> {
    let commands = channels.iter().enumerate().map(|(number, channel)| {
        json!({ "id": 1000 + number, "subscribe": { "channel": channel } }).to_string()
    });
    caller.say(&commands.collect::<Vec<_>>().join("\n")).await;
    let (mut made, mut errors) = (0, Vec::new());
    while made + errors.len() < channels.len() {
        let answer = caller.message().await?;
        match answer["error"]["code"].as_u64() {
            Some(code) => {
                assert_eq!(answer["error"]["temporary"], true, "{answer}");
                errors.push(code);
            }
            None if answer["subscribe"].is_object() => made += 1,
            None => panic!("{answer}"),
        }
    }
    Ok((made, errors))
}

/// As many subscriptions as a client may have, by clients that read every answer: all together would take twice of what there
/// is. Who has most of them is ended; who has two stays.
#[tokio::test]
async fn who_subscribes_to_much_is_ended_before_the_process_is() {
    const SMALL: u64 = 64 * MIB;
    const CLIENTS: usize = 800;
    const EACH: usize = 128;
    let mut confined = Confined::start_as(patient(), SMALL, None).await;
    let address = confined.instance.address();
    let mut modest = Vec::new();
    for number in 0..BYSTANDERS {
        let mut caller = Caller::anonymous(address).await;
        for channel in [own_channel(CLIENTS, number), "shared".to_owned()] {
            caller.result("subscribe", json!({ "channel": channel })).await;
        }
        modest.push(caller);
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Caller::anonymous(address).await);
    }
    let mut told = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        let channels: Vec<_> = (0..EACH).map(|channel| own_channel(number, channel)).collect();
        for some in channels.chunks(32) {
            match subscribe_to(client, some).await {
                Ok(answered) => assert_eq!(answered, (some.len(), vec![])),
                Err(end) => {
                    assert_eq!(end, (1013, "memory pressure".into()));
                    told += 1;
                    break;
                }
            }
        }
        if number % 100 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    let ended = confined.ended().await as usize;
    assert!(ended > CLIENTS / 10 && ended < CLIENTS, "{ended} were ended");
    assert!(told <= ended);
    for (number, caller) in modest.iter_mut().enumerate() {
        let channel = own_channel(CLIENTS, number);
        caller.result("publish", json!({ "channel": channel, "data": number })).await;
        let heard = caller.message().await.expect("who has little stays");
        assert_eq!(heard["push"]["channel"], channel);
    }
    drop((clients, modest));
    confined.recovers("subscriptions").await;
}

/// So many that nobody has enough to be given up: the instance takes no more subscriptions for a while, and goes on with what
/// it has.
#[tokio::test]
async fn a_full_instance_refuses_subscriptions_for_a_while_and_nothing_else() {
    const SMALL: u64 = 44 * MIB;
    const CLIENTS: usize = 6000;
    const FEW: usize = 4;
    let mut confined = Confined::start_as(patient(), SMALL, None).await;
    let address = confined.instance.address();
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        let Some(client) = Caller::try_anonymous(address).await else { break };
        clients.push(client);
    }
    let (mut made, mut refused) = (Vec::new(), 0);
    for (number, client) in clients.iter_mut().enumerate() {
        let channels: Vec<_> = (0..FEW).map(|channel| own_channel(number, channel)).collect();
        let (subscribed, errors) = subscribe_to(client, &channels).await.expect("who has little stays");
        assert!(errors.iter().all(|code| *code == 100), "{errors:?}");
        made.push(subscribed);
        refused += errors.len();
        if number % 500 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    assert!(refused > CLIENTS, "only {refused} were refused");
    confined.bystanders_are_served().await;
    assert_eq!(confined.ended().await, 0.0);
    // Who is in is served as before.
    let client = &mut clients[0];
    assert_eq!(made[0], FEW);
    client.result("publish", json!({ "channel": own_channel(0, 0), "data": 1 })).await;
    assert_eq!(client.message().await.expect("its own publication")["push"]["channel"], own_channel(0, 0));
    let mut last = clients.pop().expect("they are many");
    // One after the other: for each that goes the kernel takes a page for a moment.
    while !clients.is_empty() {
        clients.truncate(clients.len().saturating_sub(100));
        confined.bystanders_are_served().await;
    }
    within(Duration::from_secs(30), "there is room for subscriptions", async || {
        matches!(subscribe_to(&mut last, &[own_channel(CLIENTS, 0)]).await, Ok((1, _)))
    })
    .await;
    drop(last);
    confined.recovers("full").await;
}

/// Each asks for what it has missed in sixteen channels and takes none of it: all together twelve times of what there is.
#[tokio::test]
async fn recoveries_that_nobody_takes_are_not_all_held() {
    const CHANNELS: usize = 16;
    const KEPT: usize = 60;
    const CLIENTS: usize = 30;
    let redis = RedisServer::start().await;
    let file = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        history_size = 60
        recovery = \"allow\"
    ";
    let setup = Setup::new(file).redis(&redis.url());
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    let mut speaker = Caller::anonymous(address).await;
    for channel in 0..CHANNELS {
        for _ in 0..KEPT {
            let said = json!({ "channel": format!("kept-{channel}"), "data": "x".repeat(60_000) });
            speaker.result("publish", said).await;
        }
    }
    let asks: Vec<_> = (0..CHANNELS)
        .map(|channel| {
            let asked = json!({ "channel": format!("kept-{channel}"), "recover": true, "offset": 0 });
            json!({ "id": 100 + channel, "subscribe": asked }).to_string()
        })
        .collect();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Caller::narrow(address).await);
    }
    for client in &mut clients {
        client.say(&asks.join("\n")).await;
    }
    eventually("some are ended", async || confined.ended().await > 0.0).await;
    confined.bystanders_are_served().await;
    drop(clients);
    within(Duration::from_secs(60), "clients are let in again", async || {
        confined.instance.page("/readyz").await.status == 200
    })
    .await;
    // Whoever reads gets everything.
    let mut reader = Caller::anonymous(address).await;
    reader.say(&asks.join("\n")).await;
    for channel in 0..CHANNELS {
        let heard = reader.socket().next_but_pings().await.expect("an answer");
        let begins = format!("{{\"id\":{},\"subscribe\"", 100 + channel);
        assert!(heard.payload.starts_with(begins.as_bytes()) && heard.payload.len() > KEPT * 60_000);
    }
    reader.leave().await;
    confined.recovers("recoveries").await;
}

/// Two and a half times of what there is, in ever new channels: what was published longest ago is forgotten, and whoever
/// comes back for it is told so.
async fn histories_are_forgotten_before_anybody_is_ended(by: &str, each: usize, bytes: usize) {
    const ALL: usize = 240 * MIB as usize;
    let file = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        history_size = 10000
        recovery = \"allow\"
    ";
    let setup = Setup::new(file).flags(&["--client-ping-interval", "10m"]);
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    // It listens to a quiet channel throughout.
    let mut listener = Caller::anonymous(address).await;
    let place = listener.result("subscribe", json!({ "channel": "quiet", "recoverable": true })).await;
    let mut publisher = Caller::anonymous(address).await;
    for said in ["one", "two"] {
        publisher.result("publish", json!({ "channel": "quiet", "data": said })).await;
        listener.publication().await;
    }
    let said = "x".repeat(bytes);
    let mut most = 0.0_f64;
    for number in 0..ALL / bytes {
        let channel = format!("{by}-{}", number / each);
        let answer = publisher.call("publish", json!({ "channel": channel, "data": said })).await;
        assert_eq!(answer.get("error"), None, "{by}: {number}");
        if number % (ALL / bytes / 20) == 0 {
            confined.bystanders_are_served().await;
            most = most.max(confined.instance.metric("fanfare_history_kept_bytes", &[]).await);
            assert_eq!(confined.instance.page("/readyz").await.status, 200, "{by}: {number}");
        }
    }
    let bound = (LIMIT - LIMIT / 4) / 4;
    assert!(most > (bound / 2) as f64 && most <= bound as f64 + 1e6, "{by}: {most} of {bound}");
    assert!(confined.instance.metric("fanfare_history_given_up_total", &[]).await > 0.0);
    assert_eq!(
        (confined.ended().await, confined.rejected().await),
        (0.0, 0.0),
        "{by}: nobody was in the way"
    );
    // Whoever comes back to where nothing is kept any more is told so, and where it stands now.
    let since = json!({ "channel": "quiet", "recover": true, "offset": 1, "epoch": place["epoch"] });
    let mut back = Caller::anonymous(address).await;
    let answer = back.result("subscribe", since).await;
    assert_eq!((&answer["was_recovering"], answer.get("recovered")), (&json!(true), None), "{answer}");
    assert_eq!(answer.get("publications"), None, "{answer}");
    let counted = confined.instance.metric("fanfare_recoveries_total", &[("outcome", "too_far")]).await;
    assert_eq!(counted, 1.0, "{by}");
    let strict =
        json!({ "channel": "quiet", "recover": true, "offset": 1, "epoch": place["epoch"], "flag": 2 });
    let answer = Caller::anonymous(address).await.error("subscribe", strict).await;
    assert_eq!(answer, 112, "{by}");
    let since = format!("quiet?notices=true&since=1:{}", place["epoch"].as_str().unwrap());
    let mut raw = Socket::join(address, &since).await;
    let notice = raw.next_but_pings().await.expect("a notice").payload;
    assert!(String::from_utf8_lossy(&notice).contains("gap"), "{}", String::from_utf8_lossy(&notice));
    // Nobody is told of a gap who has been there: numbers go on behind all that were given.
    publisher.result("publish", json!({ "channel": "quiet", "data": "three" })).await;
    let (_, kind, heard) = listener.push().await;
    assert_eq!((&kind[..], &heard["data"]), ("pub", &json!("three")), "{heard}");
    assert!(heard["offset"].as_u64() > Some(2), "{heard}");
    let again = json!({
        "channel": "quiet", "recover": true, "offset": heard["offset"], "epoch": place["epoch"]
    });
    publisher.result("publish", json!({ "channel": "quiet", "data": "four" })).await;
    let answer = Caller::anonymous(address).await.result("subscribe", again).await;
    assert_eq!((&answer["recovered"], &answer["publications"][0]["data"]), (&json!(true), &json!("four")));
    confined.recovers(by).await;
}

#[tokio::test]
async fn histories_of_small_messages_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("small", 2000, 2500).await;
}

#[tokio::test]
async fn histories_of_large_messages_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("large", 50, 60_000).await;
}

#[tokio::test]
async fn histories_of_one_message_each_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("one", 1, 5000).await;
}

/// Twenty who want differences in a hundred channels each: what those are made to would take more than there is.
#[tokio::test]
async fn what_differences_are_made_to_is_bounded() {
    const CLIENTS: usize = 20;
    const CHANNELS: usize = 100;
    let file = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        history_size = 1
        delta = true
    ";
    let setup = Setup::new(file).flags(&["--history-memory", "1MiB", "--client-ping-interval", "10m"]);
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let said = "x".repeat(60_000);
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut caller = Caller::anonymous(confined.instance.address()).await;
        for channel in 0..CHANNELS {
            let channel = format!("{client}-{channel}");
            let answer = caller.result("subscribe", json!({ "channel": channel, "delta": "fossil" })).await;
            assert_eq!(answer["delta"], true);
            for _ in 0..2 {
                caller.result("publish", json!({ "channel": channel, "data": said })).await;
                let (_, kind, _) = caller.push().await;
                assert_eq!(kind, "pub");
            }
        }
        clients.push(caller);
        confined.bystanders_are_served().await;
        assert_eq!(confined.instance.page("/readyz").await.status, 200, "{client}");
    }
    let differences = confined.instance.metric("fanfare_differences_total", &[]).await;
    assert!(differences > 100.0 && differences < (CLIENTS * CHANNELS) as f64, "{differences}");
    assert_eq!((confined.ended().await, confined.rejected().await), (0.0, 0.0));
    confined.recovers("differences").await;
}

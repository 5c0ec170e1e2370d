//! Clients that mean harm: the attacks of `fanfare_bench::ATTACKS`, each carried out once against an instance of its
//! own. Each blow is answered as it must be and counted where it must be; a bystander meanwhile receives everything
//! and in order, newcomers get in, the instance lives within its bounds, and nothing of it stays.
//!
//! How much later a bystander receives it is not judged here but by `fanfare bench hostile`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fanfare_bench::{ATTACKS, Attack, Counted, Field, Outcome, Target};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{
    Certificates, Client, DEADLINE, Instance, Metrics, Response, TlsClient, eventually, fence, resident_bytes,
};

/// How long attacks last that last as long as they are let.
const SPAN: Duration = Duration::from_secs(3);

/// What the counters of ends and refusals must show: by metric and reason, or reasons of which it is one.
type Counts = BTreeMap<(&'static str, [&'static str; 2]), u64>;

const CLOSED: &str = "fanfare_connections_closed_total";
const REJECTED: &str = "fanfare_handshakes_rejected_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attack_is_answered_counted_and_survived() {
    // To look at one alone: ATTACK=ping-flood cargo test -p acceptance hostile
    let only = std::env::var("ATTACK").ok();
    let certificates = Certificates::new();
    for attack in ATTACKS.iter().filter(|attack| only.as_deref().is_none_or(|only| only == attack.name)) {
        check(attack, attack.needs_tls.then_some(&certificates)).await;
    }
}

/// What is done on HTTP and WebSockets, done over TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_over_tls_are_answered_counted_and_survived_as_well() {
    let only = std::env::var("ATTACK").ok();
    let certificates = Certificates::new();
    let others = ATTACKS.iter().filter(|attack| !attack.needs_tls);
    for attack in others.filter(|attack| only.as_deref().is_none_or(|only| only == attack.name)) {
        check(attack, Some(&certificates)).await;
    }
}

async fn check(attack: &'static Attack, certificates: Option<&Certificates>) {
    let name = attack.name;
    let more = certificates.map(|certificates| certificates.flags("first")).unwrap_or_default();
    let flags: Vec<&str> = attack.flags.iter().copied().chain(more.iter().map(String::as_str)).collect();
    let mut instance = Instance::start(&flags).await;
    let door = Door { address: instance.address(), tls: certificates.map(|all| all.client(&["first"])) };
    let bystanders = Bystanders::connect(&door).await;
    let before = instance.metrics().await;
    let memory = before.value("process_resident_memory_bytes", &[]);
    let talk = bystanders.talk(name, &instance, door);

    let Outcome { blows, held } = carry_out(attack, &instance, certificates.is_some(), SPAN).await;
    let Newcomers { came, turned_away } = talk.close_doors().await;

    let wrong: Vec<_> = blows.iter().filter(|blow| blow.got != blow.expected).collect();
    assert!(!blows.is_empty() && wrong.is_empty(), "{name}: {wrong:#?}");
    assert!(instance.is_running(), "{name}");
    assert_eq!(instance.page("/livez").await.status, 200, "{name}");

    let mut counts = Counts::from([((CLOSED, ["closed_by_client"; 2]), came)]);
    if turned_away > 0 {
        counts.insert((REJECTED, ["instance_full"; 2]), turned_away);
    }
    for blow in &blows {
        match blow.counted {
            Counted::Closed(reason) => *counts.entry((CLOSED, [reason; 2])).or_default() += 1,
            Counted::Rejected(reason) => *counts.entry((REJECTED, [reason; 2])).or_default() += 1,
            Counted::Either(reasons) => *counts.entry((REJECTED, reasons)).or_default() += 1,
            Counted::Nowhere => {}
        }
    }
    are_counted(name, &instance, &counts).await;
    drop(held);
    is_as_before(name, &instance, &before).await;
    let grown = talk.stop().await - memory;
    assert!(grown <= attack.allowance as f64, "{name}: grew by {grown} bytes");
}

/// Memory that each left behind would add up: a minute of them, after a first go, which takes what the allocator keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_with_those_who_come_and_go() {
    const MOST: f64 = 4.0 * 1024.0 * 1024.0;
    let attack = Attack::named("churn").expect("it is in the list");
    let mut instance = Instance::start(attack.flags).await;
    let before = instance.metrics().await;
    let mut settled = Vec::new();
    for span in [SPAN, attack.lasts.expect("a minute")] {
        let Outcome { blows, .. } = carry_out(attack, &instance, false, span).await;
        // However late: all come that were to come.
        assert_eq!(blows.len() as u64, 1_000 * span.as_secs());
        is_as_before("churn", &instance, &before).await;
        settled.push(resident_bytes(instance.pid()));
    }
    assert!(settled[1] - settled[0] < MOST, "bytes before and after the minute: {settled:?}");
    assert!(instance.is_running());
}

/// Gauges that must come back to what they were, and by how much they may differ: the question itself takes a file
/// and a task, and the last one's may not be gone yet; and bystanders go on talking.
const GAUGES: [(&str, f64); 13] = [
    ("fanfare_connections", 0.0),
    ("fanfare_closing_connections", 0.0),
    ("fanfare_subscriptions", 0.0),
    ("fanfare_compressed_subscriptions", 0.0),
    ("fanfare_channels", 0.0),
    ("fanfare_broker_subscriptions", 0.0),
    ("fanfare_users", 0.0),
    ("fanfare_presence_members", 0.0),
    ("fanfare_inbox_bytes", 4096.0),
    ("fanfare_outbox_bytes", 4096.0),
    // The connection that asks, and one that the last question has left.
    ("fanfare_unfinished_handshakes", 1.0),
    ("fanfare_tasks", 1.0),
    ("process_open_fds", 2.0),
];

/// Waits until these are as they were, and panics with those that are not.
pub async fn is_as_before(name: &str, instance: &Instance, before: &Metrics) {
    let last = Cell::new(Vec::new());
    let settled = async || {
        let now = instance.metrics().await;
        let values =
            GAUGES.map(|(gauge, slack)| (gauge, before.value(gauge, &[]), now.value(gauge, &[]), slack));
        let others: Vec<_> =
            values.into_iter().filter(|(_, was, is, slack)| (is - was).abs() > *slack).collect();
        let settled = others.is_empty();
        last.set(others);
        settled
    };
    let waiting = tokio::time::timeout(DEADLINE / 2, eventually("", settled)).await;
    assert!(waiting.is_ok(), "{name} leaves something behind (what, before, now): {:?}", last.take());
}

/// Waits until the counters of ends and refusals show this, and nothing else.
async fn are_counted(name: &str, instance: &Instance, counts: &Counts) {
    let sum = |metric: &str| {
        counts.iter().filter(|((of, _), _)| *of == metric).map(|(_, count)| *count).sum::<u64>() as f64
    };
    let counted = async || {
        let metrics = instance.metrics().await;
        counts.iter().all(|((metric, [first, second]), count)| {
            let of = |reason| metrics.value(metric, &[("reason", reason)]);
            of(first) + if first == second { 0.0 } else { of(second) } == *count as f64
        }) && [CLOSED, REJECTED].iter().all(|metric| metrics.value(metric, &[]) == sum(metric))
    };
    if tokio::time::timeout(DEADLINE / 2, eventually("", counted)).await.is_err() {
        let page = instance.page("/metrics").await.body;
        let found: Vec<_> = page
            .lines()
            .filter(|line| (line.starts_with(CLOSED) || line.starts_with(REJECTED)) && !line.ends_with(" 0"))
            .collect();
        panic!("{name}: expected {counts:#?}, found {found:#?}");
    }
}

async fn carry_out(attack: &'static Attack, instance: &Instance, secure: bool, span: Duration) -> Outcome {
    let url = instance.url("hostile");
    let url = if secure { url.replacen("ws://", "wss://", 1) } else { url };
    let target = Target::resolve(&url).expect("an instance's address").with_any_certificate();
    let field = Field::new(target, span);
    let carried_out = tokio::task::spawn_blocking(move || attack.carry_out(&field)).await;
    carried_out.expect("it does not panic").unwrap_or_else(|error| panic!("{}: {error}", attack.name))
}

/// How those who mean well come in.
struct Door {
    address: SocketAddr,
    tls: Option<TlsClient>,
}

impl Door {
    async fn try_join(&self, channel: &str) -> Result<Client, Response> {
        let url = format!("ws://{}/ws/{channel}", self.address);
        let Some(tls) = &self.tls else { return Client::try_connect(&url, &[]).await };
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let agreed = tls.agree(stream).await.expect("TLS is agreed on");
        Client::try_over(agreed, &url, &[]).await
    }

    async fn join(&self, channel: &str) -> Client {
        self.try_join(channel).await.unwrap_or_else(|answer| panic!("{channel}: {answer:?}"))
    }
}

/// Two in a channel of their own.
struct Bystanders {
    speaker: Client,
    listener: Client,
}

/// They talk to each other, and newcomers come and go.
struct Talk {
    attack: &'static str,
    stage: watch::Sender<Stage>,
    newcomers: watch::Receiver<Option<Newcomers>>,
    task: JoinHandle<f64>,
}

#[derive(Clone, Copy, Default)]
struct Newcomers {
    came: u64,
    /// By an instance that was full.
    turned_away: u64,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    Open,
    /// No newcomers any more.
    Closed,
    Over,
}

impl Bystanders {
    async fn connect(door: &Door) -> Self {
        let mut speaker = door.join("bystanders?echo=false").await;
        let mut listener = door.join("bystanders").await;
        fence(&mut speaker, &mut listener).await;
        Self { speaker, listener }
    }

    fn talk(self, attack: &'static str, instance: &Instance, door: Door) -> Talk {
        let Self { mut speaker, mut listener } = self;
        let (stage, stages) = watch::channel(Stage::Open);
        let (count, counted) = watch::channel(None);
        let pid = instance.pid();
        let task = tokio::spawn(async move {
            let (mut said, mut newcomers, mut peak) = (0_u64, Newcomers::default(), 0.0_f64);
            // One attack is held by a rate, which they must not reach themselves however long it takes.
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let stage = *stages.borrow();
                let text = said.to_string();
                speaker.send(text.as_str()).await;
                assert_eq!(listener.next().await, text.as_str().into(), "everything, once, in order");
                said += 1;
                if said % 50 != 0 {
                    continue;
                }
                peak = peak.max(resident_bytes(pid));
                match stage {
                    Stage::Open => match door.try_join("newcomers").await {
                        Ok(newcomer) => {
                            assert_eq!(newcomer.close().await, 1000);
                            newcomers.came += 1;
                        }
                        Err(answer) => {
                            assert_eq!(answer.status, 503, "{answer:?}");
                            newcomers.turned_away += 1;
                        }
                    },
                    Stage::Closed => drop(count.send_replace(Some(newcomers))),
                    Stage::Over => return peak,
                }
            }
        });
        Talk { attack, stage, newcomers: counted, task }
    }
}

impl Talk {
    /// Lets no newcomers in any more; gives how many there were.
    async fn close_doors(&self) -> Newcomers {
        self.stage.send_replace(Stage::Closed);
        let mut newcomers = self.newcomers.clone();
        let counted = newcomers.wait_for(Option::is_some).await;
        match counted {
            Ok(counted) => counted.expect("a number"),
            Err(_) => panic!("bystanders of {} notice nothing", self.attack),
        }
    }

    /// The most memory that the instance had.
    async fn stop(self) -> f64 {
        self.stage.send_replace(Stage::Over);
        self.task.await.expect("bystanders notice nothing")
    }
}

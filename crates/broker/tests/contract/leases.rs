//! What becomes of presence, claims and the census when instances die, stand still or end, and when Redis forgets, breaks
//! off or freezes.

use std::process::Stdio;
use std::time::Duration;

use fanfare_broker::{Claim, InstanceFacts, RedisConfig, Target, Unsent};
use fanfare_protocol::control::Uplink;
use fanfare_protocol::{Channel, Control};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::instance::{Instance, PATIENCE, channel, eventually};
use crate::presence::{AT_ONCE, LONG, connection, member};
use crate::proxy::Proxy;
use crate::server::Server;

/// As short as a busy machine allows.
const LEASE: Duration = Duration::from_secs(2);
/// From a death to its being known everywhere: the lease, two looks, and what a busy machine takes.
const KNOWN: Duration = Duration::from_millis(2 * 2000 + 1000);

impl Instance {
    /// One that is up and whose lease is short.
    async fn leased(url: &str) -> Self {
        let instance = Self::redis(&RedisConfig { lease: LEASE, ..RedisConfig::new(url) });
        instance.until_up().await;
        instance
    }

    /// As `kill -9` does it: nothing is said to anybody.
    fn kill(self) {
        drop(self.broker);
    }
}

/// What is told in a room, when everything before is told: by what somebody else does there and here.
async fn all_told(observers: &[&Instance], room: &Channel) -> Vec<String> {
    let [first, others @ ..] = observers else { panic!("somebody must listen") };
    first.enter(room, 999, "marker").await;
    first.depart(room, 999, AT_ONCE);
    let mut told = Vec::new();
    for observer in observers {
        observer.relay.until("-marker", |relay| relay.told(room).iter().any(|news| news == "-marker")).await;
        told = observer.relay.told(room);
    }
    for other in others {
        assert_eq!(other.relay.told(room), told, "all are told the same");
    }
    told.retain(|news| !news.ends_with("marker"));
    told
}

async fn until_all(instances: &[&Instance], room: &Channel, expected: &[u128], users: u64) {
    for instance in instances {
        instance.until_present(room, expected, users).await;
    }
}

/// The keys that speak of a lease which is not among these many that hold.
async fn remains(server: &Server) -> Vec<String> {
    let alive: Vec<String> = server.command(&["ZRANGE", "fanfare:alive:{instances}", "0", "-1"]).await;
    let mut keys: Vec<String> = server.command(&["KEYS", "fanfare:*"]).await;
    keys.retain(|key| !alive.iter().any(|lease| key.contains(lease)));
    keys.retain(|key| ["members:", "places:", "facts:", "counts:"].iter().any(|what| key.contains(what)));
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_killed_instance_leave_once_and_in_time() {
    members_leave_once_and_in_time(Server::start(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_killed_instance_leave_a_cluster_too() {
    members_leave_once_and_in_time(Server::start_cluster().await).await;
}

async fn members_leave_once_and_in_time(server: Server) {
    let url = server.url();
    let (a, b, c) =
        (Instance::leased(&url).await, Instance::leased(&url).await, Instance::leased(&url).await);
    let (room, crowd) = (channel("room"), channel("crowd"));
    for instance in [&a, &b, &c] {
        instance.join(&room).await;
        instance.join(&crowd).await;
    }
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    b.enter(&room, 3, "ann").await;
    a.enter(&room, 4, "").await;
    // More than are removed in one go.
    let many: Vec<_> = (1000..2000)
        .map(|number| a.broker.enter(&crowd, member(number, &format!("user {number}"))))
        .collect();
    for entered in many {
        entered.await.expect("Redis is there");
    }
    b.enter(&crowd, 5, "carl").await;
    let killed = Instant::now();
    a.kill();
    until_all(&[&b, &c], &room, &[3], 1).await;
    until_all(&[&b, &c], &crowd, &[5], 1).await;
    assert!(killed.elapsed() < KNOWN, "known after {:?}", killed.elapsed());
    let mut told = all_told(&[&b, &c], &room).await;
    told[3..].sort();
    assert_eq!(told, ["+ann", "+bob", "+4", "-4", "-bob"]);
    let told = all_told(&[&b, &c], &crowd).await;
    assert_eq!(told.iter().filter(|news| news.starts_with("-user ")).count(), 1000);
    assert_eq!(told.len(), 2001);
    eventually("nothing remains of it", async || remains(&server).await.is_empty()).await;
    let dying: Vec<String> = server.command(&["SMEMBERS", "fanfare:dying:{instances}"]).await;
    assert!(dying.is_empty(), "{dying:?}");
}

/// An instance in a process of its own, with ann (1) and bob (2) in "room" and ann's claim.
struct Process(Child);

impl Process {
    async fn start(url: &str, lease: Duration) -> Self {
        let child = Command::new(std::env::current_exe().expect("this is it"))
            .args(["--exact", "leases::is_an_instance", "--ignored", "--nocapture"])
            .env("FANFARE_TEST_URL", url)
            .env("FANFARE_TEST_LEASE", lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it runs");
        Self(child)
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().expect("it runs").to_string();
        let status = std::process::Command::new("kill").args([format!("-{name}"), id]).status();
        assert!(status.expect("kill is there").success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the half of the tests below that is killed and stopped"]
async fn is_an_instance() {
    let variable = |name: &str| std::env::var(name).expect("the tests below say it");
    let lease = Duration::from_millis(variable("FANFARE_TEST_LEASE").parse().expect("a number"));
    let a = Instance::redis(&RedisConfig { lease, ..RedisConfig::new(variable("FANFARE_TEST_URL")) });
    a.until_up().await;
    let room = channel("room");
    assert_eq!(a.claim("ann", 1, 1).await, Claim::Held);
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    // For as long as the test that started it lives.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    ended.await.expect("it reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_known_within_fifteen_seconds() {
    let server = Server::start(&[]).await;
    let lease = RedisConfig::new("").lease;
    let (b, c) = (Instance::at(&server.url()).await, Instance::at(&server.url()).await);
    let room = channel("room");
    b.join(&room).await;
    c.join(&room).await;
    let a = Process::start(&server.url(), lease).await;
    until_all(&[&b, &c], &room, &[1, 2], 2).await;
    assert_eq!(b.claim("ann", 3, 1).await, Claim::Full);
    let killed = Instant::now();
    a.signal("KILL");
    // Back elsewhere before anybody knows.
    c.enter(&room, 3, "ann").await;
    until_all(&[&b, &c], &room, &[3], 1).await;
    assert!(killed.elapsed() < Duration::from_secs(15), "known after {:?}", killed.elapsed());
    assert_eq!(all_told(&[&b, &c], &room).await, ["+ann", "+bob", "-bob"]);
    eventually("its claim is gone", async || b.claim("ann", 3, 1).await == Claim::Held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_finds_its_lease_lost() {
    let server = Server::start(&[]).await;
    let b = Instance::leased(&server.url()).await;
    let room = channel("room");
    b.join(&room).await;
    let a = Process::start(&server.url(), LEASE).await;
    b.until_present(&room, &[1, 2], 2).await;
    for time in 1..=2 {
        a.signal("STOP");
        b.until_present(&room, &[], 0).await;
        a.signal("CONT");
        let mut most = 0;
        eventually("both are back", async || {
            let (clients, users) = b.count(&room).await;
            most = most.max(clients);
            (clients, users) == (2, 2) && b.present(&room, 10).await == [1, 2]
        })
        .await;
        assert_eq!(most, 2, "nobody is there twice");
        b.relay.until("both have joined again", |relay| relay.told(&room).len() >= 2 + 4 * time).await;
    }
    let told = all_told(&[&b], &room).await;
    for user in ["ann", "bob"] {
        let signs: String = told.iter().filter_map(|news| news.strip_suffix(user)).collect();
        assert_eq!(signs, "+-+-+", "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_moves_from_a_killed_instance_to_another_was_never_gone() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let (a, b) = (Instance::leased(&url).await, Instance::leased(&url).await);
    let room = channel("room");
    b.join(&room).await;
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    // Whose connection was lost just before, with more time than the lease.
    a.depart(&room, 2, LONG);
    b.until_present(&room, &[1], 1).await;
    a.kill();
    b.enter(&room, 3, "ann").await;
    b.until_present(&room, &[3], 1).await;
    eventually("the others' rows are gone", async || {
        let rows: Vec<String> = server.command(&["HVALS", "fanfare:presence:{room}"]).await;
        rows.iter().filter(|count| *count != "0").eq(["1"])
    })
    .await;
    assert_eq!(all_told(&[&b], &room).await, ["+ann", "+bob"]);
    b.enter(&room, 4, "bob").await;
    assert_eq!(all_told(&[&b], &room).await, ["+ann", "+bob"], "bob is back in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_was_taken_for_dead_comes_back_whole() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let (a, b) = (Instance::leased(&proxy.url()).await, Instance::leased(&server.url()).await);
    let room = channel("room");
    b.join(&room).await;
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    a.enter(&room, 3, "carl").await;
    b.enter(&room, 4, "carl").await;
    proxy.black_hole(true);
    b.until_present(&room, &[4], 1).await;
    // It serves its clients meanwhile, and some of them come and go.
    eventually("it knows that Redis is away", async || {
        a.broker.enter(&room, member(5, "eve")).await.is_err()
    })
    .await;
    a.depart(&room, 2, AT_ONCE);
    let told = all_told(&[&b], &room).await;
    assert_eq!((&told[..3], told.len()), (&["+ann", "+bob", "+carl"].map(str::to_owned)[..], 5));
    proxy.black_hole(false);
    until_all(&[&a, &b], &room, &[1, 3, 4, 5], 3).await;
    let mut told = all_told(&[&b], &room).await.split_off(3);
    told.sort();
    assert_eq!(told, ["+ann", "+eve", "-ann", "-bob"], "bob is not told to have left twice");
    a.depart(&room, 1, AT_ONCE);
    a.depart(&room, 3, AT_ONCE);
    until_all(&[&a, &b], &room, &[4, 5], 2).await;
    assert_eq!(all_told(&[&b], &room).await.len(), 3 + 4 + 1, "only ann has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_written_again_and_nobody_notices() {
    let server = Server::start(&[]).await;
    let (a, b) = (Instance::leased(&server.url()).await, Instance::leased(&server.url()).await);
    let room = channel("room");
    a.join(&room).await;
    b.join(&room).await;
    for (instance, number, user) in [
        (&a, 1, "ann"),
        (&b, 2, "ann"),
        (&a, 3, "bob"),
        (&a, 4, "carl"),
        (&b, 5, ""),
        (&a, 6, "dave"),
        (&a, 7, "eve"),
    ] {
        instance.enter(&room, number, user).await;
    }
    a.depart(&room, 4, LONG);
    a.depart(&room, 6, LEASE);
    assert_eq!(a.claim("ann", 1, 1).await, Claim::Held);
    a.has_subscribers("room", 3);
    a.broker.describe(InstanceFacts { id: a.id, ..InstanceFacts::default() });
    b.until_present(&room, &[1, 2, 3, 5, 7], 4).await;
    let flushed = Instant::now();
    let _: String = server.command(&["FLUSHALL"]).await;
    // Before it is written again.
    a.depart(&room, 7, AT_ONCE);
    until_all(&[&a, &b], &room, &[1, 2, 3, 5], 3).await;
    assert!(flushed.elapsed() < LEASE, "written again after {:?}", flushed.elapsed());
    b.relay.until("-dave and -eve", |relay| relay.told(&room).len() == 8).await;
    let told = all_told(&[&a, &b], &room).await;
    assert_eq!(told[..6], ["+ann", "+bob", "+carl", "+5", "+dave", "+eve"]);
    assert_eq!(b.claim("ann", 9, 1).await, Claim::Full);
    eventually("the census is there again", async || {
        b.listed(None, 10).await.get("room") == Some(&3)
            && b.broker.instances().await.expect("Redis is there").len() == 1
    })
    .await;
    // Everybody leaves, once, and the counts come to nothing.
    b.enter(&room, 8, "carl").await;
    for (instance, number) in [(&a, 1), (&b, 2), (&a, 3), (&b, 5), (&b, 8)] {
        instance.depart(&room, number, AT_ONCE);
    }
    until_all(&[&a, &b], &room, &[], 0).await;
    let mut told = all_told(&[&a, &b], &room).await.split_off(8);
    told.sort();
    assert_eq!(told, ["-5", "-ann", "-bob", "-carl"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_comes_while_redis_has_forgotten_stays_behind() {
    let server = Server::start(&[]).await;
    let config = RedisConfig { lease: Duration::from_secs(9), ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    a.until_up().await;
    let room = channel("room");
    b.join(&room).await;
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    assert_eq!(a.claim("ann", 1, 2).await, Claim::Held);
    a.depart(&room, 2, Duration::from_millis(500));
    b.until_present(&room, &[1], 1).await;
    let flushed = Instant::now();
    let _: String = server.command(&["FLUSHALL"]).await;
    // All this is under a lease of which Redis knows nothing any more.
    a.enter(&room, 3, "carl").await;
    assert_eq!(a.claim("ann", 2, 2).await, Claim::Held);
    a.until_present(&room, &[1, 3], 2).await;
    assert!(flushed.elapsed() < Duration::from_secs(1), "found by what was written, not by the renewal");
    b.relay.until("-bob", |relay| relay.told(&room).len() == 4).await;
    assert_eq!(b.relay.told(&room), ["+ann", "+bob", "+carl", "-bob"]);
    for number in [1, 3] {
        a.depart(&room, number, AT_ONCE);
        a.broker.give_back("ann", connection(number - number / 2));
    }
    eventually("nothing remains", async || {
        let left: Vec<String> = server.command(&["KEYS", "fanfare:*:{room}"]).await;
        let claims: Vec<String> = server.command(&["KEYS", "fanfare:*:{ann}"]).await;
        left.is_empty() && claims.is_empty()
    })
    .await;
    assert!(remains(&server).await.is_empty());
    let places: Vec<String> = server.command(&["KEYS", "fanfare:places:*"]).await;
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_be_away_for_long() {
    let mut server = Server::start(&[]).await;
    let (a, b) = (Instance::leased(&server.url()).await, Instance::leased(&server.url()).await);
    let room = channel("room");
    a.join(&room).await;
    b.join(&room).await;
    a.enter(&room, 1, "ann").await;
    b.enter(&room, 2, "bob").await;
    server.kill();
    a.until_down("refuses connections").await;
    let asked = Instant::now();
    eventually("it is said that Redis is away", async || {
        a.broker.enter(&room, member(3, "carl")).await.is_err()
    })
    .await;
    assert!(a.broker.member_count(&room).await.is_err());
    assert!(a.broker.members(&room, fanfare_broker::Cursor::start(), 10).await.is_err());
    assert!(a.broker.instances().await.is_err());
    assert!(matches!(a.claim("ann", 1, 1).await, Claim::Unproven(_)));
    assert!(asked.elapsed() < PATIENCE / 2, "nobody waits for a Redis that is away");
    a.depart(&room, 1, AT_ONCE);
    server.run().await;
    until_all(&[&a, &b], &room, &[2, 3], 2).await;
    a.until_up().await;
    b.until_up().await;
    eventually("the claim counts", async || b.claim("ann", 2, 1).await == Claim::Full).await;
    b.enter(&room, 4, "dave").await;
    for instance in [&a, &b] {
        instance.relay.until("+dave", |relay| relay.told(&room).iter().any(|news| news == "+dave")).await;
    }
    b.relay.until("-ann", |relay| relay.told(&room).iter().any(|news| news == "-ann")).await;
    assert!(!b.relay.told(&room).iter().any(|news| news == "-bob"), "bob was here all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_lets_nobody_go() {
    let server = Server::start(&[]).await;
    let config =
        RedisConfig { lease: LEASE, timeout: Duration::from_millis(500), ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    let room = channel("room");
    for (instance, number, user) in [(&a, 1, "ann"), (&b, 2, "bob")] {
        instance.until_up().await;
        instance.join(&room).await;
        instance.enter(&room, number, user).await;
    }
    for _ in 0..2 {
        server.signal("STOP");
        let stopped = Instant::now();
        for instance in [&a, &b] {
            instance.until_down("").await;
        }
        // Longer than every lease.
        eventually("a while has passed", async || stopped.elapsed() > LEASE * 2).await;
        server.signal("CONT");
        for instance in [&a, &b] {
            instance.until_up().await;
        }
        let again = Instant::now();
        eventually("another lease has passed", async || again.elapsed() > LEASE + LEASE / 2).await;
        until_all(&[&a, &b], &room, &[1, 2], 2).await;
    }
    for instance in [&a, &b] {
        let told = instance.relay.told(&room);
        assert!(!told.iter().any(|news| news.starts_with('-')), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_ends_is_not_waited_for() {
    let server = Server::start(&[]).await;
    let config = RedisConfig { lease: Duration::from_secs(9), ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    a.until_up().await;
    b.until_up().await;
    let room = channel("room");
    b.join(&room).await;
    for (number, user) in [(1, "ann"), (2, "bob"), (3, "carl"), (4, "dave")] {
        a.enter(&room, number, user).await;
    }
    a.has_subscribers("room", 4);
    a.broker.describe(InstanceFacts { id: a.id, ..InstanceFacts::default() });
    assert_eq!(a.claim("ann", 1, 1).await, Claim::Held);
    a.depart(&room, 1, AT_ONCE);
    a.depart(&room, 2, Duration::from_millis(1500));
    a.depart(&room, 3, LONG);
    let ended = Instant::now();
    a.broker.resign().await;
    a.kill();
    let told = ["+ann", "+bob", "+carl", "+dave", "-ann", "-dave", "-bob"];
    b.relay.until_told(&room, &told).await;
    assert!(ended.elapsed() < Duration::from_secs(6), "told after {:?}", ended.elapsed());
    assert!(ended.elapsed() > Duration::from_millis(1500), "bob had his time");
    b.enter(&room, 5, "carl").await;
    eventually("claims and census are gone", async || {
        b.claim("ann", 9, 1).await == Claim::Held
            && b.listed(None, 10).await.is_empty()
            && b.broker.instances().await.expect("Redis is there").is_empty()
    })
    .await;
    assert_eq!(b.relay.told(&room), told, "carl is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_facts_of_a_killed_instance_go_with_its_lease() {
    let server = Server::start(&[]).await;
    let (a, b) = (Instance::leased(&server.url()).await, Instance::leased(&server.url()).await);
    for instance in [&a, &b] {
        instance.broker.describe(InstanceFacts { id: instance.id, ..InstanceFacts::default() });
    }
    a.has_subscribers("room", 1);
    assert_eq!(a.claim("ann", 1, 2).await, Claim::Held);
    assert_eq!(b.claim("ann", 2, 2).await, Claim::Held);
    assert_eq!(b.claim("ann", 3, 2).await, Claim::Full);
    eventually("both are listed", async || {
        b.broker.instances().await.expect("Redis is there").len() == 2 && b.listed(None, 10).await.len() == 1
    })
    .await;
    a.kill();
    eventually("its claim is gone", async || b.claim("ann", 3, 2).await == Claim::Held).await;
    assert_eq!(b.claim("ann", 4, 2).await, Claim::Full);
    eventually("its facts are gone", async || {
        b.broker.instances().await.expect("Redis is there").len() == 1 && b.listed(None, 10).await.is_empty()
    })
    .await;
    eventually("nothing remains of it", async || remains(&server).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_redis_harms_only_what_they_touch() {
    let server = Server::start(&[]).await;
    let a = Instance::leased(&server.url()).await;
    let (room, odd) = (channel("room"), channel("odd"));
    a.join(&room).await;
    let _: String = server.command(&["SET", "fanfare:presence:{odd}", "a string"]).await;
    a.enter(&room, 1, "ann").await;
    assert!(a.broker.enter(&odd, member(2, "bob")).await.is_err());
    a.depart(&odd, 2, AT_ONCE);
    let _: String = server.command(&["SCRIPT", "FLUSH"]).await;
    a.enter(&room, 3, "carl").await;
    a.depart(&room, 1, AT_ONCE);
    a.until_present(&room, &[3], 1).await;
    a.relay.until_told(&room, &["+ann", "+carl", "-ann"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_says_that_others_cannot_be_reached_and_reaches_this_instance() {
    let mut server = Server::start(&[]).await;
    let (a, b) = (Instance::at(&server.url()).await, Instance::at(&server.url()).await);
    let message = |word: &'static str| Control::Uplink(Uplink { session: "s".into(), data: word.into() });
    assert_eq!(a.broker.control(Target::All, message("one")).await, Ok(()));
    b.relay.until("the first", |relay| !relay.controls().is_empty()).await;
    server.kill();
    let mut sent = 1;
    eventually("it is said that Redis is away", async || {
        sent += 1;
        matches!(a.broker.control(Target::All, message("lost")).await, Err(Unsent::Away(_)))
    })
    .await;
    assert_eq!(a.broker.control(Target::Instance(a.id), message("own")).await, Ok(()));
    assert!(matches!(a.broker.control(Target::Instance(b.id), message("lost")).await, Err(Unsent::Away(_))));
    assert_eq!(a.relay.controls().len(), sent + 1);
    server.run().await;
    b.until_up().await;
    eventually("it can be sent again", async || {
        a.broker.control(Target::Instance(b.id), message("two")).await.is_ok()
    })
    .await;
    b.relay.until("the second", |relay| relay.controls().len() >= 2).await;
    assert_eq!(b.relay.controls(), [message("one"), message("two")], "nothing comes late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_come_and_go_while_lines_are_cut() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let (a, b) = (Instance::leased(&url).await, Instance::leased(&url).await);
    let room = channel("room");
    b.join(&room).await;
    let mut random = fastrand::Rng::with_seed(7);
    for cut in 0..8 {
        for _ in 0..100 {
            let number = random.u128(1..40);
            let instance = if number.is_multiple_of(2) { &a } else { &b };
            if random.bool() {
                // Nobody waits: what is wanted last is what counts.
                drop(instance.broker.enter(&room, member(number, &format!("user {}", number % 7))));
            } else {
                instance.depart(&room, number, AT_ONCE);
            }
        }
        let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        for (instance, number) in [(&a, 100 + cut), (&b, 200 + cut)] {
            eventually("it goes on", async || instance.broker.enter(&room, member(number, "")).await.is_ok())
                .await;
        }
    }
    let here = b.present(&room, 100).await;
    let of_users: std::collections::BTreeSet<_> =
        here.iter().filter(|number| **number < 100).map(|number| number % 7).collect();
    assert_eq!(b.count(&room).await, (here.len() as u64, of_users.len() as u64 + 1));
    for number in 1..40 {
        let instance = if number % 2 == 0 { &a } else { &b };
        instance.depart(&room, number, AT_ONCE);
    }
    let anonymous: Vec<_> = (100..108).chain(200..208).collect();
    until_all(&[&a, &b], &room, &anonymous, 1).await;
    let told = all_told(&[&b], &room).await;
    for user in 0..7 {
        let signs: Vec<_> = told.iter().filter(|news| news.ends_with(&format!("user {user}"))).collect();
        let turns = signs.iter().enumerate().all(|(at, news)| news.starts_with(['+', '-'][at % 2]));
        assert!(turns && signs.len() % 2 == 0, "user {user}: {signs:?}");
    }
}

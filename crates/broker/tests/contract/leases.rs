//! What becomes of presence, claims and the census when instances die, stand still or end. What Redis may do to them is
//! `forgetful`'s business.

use std::process::Stdio;
use std::time::Duration;

use fanfare_broker::{Claim, InstanceFacts, RedisConfig};
use fanfare_protocol::Channel;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::instance::{Instance, channel, eventually};
use crate::presence::{AT_ONCE, LONG, member};
use crate::proxy::Proxy;
use crate::server::Server;

/// As short as a busy machine allows.
pub const LEASE: Duration = Duration::from_secs(2);
/// From a death to its being known everywhere: the lease, two looks, and what a busy machine takes.
const KNOWN: Duration = Duration::from_millis(2 * 2000 + 1000);

impl Instance {
    /// One that is up and whose lease is short.
    pub async fn leased(url: &str) -> Self {
        let instance = Self::redis(&RedisConfig { lease: LEASE, ..RedisConfig::new(url) });
        instance.until_up().await;
        instance
    }

    /// Two of them that listen in a channel.
    pub async fn two_leased(url: &str, channel: &Channel) -> [Self; 2] {
        let both = [Self::leased(url).await, Self::leased(url).await];
        for instance in &both {
            instance.join(channel).await;
        }
        both
    }

    /// As `kill -9` does it: nothing is said to anybody.
    fn kill(self) {
        drop(self.broker);
    }
}

/// What is told in a room, when everything before is told: by what somebody else does there and here.
pub async fn all_told(observers: &[&Instance], room: &Channel) -> Vec<String> {
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

pub async fn until_all(instances: &[&Instance], room: &Channel, expected: &[u128], users: u64) {
    for instance in instances {
        instance.until_present(room, expected, users).await;
    }
}

/// The keys that speak of a lease which is not among these many that hold.
pub async fn remains(server: &Server) -> Vec<String> {
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
    let is_gone = async || {
        let claim = b.claim("ann", 3, 2).await;
        assert_ne!(claim, Claim::Full, "nobody knows that");
        claim == Claim::Held
    };
    eventually("its claim is gone", is_gone).await;
    assert_eq!(b.claim("ann", 4, 2).await, Claim::Full);
    eventually("its facts are gone", async || {
        b.broker.instances().await.expect("Redis is there").len() == 1 && b.listed(None, 10).await.is_empty()
    })
    .await;
    eventually("nothing remains of it", async || remains(&server).await.is_empty()).await;
}

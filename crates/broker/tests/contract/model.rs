//! Presence against a model that is too simple to be wrong: whatever is done in whatever order, members, counts and
//! news are the model's. A failure names the seed; `FANFARE_SEED` runs that one again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use fanfare_broker::RedisConfig;

use crate::instance::{Instance, channel};
use crate::presence::{AT_ONCE, LONG};
use crate::server::Server;

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter { room: usize, number: u128 },
    Leave { room: usize, number: u128, awaited: bool },
    Crash { place: usize },
    Flush,
}

/// One channel.
#[derive(Debug, Default)]
struct Room {
    members: BTreeSet<u128>,
    awaited: BTreeSet<&'static str>,
    /// What was told of each, in order.
    news: BTreeMap<String, String>,
}

const USERS: [&str; 4] = ["", "ann", "bob", "carl"];
const NUMBERS: u128 = 12;

fn user_of(number: u128) -> &'static str {
    USERS[(number % 4) as usize]
}

impl Room {
    fn enter(&mut self, number: u128) {
        let user = user_of(number);
        let first = self.count(user) == 0;
        if self.members.insert(number) && (user.is_empty() || (first && !self.awaited.remove(user))) {
            self.tell(number, '+');
        }
    }

    fn leave(&mut self, number: u128, awaited: bool) {
        let user = user_of(number);
        if !self.members.remove(&number) || (!user.is_empty() && self.count(user) > 0) {
            return;
        }
        if awaited && !user.is_empty() {
            self.awaited.insert(user);
        } else {
            self.tell(number, '-');
        }
    }

    fn count(&self, user: &str) -> usize {
        self.members.iter().filter(|number| user_of(**number) == user).count()
    }

    fn users(&self) -> u64 {
        USERS.iter().filter(|user| self.count(user) > 0).count() as u64
    }

    fn tell(&mut self, number: u128, sign: char) {
        let name = if user_of(number).is_empty() { number.to_string() } else { user_of(number).to_owned() };
        self.news.entry(name).or_default().push(sign);
    }
}

/// The instances, the first two of which never crash; a connection's number says where it is.
struct World {
    instances: Vec<Instance>,
    config: Option<RedisConfig>,
    server: Option<Server>,
    rooms: Vec<Room>,
}

impl World {
    fn place_of(&self, number: u128) -> usize {
        (number / 4) as usize % self.instances.len()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Enter { room, number } => {
                self.rooms[room].enter(number);
                let place = self.place_of(number);
                self.instances[place].enter(&name(room), number, user_of(number)).await;
            }
            Step::Leave { room, number, awaited } => {
                self.rooms[room].leave(number, awaited);
                let place = self.place_of(number);
                self.instances[place].depart(&name(room), number, if awaited { LONG } else { AT_ONCE });
            }
            Step::Crash { place } => {
                let Some(config) = &self.config else { return };
                let fresh = Instance::redis(config);
                fresh.until_up().await;
                drop(std::mem::replace(&mut self.instances[place], fresh));
                let here: Vec<_> = (0..NUMBERS).filter(|number| self.place_of(*number) == place).collect();
                for room in &mut self.rooms {
                    here.iter().for_each(|number| room.leave(*number, false));
                }
            }
            Step::Flush => {
                let Some(server) = &self.server else { return };
                let _: String = server.command(&["FLUSHALL"]).await;
                // What an instance writes a second time comes behind everything that it had to write again.
                for instance in &self.instances {
                    for _ in 0..2 {
                        instance.enter(&channel("marker"), 99, "").await;
                        instance.depart(&channel("marker"), 99, AT_ONCE);
                    }
                    instance.enter(&channel("marker"), 99, "").await;
                }
            }
        }
        self.check().await;
    }

    async fn check(&self) {
        for (number, room) in self.rooms.iter().enumerate() {
            let members: Vec<_> = room.members.iter().copied().collect();
            for instance in &self.instances {
                instance.until_present(&name(number), &members, room.users()).await;
            }
        }
    }

    /// The news that the first two instances have heard.
    async fn check_news(&self, seed: impl Debug) {
        for (number, room) in self.rooms.iter().enumerate() {
            let count: usize = room.news.values().map(String::len).sum();
            for instance in self.instances.iter().take(2) {
                let relay = &instance.relay;
                relay.until("all news", |relay| relay.told(&name(number)).len() >= count).await;
                let mut told = BTreeMap::<String, String>::new();
                for news in relay.told(&name(number)) {
                    let (sign, name) = news.split_at(1);
                    told.entry(name.to_owned()).or_default().push_str(sign);
                }
                assert_eq!(told, room.news, "seed {seed:?}");
            }
        }
    }
}

fn name(room: usize) -> fanfare_protocol::Channel {
    channel(["one", "two"][room])
}

fn steps(random: &mut fastrand::Rng, count: usize, faults: bool) -> Vec<Step> {
    let one = |random: &mut fastrand::Rng| {
        let (room, number) = (random.usize(0..2), random.u128(0..NUMBERS));
        match random.usize(0..100) {
            0..3 if faults => Step::Crash { place: 2 },
            3..6 if faults => Step::Flush,
            0..55 => Step::Enter { room, number },
            other => Step::Leave { room, number, awaited: other % 2 == 0 },
        }
    };
    (0..count).map(|_| one(random)).collect()
}

async fn run(seed: u64, count: usize, instances: Vec<Instance>, server: Option<(Server, RedisConfig)>) {
    let (server, config) = server.unzip();
    let mut world = World { instances, config, server, rooms: vec![Room::default(), Room::default()] };
    for instance in &world.instances {
        for room in 0..2 {
            instance.join(&name(room)).await;
        }
    }
    let steps = steps(&mut fastrand::Rng::with_seed(seed), count, world.server.is_some());
    for (at, step) in steps.into_iter().enumerate() {
        let took = tokio::time::timeout(Duration::from_secs(60), world.take(step)).await;
        assert!(took.is_ok(), "seed {seed}, step {at}: {step:?} of {:?}", world.rooms);
    }
    world.check_news(seed).await;
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("FANFARE_SEED") {
        Ok(seed) => vec![seed.parse().expect("FANFARE_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

#[tokio::test]
async fn presence_from_memory_is_the_models() {
    for seed in seeds(10_000) {
        run(seed, 40, vec![Instance::memory()], None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_through_redis_is_the_models() {
    for seed in seeds(4) {
        let server = Server::start(&[]).await;
        let config = RedisConfig { lease: Duration::from_secs(2), ..RedisConfig::new(server.url()) };
        let instances: Vec<_> = (0..3).map(|_| Instance::redis(&config)).collect();
        for instance in &instances {
            instance.until_up().await;
        }
        run(seed, 80, instances, Some((server, config))).await;
    }
}

//! What every broker owes its instance, asked of each, and below it what only Redis can suffer. Brokers, relays and
//! redis-server are real; nothing is simulated but a bad network.

mod doubt;
mod failover;
mod faults;
mod forgetful;
mod healing;
mod history;
mod instance;
mod leases;
mod model;
mod nodes;
mod pace;
mod presence;
mod proxy;
mod reading;
mod redis_only;
mod scripts;
mod server;
mod shared;
mod storms;
mod tls;

use std::sync::Arc;

use fanfare_broker::{Broker, Gap, Memory, Redis, RedisConfig, Relay};
use fanfare_protocol::{Channel, Kind, Publication};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::history::{
    a_history_has_a_size_and_a_life, a_key_publishes_once, a_removed_history_goes_on_counting,
    appends_say_where_they_are, histories_are_read_as_asked, numbers_have_no_holes_and_all_see_the_same,
    what_is_more_than_there_is_room_for_is_not_given, what_is_not_newer_is_not_published,
    what_skips_the_history_stands_outside_of_it, what_was_published_at_once_is_read_one_by_one,
    what_was_said_of_a_publication_is_kept, whoever_joins_and_reads_misses_nothing,
};
use crate::instance::{Instance, PATIENCE, channel, eventually, retain};
use crate::presence::{
    a_large_channel_is_read_in_pages, news_keep_their_place_among_publications,
    several_connections_of_a_user_are_one_user, who_comes_and_goes_is_told_once_and_seen_everywhere,
    whoever_is_back_in_time_was_never_gone,
};
use crate::server::Server;
use crate::shared::{
    a_user_has_so_many_connections_and_no_more, control_reaches_every_instance_in_order,
    instances_and_channels_are_listed,
};

/// The instances of one installation, and what they need.
struct Cluster {
    instances: Vec<Instance>,
    /// Or the first of several nodes.
    server: Option<Server>,
    others: Vec<Server>,
}

/// Short, so that what is written in rounds is soon there, and long enough for a busy machine.
const LEASE: std::time::Duration = std::time::Duration::from_secs(4);

#[derive(Debug, Clone, Copy)]
enum Home {
    Memory,
    Redis {
        lanes: usize,
    },
    /// One node that has all slots: it refuses what another node of a larger one would have to be asked for.
    RedisCluster,
    /// Three nodes, each with a part of the keys.
    RedisNodes,
}

impl Cluster {
    /// From memory there is one instance; through Redis there are two.
    async fn start(home: Home) -> Self {
        let mut others = Vec::new();
        let (server, lanes) = match home {
            Home::Memory => return Self { instances: vec![Instance::memory()], server: None, others },
            Home::RedisNodes => {
                let mut nodes = Server::start_nodes(3).await;
                others = nodes.split_off(1);
                (nodes.remove(0), 1)
            }
            Home::Redis { lanes } => (Server::start(&[]).await, lanes),
            Home::RedisCluster => (Server::start_cluster().await, 1),
        };
        let cluster = (!others.is_empty()).then(|| others.iter().map(Server::url).collect());
        // Redis is there throughout, however long it takes on a busy machine.
        let config =
            RedisConfig { lanes, cluster, lease: LEASE, timeout: PATIENCE, ..RedisConfig::new(server.url()) };
        let instances = vec![Instance::redis(&config), Instance::redis(&config)];
        for instance in &instances {
            instance.until_up().await;
        }
        Self { instances, server: Some(server), others }
    }
}

/// One check for each home.
macro_rules! for_every_home {
    ($($check:ident),* $(,)?) => {
        for_every_home!(memory: Home::Memory; $($check),*);
        for_every_home!(redis: Home::Redis { lanes: 1 }; $($check),*);
        for_every_home!(redis_with_two_lanes: Home::Redis { lanes: 2 }; $($check),*);
        for_every_home!(redis_cluster: Home::RedisCluster; $($check),*);
        for_every_home!(redis_nodes: Home::RedisNodes; $($check),*);
    };
    ($name:ident: $home:expr; $($check:ident),*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    super::$check(Cluster::start($home).await).await;
                }
            )*
        }
    };
}

for_every_home!(
    publications_of_many_threads_have_one_order_everywhere,
    a_subscription_is_confirmed_before_it_returns,
    nothing_is_lost_or_doubled_while_others_come_and_go,
    a_subscription_follows_its_clients,
    publications_keep_their_kind_their_bytes_and_whom_they_leave_out,
    ready_and_flush_resolve,
    numbers_have_no_holes_and_all_see_the_same,
    histories_are_read_as_asked,
    what_is_more_than_there_is_room_for_is_not_given,
    what_was_published_at_once_is_read_one_by_one,
    appends_say_where_they_are,
    a_key_publishes_once,
    what_is_not_newer_is_not_published,
    what_skips_the_history_stands_outside_of_it,
    a_history_has_a_size_and_a_life,
    a_removed_history_goes_on_counting,
    whoever_joins_and_reads_misses_nothing,
    what_was_said_of_a_publication_is_kept,
    who_comes_and_goes_is_told_once_and_seen_everywhere,
    several_connections_of_a_user_are_one_user,
    whoever_is_back_in_time_was_never_gone,
    a_large_channel_is_read_in_pages,
    news_keep_their_place_among_publications,
    a_user_has_so_many_connections_and_no_more,
    instances_and_channels_are_listed,
    control_reaches_every_instance_in_order,
);

async fn publications_of_many_threads_have_one_order_everywhere(cluster: Cluster) {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let channels: Vec<_> = (0..8).map(|n| channel(&format!("order {n}"))).collect();
    for instance in &cluster.instances {
        for channel in &channels {
            instance.join(channel).await;
        }
    }
    let threads: Vec<_> = (0..THREADS)
        .flat_map(|thread| {
            cluster.instances.iter().enumerate().map(move |(n, instance)| (thread, n, instance))
        })
        .map(|(thread, n, instance)| {
            let (broker, channels) = (instance.broker.clone(), channels.clone());
            std::thread::spawn(move || {
                for number in 0..EACH {
                    for channel in &channels {
                        let text = format!("{n}/{thread}:{number}");
                        broker.publish(channel, Publication::new(Kind::Text, text.into()));
                    }
                }
            })
        })
        .collect();
    let publishers = threads.len();
    threads.into_iter().for_each(|thread| thread.join().expect("it publishes"));
    for channel in &channels {
        let mut first = None;
        for instance in &cluster.instances {
            instance
                .relay
                .until("everything", |relay| relay.delivered(channel).len() >= publishers * EACH)
                .await;
            let delivered = instance.relay.delivered(channel);
            assert_eq!(delivered.len(), publishers * EACH, "each once");
            for publisher in 0..publishers {
                let name = format!("{}/{}:", publisher / THREADS, publisher % THREADS);
                let numbers =
                    delivered.iter().filter_map(|text| text.strip_prefix(&name)?.parse::<usize>().ok());
                assert!(numbers.eq(0..EACH), "{name} in its own order");
            }
            assert!(*first.get_or_insert(delivered.clone()) == delivered, "one order for all instances");
        }
    }
}

async fn a_subscription_is_confirmed_before_it_returns(cluster: Cluster) {
    let publisher = cluster.instances.last().expect("there is one");
    for n in 0..100 {
        let channel = channel(&format!("new {n}"));
        cluster.instances[0].join(&channel).await;
        publisher.publish(&channel, "at once");
    }
    for n in 0..100 {
        cluster.instances[0].relay.until_delivered(&channel(&format!("new {n}")), &["at once"]).await;
    }
}

async fn nothing_is_lost_or_doubled_while_others_come_and_go(cluster: Cluster) {
    const COUNT: usize = 2000;
    let (steady, restless) = (channel("steady"), channel("restless"));
    cluster.instances[0].join(&steady).await;
    let publisher = cluster.instances.last().expect("there is one").broker.clone();
    let (to_steady, to_restless) = (steady.clone(), restless.clone());
    let publishing = std::thread::spawn(move || {
        for number in 0..COUNT {
            for channel in [&to_steady, &to_restless] {
                publisher.publish(channel, Publication::new(Kind::Text, format!("p:{number}").into()));
            }
        }
    });
    while !publishing.is_finished() {
        for instance in &cluster.instances {
            instance.join(&restless).await;
            instance.leave(&restless);
        }
        tokio::task::yield_now().await;
    }
    publishing.join().expect("it publishes");
    let expected: Vec<_> = (0..COUNT).map(|number| format!("p:{number}")).collect();
    let relay = &cluster.instances[0].relay;
    relay.until("all", |relay| relay.delivered(&steady).len() >= COUNT).await;
    assert_eq!(relay.delivered(&steady), expected);
    let mut last = None;
    for text in relay.delivered(&restless) {
        let number: usize = text[2..].parse().expect("a number");
        assert!(last < Some(number), "in order and once");
        last = Some(number);
    }
}

async fn a_subscription_follows_its_clients(cluster: Cluster) {
    let Some(server) = &cluster.server else { return };
    let [first, second] = &cluster.instances[..] else { panic!("there are two") };
    let (kept, left) = (channel("kept"), channel("left"));
    first.join(&kept).await;
    first.join(&left).await;
    second.join(&left).await;
    assert_eq!(first.broker.status().subscriptions, 3, "the lobby too");
    server.until_channels(&["kept", "left"]).await;
    // One of several clients has gone; whoever asks the relay finds the others.
    first.broker.release(&kept);
    first.leave(&left);
    eventually("the first has left", async || first.broker.status().subscriptions == 2).await;
    server.until_channels(&["kept", "left"]).await;
    second.leave(&left);
    server.until_channels(&["kept"]).await;
    first.leave(&kept);
    first.join(&kept).await;
    first.leave(&channel("never joined"));
    first.leave(&Channel::lobby());
    second.join(&left).await;
    first.publish(&left, "again");
    second.relay.until_delivered(&left, &["again"]).await;
    server.until_channels(&["kept", "left"]).await;
}

async fn publications_keep_their_kind_their_bytes_and_whom_they_leave_out(cluster: Cluster) {
    /// Remembers whole publications, where the others' relay remembers texts.
    struct Whole(Mutex<Vec<Publication>>);
    impl Relay for Whole {
        fn deliver(&self, _channel: &Channel, publication: Publication) {
            self.0.lock().push(publication);
        }
        fn gap(&self, gap: Gap) {
            panic!("{gap:?}");
        }
        fn wanted(&self, _channel: &Channel) -> bool {
            true
        }
    }
    let channel = channel("kinds");
    let sent: Vec<_> = [
        (Kind::Text, &b"hello"[..], None),
        (Kind::Text, b"", Some(Uuid::from_u128(7))),
        (Kind::Binary, b"hello", Some(Uuid::from_u128(8))),
        (Kind::Binary, b"\xFA\x01\xFF\x00", None),
    ]
    .into_iter()
    .map(|(kind, payload, exclude)| Publication { exclude, ..Publication::new(kind, payload.into()) })
    .collect();
    let relay = Arc::new(Whole(Mutex::default()));
    let runtime = tokio::runtime::Handle::current();
    let broker: Box<dyn Broker> = match &cluster.server {
        None => Box::new(Memory::new(relay.clone(), retain(), usize::MAX, Uuid::nil(), &runtime)),
        Some(server) => {
            let config = RedisConfig::new(server.url());
            Box::new(Redis::start(&config, relay.clone(), retain(), &runtime).expect("it is right"))
        }
    };
    eventually("it is up", async || broker.status().up).await;
    broker.subscribe(&channel).await;
    let publisher = if cluster.server.is_some() { &*cluster.instances[0].broker } else { &*broker };
    sent.iter().for_each(|publication| publisher.publish(&channel, publication.clone()));
    eventually("all have come", async || relay.0.lock().len() >= sent.len()).await;
    assert_eq!(*relay.0.lock(), sent);
}

async fn ready_and_flush_resolve(cluster: Cluster) {
    let channel = channel("flushed");
    for instance in &cluster.instances {
        instance.publish(&channel, "x");
        let done = async {
            instance.broker.ready().await;
            instance.broker.flush().await;
        };
        tokio::time::timeout(PATIENCE, done).await.expect("there is room, and all goes out");
        assert_eq!(instance.broker.status().spool_bytes, 0);
    }
}

//! Presence as both brokers owe it. What becomes of it when instances die and Redis forgets stands in `leases`.

use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{Cursor, MemberCount, Portion};
use fanfare_protocol::{Channel, Member};
use uuid::Uuid;

use crate::Cluster;
use crate::instance::{Instance, channel, eventually};

/// No test waits for this long.
pub const LONG: Duration = Duration::from_secs(3600);
pub const AT_ONCE: Duration = Duration::ZERO;

/// A connection of a user, or with the empty name, of nobody.
pub fn member(connection: u128, user: &str) -> Member {
    let info = Bytes::from(format!("info of {connection}"));
    Member { connection: Uuid::from_u128(connection), user: user.into(), info }
}

pub fn connection(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

impl Instance {
    pub async fn enter(&self, channel: &Channel, number: u128, user: &str) {
        self.broker.enter(channel, member(number, user)).await.expect("the bus is there");
    }

    pub fn depart(&self, channel: &Channel, number: u128, grace: Duration) {
        self.broker.leave(channel, connection(number), grace);
    }

    /// The numbers of all members, ascending, read in pages of `limit`, and each page no larger than a multiple of it.
    pub async fn present(&self, channel: &Channel, limit: usize) -> Vec<u128> {
        let mut numbers = Vec::new();
        let mut from = Cursor::start();
        loop {
            let page =
                self.broker.members(channel, from, Portion::of(limit)).await.expect("the bus is there");
            numbers.extend(page.items.iter().map(|member| member.connection.as_u128()));
            for found in page.items {
                assert_eq!(found, member(found.connection.as_u128(), &found.user), "as it was entered");
            }
            let Some(next) = page.next else { break };
            from = Cursor::new(next.as_str());
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub async fn count(&self, channel: &Channel) -> (u64, u64) {
        let MemberCount { clients, users } =
            self.broker.member_count(channel).await.expect("the bus is there");
        (clients, users)
    }

    /// Waits until members and counts are these: a departure waits for nobody.
    pub async fn until_present(&self, channel: &Channel, expected: &[u128], users: u64) {
        eventually(&format!("{expected:?} of {users} users in {channel}"), async || {
            self.present(channel, 100).await == expected
                && self.count(channel).await == (expected.len() as u64, users)
        })
        .await;
    }
}

impl Cluster {
    fn first(&self) -> &Instance {
        &self.instances[0]
    }

    fn last(&self) -> &Instance {
        self.instances.last().expect("there is one")
    }

    /// How often each of these commands has been called on all nodes.
    async fn calls(&self, commands: [&str; 4]) -> [u64; 4] {
        let mut sum = [0; 4];
        for node in self.server.iter().chain(&self.others) {
            let calls = node.calls(&commands).await;
            sum.iter_mut().zip(calls).for_each(|(sum, calls)| *sum += calls);
        }
        sum
    }

    async fn join(&self, channel: &Channel) {
        for instance in &self.instances {
            instance.join(channel).await;
        }
    }

    async fn until_told(&self, channel: &Channel, expected: &[&str]) {
        for instance in &self.instances {
            instance.relay.until_told(channel, expected).await;
        }
    }

    async fn until_present(&self, channel: &Channel, expected: &[u128], users: u64) {
        for instance in &self.instances {
            instance.until_present(channel, expected, users).await;
        }
    }
}

pub async fn who_comes_and_goes_is_told_once_and_seen_everywhere(cluster: Cluster) {
    let (room, other) = (channel("room"), channel("}other{"));
    cluster.join(&room).await;
    cluster.join(&other).await;
    cluster.first().enter(&room, 1, "ann").await;
    cluster.last().enter(&room, 2, "bob").await;
    cluster.last().enter(&other, 2, "bob").await;
    // Confirmed is visible.
    for instance in &cluster.instances {
        assert_eq!(instance.present(&room, 10).await, [1, 2]);
        assert_eq!(instance.count(&room).await, (2, 2));
        assert_eq!(instance.present(&other, 10).await, [2]);
    }
    cluster.first().enter(&room, 1, "ann").await;
    cluster.first().depart(&room, 1, AT_ONCE);
    cluster.first().depart(&room, 1, AT_ONCE);
    cluster.first().depart(&room, 9, AT_ONCE);
    cluster.until_told(&room, &["+ann", "+bob", "-ann"]).await;
    cluster.until_present(&room, &[2], 1).await;
    cluster.first().enter(&room, 1, "ann").await;
    cluster.last().depart(&room, 2, AT_ONCE);
    cluster.until_told(&room, &["+ann", "+bob", "-ann", "+ann", "-bob"]).await;
    cluster.until_present(&room, &[1], 1).await;
    cluster.until_told(&other, &["+bob"]).await;
    assert_eq!(cluster.first().present(&channel("empty"), 10).await, [0; 0]);
    assert_eq!(cluster.first().count(&channel("empty")).await, (0, 0));
}

pub async fn several_connections_of_a_user_are_one_user(cluster: Cluster) {
    let room = channel("room");
    cluster.join(&room).await;
    cluster.first().enter(&room, 1, "ann").await;
    cluster.last().enter(&room, 2, "ann").await;
    cluster.first().enter(&room, 3, "").await;
    cluster.last().enter(&room, 4, "").await;
    cluster.until_present(&room, &[1, 2, 3, 4], 2).await;
    cluster.first().depart(&room, 1, AT_ONCE);
    cluster.until_present(&room, &[2, 3, 4], 2).await;
    cluster.last().depart(&room, 4, LONG);
    cluster.until_present(&room, &[2, 3], 2).await;
    cluster.last().depart(&room, 2, AT_ONCE);
    cluster.until_told(&room, &["+ann", "+3", "+4", "-4", "-ann"]).await;
    cluster.until_present(&room, &[3], 1).await;
}

pub async fn whoever_is_back_in_time_was_never_gone(cluster: Cluster) {
    let room = channel("room");
    cluster.join(&room).await;
    cluster.first().enter(&room, 1, "ann").await;
    cluster.first().depart(&room, 1, LONG);
    cluster.until_present(&room, &[], 0).await;
    cluster.last().enter(&room, 2, "ann").await;
    cluster.until_present(&room, &[2], 1).await;
    // The same connection may be the one that is back.
    cluster.last().depart(&room, 2, LONG);
    cluster.until_present(&room, &[], 0).await;
    cluster.last().enter(&room, 2, "ann").await;
    // A second departure has its own time, and the first one's is no reason to wait.
    cluster.last().depart(&room, 2, Duration::from_millis(50));
    cluster.until_told(&room, &["+ann", "-ann"]).await;
    cluster.until_present(&room, &[], 0).await;
    cluster.first().enter(&room, 3, "ann").await;
    cluster.first().depart(&room, 3, LONG);
    cluster.until_present(&room, &[], 0).await;
    cluster.last().enter(&room, 4, "ann").await;
    cluster.last().depart(&room, 4, AT_ONCE);
    cluster.until_told(&room, &["+ann", "-ann", "+ann", "-ann"]).await;
}

pub async fn a_large_channel_is_read_in_pages(cluster: Cluster) {
    const MEMBERS: u128 = 3000;
    const WHAT_READS: [&str; 4] = ["hvals", "hscan", "hgetall", "hmget"];
    let room = channel("large");
    let entered: Vec<_> = (0..MEMBERS)
        .map(|number| {
            let at = if number % 3 == 0 { cluster.first() } else { cluster.last() };
            at.broker.enter(&room, member(number, &format!("user {}", number % 100)))
        })
        .collect();
    for entered in entered {
        entered.await.expect("the bus is there");
    }
    let expected: Vec<_> = (0..MEMBERS).collect();
    for instance in &cluster.instances {
        for limit in [1000, 100] {
            assert_eq!(instance.present(&room, limit).await, expected);
        }
        let before = cluster.calls(WHAT_READS).await;
        assert_eq!(instance.count(&room).await, (MEMBERS as u64, 100));
        let calls =
            cluster.calls(WHAT_READS).await.into_iter().zip(before).map(|(after, before)| after - before);
        // One, of what each instance has counted; and no member is read.
        assert!(cluster.server.is_none() || calls.eq([1, 0, 0, 0]));
        let read = async |entries, bytes| {
            let portion = Portion { entries, bytes };
            instance.broker.members(&room, Cursor::start(), portion).await.expect("the bus is there")
        };
        let page = read(100, usize::MAX).await;
        assert!((1..=300).contains(&page.items.len()), "a page has {} members", page.items.len());
        // There is room for half of it, and then for all.
        let none = read(100, page.items.len() * Portion::ENTRY / 2).await;
        assert_eq!((none.items.len(), none.next), (0, Some(Cursor::start())));
        let bytes = none.too_much.expect("it is too much");
        assert!(bytes > page.items.len() * Portion::ENTRY, "{bytes}");
        assert_eq!(read(100, bytes).await, page);
        assert_eq!(read(100, bytes - 1).await.too_much, Some(bytes));
        let nowhere = instance.broker.members(&room, Cursor::new("no cursor"), Portion::of(10)).await;
        assert!(nowhere.is_ok(), "{nowhere:?}");
    }
}

pub async fn news_keep_their_place_among_publications(cluster: Cluster) {
    // There, news come from the node that has the channel's keys, and these publications from any.
    if !cluster.others.is_empty() {
        return;
    }
    let room = channel("room");
    cluster.join(&room).await;
    let mut expected = Vec::new();
    for round in 0..50_u128 {
        let instance = if round % 2 == 0 { cluster.first() } else { cluster.last() };
        let user = format!("user {round}");
        instance.enter(&room, round, &user).await;
        for word in ["one", "two"] {
            instance.publish(&room, &format!("{word} of {user}"));
        }
        instance.depart(&room, round, AT_ONCE);
        expected.extend([
            format!("+{user}"),
            format!("one of {user}"),
            format!("two of {user}"),
            format!("-{user}"),
        ]);
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        cluster.until_told(&room, &expected).await;
    }
}

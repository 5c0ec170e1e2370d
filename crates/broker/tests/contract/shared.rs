//! What instances share beside publications and presence: claims, the census, the control bus.

use std::collections::BTreeMap;

use fanfare_broker::{Claim, Cursor, InstanceFacts, Portion, Target, Unsent};
use fanfare_protocol::Control;
use fanfare_protocol::control::{Disconnect, Uplink, Whom};
use uuid::Uuid;

use crate::Cluster;
use crate::instance::{Instance, channel, eventually};
use crate::presence::connection;

impl Instance {
    pub async fn claim(&self, user: &str, number: u128, limit: u32) -> Claim {
        self.broker.claim(user, connection(number), limit).await
    }

    /// Every channel that matches, with its subscribers, read in pages of `limit`.
    pub async fn listed(&self, pattern: Option<&str>, limit: usize) -> BTreeMap<String, u64> {
        let mut listed = BTreeMap::new();
        let mut from = Cursor::start();
        loop {
            let page =
                self.broker.channels(pattern, from, Portion::of(limit)).await.expect("the bus is there");
            listed.extend(
                page.items.into_iter().map(|facts| (facts.channel.as_str().to_owned(), facts.subscribers)),
            );
            let Some(next) = page.next else { return listed };
            from = Cursor::new(next.as_str());
        }
    }

    pub fn has_subscribers(&self, name: &str, count: u64) {
        self.relay.set_subscribers(&channel(name), count);
        self.broker.subscribers_changed(&channel(name));
    }
}

pub async fn a_user_has_so_many_connections_and_no_more(cluster: Cluster) {
    let (first, last) = (&cluster.instances[0], cluster.instances.last().expect("there is one"));
    assert_eq!(first.claim("ann", 1, 2).await, Claim::Held);
    assert_eq!(last.claim("ann", 2, 2).await, Claim::Held);
    assert_eq!(first.claim("ann", 3, 2).await, Claim::Full);
    assert_eq!(last.claim("ann", 4, 2).await, Claim::Full);
    assert_eq!(last.claim("ann", 2, 2).await, Claim::Held, "it has it already");
    assert_eq!(last.claim("bob", 5, 1).await, Claim::Held, "others are not concerned");
    assert_eq!(last.claim("bob", 6, 0).await, Claim::Full);
    first.broker.give_back("ann", connection(3));
    first.broker.give_back("nobody", connection(3));
    assert_eq!(first.claim("ann", 3, 2).await, Claim::Full, "there was no claim to give back");
    first.broker.give_back("ann", connection(1));
    eventually("there is room again", async || last.claim("ann", 4, 2).await == Claim::Held).await;
    assert_eq!(first.claim("ann", 1, 2).await, Claim::Full);
}

pub async fn instances_and_channels_are_listed(cluster: Cluster) {
    let (first, last) = (&cluster.instances[0], cluster.instances.last().expect("there is one"));
    let mut expected = Vec::new();
    for (number, instance) in cluster.instances.iter().enumerate() {
        let facts = InstanceFacts {
            id: instance.id,
            name: format!("host {number}"),
            version: "0.1.0".into(),
            connections: number as u64,
            cpu: 0.25,
            ..InstanceFacts::default()
        };
        instance.broker.describe(InstanceFacts::default());
        instance.broker.describe(facts.clone());
        expected.push(facts);
    }
    expected.sort_by_key(|facts| facts.id);
    for instance in &cluster.instances {
        eventually("every instance is described", async || {
            instance.broker.instances().await.expect("the bus is there") == expected
        })
        .await;
    }
    let mut names = BTreeMap::new();
    for number in 0..1000 {
        let name = format!("chat:{number}");
        first.has_subscribers(&name, 1);
        names.insert(name, 1);
    }
    let share = |alone: u64, together: u64| if cluster.instances.len() == 1 { alone } else { together };
    for (name, of_first, of_last) in [("both", 2, 3), ("only last", 0, 7), ("}odd{", 1, 1)] {
        first.has_subscribers(name, of_first);
        last.has_subscribers(name, of_last);
        names.insert(name.to_owned(), share(of_last, of_first + of_last));
    }
    first.has_subscribers("left", 1);
    first.has_subscribers("left", 0);
    for instance in &cluster.instances {
        for limit in [10_000, 100] {
            eventually("all channels are listed", async || instance.listed(None, limit).await == names).await;
        }
        assert_eq!(instance.listed(Some("chat:99*"), 100).await.len(), 11);
        assert_eq!(instance.listed(Some("b?th"), 100).await, BTreeMap::from([("both".into(), share(3, 5))]));
        let page = instance
            .broker
            .channels(None, Cursor::start(), Portion::of(100))
            .await
            .expect("the bus is there");
        assert!(page.items.len() <= 300 && page.next.is_some(), "a page has {}", page.items.len());
    }
    last.has_subscribers("both", 0);
    let left = share(0, 2);
    eventually("it is changed", async || {
        first.listed(Some("both"), 100).await.get("both").copied().unwrap_or_default() == left
    })
    .await;
}

pub async fn control_reaches_every_instance_in_order(cluster: Cluster) {
    const COUNT: usize = 200;
    let said = |number: usize| {
        Control::Disconnect(Disconnect {
            whom: Whom { user: "ann".into(), ..Whom::default() },
            spared: vec![connection(1)],
            code: number as u32,
            reason: "go".into(),
        })
    };
    let first = &cluster.instances[0];
    let sent: Vec<_> = (0..COUNT).map(|number| first.broker.control(Target::All, said(number))).collect();
    for sent in sent {
        assert_eq!(sent.await, Ok(()));
    }
    let expected: Vec<_> = (0..COUNT).map(said).collect();
    for instance in &cluster.instances {
        instance.relay.until("all control messages", |relay| relay.controls().len() >= COUNT).await;
        assert_eq!(instance.relay.controls(), expected);
    }
    for (number, target) in cluster.instances.iter().enumerate() {
        let uplink = Control::Uplink(Uplink { session: number.to_string(), data: "up".into() });
        assert_eq!(first.broker.control(Target::Instance(target.id), uplink.clone()).await, Ok(()));
        target.relay.until("its own message", |relay| relay.controls().len() > COUNT).await;
        assert_eq!(target.relay.controls()[COUNT..], [uplink]);
    }
    let nobody = Uuid::from_u128(7);
    let sent = first.broker.control(Target::Instance(nobody), said(0)).await;
    assert_eq!(sent, Err(Unsent::Nobody(nobody)));
}

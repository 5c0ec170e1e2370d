//! A Redis Cluster of several nodes: keys move between them, and one of them dies.

use fanfare_broker::RedisConfig;
use fanfare_protocol::Channel;

use crate::faults::Traffic;
use crate::healing::settle_whole;
use crate::instance::{Instance, channel};
use crate::server::Server;

async fn two(nodes: &[Server]) -> (Instance, Instance) {
    let others = nodes[1..].iter().map(Server::url).collect();
    let config = RedisConfig { cluster: Some(others), ..RedisConfig::new(nodes[0].url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    a.until_up().await;
    b.until_up().await;
    (a, b)
}

/// Which slot a channel's keys are in, and which node has it.
async fn place(nodes: &[Server], channel: &Channel) -> (usize, usize) {
    let slot: usize = nodes[0].command(&["CLUSTER", "KEYSLOT", &format!("fanfare:top:{{{channel}}}")]).await;
    let node = (0..nodes.len()).find(|node| slot < 16384 * (node + 1) / nodes.len());
    (slot, node.expect("the last has the rest"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_costs_nothing() {
    let nodes = Server::start_nodes(3).await;
    let (a, b) = two(&nodes).await;
    let kept = channel("kept");
    a.join(&kept).await;
    b.join(&kept).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &kept);
    let (slot, mut from) = place(&nodes, &kept).await;
    let slot = slot.to_string();
    let mut ids = Vec::new();
    for node in &nodes {
        ids.push(node.command::<String>(&["CLUSTER", "MYID"]).await);
    }
    for _ in 0..3 {
        let so_far = a.relay.delivered(&kept).len();
        a.relay.until("some traffic", |relay| relay.delivered(&kept).len() > so_far + 20).await;
        let to = (from + 1) % nodes.len();
        let _: String = nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]).await;
        let _: String = nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]).await;
        let port = nodes[to].port.to_string();
        let keys: Vec<String> = nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        let migrate: Vec<&str> = migrate.into_iter().chain(keys.iter().map(String::as_str)).collect();
        let _: String = nodes[from].command(&migrate).await;
        for node in [to, from, (to + 1) % nodes.len()] {
            let _: String = nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]).await;
        }
        from = to;
    }
    settle_whole(traffic, &both, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_node_dies_the_next_one_is_taken() {
    let mut nodes = Server::start_nodes(3).await;
    let (a, b) = two(&nodes).await;
    let plain = channel("plain");
    // A channel whose keys are not on the node that is about to die.
    let mut number = 0;
    let kept = loop {
        let kept = channel(&format!("kept:100000:{number}"));
        if place(&nodes, &kept).await.1 > 0 {
            break kept;
        }
        number += 1;
    };
    for instance in [&a, &b] {
        instance.join(&plain).await;
        instance.join(&kept).await;
    }
    a.append(&kept, "before").await.expect("it is appended");
    b.relay.until_delivered(&kept, &["before"]).await;
    nodes[0].kill();
    a.until_down("").await;
    a.until_up().await;
    b.until_up().await;
    a.publish(&plain, "after");
    a.publish(&kept, "after");
    for instance in [&a, &b] {
        instance.relay.until_delivered(&plain, &["after"]).await;
        instance.relay.until_delivered(&kept, &["before", "after"]).await;
        instance.relay.assert_contiguous(&kept);
        assert_eq!(instance.relay.gaps(&kept), []);
    }
    assert!(a.append(&kept, "last").await.is_ok());
}

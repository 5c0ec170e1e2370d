//! A master is replaced by its replica, and goes on answering as a replica of the new one: nobody closes the
//! connections to it, and the address leads to the other from then on. Clients that lose their connections just then
//! miss nothing. What a master takes with it that its replica never had is the brokers' contract.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use serde_json::json;

use crate::harness::{Instance, RedisServer, TcpProxy, eventually};
use crate::recovering::{Recovering, setup};

/// More than are published.
const KEPT: u64 = 100_000;

#[tokio::test]
async fn clients_that_come_back_while_a_replica_takes_over_miss_nothing() {
    let redis = [RedisServer::start().await, RedisServer::start().await];
    redis[1].cli(&["REPLICAOF", "127.0.0.1", &redis[0].address().port().to_string()]).await;
    let proxy = TcpProxy::start(redis[0].address()).await;
    // A replica tells once a second how far it is. Nobody is to give up before that: each is to find the master gone.
    let setup = setup(KEPT, "10s").redis(&format!("redis://{}", proxy.address()));
    let instances = [setup.start().await, setup.start().await];
    let clients = Recovering::start(&instances);
    eventually("all are there", async || clients.are_there()).await;

    let (acknowledged, over) = (Cell::new(0), Cell::new(false));
    let publish = async |who: usize| {
        let mut number = 0;
        while !over.get() {
            number += 1;
            publish_for_good(&instances[who], (who, number)).await;
            acknowledged.set(acknowledged.get() + 1);
        }
        number
    };
    let cut = |mut which: Range<usize>| which.all(|number| clients.cut(number));
    let replace = async {
        for (old, new) in [(0, 1), (1, 0), (0, 1)] {
            let goal = acknowledged.get() + 100;
            eventually("some are published", async || acknowledged.get() > goal).await;
            let role = async |which: usize| redis[which].cli(&["ROLE"]).await;
            // It waits until the other has everything, and takes nothing meanwhile.
            eventually("a replica takes over", async || redis[old].cli(&["FAILOVER"]).await == "OK").await;
            assert!(cut(0..3));
            eventually("their roles are others", async || {
                role(new).await.starts_with("master") && role(old).await.starts_with("slave")
            })
            .await;
            proxy.lead_to(redis[new].address());
            assert!(cut(3..Recovering::COUNT));
        }
        let goal = acknowledged.get() + 100;
        eventually("some are published", async || acknowledged.get() > goal).await;
        over.set(true);
    };
    let (one, other, ()) = tokio::join!(publish(0), publish(1), replace);

    let counts = [one, other];
    let last = || counts.iter().enumerate().map(|(who, count)| (who as u64, *count));
    eventually("everybody has the last ones", async || last().all(|number| clients.have_heard(number))).await;
    let mut all = HashMap::new();
    let mut told = clients.judged(KEPT, &mut all, 0).await;
    told.retain(|told| *told != "new");
    assert!(told.len() >= 6 && told.iter().all(|told| *told == "recovered"), "{told:?}");
    // Each once, in whatever was heard by anybody.
    let numbers: BTreeSet<_> = all.values().copied().collect();
    let expected: BTreeSet<_> =
        (0..2).flat_map(|who| (1..=counts[who]).map(move |number| (who as u64, number))).collect();
    assert!(numbers == expected && all.len() == numbers.len(), "{} places of {}", all.len(), expected.len());
}

/// Again and again, until it is acknowledged.
async fn publish_for_good(instance: &Instance, (who, number): (usize, u64)) {
    let key = format!("{who}:{number}");
    let body = json!({ "channel": "kept", "data": [who, number], "idempotency_key": key });
    while !instance.api("publish", &body).await["result"]["epoch"].is_string() {}
}

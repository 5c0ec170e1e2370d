//! A replica becomes the master: who listens follows, and what it did not have is found out.

use std::time::Duration;

use fanfare_broker::{GapCause, Query};
use fanfare_protocol::Position;

use crate::faults::{Traffic, settle};
use crate::instance::{Instance, Recorder, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

/// A master and its replica, which has everything.
async fn pair() -> (Server, Server) {
    let at_once = &["--repl-diskless-sync-delay", "0"];
    let (old, new) = (Server::start(at_once).await, Server::start(at_once).await);
    let _: String = new.command(&["REPLICAOF", "127.0.0.1", &old.port.to_string()]).await;
    (old, new)
}

/// Nobody closes the connections to the old master, which goes on as a replica of the new one and tells those who
/// listen to it what it hears of that: not what came before it had become one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_listens_follows_to_the_new_master() {
    let (old, new) = pair().await;
    let proxy = Proxy::start(old.port, Duration::ZERO).await;
    let (news, kept) = (channel("news"), channel("kept:9:known"));
    let [a, b] = Instance::two([&proxy.url(), &proxy.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    a.join(&kept).await;
    let began = b.append(&kept, "one").await.expect("it is appended").expect("a position");
    let traffic = Traffic::start(&both, &news);
    a.relay.until_text(&news, "b:100").await;
    eventually("a replica takes over", async || old.try_command::<String>(&["FAILOVER"]).await.is_ok()).await;
    eventually("the old master follows", async || {
        let role: redis::Value = old.command(&["ROLE"]).await;
        format!("{role:?}").contains("slave")
    })
    .await;
    proxy.lead_to(new.port);
    eventually("both listen to the new one", async || {
        let (_, count): (String, u64) = new.command(&["PUBSUB", "NUMSUB", "fanfare:channel:news"]).await;
        count == 2
    })
    .await;
    new.until_channels(&["kept:9:known", "news"]).await;
    eventually("nobody listens to the replica", async || old.channels().await.is_empty()).await;
    settle(traffic, &both, &news).await;
    b.append(&kept, "two").await.expect("it is appended");
    a.relay.until_delivered(&kept, &["one", "two"]).await;
    let at = b.broker.position(&kept).await.expect("it can be read");
    assert_eq!(at, Position { offset: 2, ..began }, "nothing was lost, and the numbering goes on");
    assert_eq!((a.relay.gaps(&news), a.relay.gaps(&kept)), (vec![GapCause::Disconnected], vec![]));
    let status = a.broker.status();
    assert_eq!(status.reconnects, 2, "each connection once: {status:?}");
}

/// The replica lacks what was published last, and others publish there before those who know look. Nobody is subscribed
/// when it takes over: whoever has published it knows, and whoever was subscribed until a moment ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_never_had_is_found_without_subscribers() {
    for (publisher_lives, others) in [(true, 0), (true, 3), (false, 0), (false, 3)] {
        let row = format!("the publisher lives: {publisher_lives}, {others} others");
        let (mut old, new) = pair().await;
        let proxy = Proxy::start(old.port, Duration::ZERO).await;
        let kept = channel("kept");
        let publisher = Instance::at(&proxy.url()).await;
        let listener = if publisher_lives { None } else { Some(Instance::at(&proxy.url()).await) };
        if let Some(listener) = &listener {
            listener.join(&kept).await;
        }
        let append = async |text: &str| publisher.append(&kept, text).await.expect("it is appended");
        append("1").await;
        append("2").await;
        eventually("the replica has it", async || {
            new.command::<u64>(&["XLEN", "fanfare:stream:{kept}"]).await == 2
        })
        .await;
        let _: String = new.command(&["REPLICAOF", "NO", "ONE"]).await;
        append("3").await;
        let last = append("4").await.expect("a position");
        if let Some(listener) = &listener {
            listener.relay.until_text(&kept, "4").await;
            listener.leave(&kept);
            old.until_channels(&[]).await;
        }
        let publisher = Some(publisher).filter(|_| publisher_lives);
        let other = Instance::at(&new.url()).await;
        for offset in 3..3 + others {
            let at = other.append(&kept, "other").await.expect("it is appended");
            assert_eq!(at, Some(Position { offset, ..last }), "{row}");
        }
        let late = Instance::at(&new.url()).await;
        let query = Query { since: Some(last), ..Query::ALL };
        let is_known =
            async || late.broker.history(&kept, query).await.expect("it can be read").epoch_matches;
        assert!(is_known().await, "{row}: nobody has looked");
        other.join(&kept).await;
        proxy.lead_to(new.port);
        old.kill();
        eventually(&format!("who comes back is told that it has missed something: {row}"), async || {
            !is_known().await
        })
        .await;
        let at = other.append(&kept, "new").await.expect("it is appended").expect("a position");
        assert!(at.offset == 1 && at.epoch != last.epoch, "{row}: {at:?}");
        let told = |relay: &Recorder| relay.gaps(&kept) == [GapCause::Forgotten];
        other.relay.until(&format!("whoever was back before is told, too: {row}"), told).await;
        other.relay.until_delivered(&kept, &["new"]).await;
        drop((publisher, listener));
    }
}

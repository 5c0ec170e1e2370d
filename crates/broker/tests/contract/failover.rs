//! A replica becomes the master: who listens follows.

use std::time::Duration;

use fanfare_broker::GapCause;
use fanfare_protocol::Position;

use crate::faults::{Traffic, settle};
use crate::instance::{Instance, channel, eventually};
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

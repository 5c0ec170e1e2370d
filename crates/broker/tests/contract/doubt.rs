//! What an append says whose answer does not come: whether it is known what became of it, and what.

use std::time::Duration;

use fanfare_broker::{AppendOptions, Appended, BrokerError, RedisConfig, Suppressed};
use fanfare_protocol::{Kind, Publication};

use crate::instance::{Instance, channel};
use crate::proxy::Proxy;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_again_by_the_broker_itself_is_no_repeat() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let (a, b) = (Instance::at(&proxy.url()).await, Instance::at(&server.url()).await);
    for (name, offset) in [("kept:9", Some(2)), ("plain", None)] {
        let channel = channel(name);
        b.join(&channel).await;
        a.append(&channel, "before").await.expect("it is appended");
        let line = proxy.line_that_said(name);
        line.mute();
        let append = |text: &'static str| {
            let (broker, channel) = (a.broker.clone(), channel.clone());
            let publication = Publication::new(Kind::Text, text.into());
            async move { broker.append(&channel, publication, AppendOptions::once("key")).await }
        };
        let appended = tokio::spawn(append("once"));
        b.relay.until_delivered(&channel, &["before", "once"]).await;
        // The answer is lost, and the broker cannot know whether it was done.
        line.cut();
        let appended = appended.await.expect("it ends").expect("it is appended");
        assert_eq!(appended.suppressed, None, "{name}");
        assert_eq!(appended.position.map(|position| position.offset), offset, "{name}");
        a.until_up().await;
        let again = append("again").await.expect("it is answered");
        assert_eq!(again, Appended { suppressed: Some(Suppressed::Repeated), ..appended }, "{name}");
        a.append(&channel, "after").await.expect("it is appended");
        b.relay.until_delivered(&channel, &["before", "once", "after"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_into_a_black_hole_says_that_it_does_not_know() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let config = RedisConfig { timeout: Duration::from_millis(500), ..RedisConfig::new(proxy.url()) };
    let a = Instance::redis(&config);
    a.until_up().await;
    let kept = channel("kept");
    a.join(&kept).await;
    a.append(&kept, "one").await.expect("it is appended");
    proxy.black_hole(true);
    let unknown = a.append(&kept, "two").await;
    assert!(matches!(unknown, Err(BrokerError::Unknown(_))), "{unknown:?}");
    proxy.black_hole(false);
    a.until_up().await;
    // As long as it is not known to be away, it may be found out to be.
    while let Err(error) = a.append(&kept, "three").await {
        assert!(matches!(error, BrokerError::Away(_)), "{error:?}");
    }
    a.relay.until_text(&kept, "three").await;
    a.relay.assert_contiguous(&kept);
    let texts = a.relay.delivered(&kept);
    assert!(texts == ["one", "two", "three"] || texts == ["one", "three"], "{texts:?}");
    assert_eq!(a.relay.gaps(&kept), []);
}

//! What a load balancer and an orchestrator are told, and where.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Client, Fault, Instance, RedisServer, TcpProxy, eventually, request};

#[tokio::test]
async fn an_instance_alone_is_ready() {
    let instance = Instance::start(&[]).await;
    for path in ["/livez", "/healthz", "/readyz"] {
        let answer = instance.page(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.json().is_object(), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    assert_eq!(instance.page("/readyz").await.json()["ready"], true);
    assert_eq!(instance.metric("fanfare_ready", &[]).await, 1.0);
    let shown = instance.page("/instance").await.json();
    assert_eq!(shown["broker"], "memory");
    assert_eq!(shown["ready"], true);
    assert_eq!(shown["instance"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn what_is_for_operators_can_move_to_its_own_address() {
    let instance = Instance::start(&["--internal-listen", "127.0.0.1:0"]).await;
    assert_ne!(instance.address(), instance.internal_address());
    for path in ["/metrics", "/livez", "/readyz", "/healthz"] {
        let public = request(instance.address(), "GET", path, &[]).await.unwrap();
        assert_eq!(public.status, 404, "{path} is still public");
        assert_eq!(instance.page(path).await.status, 200, "{path}");
    }
    // And what is for clients stays where it was.
    for path in ["/", "/instance"] {
        assert_eq!(request(instance.address(), "GET", path, &[]).await.unwrap().status, 200, "{path}");
        assert_eq!(
            request(instance.internal_address(), "GET", path, &[]).await.unwrap().status,
            404,
            "{path}"
        );
    }
    Client::connect(instance.url("here")).await;
    let inside = format!("ws://{}/ws/here", instance.internal_address());
    assert_eq!(Client::try_connect(&inside, &[]).await.err().unwrap().status, 404);
}

/// The page asks for them, and nobody else is told.
#[tokio::test]
async fn an_instance_without_a_page_shows_strangers_no_counts() {
    for (page, status) in [("true", 200), ("false", 404)] {
        let instance = Instance::start(&["--page", page]).await;
        for path in ["/", "/page.js", "/page.css", "/instance"] {
            assert_eq!(instance.page(path).await.status, status, "{path} with page = {page}");
        }
    }
}

#[tokio::test]
async fn readiness_follows_redis_and_does_not_flap() {
    const BLINK: Duration = Duration::from_secs(1);
    let mut redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let instance = Instance::start(&["--redis", &format!("redis://{}", proxy.address())]).await;
    let ready = async || instance.page("/readyz").await.status == 200;
    eventually("ready with Redis", ready).await;

    // A blink is nobody's business. What takes longer on a busy machine was none, and is tried again.
    let up = async || instance.metric("fanfare_broker_up", &[]).await == 1.0;
    let blinks = async || {
        eventually("ready", ready).await;
        let gone = Instant::now();
        proxy.set(Fault::Blackhole);
        proxy.reset_all();
        eventually("it is away", async || !up().await).await;
        let mut stayed = true;
        eventually("it can have been seen", async || {
            stayed &= ready().await;
            gone.elapsed() > BLINK * 3 / 10
        })
        .await;
        proxy.set(Fault::None);
        eventually("it is back", async || {
            stayed &= ready().await;
            up().await
        })
        .await;
        let was_blink = gone.elapsed() < BLINK;
        let since = Instant::now();
        eventually("a while has passed", async || {
            stayed &= ready().await;
            since.elapsed() > BLINK * 3 / 2
        })
        .await;
        assert!(stayed || !was_blink, "a blink of Redis changes nothing");
        was_blink
    };
    eventually("a blink", blinks).await;

    redis.kill().await;
    eventually("not ready without Redis", async || !ready().await).await;
    let answer = instance.page("/readyz").await;
    assert_eq!(answer.status, 503);
    let told = answer.json();
    assert_eq!(told["ready"], false);
    assert!(answer.body.contains("broker"), "it says why: {told}");
    assert_eq!(instance.page("/livez").await.status, 200);
    assert_eq!(instance.metric("fanfare_ready", &[]).await, 0.0);
    assert_eq!(instance.metric("fanfare_broker_up", &[]).await, 0.0);

    redis.restart().await;
    eventually("ready again", ready).await;
    assert_eq!(instance.metric("fanfare_ready", &[]).await, 1.0);
}

#[tokio::test]
async fn a_draining_instance_is_alive_and_not_ready() {
    let mut instance = Instance::start(&["--drain-delay", "6s", "--drain-window", "0s"]).await;
    let mut before = Client::connect(instance.url("drain")).await;
    instance.signal("TERM").await;
    eventually("not ready at once", async || instance.page("/readyz").await.status == 503).await;
    assert!(instance.page("/readyz").await.body.contains("draining"));
    assert_eq!(instance.page("/livez").await.status, 200);
    assert_eq!(instance.metric("fanfare_draining", &[]).await, 1.0);
    // Until load balancers have noticed, it serves whoever is still sent here.
    let mut during = Client::connect(instance.url("drain")).await;
    during.send("still served").await;
    assert_eq!(before.next().await, "still served".into());
    assert_eq!(before.closed().await.0, 1012);
    assert_eq!(during.closed().await.0, 1012);
    assert!(instance.ended().await.success());
}

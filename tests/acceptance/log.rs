//! The log is for whoever reads it, and costs nobody anything if nobody does.

use futures_util::future::join_all;

use crate::harness::{Client, Instance, Said};

const FLAGS: &[&str] = &["--log-level", "debug", "--drain-delay", "0s", "--drain-window", "0s"];

/// Clients that come and go, a line each time, until more lines are lost.
async fn come_and_go_until_lines_are_lost(instance: &Instance) {
    while instance.metric("fanfare_log_lines_lost_total", &[]).await == 0.0 {
        join_all((0..100).map(|_| async { Client::connect(instance.url("passing")).await.close().await }))
            .await;
    }
}

/// Everybody is served as before, and sent away as they should be.
async fn goes_on(mut instance: Instance, mut client: Client) {
    come_and_go_until_lines_are_lost(&instance).await;
    client.send("still there").await;
    assert_eq!(client.next().await, Said::from("still there"));
    assert_eq!(instance.page("/livez").await.status, 200);
    instance.signal("TERM").await;
    assert_eq!(client.closed().await.0, 1012);
    assert_eq!(instance.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_nobody() {
    let mut instance = Instance::start(FLAGS).await;
    let client = Client::connect(instance.url("news")).await;
    instance.log_mut().leave();
    goes_on(instance, client).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let mut instance = Instance::start(FLAGS).await;
    let client = Client::connect(instance.url("news")).await;
    instance.log_mut().stand_still();
    goes_on(instance, client).await;
}

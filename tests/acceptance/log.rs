//! The log is for whoever reads it, and costs nobody anything if nobody does.

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::harness::{Client, DEADLINE, Instance, Said, eventually};

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
    // Or it would be waited for until its time is over.
    drop(client);
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

/// A flood of ends is said by some of them, and in sum: who is cut for flooding must not flood the log as well.
#[tokio::test]
async fn ends_that_come_together_are_not_all_logged() {
    const CLIENTS: usize = 400;
    /// So many lines in a second, of one worker.
    const LINES: usize = 20;
    let flags = ["--workers", "1", "--message-rate", "1", "--message-burst", "1", "--log-level", "info"];
    let instance = Instance::start(&flags).await;
    let flooding = async || {
        let mut client = Client::connect(instance.url("flood")).await;
        client.send("one").await;
        client.try_send("one more than may be").await;
        client
    };
    let ended = async || {
        instance.metric("fanfare_connections_closed_total", &[("reason", "rate_limited")]).await as usize
    };
    let connecting = (0..CLIENTS).map(|_| Client::connect(instance.url("flood")));
    let mut clients = join_all(connecting).await;
    let start = Instant::now();
    join_all(clients.iter_mut().map(async |client| {
        client.try_send("one").await;
        client.try_send("one more than may be").await;
    }))
    .await;
    eventually("all are ended", async || ended().await == CLIENTS).await;
    let seconds = start.elapsed().as_secs() as usize + 2;
    // The sum is said with the first end of another second.
    let mut more = 0;
    let said = |message: &str| -> Vec<_> {
        instance.log().lines().into_iter().filter(|line| line["message"] == message).collect()
    };
    let in_sum = || -> usize {
        let sums = said("more ended than are logged one by one");
        sums.iter().map(|line| line["connections"].as_u64().unwrap() as usize).sum()
    };
    while said("connection ended").len() + in_sum() < CLIENTS + more {
        flooding().await;
        more += 1;
        eventually("it is ended", async || ended().await == CLIENTS + more).await;
        assert!(start.elapsed() < DEADLINE, "{:#?}", instance.log().lines());
    }
    let lines = said("connection ended").len();
    assert_eq!(lines + in_sum(), CLIENTS + more);
    assert!(lines <= LINES * seconds + more && in_sum() > 0, "{lines} lines in {seconds} seconds");
}

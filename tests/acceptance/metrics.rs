//! What `/metrics` prints is what is documented, counts what happened, and stays of bounded size.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::harness::{Caller, Client, Instance, RedisServer, Remote, Said, Setup, eventually, request};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

/// The documented metrics with their types: rows of a table. What every process has is named in a sentence,
/// without types.
fn documented() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `fanfare_")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        Some((format!("fanfare_{name}"), cells.next()?.to_owned()))
    });
    let process = text.split('`').filter(|word| word.starts_with("process_"));
    rows.chain(process.map(|name| (name.to_owned(), String::new()))).collect()
}

#[tokio::test]
async fn documentation_and_metrics_name_the_same() {
    let redis = RedisServer::start().await;
    let instance = Instance::start(&["--redis", &redis.url()]).await;
    let mut client = Client::connect(instance.url("metrics")).await;
    client.send("hello").await;
    client.next().await;
    let mut printed = instance.metrics().await.types;
    for (name, kind) in &mut printed {
        if name.starts_with("process_") {
            kind.clear();
        }
    }
    let documented = documented();
    let missing: Vec<_> = documented.iter().filter(|(name, kind)| printed.get(*name) != Some(kind)).collect();
    assert!(missing.is_empty(), "documented, and not printed so: {missing:?}");
    let unknown: Vec<_> = printed.keys().filter(|name| !documented.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "printed, and not documented: {unknown:?}");
}

#[tokio::test]
async fn promtool_is_content() {
    let instance = Instance::start(&[]).await;
    let page = instance.page("/metrics").await;
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{page:?}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.kill_on_drop(true).spawn().expect("promtool is installed");
    child.stdin.take().unwrap().write_all(page.body.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test]
async fn what_happened_is_counted() {
    let instance = Instance::start(&["--workers", "2"]).await;
    let mut speaker = Client::connect(instance.url("counts?echo=false")).await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(Client::connect(instance.url("counts")).await);
    }
    let _alone = Client::connect(instance.url("alone")).await;
    for _ in 0..10 {
        speaker.send("12345").await;
    }
    for listener in &mut listeners {
        listener.take(10).await;
    }
    // (name, value): a delivery is one publication written to one connection.
    let expected = [
        ("fanfare_connections", 5.0),
        ("fanfare_worker_connections", 5.0),
        ("fanfare_connections_opened_total", 5.0),
        ("fanfare_connections_closed_total", 0.0),
        ("fanfare_channels", 2.0),
        ("fanfare_subscriptions", 5.0),
        ("fanfare_publications_total", 10.0),
        ("fanfare_deliveries_total", 30.0),
        ("fanfare_messages_in_total", 10.0),
        ("fanfare_messages_out_total", 30.0),
        ("fanfare_workers", 2.0),
        ("fanfare_broker_up", 1.0),
        ("fanfare_outbox_bytes", 0.0),
        ("fanfare_inbox_bytes", 0.0),
        ("fanfare_gaps_total", 0.0),
    ];
    for (name, value) in expected {
        eventually(&format!("{name}: {value}"), async || instance.metric(name, &[]).await == value).await;
    }
    // And none is counted again.
    let metrics = instance.metrics().await;
    for (name, value) in expected {
        assert_eq!(metrics.value(name, &[]), value, "{name}");
    }
    // Five bytes and a masked header of six; five bytes and a header of two.
    assert!(metrics.value("fanfare_bytes_in_total", &[]) >= 10.0 * 5.0);
    assert!(metrics.value("fanfare_bytes_out_total", &[]) >= 30.0 * 5.0);
    assert_eq!(metrics.label_values("fanfare_worker_connections", "worker").len(), 2);
    let shown = instance.page("/instance").await.json();
    let pairs = [("connections", 5), ("channels", 2), ("publications", 10), ("deliveries", 30)];
    for (name, value) in pairs {
        assert_eq!(shown[name], value, "{name} on the page");
    }
    drop(listeners);
    eventually("who left is gone", async || {
        let metrics = instance.metrics().await;
        metrics.value("fanfare_connections", &[]) == 2.0
            && metrics.value("fanfare_subscriptions", &[]) == 2.0
            && metrics.value("fanfare_connections_closed_total", &[]) == 3.0
    })
    .await;
}

/// Whoever refuses it: the format, a right, a limit, or the broker.
#[tokio::test]
async fn what_is_refused_is_not_counted_as_published() {
    const CHANNELS: &str = "
        message_limit = 8182
        outbox_limit = \"8KiB\"
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        [namespaces.json]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        data_format = \"json_object\"
        [namespaces.silent]
        may_subscribe = \"anonymous\"
        [namespaces.kept]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        history_size = 10
    ";
    let mut redis = RedisServer::start().await;
    let instance = Setup::new(CHANNELS).api().redis(&redis.url()).start().await;
    let address = instance.address();
    let mut caller = Caller::anonymous(address).await;
    let mut remote = Remote::connect(address, "/connection/http_stream", json!({})).await;
    let api = async |body: &Value| instance.api("publish", body).await;
    let counted = async || {
        let metrics = instance.metrics().await;
        ["fanfare_publications_total", "fanfare_namespace_publications_total"]
            .map(|name| metrics.value(name, &[]))
    };
    let wish = |channel: &str, data: Value| json!({ "channel": channel, "data": data });
    // (what, the code for a client, the code for the back end, which may do more)
    let rows = [
        (wish("json:a", json!(5)), 107, Some(107)),
        (wish("silent:a", json!({})), 103, None),
        (wish("unknown:a", json!({})), 102, Some(102)),
        (wish("", json!({})), 0, Some(107)),
        (wish("a", json!("x".repeat(9000))), 0, Some(107)),
    ];
    for (publication, code, of_api) in &rows {
        if *code > 0 {
            assert_eq!(caller.error("publish", publication.clone()).await, *code, "{publication}");
            let answer = remote.call("publish", publication.clone()).await;
            assert_eq!(answer["error"]["code"], *code, "{publication}");
        }
        if let Some(code) = of_api {
            assert_eq!(api(publication).await["error"]["code"], *code, "{publication}");
        }
        assert_eq!(counted().await, [0.0, 0.0], "{publication}");
    }
    for (channel, said) in [("json:a", "5"), ("silent:a", "{}")] {
        let mut raw = Client::connect(instance.url(channel)).await;
        raw.send(said).await;
        assert_eq!(raw.closed().await.0, 1008, "{channel}");
        assert_eq!(counted().await, [0.0, 0.0], "{channel}");
    }
    // What is taken counts once, whoever has published it.
    for (place, channel) in ["a", "json:a", "kept:a"].into_iter().enumerate() {
        let publication = wish(channel, json!({ "is": "fine" }));
        caller.result("publish", publication.clone()).await;
        remote.result("publish", publication.clone()).await;
        assert!(api(&publication).await.get("result").is_some());
        let mut raw = Client::connect(instance.url(channel)).await;
        raw.send("{}").await;
        raw.next().await;
        let expected = [4.0 * (place + 1) as f64; 2];
        eventually(&format!("{channel}: {expected:?}"), async || counted().await == expected).await;
    }
    redis.kill().await;
    let away = wish("kept:a", json!({ "is": "late" }));
    eventually("it is known to be away", async || api(&away).await["error"]["code"] == 100).await;
    let before = counted().await;
    for channel in ["a", "kept:a"] {
        let away = wish(channel, json!({ "is": "late" }));
        assert_eq!(caller.error("publish", away.clone()).await, 100, "{channel}");
        assert_eq!(remote.call("publish", away.clone()).await["error"]["code"], 100, "{channel}");
        assert_eq!(api(&away).await["error"]["code"], 100, "{channel}");
    }
    assert_eq!(counted().await, before, "while Redis is away");
    assert_eq!(before, [12.0; 2], "what came to nothing on the way");
}

/// The lag is that of the way from publication to write, over the broker.
#[tokio::test]
async fn lag_is_measured_across_instances() {
    let redis = RedisServer::start().await;
    let one = Instance::start(&["--redis", &redis.url()]).await;
    let other = Instance::start(&["--redis", &redis.url()]).await;
    let mut speaker = Client::connect(one.url("lag?echo=false")).await;
    let mut listener = Client::connect(other.url("lag")).await;
    for _ in 0..10 {
        speaker.send("now").await;
        listener.next().await;
    }
    let metrics = other.metrics().await;
    assert!(metrics.value("fanfare_broker_lag_seconds_count", &[]) >= 10.0);
    let mean = metrics.value("fanfare_broker_lag_seconds_sum", &[])
        / metrics.value("fanfare_broker_lag_seconds_count", &[]);
    assert!(mean > 0.0 && mean < 10.0, "{mean} s");
    assert!(metrics.value("fanfare_broker_subscriptions", &[]) >= 2.0);
}

/// Whatever clients do, the number of series does not grow with them.
#[tokio::test]
async fn no_client_makes_a_series() {
    let instance = Instance::start(&[]).await;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let warm = Client::connect(instance.url("warm")).await;
    warm.close().await;
    let before = series(&instance.page("/metrics").await.body);
    for number in 0..50 {
        let mut client = Client::connect(instance.url(&format!("series-{number}"))).await;
        client.send(Said::Binary(vec![0xFF])).await;
        client.next().await;
        request(instance.address(), "GET", &format!("/series-{number}"), &[]).await.unwrap();
    }
    let page = instance.page("/metrics").await.body;
    assert_eq!(series(&page), before);
    assert!(!page.contains("series-"), "a channel's name stands in /metrics");
    assert!(!page.contains("127.0.0.1"), "an address stands in /metrics");
    let metrics = instance.metrics().await;
    let known = [
        "protocol",
        "worker",
        "reason",
        "result",
        "cause",
        "method",
        "outcome",
        // Of the configuration, and no more than fifty.
        "namespace",
        "version",
        "revision",
        "le",
        "quantile",
    ];
    let unknown: BTreeSet<_> =
        metrics.label_names().into_iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

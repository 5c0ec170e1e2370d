//! `fanfare bench` as users run it, against real instances: its verdict, its exit status and what it makes
//! of a fault. Figures are judged nowhere here; they stand in BENCHMARKS.md.

use serde_json::Value;

use crate::harness::{Client, Instance, RedisServer, Said, eventually, run_to_end};

/// Runs `fanfare bench … --json`, and gives the exit status and the report.
async fn bench(args: &[&str]) -> (Option<i32>, Value) {
    let output = run_to_end(&[&["bench"], args, &["--json"]].concat(), &[]).await;
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

#[tokio::test]
async fn a_gateway_is_found_sound_and_its_cost_is_read() {
    let instance = Instance::start(&[]).await;
    let (pid, url) = (instance.pid().to_string(), instance.url("bench"));
    let load = ["--subscribers", "50", "--publishers", "2", "--in-flight", "8", "--duration", "1s"];
    let (code, report) = bench(&[&["fanout", &url, "--pid", &pid], &load[..]].concat()).await;
    let audit = &report["audit"];
    assert_eq!(code, Some(0), "{audit}");
    assert!(
        audit["delivered_once"].as_u64() > Some(0) && audit["delivered_once"] == audit["expected"],
        "{audit}"
    );
    assert!(report["cost"]["micros"].as_f64() > Some(0.0), "{}", report["cost"]);
}

#[tokio::test]
async fn what_travels_compressed_is_checked_and_weighed() {
    let instance = Instance::start(&["--compression"]).await;
    let url = instance.url("bench");
    let load =
        ["--subscribers", "50", "--rate", "40", "--duration", "1s", "--payload", "json", "--size", "1024"];
    for (compression, least, most) in [(&["--compression"][..], 0.4, 0.9), (&[], -0.01, 0.0)] {
        let (code, report) = bench(&[&["fanout", &url], &load[..], compression].concat()).await;
        let (audit, wire) = (&report["audit"], &report["wire"]);
        assert_eq!(code, Some(0), "{audit}");
        assert_eq!((audit["delivered_once"].as_u64(), wire["deliveries"].as_u64()), (Some(4000), Some(2000)));
        let saved = wire["saved"].as_f64().unwrap();
        assert!((least..most).contains(&saved), "{wire}");
    }
    let plain = Instance::start(&[]).await;
    let url = plain.url("bench");
    let output = run_to_end(&[&["bench", "fanout", &url, "--compression"], &load[..]].concat(), &[]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("the server does not agree to permessage-deflate (50 times)"), "{error}");
}

#[tokio::test]
async fn the_yardstick_is_measured_beside_it() {
    let instance = Instance::start(&[]).await;
    let (pid, url) = (instance.pid().to_string(), instance.url("bench"));
    let load = ["--subscribers", "50", "--rate", "40", "--duration", "1s", "--rounds", "1", "--floor"];
    let (code, report) = bench(&[&["fanout", &url, "--pid", &pid], &load[..]].concat()).await;
    assert_eq!(code, Some(0), "{}", report["audit"]);
    assert!(report["ratio_to_floor"].as_f64() > Some(0.0), "{}", report["ratio_to_floor"]);
}

#[tokio::test]
async fn clients_of_the_protocol_are_audited_too() {
    let instance = Instance::start(&[]).await;
    let (pid, url) = (instance.pid().to_string(), format!("ws://{}", instance.address()));
    let load = ["--subscribers", "50", "--rate", "40", "--duration", "1s", "--rounds", "1", "--floor"];
    for protocol in ["centrifuge-json", "centrifuge-protobuf"] {
        let spoken = ["--protocol", protocol, "--pid", &pid];
        let (code, report) = bench(&[&["fanout", &url], &load[..], &spoken].concat()).await;
        let (audit, round) = (&report["audit"], &report["rounds"][0]);
        assert_eq!(code, Some(0), "{audit}");
        assert_eq!(audit["delivered_once"], audit["expected"], "{audit}");
        assert!(report["ratio_to_floor"].as_f64() > Some(0.0), "{}", report["ratio_to_floor"]);
        let bytes = |of: &str| round[of]["wire"]["bytes_per_delivery"].as_f64().unwrap();
        // Messages share a frame, and its head, where a worker comes to several at once.
        assert!((-4.0..1.0).contains(&(bytes("server") - bytes("floor"))), "{round}");

        let (code, report) = bench(&[&["idle", &url, "--connections", "50"], &spoken[..]].concat()).await;
        assert_eq!((code, report["alive"].as_u64()), (Some(0), Some(50)), "{report}");
        let (code, report) = bench(&[&["connect", &url, "--connections", "50"], &spoken[..]].concat()).await;
        assert_eq!((code, report["completed"].as_u64()), (Some(0), Some(50)), "{report}");
    }
}

#[tokio::test]
async fn subscribers_without_websockets_are_audited_too() {
    // Whoever does not answer its pings would be gone before a run is over.
    let pings = ["--client-ping-interval", "2s", "--client-pong-timeout", "1900ms"];
    let instance = Instance::start(&pings).await;
    let (pid, url) = (instance.pid().to_string(), format!("ws://{}", instance.address()));
    let load = ["--subscribers", "50", "--rate", "40", "--duration", "1s", "--rounds", "1", "--floor"];
    let flat_out = ["--subscribers", "50", "--in-flight", "4", "--duration", "300ms", "--rounds", "1"];
    for (protocol, transport) in [
        ("raw", "sse"),
        ("centrifuge-json", "sse"),
        ("centrifuge-json", "http-stream"),
        ("centrifuge-protobuf", "http-stream"),
    ] {
        let spoken = ["--protocol", protocol, "--transport", transport, "--pid", &pid];
        let (code, report) = bench(&[&["fanout", &url], &load[..], &spoken].concat()).await;
        let (audit, round) = (&report["audit"], &report["rounds"][0]);
        assert_eq!(code, Some(0), "{audit} {}", report["ends"]);
        assert_eq!(audit["delivered_once"], audit["expected"], "{audit}");
        assert_eq!(report["connected_at_end"].as_u64(), Some(50), "{}", report["ends"]);
        assert!(report["ratio_to_floor"].as_f64() > Some(0.0), "{}", report["ratio_to_floor"]);
        // Pings are in the server's chunks, and would not be in the floor's.
        let bytes = |of: &str| round[of]["wire"]["bytes_per_delivery"].as_f64().unwrap();
        assert!((bytes("server") - bytes("floor")).abs() < 3.0, "{round}");
        let (code, report) = bench(&[&["fanout", &url], &flat_out[..], &spoken].concat()).await;
        assert_eq!(code, Some(0), "{} {}", report["audit"], report["ends"]);

        let (code, report) = bench(&[&["idle", &url, "--connections", "50"], &spoken[..]].concat()).await;
        assert_eq!((code, report["alive"].as_u64()), (Some(0), Some(50)), "{report}");
    }
    let handed_on = instance.metric("fanfare_emulation_requests_total", &[("outcome", "handed_on")]).await;
    assert!(handed_on > 0.0, "pings are answered by requests");

    // What nobody sent is noticed.
    let channel = format!("{url}/ws/disturbed");
    let run = [&["fanout", &channel, "--transport", "sse"], &load[..load.len() - 1]].concat();
    let disturb = async {
        let mut intruder = Client::connect(instance.url("disturbed")).await;
        while intruder.next().await != Said::from("not of this run") {
            intruder.send("not of this run").await;
        }
    };
    let ((code, report), ()) = tokio::join!(bench(&run), disturb);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["audit"]["phantom"].as_u64() > Some(0), "{}", report["audit"]);
}

#[tokio::test]
async fn what_no_transport_carries_is_said_at_once() {
    let url = "ws://127.0.0.1:1/";
    let rows: [(&[&str], &str); 5] = [
        (&["--transport", "http-stream"], "http-stream does not carry raw; expected centrifuge-json or"),
        (
            &["--transport", "sse", "--protocol", "centrifuge-protobuf"],
            "sse does not carry centrifuge-protobuf; expected raw or centrifuge-json",
        ),
        (
            &["--transport", "sse", "--compression"],
            "permessage-deflate is WebSocket's: compression needs --transport websocket",
        ),
        (&["--transport", "ws"], "expected websocket, sse or http-stream"),
        (
            &["--transport", "sse", "ws://127.0.0.1:1/elsewhere"],
            "the path of `127.0.0.1:1/elsewhere` does not say where sse is; expected none, or /ws/{channel}",
        ),
    ];
    for (more, expected) in rows {
        for what in [&["fanout", "--subscribers", "1", "--rate", "1"][..], &["idle", "--connections", "1"]] {
            let output = run_to_end(&[&["bench"], what, &[url], more].concat(), &[]).await;
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
            assert!(error.contains(expected), "{more:?}: {error}");
        }
    }
}

#[tokio::test]
async fn what_redis_loses_is_announced_to_the_last_message() {
    let mut redis = RedisServer::start().await;
    let (one, other) = (
        Instance::start(&["--redis", &redis.url()]).await,
        Instance::start(&["--redis", &redis.url()]).await,
    );
    let urls = [one.url("bench"), other.url("bench")];
    let load =
        ["--subscribers", "40", "--publishers", "2", "--rate", "100", "--duration", "15s", "--reconnect"];
    let run = [&["fanout", &urls[0], &urls[1]], &load[..]].concat();
    // The same in bodies; without --reconnect what is lost is a fault though it is announced.
    let urls = [one.url("events"), other.url("events")];
    let events = ["fanout", &urls[0], &urls[1], "--transport", "sse"];
    let in_bodies = [&events, &load[..load.len() - 1]].concat();
    let up = async |wanted: f64| {
        for instance in [&one, &other] {
            eventually("the broker's state", async || {
                instance.metric("fanfare_broker_up", &[]).await == wanted
            })
            .await;
        }
    };
    let fault = async {
        eventually("traffic", async || other.metric("fanfare_deliveries_total", &[]).await > 500.0).await;
        redis.kill().await;
        up(0.0).await;
        redis.restart().await;
        up(1.0).await;
    };
    let ((code, report), (sse_code, of_events), ()) = tokio::join!(bench(&run), bench(&in_bodies), fault);
    let audit = &of_events["audit"];
    // What was published just then may be lost, or not.
    let is_sound = audit["lost_announced"].as_u64() == Some(0);
    assert_eq!(sse_code, Some(if is_sound { 0 } else { 1 }), "{audit}");
    assert_eq!((audit["lost_silent"].as_u64(), audit["phantom"].as_u64()), (Some(0), Some(0)), "{audit}");
    assert!(of_events["notices"].as_u64() > Some(0), "{of_events}");
    let audit = &report["audit"];
    assert_eq!(code, Some(0), "{audit}");
    assert_eq!((audit["lost_silent"].as_u64(), audit["phantom"].as_u64()), (Some(0), Some(0)), "{audit}");
    assert!(report["notices"].as_u64() > Some(0), "subscribers are told: {report}");
    assert!(report["ends"].as_object().is_some_and(serde_json::Map::is_empty), "nobody is closed: {report}");
}

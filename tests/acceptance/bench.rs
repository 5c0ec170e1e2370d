//! `fanfare bench` as users run it, against real instances: its verdict, its exit status and what it makes
//! of a fault. Figures are judged nowhere here; they stand in BENCHMARKS.md.

use serde_json::Value;

use crate::harness::{Instance, RedisServer, eventually, run_to_end};

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
        assert!((bytes("server") - bytes("floor")).abs() < 1.0, "{round}");

        let (code, report) = bench(&[&["idle", &url, "--connections", "50"], &spoken[..]].concat()).await;
        assert_eq!((code, report["alive"].as_u64()), (Some(0), Some(50)), "{report}");
        let (code, report) = bench(&[&["connect", &url, "--connections", "50"], &spoken[..]].concat()).await;
        assert_eq!((code, report["completed"].as_u64()), (Some(0), Some(50)), "{report}");
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
        ["--subscribers", "40", "--publishers", "2", "--rate", "100", "--duration", "6s", "--reconnect"];
    let run = [&["fanout", &urls[0], &urls[1]], &load[..]].concat();
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
    let ((code, report), ()) = tokio::join!(bench(&run), fault);
    let audit = &report["audit"];
    assert_eq!(code, Some(0), "{audit}");
    assert_eq!((audit["lost_silent"].as_u64(), audit["phantom"].as_u64()), (Some(0), Some(0)), "{audit}");
    assert!(report["notices"].as_u64() > Some(0), "subscribers are told: {report}");
    assert!(report["ends"].as_object().is_some_and(serde_json::Map::is_empty), "nobody is closed: {report}");
}

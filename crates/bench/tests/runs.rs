//! Whole runs against a relay that does right, and one that does each wrong: that is seen, counted and told.
#![expect(clippy::unwrap_used, reason = "here an unwrap is an assertion")]

mod relay;

use std::time::Duration;

use fanfare_bench::{
    AuditReport, BenchError, Connect, Fanout, FanoutReport, Idle, Load, Loss, Payload, Processes, Protocol,
    Recover, Silent, Target, Transport,
};
use fanfare_websocket::deflate::Policy;
use relay::{Fault, Relay};

const SUBSCRIBERS: usize = 5;
const MESSAGES: u64 = 60;

fn fanout(target: Target) -> Fanout {
    Fanout {
        targets: vec![target.clone(), target],
        subscribers: SUBSCRIBERS,
        publishers: 1,
        size: 128,
        payload: Payload::Binary,
        compression: false,
        load: Load::Rate(200.0),
        duration: Duration::from_millis(250),
        warmup: Duration::from_millis(50),
        rounds: 1,
        settle: Duration::from_secs(1),
        threads: 2,
        concurrency: 2,
        processes: Processes::default(),
        reconnect: false,
        floor: None,
        seed: 1,
    }
}

fn run(fanout: &Fanout) -> FanoutReport {
    fanout.run(&mut Silent).unwrap()
}

#[test]
fn a_relay_that_does_right_is_sound() {
    for (payload, publishers) in
        [(Payload::Binary, 1), (Payload::Text, 1), (Payload::Json, 1), (Payload::Binary, 3)]
    {
        let relay = Relay::start(Fault::None, 0);
        let processes = Processes::new(vec![std::process::id()]).unwrap();
        // Nothing is missing, so this is waited for only where the machine is slow.
        let settle = Duration::from_secs(10);
        let report = run(&Fanout { payload, publishers, processes, settle, ..fanout(relay.target()) });
        assert!(report.is_sound(), "{report}");
        let all = MESSAGES * SUBSCRIBERS as u64;
        let expected = AuditReport { expected: all, delivered_once: all, ..AuditReport::default() };
        assert_eq!(report.audit, expected);
        let [round] = &report.rounds[..] else { panic!("{report}") };
        assert_eq!(
            (round.server.messages, round.server.deliveries),
            (50, 50 * (4 + publishers as u64)),
            "the warm-up is not measured"
        );
        assert_eq!((report.latency.count, report.lateness.count), (250, 50));
        assert_eq!((report.handshake.count, report.connected_at_end), (5, 5));
        assert!(report.cost.unwrap().micros > 0.0 && report.resident.unwrap() > 0);
        assert!(report.ends.is_empty() && report.publisher_ends.is_empty(), "{report}");
        let wire = report.wire;
        assert_eq!(
            (wire.deliveries, wire.payload_bytes, wire.bytes),
            (250, 250 * 128, 250 * 132),
            "{report}"
        );
    }
}

#[test]
fn the_client_protocol_is_spoken_in_both_encodings() {
    for protocol in [Protocol::CentrifugeJson, Protocol::CentrifugeProtobuf] {
        let relay = Relay::start_speaking(protocol, Fault::None, 0);
        let fanout = Fanout { payload: Payload::Json, publishers: 3, ..fanout(relay.target()) };
        let report = run(&fanout);
        assert!(report.is_sound() && report.protocol == protocol, "{report}");
        let all = MESSAGES * SUBSCRIBERS as u64;
        assert_eq!((report.audit.expected, report.audit.delivered_once), (all, all), "{report}");
        assert_eq!(report.rounds[0].server.deliveries, 50 * 5, "publishers do not hear one another");
        assert_eq!((report.latency.count, report.handshake.count), (250, 5), "{report}");
        assert!(report.wire.bytes_per_delivery > 150.0, "pushes are larger than payloads: {report}");
        assert_eq!(relay.pongs() as u64, all, "each ping is answered");

        let report = run(&Fanout { load: Load::InFlight(4), ..fanout.clone() });
        assert!(report.is_sound() && report.rounds[0].server.given_up == 0, "{report}");

        for (fault, expected) in
            [(Fault::Drop, (299, 1, 0, 0)), (Fault::Double, (300, 0, 1, 0)), (Fault::Alter, (299, 1, 0, 1))]
        {
            let relay = Relay::start_speaking(protocol, fault, 30);
            let AuditReport { delivered_once, lost_silent, duplicate, phantom, .. } =
                run(&Fanout { targets: vec![relay.target()], ..fanout.clone() }).audit;
            assert_eq!((delivered_once, lost_silent, duplicate, phantom), expected, "{fault:?} {protocol}");
        }
    }
    let relay = Relay::start_speaking(Protocol::CentrifugeProtobuf, Fault::None, 0);
    let report = run(&fanout(relay.target()));
    assert!(report.is_sound(), "bytes go in Protobuf: {report}");
}

/// What can be heard in a body, and the payload that goes there.
const IN_BODIES: [(Protocol, Transport, Payload); 5] = [
    (Protocol::Raw, Transport::Sse, Payload::Text),
    (Protocol::Raw, Transport::Sse, Payload::Binary),
    (Protocol::CentrifugeJson, Transport::Sse, Payload::Json),
    (Protocol::CentrifugeJson, Transport::HttpStream, Payload::Json),
    (Protocol::CentrifugeProtobuf, Transport::HttpStream, Payload::Binary),
];

#[test]
fn what_comes_in_bodies_is_audited_too() {
    for (protocol, transport, payload) in IN_BODIES {
        let start = |fault| {
            let relay = Relay::start_speaking(protocol, fault, 30);
            let target = relay.target().over(transport).unwrap();
            (relay, Fanout { payload, publishers: 3, ..fanout(target) })
        };
        let (relay, fanout) = start(Fault::None);
        let report = run(&fanout);
        let way = (report.protocol, report.transport);
        assert!(report.is_sound() && way == (protocol, transport), "{report}");
        assert_eq!(report.audit.delivered_once, 300, "{report}");
        assert_eq!((report.latency.count, report.handshake.count), (250, 5), "{report}");
        assert!(report.wire.bytes_per_delivery > 130.0, "{report}");
        if protocol != Protocol::Raw {
            // Each ping is answered, by a request; those of the last ones may be under way.
            assert!(relay.pongs() >= 250, "{} of 300", relay.pongs());
        }
        let report = run(&Fanout { load: Load::InFlight(4), ..fanout });
        assert!(report.is_sound() && report.rounds[0].server.given_up == 0, "{report}");

        // Once, announced, silent, duplicate, reordered, phantom.
        let rows = [
            (Fault::Drop, [299, 0, 1, 0, 0, 0]),
            (Fault::DropAndTell, [299, 1, 0, 0, 0, 0]),
            (Fault::Double, [300, 0, 0, 1, 0, 0]),
            (Fault::Alter, [299, 0, 1, 0, 0, 1]),
            (Fault::SendAway, [270, 30, 0, 0, 0, 0]),
            (Fault::Cut, [270, 30, 0, 0, 0, 0]),
        ];
        for (fault, expected) in rows {
            if fault == Fault::DropAndTell && protocol != Protocol::Raw {
                // They are told by losing the subscription.
                continue;
            }
            let (_relay, fanout) = start(fault);
            let report = run(&fanout);
            let AuditReport {
                delivered_once,
                lost_announced,
                lost_silent,
                duplicate,
                reordered,
                phantom,
                ..
            } = report.audit;
            let found = [delivered_once, lost_announced, lost_silent, duplicate, reordered, phantom];
            assert_eq!(found, expected, "{fault:?} {protocol} over {transport}");
            assert!(!report.is_sound(), "{report}");
            let ends: Vec<_> = report.ends.into_iter().collect();
            let end = match fault {
                Fault::SendAway => Some("closed 1012 service restart"),
                Fault::Cut => Some("lost: the server hung up"),
                _ => None,
            };
            assert_eq!(ends, end.map(|end| (end.to_owned(), 1)).into_iter().collect::<Vec<_>>());
        }
        let (_relay, fanout) = start(Fault::Refuse);
        let error = fanout.run(&mut Silent).unwrap_err().to_string();
        assert!(error.contains("refused with HTTP 503 (8 times)"), "{error}");
    }
}

#[test]
fn what_the_client_protocol_refuses_is_named() {
    let relay = Relay::start_speaking(Protocol::CentrifugeJson, Fault::None, 0);
    let target = |channel, protocol| {
        let url = format!("ws://{}/", relay.address());
        Target::speaking(&url, protocol, channel).unwrap()
    };
    let json = Fanout { payload: Payload::Json, ..fanout(target("bench", Protocol::CentrifugeJson)) };
    let error = Fanout { targets: vec![target("other", Protocol::CentrifugeJson)], ..json.clone() }
        .run(&mut Silent)
        .unwrap_err();
    let expected = "every publisher's connection has ended: protocol broken: a publication is answered with 103 permission denied";
    assert_eq!(error.to_string(), expected);
    let error = Fanout { payload: Payload::Text, ..json.clone() }.run(&mut Silent).unwrap_err();
    assert_eq!(error.to_string(), "centrifuge-json carries JSON and nothing else, not text");
    let targets = vec![json.targets[0].clone(), target("bench", Protocol::Raw)];
    let error = Fanout { targets, ..json }.run(&mut Silent).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all URLs of a run have to be spoken to in one protocol, over one transport"
    );
}

#[test]
fn what_travels_compressed_is_checked_and_weighed() {
    let taking_over = Policy { server_context_takeover: true, ..Policy::default() };
    for policy in [Policy::default(), taking_over] {
        let relay = Relay::start_compressing(Fault::None, 0, policy);
        let fanout =
            Fanout { payload: Payload::Json, size: 1024, compression: true, ..fanout(relay.target()) };
        let report = run(&fanout);
        assert!(report.is_sound() && report.audit.delivered_once == 300, "{report}");
        assert_eq!((report.wire.deliveries, report.wire.payload_bytes), (250, 250 * 1024), "{report}");
        assert!((0.4..0.9).contains(&report.wire.saved), "{report}");

        let relay = Relay::start_compressing(Fault::Alter, 30, policy);
        let report = run(&Fanout { targets: vec![relay.target()], ..fanout });
        // An altered message stands in the context of the next ones, but a whole one does as well.
        assert_eq!((report.audit.phantom, report.audit.lost_silent), (1, 1), "{report}");
        assert!(!report.is_sound(), "{report}");
    }
}

#[test]
fn a_server_that_compresses_nothing_is_refused() {
    let relay = Relay::start(Fault::None, 0);
    let error = Fanout { compression: true, ..fanout(relay.target()) }.run(&mut Silent).unwrap_err();
    let expected = "not all of 6 connections came about: not connected: the server does not agree to \
                    permessage-deflate (5 times)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn each_wrong_is_noticed() {
    // What differs from a sound audit, and whether that is a fault.
    type Change = fn(&mut AuditReport);
    let rows: &[(Fault, Change)] = &[
        (Fault::Drop, |audit| (audit.delivered_once, audit.lost_silent) = (299, 1)),
        (Fault::DropAndTell, |audit| (audit.delivered_once, audit.lost_announced) = (299, 1)),
        (Fault::Double, |audit| audit.duplicate = 1),
        (Fault::Swap, |audit| (audit.delivered_once, audit.reordered) = (299, 1)),
        (Fault::Alter, |audit| {
            (audit.delivered_once, audit.lost_silent, audit.phantom) = (299, 1, 1);
        }),
    ];
    for (fault, change) in rows {
        let relay = Relay::start(*fault, 30);
        let report = run(&fanout(relay.target()));
        assert!(!report.is_sound(), "{fault:?}: {report}");
        let mut expected = AuditReport { expected: 300, delivered_once: 300, ..AuditReport::default() };
        change(&mut expected);
        expected.complaints = report.audit.complaints.clone();
        assert_eq!(report.audit, expected, "{fault:?}");
        assert_eq!(report.audit.complaints.is_empty(), *fault == Fault::DropAndTell, "{fault:?}");
    }
}

#[test]
fn a_disconnection_is_reported_and_its_loss_is_announced() {
    for (fault, end) in
        [(Fault::SendAway, "closed 1012 service restart"), (Fault::Cut, "lost: the server hung up")]
    {
        let relay = Relay::start(fault, 30);
        let report = run(&fanout(relay.target()));
        assert_eq!(report.ends.iter().collect::<Vec<_>>(), [(&end.to_owned(), &1)], "{report}");
        assert_eq!((report.audit.lost_announced, report.audit.lost_silent), (30, 0), "{report}");
        assert_eq!((report.connected_at_end, report.is_sound()), (4, false), "{report}");
    }
}

#[test]
fn who_is_sent_away_comes_back() {
    for fault in [Fault::SendAway, Fault::Cut] {
        let relay = Relay::start(fault, 12);
        // Long enough that the last messages come after the return.
        let fanout = Fanout { reconnect: true, duration: Duration::from_secs(2), ..fanout(relay.target()) };
        let report = run(&fanout);
        let audit = &report.audit;
        assert!(report.is_sound() && audit.lost_announced > 0 && audit.lost_silent == 0, "{report}");
        assert_eq!(audit.delivered_once + audit.lost_announced, audit.expected, "{report}");
        assert_eq!((report.away.count, report.connected_at_end), (1, SUBSCRIBERS), "{report}");
        assert_eq!(report.ends_by_second.iter().sum::<u32>(), 1, "{report}");
    }
}

#[test]
fn what_a_broken_connection_swallowed_was_not_accepted() {
    let relay = Relay::start(Fault::CutPublisher, 12);
    let report = run(&Fanout { reconnect: true, ..fanout(relay.target()) });
    assert!(report.audit.unaccepted > 0 && report.is_sound(), "{report}");
    assert_eq!(report.audit.delivered_once, report.audit.expected, "{report}");
    assert_eq!(report.publisher_ends.values().sum::<u64>(), 1, "{report}");

    let relay = Relay::start(Fault::CutPublisher, 12);
    let error = fanout(relay.target()).run(&mut Silent).unwrap_err();
    assert!(error.to_string().starts_with("every publisher's connection has ended: "), "{error}");
}

#[test]
fn flat_out_keeps_to_its_number_in_flight() {
    let relay = Relay::start(Fault::None, 0);
    let load = Load::InFlight(4);
    let report = run(&Fanout { load, publishers: 2, rounds: 2, ..fanout(relay.target()) });
    assert!(report.is_sound() && report.rounds.len() == 2, "{report}");
    for round in &report.rounds {
        assert_eq!(round.server.given_up, 0, "{report}");
        // Each message goes to five subscribers and to the other publisher.
        assert!(round.server.deliveries > round.server.messages * SUBSCRIBERS as u64, "{report}");
    }

    let relay = Relay::start(Fault::Drop, 30);
    let report = run(&Fanout { load, warmup: Duration::ZERO, ..fanout(relay.target()) });
    assert_eq!((report.audit.lost_silent, report.rounds[0].server.given_up), (1, 1), "{report}");
}

#[test]
fn idle_connections_are_counted_and_asked() {
    let idle = |relay: &Relay, compression| Idle {
        targets: vec![relay.target()],
        connections: 20,
        concurrency: 4,
        compression,
        processes: Processes::new(vec![std::process::id()]).unwrap(),
    };
    let speaking = idle(&Relay::start_speaking(Protocol::CentrifugeProtobuf, Fault::None, 0), false);
    let plain = idle(&Relay::start(Fault::None, 0), false);
    let compressed = idle(&Relay::start_compressing(Fault::None, 0, Policy::default()), true);
    for idle in [plain, compressed, speaking] {
        let report = idle.run(&mut Silent).unwrap();
        assert!(report.is_sound() && (report.open, report.alive) == (20, 20), "{report}");
        assert!(report.kib_per_connection.is_some() && report.handshake.count == 20, "{report}");
    }
    for (protocol, transport, _) in IN_BODIES {
        let idle = idle(&Relay::start_speaking(protocol, Fault::None, 0), false);
        let targets = idle.targets.into_iter().map(|target| target.over(transport).unwrap()).collect();
        let report = Idle { targets, processes: Processes::default(), ..idle }.run(&mut Silent).unwrap();
        assert!(report.is_sound() && (report.open, report.alive) == (20, 20), "{report}");
    }
    let rows = [
        (Fault::Refuse, false, "refused with HTTP 503"),
        (Fault::None, true, "not connected: the server does not agree to permessage-deflate"),
    ];
    for (fault, compression, end) in rows {
        let report = idle(&Relay::start(fault, 0), compression).run(&mut Silent).unwrap();
        assert!(!report.is_sound() && report.ends[end] == 20, "{report}");
    }
}

#[test]
fn coming_and_going_is_counted() {
    let connect = |relay: &Relay| Connect {
        targets: vec![relay.target()],
        connections: 100,
        concurrency: 8,
        processes: Processes::new(vec![std::process::id()]).unwrap(),
    };
    for protocol in Protocol::ALL {
        let relay = Relay::start_speaking(protocol, Fault::None, 0);
        let report = connect(&relay).run(&mut Silent).unwrap();
        assert!(report.is_sound() && report.completed == 100, "{report}");
        assert!(report.micros.unwrap() > 0.0 && report.connects_per_second > 0.0, "{report}");
    }

    let report = connect(&Relay::start(Fault::Refuse, 0)).run(&mut Silent).unwrap();
    assert!(!report.is_sound() && report.failures["refused with HTTP 503"] == 100, "{report}");
}

fn recover(relay: &Relay) -> Recover {
    Recover {
        targets: vec![relay.target(), relay.target()],
        loss: Loss::Cut,
        clients: 20,
        channels: 4,
        missed: 5,
        size: 128,
        bystanders: 3,
        rate: 100.0,
        duration: Duration::from_millis(200),
        concurrency: 20,
        patience: Duration::from_secs(3),
        processes: Processes::new(vec![std::process::id()]).unwrap(),
        redis: None,
        seed: 1,
    }
}

#[test]
fn who_loses_an_instance_recovers_what_was_missed() {
    for protocol in [Protocol::CentrifugeJson, Protocol::CentrifugeProtobuf] {
        // Clients that did not recover, and what was lost, came twice, and could be recovered.
        let rows = [
            (Fault::None, (0, 0, 0, 100)),
            (Fault::Withhold, (0, 20, 0, 80)),
            (Fault::Repeat, (0, 0, 20, 120)),
            (Fault::Forget, (20, 100, 0, 0)),
        ];
        for (fault, expected) in rows {
            let relay = Relay::start_speaking(protocol, fault, u64::MAX);
            let report = recover(&relay).run(&mut Silent).unwrap();
            let found = (report.unrecovered, report.lost, report.duplicate, report.made_good);
            assert_eq!(found, expected, "{fault:?}: {report}");
            assert_eq!((report.back, report.recovered + report.unrecovered), (20, 20), "{report}");
            assert_eq!((report.due, report.delivered), (220, 220 - report.lost), "{report}");
            assert_eq!((report.reordered, report.phantom), (0, 0), "{report}");
            assert_eq!(report.ends.values().sum::<u64>(), 20, "{report}");
            assert_eq!((report.returned.count, report.is_sound()), (20, fault == Fault::None), "{report}");
            assert!(report.quiet.count > 0 && report.stormy.count > 0, "{report}");
        }
    }
}

#[test]
fn a_storm_that_cannot_be_run_is_named() {
    let relay = Relay::start_speaking(Protocol::CentrifugeJson, Fault::None, 0);
    let raw = Relay::start(Fault::None, 0);
    let good = recover(&relay);
    let rows = [
        (
            Recover { targets: vec![relay.target()], ..good.clone() },
            "the URL of the instance that is lost is needed, and one of another",
        ),
        (
            Recover { targets: vec![raw.target(), raw.target()], ..good.clone() },
            "only clients of the Centrifuge protocol recover: --protocol centrifuge-json",
        ),
        (Recover { missed: 123, ..good.clone() }, "clients can miss 1 to 122 messages of a channel"),
        (Recover { channels: 21, ..good }, "at least one client is needed for each of at least one channel"),
    ];
    for (recover, expected) in rows {
        assert_eq!(recover.run(&mut Silent).unwrap_err().to_string(), expected);
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    let relay = Relay::start(Fault::None, 0);
    let good = fanout(relay.target());
    let rows = [
        (
            Fanout { size: 31, ..good.clone() },
            "a message of 31 bytes has no room for its stamp; the smallest is 32",
        ),
        (
            Fanout { targets: vec![], ..good.clone() },
            "a run needs a URL, a subscriber, a publisher and a round",
        ),
        (
            Fanout { load: Load::Rate(0.0), ..good.clone() },
            "the rate, the number in flight and the duration must be above 0",
        ),
    ];
    for (fanout, expected) in rows {
        let error = fanout.run(&mut Silent).unwrap_err();
        assert!(matches!(error, BenchError::Setting(_)), "{error:?}");
        assert_eq!(error.to_string(), expected);
    }
    let over = |transport| good.targets[0].clone().over(transport).unwrap();
    let mixed = Fanout { targets: vec![over(Transport::Sse), over(Transport::WebSocket)], ..good.clone() };
    let squeezed = Fanout { targets: vec![over(Transport::Sse)], compression: true, ..good.clone() };
    for (fanout, expected) in [
        (mixed, "all URLs of a run have to be spoken to in one protocol, over one transport"),
        (squeezed, "permessage-deflate is WebSocket's: compression needs --transport websocket"),
    ] {
        assert_eq!(fanout.run(&mut Silent).unwrap_err().to_string(), expected);
    }
    let error = Fanout { subscribers: 10_000_000, ..good }.run(&mut Silent).unwrap_err();
    assert!(error.to_string().starts_with("10000001 sockets are more than this process may open"), "{error}");

    let relay = Relay::start(Fault::Refuse, 0);
    let error = fanout(relay.target()).run(&mut Silent).unwrap_err();
    let expected = "not all of 6 connections came about: refused with HTTP 503 (6 times)";
    assert_eq!(error.to_string(), expected);
}

//! A floor is played by processes that are this same program, so this test is a program of its own: without
//! arguments it tests, with arguments it plays a part.
#![expect(clippy::unwrap_used, reason = "here an unwrap is an assertion")]

mod relay;

use std::time::Duration;

use fanfare_bench::{Fanout, Floor, Load, Payload, Processes, Program, Protocol, Silent, Transport, play};
use relay::{Fault, Relay};

fn main() {
    let program =
        Program { path: std::env::current_exe().unwrap(), arguments: vec!["--floor-part".to_owned()] };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, part, settings] = &arguments[..]
        && *flag == program.arguments[0]
    {
        return play(part, settings, &program, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
            .unwrap();
    }
    the_floor_by_itself(&program);
    the_floor_beside_a_server(&program);
}

fn the_floor_by_itself(program: &Program) {
    let floor = Floor {
        subscribers: 20,
        size: 256,
        payload: Payload::Json,
        chunked: false,
        rate: 100.0,
        duration: Duration::from_millis(300),
        warmup: Duration::from_millis(50),
        rounds: 2,
        settle: Duration::from_secs(5),
        threads: 1,
        seed: 1,
    };
    let report = floor.run(program, &mut Silent).unwrap();
    let slices: Vec<_> = report.rounds.iter().map(|slice| (slice.messages, slice.deliveries)).collect();
    assert_eq!(slices, [(30, 600), (30, 600)], "{report}");
    assert!(report.cost.micros > 0.0 && report.rounds[0].latency.count == 600, "{report}");
}

fn the_floor_beside_a_server(program: &Program) {
    let fanout = Fanout {
        targets: vec![Relay::start(Fault::None, 0).target()],
        subscribers: 20,
        publishers: 1,
        size: 128,
        payload: Payload::Binary,
        compression: false,
        load: Load::Rate(100.0),
        duration: Duration::from_millis(300),
        warmup: Duration::ZERO,
        rounds: 3,
        settle: Duration::from_secs(5),
        threads: 1,
        concurrency: 8,
        // The relay runs in this process, and so do its receivers: the ratio means nothing, but there is one.
        processes: Processes::new(vec![std::process::id()]).unwrap(),
        reconnect: false,
        floor: Some(program.clone()),
        seed: 1,
    };
    let report = fanout.run(&mut Silent).unwrap();
    assert!(report.is_sound(), "{report}");
    assert!(report.ratio_to_floor.unwrap() > 1.0, "{report}");
    assert!(report.rounds.iter().all(|round| round.floor.is_some() && round.ratio.is_some()), "{report}");
    assert_eq!(report.floor_cost.unwrap().deliveries, 1_800, "{report}");

    // The floor writes as much as the server does, though it does not speak its protocol.
    let relay = Relay::start_speaking(Protocol::CentrifugeJson, Fault::None, 0);
    let fanout = Fanout { targets: vec![relay.target()], payload: Payload::Json, rounds: 1, ..fanout };
    let report = fanout.run(&mut Silent).unwrap();
    assert!(report.is_sound() && report.ratio_to_floor.is_some(), "{report}");
    let [round] = &report.rounds[..] else { panic!("{report}") };
    let floor = round.floor.as_ref().unwrap();
    assert!(round.server.wire.bytes_per_delivery > 150.0, "{report}");
    assert!(floor.wire.bytes_per_delivery == round.server.wire.bytes_per_delivery, "{report}");

    // In a body, what is around the payloads counts as well.
    let relay = Relay::start(Fault::None, 0);
    let targets = vec![relay.target().over(Transport::Sse).unwrap()];
    let report = Fanout { targets, payload: Payload::Text, ..fanout }.run(&mut Silent).unwrap();
    assert!(report.is_sound() && report.ratio_to_floor.is_some(), "{report}");
    let [round] = &report.rounds[..] else { panic!("{report}") };
    let floor = round.floor.as_ref().unwrap();
    assert!(floor.wire.bytes_per_delivery == round.server.wire.bytes_per_delivery, "{report}");
}

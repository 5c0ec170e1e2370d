//! Raw clients that have missed more than may wait for them at a time: it comes in pieces, as they take them.

use tokio::sync::watch;

use crate::events::{CHANNELS, gap, setup};
use crate::harness::{Client, EventStream, Frame, RedisServer, Said, Setup, Socket, eventually};

/// What was missed is many times what may wait for a client: it comes in pieces, and then what is said meanwhile.
#[tokio::test]
async fn more_than_an_outbox_is_recovered_in_pieces() {
    const MISSED: usize = 3000;
    const MEANWHILE: usize = 1500;
    let redis = RedisServer::start().await;
    for (keys, redis) in [("", None), ("", Some(&redis)), ("history_limit = 7", None)] {
        let keys = format!("workers = 2\noutbox_limit = \"512KiB\"\nmessage_limit = \"32KiB\"\n{keys}");
        let setup = Setup::new(&CHANNELS.replace("history_limit = 10000", "")).tokens().keys(&keys);
        let setup = match redis {
            Some(redis) => setup.redis(&redis.url()),
            None => setup,
        };
        let instance = setup.start().await;
        let said = |number: usize| format!("{number} {}", "x".repeat(number % 7 * 170));
        let url = instance.url("kept:much?echo=false");
        let mut speaker = Client::connect(&url).await;
        let mut bystander = Client::connect(&url).await;
        for number in 1..=MISSED {
            speaker.send(said(number).as_str()).await;
            assert_eq!(bystander.next().await, Said::Text(said(number)));
        }
        let path = "/sse/kept:much";
        let mut stream = EventStream::connect(instance.address(), path, &[("Last-Event-ID", "0")]).await;
        let mut socket = Client::connect(format!("{url}&since=0")).await;
        let mut quiet = Client::connect(format!("{url}&since=0&notices=false")).await;
        // Half as fast as the slowest hears, so that nobody is slow when it has caught up.
        let (progress, mut heard) = watch::channel([0; 3]);
        let speaking = async {
            for number in MISSED + 1..=MISSED + MEANWHILE {
                let most = 2 * (number - MISSED);
                heard.wait_for(|heard| heard.iter().all(|heard| *heard >= most)).await.unwrap();
                speaker.send(said(number).as_str()).await;
                assert_eq!(bystander.next().await, Said::Text(said(number)));
            }
        };
        let on_events = async {
            let mut places = 0;
            for number in 1..=MISSED + MEANWHILE {
                loop {
                    let heard = stream.block().await.expect("the stream goes on");
                    match heard.data {
                        // One says where it is then, and others that it lives.
                        None => places += usize::from(!heard.comment),
                        Some(data) => {
                            assert_eq!((heard.event, data), (None, said(number)));
                            progress.send_modify(|heard| heard[0] = number);
                            break;
                        }
                    }
                }
            }
            assert!(places <= 1, "{places}");
        };
        let on_socket = async |socket: &mut Client, place: usize, notices: bool| {
            let mut places = 0;
            for number in 1..=MISSED + MEANWHILE {
                let mut heard = socket.next().await;
                if matches!(&heard, Said::Text(text) if text.starts_with(r#"{"fanfare":"position""#)) {
                    places += 1;
                    heard = socket.next().await;
                }
                assert_eq!(heard, Said::Text(said(number)));
                progress.send_modify(|heard| heard[place] = number);
            }
            assert!(places <= usize::from(notices), "{places}");
        };
        let (loud, silent) = (on_socket(&mut socket, 1, true), on_socket(&mut quiet, 2, false));
        tokio::join!(speaking, on_events, loud, silent);
        eventually("each has recovered once", async || {
            let outcome = [("outcome", "recovered")];
            instance.metric("fanfare_recoveries_total", &outcome).await == 3.0
        })
        .await;
        assert_eq!(instance.metric("fanfare_recoveries_total", &[]).await, 3.0);
        assert_eq!(instance.metric("fanfare_slow_consumers_total", &[]).await, 0.0);
        // And on it goes.
        speaker.send("the end").await;
        for socket in [&mut socket, &mut quiet] {
            let heard = match socket.next().await {
                Said::Text(text) if text.contains("position") => socket.next().await,
                heard => heard,
            };
            assert_eq!(heard, Said::from("the end"));
        }
        assert_eq!(stream.next().await.unwrap().data.as_deref(), Some("the end"));
    }
}

/// The history does not wait for a client that takes its time: what has gone meanwhile is a gap, in its place.
#[tokio::test]
async fn what_is_forgotten_before_its_turn_is_a_gap() {
    const KEPT: usize = 400;
    let channels = CHANNELS.replace("history_size = 100000", &format!("history_size = {KEPT}"));
    let keys = "outbox_limit = \"128KiB\"\nmessage_limit = \"32KiB\"";
    let instance = Setup::new(&channels).tokens().keys(keys).start().await;
    let said = |number: usize| format!("{number} {}", "x".repeat(8 << 10));
    let mut speaker = Client::connect(instance.url("kept:much?echo=false")).await;
    let mut bystander = Client::connect(instance.url("kept:much")).await;
    let mut speak = async |numbers: std::ops::RangeInclusive<usize>| {
        for number in numbers {
            speaker.send(said(number).as_str()).await;
            assert_eq!(bystander.next().await, Said::Text(said(number)));
        }
    };
    speak(1..=KEPT).await;
    let headers = [("Last-Event-ID", "0")];
    let mut stream = EventStream::connect(instance.address(), "/sse/kept:much", &headers).await;
    assert_eq!(stream.next().await.unwrap().data, Some(said(1)));
    speak(KEPT + 1..=3 * KEPT).await;
    let mut number = 1;
    let heard = loop {
        let heard = stream.next().await.unwrap();
        if heard.event.is_some() {
            break heard;
        }
        number += 1;
        assert_eq!(heard.data, Some(said(number)));
    };
    assert_eq!(heard, gap("kept:much"));
    assert!(number < KEPT, "{number}");
    let place = stream.block().await.unwrap();
    assert!(place.id.is_some_and(|id| id.starts_with(&format!("{}:", 3 * KEPT))) && place.data.is_none());
    speak(3 * KEPT + 1..=3 * KEPT + 2).await;
    assert_eq!(stream.take(2).await, [said(3 * KEPT + 1), said(3 * KEPT + 2)]);
    let outcome = [("outcome", "too_far")];
    assert_eq!(instance.metric("fanfare_recoveries_total", &outcome).await, 1.0);
}

/// Whoever asks for much and takes nothing is slow, and costs no more than an outbox until that is clear.
#[tokio::test]
async fn who_does_not_take_what_it_missed_is_cut() {
    let keys = "workers = 1\noutbox_limit = \"128KiB\"\nmessage_limit = \"32KiB\"";
    let instance = setup(keys).start().await;
    let said = |number: usize| format!("{number} {}", "x".repeat(8 << 10));
    let mut speaker = Client::connect(instance.url("kept:much?echo=false")).await;
    let mut bystander = Client::connect(instance.url("kept:much")).await;
    for number in 1..=300 {
        speaker.send(said(number).as_str()).await;
        assert_eq!(bystander.next().await, Said::Text(said(number)));
    }
    let mut slow = Socket::connect_narrow(instance.address()).await;
    assert_eq!(slow.upgrade("kept:much?since=0", &[]).await.status, 101);
    let stream = EventStream::connect(instance.address(), "/sse/kept:much", &[("Last-Event-ID", "0")]).await;
    let mut number = 300;
    eventually("both are cut", async || {
        number += 1;
        speaker.send(said(number).as_str()).await;
        assert_eq!(bystander.next().await, Said::Text(said(number)));
        let waits = instance.metric("fanfare_outbox_bytes", &[]).await;
        assert!(waits <= 2.0 * 128.0 * 1024.0, "{waits}");
        instance.metric("fanfare_slow_consumers_total", &[]).await == 2.0
    })
    .await;
    drop(stream);
    let mut heard = 0;
    let end = loop {
        match slow.next_but_pings().await {
            Some(Frame { opcode: Frame::TEXT, payload }) => {
                heard += 1;
                assert_eq!(payload, said(heard).into_bytes());
            }
            other => break other,
        }
    };
    assert_eq!(end.expect("a close frame").close(), Some((1008, "slow consumer".into())));
    assert!(heard < 300, "{heard}");
}

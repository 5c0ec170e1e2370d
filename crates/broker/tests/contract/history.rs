//! What every broker owes its instance about channels with a history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{AppendOptions, Appended, BrokerError, Query, Suppressed, Version};
use fanfare_protocol::{Epoch, Info, Kind, Position, Publication};

use crate::Cluster;
use crate::instance::{channel, eventually};

fn text(text: &str) -> Publication {
    Publication::new(Kind::Text, Bytes::copy_from_slice(text.as_bytes()))
}

pub async fn numbers_have_no_holes_and_all_see_the_same(cluster: Cluster) {
    const THREADS: usize = 4;
    const EACH: usize = 300;
    let channels: Vec<_> = (0..4).map(|n| channel(&format!("kept:10000:order {n}"))).collect();
    for instance in &cluster.instances {
        for channel in &channels {
            instance.join(channel).await;
        }
    }
    let runtime = tokio::runtime::Handle::current();
    let threads: Vec<_> = (0..THREADS)
        .flat_map(|thread| {
            cluster.instances.iter().enumerate().map(move |(n, instance)| (thread, n, instance))
        })
        .map(|(thread, n, instance)| {
            let (broker, channels, runtime) = (instance.broker.clone(), channels.clone(), runtime.clone());
            std::thread::spawn(move || {
                for number in 0..EACH {
                    for channel in &channels {
                        let publication = text(&format!("{n}/{thread}:{number}"));
                        // Now and then somebody waits, with a key or without.
                        let key = (number % 50 == 0).then(|| format!("{n}/{thread}:{number}"));
                        if number % 10 > 0 {
                            broker.publish(channel, publication);
                            continue;
                        }
                        let options = AppendOptions { idempotency_key: key, ..AppendOptions::default() };
                        let appended = runtime.block_on(broker.append(channel, publication, options));
                        assert!(appended.expect("it is appended").position.is_some());
                    }
                }
            })
        })
        .collect();
    let publishers = threads.len();
    threads.into_iter().for_each(|thread| thread.join().expect("it publishes"));
    for channel in &channels {
        let mut first = None;
        for instance in &cluster.instances {
            let all = publishers * EACH;
            instance.relay.until("all", |relay| relay.delivered(channel).len() >= all).await;
            let numbered = instance.relay.numbered(channel);
            assert!(numbered.iter().map(|(offset, _)| *offset).eq(1..=all as u64), "1, 2, 3, each once");
            for publisher in 0..publishers {
                let name = format!("{}/{}:", publisher / THREADS, publisher % THREADS);
                let numbers =
                    numbered.iter().filter_map(|(_, text)| text.strip_prefix(&name)?.parse::<usize>().ok());
                assert!(numbers.eq(0..EACH), "{name} in its own order");
            }
            assert!(instance.kept(channel).await == numbered, "the history is what was delivered");
            assert!(*first.get_or_insert(numbered.clone()) == numbered, "one order for all instances");
            assert_eq!(instance.relay.gaps(channel), []);
        }
    }
}

pub async fn histories_are_read_as_asked(cluster: Cluster) {
    let channel = channel("kept:5:read");
    let broker = &cluster.instances[0].broker;
    let empty = broker.history(&channel, Query::ALL).await.expect("it can be read");
    assert_eq!((empty.publications.len(), empty.top.offset, empty.epoch_matches), (0, 0, true));
    for number in 1..=8 {
        let appended = cluster.instances[0].append(&channel, &number.to_string()).await;
        let expected = Position { offset: number, epoch: empty.top.epoch };
        assert_eq!(appended, Ok(Some(expected)), "an empty history has an epoch already");
    }
    let epoch = empty.top.epoch;
    let at = |offset| Some(Position { offset, epoch });
    let elsewhere = |name, offset| Some(Position { offset, epoch: Epoch::claimed(name) });
    let all = usize::MAX;
    // Since, limit, reverse; offsets, whether the epoch is right. 4 to 8 are kept.
    type Row = (Option<Position>, usize, bool, &'static [u64], bool);
    let rows: &[Row] = &[
        (None, 0, false, &[], true),
        (None, all, false, &[4, 5, 6, 7, 8], true),
        (None, 2, false, &[4, 5], true),
        (None, all, true, &[8, 7, 6, 5, 4], true),
        (None, 2, true, &[8, 7], true),
        (at(0), all, false, &[4, 5, 6, 7, 8], true),
        (at(3), all, false, &[4, 5, 6, 7, 8], true),
        (at(5), all, false, &[6, 7, 8], true),
        (at(5), 2, false, &[6, 7], true),
        (at(5), 0, false, &[], true),
        (at(8), all, false, &[], true),
        (at(9), all, false, &[], true),
        (at(u64::MAX), all, false, &[], true),
        (at(0), all, true, &[], true),
        (at(1), all, true, &[], true),
        (at(4), all, true, &[], true),
        (at(6), all, true, &[5, 4], true),
        (at(6), 1, true, &[5], true),
        (at(9), all, true, &[8, 7, 6, 5, 4], true),
        (at(u64::MAX), all, true, &[8, 7, 6, 5, 4], true),
        (elsewhere("", 5), all, false, &[6, 7, 8], true),
        (elsewhere("", 6), all, true, &[5, 4], true),
        (elsewhere("_", 0), all, false, &[], false),
        (elsewhere("other", 5), all, false, &[], false),
        (elsewhere("other", 5), all, true, &[], false),
        (elsewhere("much too long to be an epoch", 5), all, false, &[], false),
    ];
    for instance in &cluster.instances {
        for &(since, limit, reverse, expected, epoch_matches) in rows {
            let query = Query { since, limit, reverse, ..Query::TOP };
            let read = instance.broker.history(&channel, query).await.expect("it can be read");
            let offsets: Vec<_> =
                read.publications.iter().filter_map(|read| Some(read.position?.offset)).collect();
            assert_eq!((&offsets[..], read.epoch_matches), (expected, epoch_matches), "{query:?}");
            assert_eq!(read.top, Position { offset: 8, epoch }, "{query:?}");
            let texts =
                read.publications.iter().map(|read| String::from_utf8_lossy(&read.payload).into_owned());
            assert!(texts.eq(expected.iter().map(ToString::to_string)));
        }
        assert_eq!(instance.broker.position(&channel).await, Ok(Position { offset: 8, epoch }));
        assert!(instance.broker.status().history_reads > rows.len() as u64);
    }
}

/// Who has room for only so many bytes gets all of it or nothing, and is told what all of it would be.
pub async fn what_is_more_than_there_is_room_for_is_not_given(cluster: Cluster) {
    const EACH: usize = 1000;
    const COUNT: u64 = 200;
    let (channel, broker) = (channel("kept:200:large"), &cluster.instances[0].broker);
    let epoch = broker.position(&channel).await.expect("it can be read").epoch;
    for _ in 0..COUNT {
        cluster.instances[0].append(&channel, &"x".repeat(EACH)).await.expect("it is appended");
    }
    // Since, limit, reverse, room; how many there are, and whether they are given.
    let all = usize::MAX;
    type Row = (u64, usize, bool, usize, u64, bool);
    let rows: &[Row] = &[
        (0, all, false, all, 200, true),
        (0, all, false, 250 * EACH, 200, true),
        (0, all, false, 150 * EACH, 200, false),
        (0, all, false, 2 * EACH, 200, false),
        (0, all, false, 0, 200, false),
        (195, all, false, 6 * EACH, 5, true),
        (195, all, false, 5 * EACH, 5, false),
        (195, 3, false, 20 * EACH, 3, true),
        // What is kept behind is not in the way.
        (100, 3, false, 5 * EACH, 3, true),
        (150, all, false, 20 * EACH, 50, false),
        (100, 60, false, 20 * EACH, 60, false),
        (200, all, false, 0, 0, true),
        (300, all, false, 0, 0, true),
        (0, 0, false, 0, 0, true),
        (6, all, true, 30 * EACH, 5, true),
        (101, all, true, 50 * EACH, 100, false),
    ];
    for instance in &cluster.instances {
        for &(since, limit, reverse, room, count, is_given) in rows {
            let query = Query { reverse, ..Query::since(Position { offset: since, epoch }, limit) };
            let query = query.within(room);
            let read = instance.broker.history(&channel, query).await.expect("it can be read");
            let given = if is_given { count } else { 0 };
            assert_eq!((read.publications.len() as u64, read.too_much), (given, !is_given), "{query:?}");
            assert_eq!((read.top.offset, read.epoch_matches), (COUNT, true), "{query:?}");
            // About: what is kept together is read together, and of what is much only a part.
            let (least, most) = (count as usize * EACH, (count as usize + 16) * EACH * 11 / 10);
            assert!((least..=most.max(1)).contains(&read.bytes) || count == 0, "{query:?}: {}", read.bytes);
        }
    }
    let elsewhere = Position { offset: 0, epoch: Epoch::claimed("other") };
    let read =
        broker.history(&channel, Query::since(elsewhere, all).within(0)).await.expect("it can be read");
    assert_eq!((read.epoch_matches, read.too_much, read.bytes), (false, false, 0));
    // What comes with a payload counts as the payload does.
    let said = || text("");
    let (info, tags) = ("x".repeat(EACH), [("tag".to_owned(), "x".repeat(EACH))].into());
    let info = Some(Arc::new(Info { conn_info: info.into(), ..Info::default() }));
    for (at, publication) in
        [Publication { info, ..said() }, Publication { tags: Some(Arc::new(tags)), ..said() }]
            .into_iter()
            .enumerate()
    {
        let channel = self::channel(&format!("kept:200:with much {at}"));
        let options = AppendOptions::default();
        broker.append(&channel, publication, options).await.expect("it is appended");
        let read = broker.history(&channel, Query { limit: 1, ..Query::TOP }.within(EACH)).await;
        assert!(read.expect("it can be read").too_much);
    }
}

/// Whatever was published at once is kept together, and is still read one by one.
pub async fn what_was_published_at_once_is_read_one_by_one(cluster: Cluster) {
    const COUNT: u64 = 300;
    const SIZE: u64 = 100;
    let (channel, instance) = (channel("kept:100:at once"), &cluster.instances[0]);
    instance.join(&channel).await;
    for number in 1..=COUNT {
        instance.broker.publish(&channel, text(&number.to_string()));
    }
    instance.relay.until("all", |relay| relay.delivered(&channel).len() as u64 >= COUNT).await;
    let epoch = instance.broker.position(&channel).await.expect("it can be read").epoch;
    for since in [0, 150, 199, 200, 201, 207, 231, 299, 300] {
        for limit in [1, 2, 15, 16, 17, 99, 1000] {
            for reverse in [false, true] {
                let since_then = Some(Position { offset: since, epoch });
                let query = Query { since: since_then, limit, reverse, ..Query::TOP };
                let read = instance.broker.history(&channel, query).await.expect("it can be read");
                let kept = COUNT - SIZE + 1..=COUNT;
                let expected: Vec<u64> = match reverse {
                    false => kept.filter(|offset| *offset > since).take(limit).collect(),
                    true => kept.rev().filter(|offset| *offset < since).take(limit).collect(),
                };
                let offsets: Vec<_> =
                    read.publications.iter().filter_map(|read| Some(read.position?.offset)).collect();
                assert_eq!(offsets, expected, "{query:?}");
                let texts =
                    read.publications.iter().map(|read| String::from_utf8_lossy(&read.payload).into_owned());
                assert!(texts.eq(expected.iter().map(ToString::to_string)), "{query:?}");
            }
        }
    }
}

pub async fn appends_say_where_they_are(cluster: Cluster) {
    let (kept, plain) = (channel("kept:9"), channel("plain"));
    for instance in &cluster.instances {
        instance.join(&kept).await;
        instance.join(&plain).await;
    }
    for (n, instance) in cluster.instances.iter().enumerate() {
        let at = instance.append(&kept, "kept").await.expect("it is appended").expect("it has a position");
        assert_eq!(at.offset, n as u64 + 1);
        assert_eq!(instance.append(&plain, "plain").await, Ok(None));
        assert_eq!(instance.broker.history(&plain, Query::TOP).await, Err(BrokerError::NoHistory));
        assert_eq!(instance.broker.remove_history(&plain).await, Err(BrokerError::NoHistory));
    }
    let times = cluster.instances.len();
    for instance in &cluster.instances {
        instance.relay.until_delivered(&kept, &vec!["kept"; times]).await;
        instance.relay.until_delivered(&plain, &vec!["plain"; times]).await;
        assert_eq!(instance.relay.numbered(&plain), []);
    }
}

pub async fn a_key_publishes_once(cluster: Cluster) {
    let short = AppendOptions { idempotency_ttl: Duration::from_millis(200), ..AppendOptions::once("short") };
    for name in ["kept:9", "plain"] {
        let (here, elsewhere) = (channel(name), channel(&format!("{name}:elsewhere")));
        let mut results = Vec::new();
        for instance in &cluster.instances {
            instance.join(&here).await;
            instance.join(&elsewhere).await;
        }
        for instance in &cluster.instances {
            for (channel, key) in [(&here, "a"), (&here, "a"), (&elsewhere, "a"), (&here, "b")] {
                let append = instance.broker.append(channel, text(key), AppendOptions::once(key)).await;
                let Appended { position, suppressed } = append.expect("it is appended");
                results.push((position.map(|position| position.offset), suppressed));
            }
        }
        let offsets = [1, 1, 1, 2].map(|offset| name.starts_with("kept").then_some(offset));
        let repeated = Some(Suppressed::Repeated);
        let first = offsets.into_iter().zip([None, repeated, None, None]);
        let others = offsets.into_iter().cycle().take(results.len() - 4).zip(std::iter::repeat(repeated));
        assert!(first.chain(others).eq(results), "{name}");
        let broker = &cluster.instances[0].broker;
        broker.append(&here, text("short"), short.clone()).await.expect("it is appended");
        let mut tries = 0;
        eventually("the key is forgotten", async || {
            tries += 1;
            broker.append(&here, text("short"), short.clone()).await.expect("it is appended");
            cluster.instances[0].relay.delivered(&here).len() > 3
        })
        .await;
        assert!(tries > 1, "and not at once");
        cluster.instances[0].publish(&elsewhere, "end");
        for instance in &cluster.instances {
            instance.relay.until_delivered(&here, &["a", "b", "short", "short"]).await;
            instance.relay.until_delivered(&elsewhere, &["a", "end"]).await;
        }
    }
}

pub async fn what_is_not_newer_is_not_published(cluster: Cluster) {
    let (kept, plain) = (channel("kept:9"), channel("plain"));
    for instance in &cluster.instances {
        instance.join(&kept).await;
        instance.join(&plain).await;
    }
    let version = |number, epoch: &str| {
        let version = Some(Version { number, epoch: epoch.to_owned() });
        AppendOptions { version, ..AppendOptions::default() }
    };
    // Beyond what a float holds, as Lua's numbers are.
    const GREAT: u64 = u64::MAX - 1;
    // What is published with which version, and where the history stands then.
    let rows = [
        ("a", version(5, ""), 1),
        ("b", version(5, ""), 1),
        ("c", version(4, ""), 1),
        ("d", version(10, ""), 2),
        ("e", AppendOptions::default(), 3),
        ("f", version(9, ""), 3),
        ("g", version(1, "x"), 4),
        ("h", version(1, "x"), 4),
        ("i", version(1, ""), 4),
        ("j", version(2, ""), 5),
        ("k", version(GREAT, ""), 6),
        ("l", version(GREAT, ""), 6),
        ("m", version(GREAT - 1, ""), 6),
        ("n", version(u64::MAX, ""), 7),
    ];
    let published = ["a", "d", "e", "g", "j", "k", "n"];
    for (n, (said, options, offset)) in rows.into_iter().enumerate() {
        let broker = &cluster.instances[n % cluster.instances.len()].broker;
        let appended = broker.append(&kept, text(said), options.clone()).await.expect("it is appended");
        assert_eq!(appended.position.map(|position| position.offset), Some(offset), "{said} {options:?}");
        let outdated = (!published.contains(&said)).then_some(Suppressed::Outdated);
        assert_eq!(appended.suppressed, outdated, "{said} {options:?}");
        let appended = broker.append(&plain, text(said), options).await;
        assert_eq!(appended, Ok(Appended { position: None, suppressed: None }));
    }
    for instance in &cluster.instances {
        instance.relay.until_delivered(&kept, &published).await;
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];
        instance.relay.until_delivered(&plain, &all).await;
    }
}

pub async fn what_skips_the_history_stands_outside_of_it(cluster: Cluster) {
    let kept = channel("kept:9");
    for instance in &cluster.instances {
        instance.join(&kept).await;
    }
    let broker = &cluster.instances[0].broker;
    let skip = AppendOptions { skip_history: true, ..AppendOptions::default() };
    let once = |key: &str| AppendOptions { skip_history: true, ..AppendOptions::once(key) };
    let repeated = ["d", "D", "G"];
    for (said, options, position) in [
        ("a", AppendOptions::default(), Some(1)),
        ("b", skip.clone(), None),
        ("c", once("key"), None),
        ("d", once("key"), None),
        // The first result is the one, wherever the first went.
        ("D", AppendOptions::once("key"), None),
        ("e", AppendOptions::default(), Some(2)),
        ("f", skip, None),
        ("g", AppendOptions::once("other"), Some(3)),
        ("G", once("other"), Some(3)),
    ] {
        let appended = broker.append(&kept, text(said), options).await.expect("it is appended");
        assert_eq!(appended.position.map(|position| position.offset), position, "{said}");
        assert_eq!(appended.suppressed, repeated.contains(&said).then_some(Suppressed::Repeated), "{said}");
    }
    let numbered = [(1, "a".to_owned()), (2, "e".to_owned()), (3, "g".to_owned())];
    for instance in &cluster.instances {
        let all = ["a", "b", "c", "e", "f", "g"];
        if cluster.others.is_empty() {
            instance.relay.until_delivered(&kept, &all).await;
        } else {
            // What is numbered comes from the node that has the channel's keys, the rest from another.
            instance.relay.until("all", |relay| relay.delivered(&kept).len() >= all.len()).await;
            let mut delivered = instance.relay.delivered(&kept);
            delivered.sort();
            assert_eq!(delivered, all);
        }
        assert_eq!(
            (instance.relay.numbered(&kept), instance.kept(&kept).await),
            (numbered.to_vec(), numbered.to_vec())
        );
        assert_eq!(instance.relay.gaps(&kept), []);
    }
}

pub async fn a_history_has_a_size_and_a_life(cluster: Cluster) {
    let (small, brief) = (channel("kept:3"), channel("brief"));
    let instance = &cluster.instances[0];
    let started = std::time::Instant::now();
    let mut last = None;
    for number in 1..=200 {
        instance.append(&small, &number.to_string()).await.expect("it is appended");
        last = instance.append(&brief, &number.to_string()).await.expect("it is appended");
    }
    let last = last.expect("it has a position");
    let three = [198, 199, 200].map(|number| (number, number.to_string()));
    assert_eq!(instance.kept(&small).await, three);
    assert!(started.elapsed() > Duration::from_secs(30) || !instance.kept(&brief).await.is_empty());
    // Reading the publications only, or the numbering would live as long as it is used.
    eventually("its life is over", async || instance.kept(&brief).await.is_empty()).await;
    let next = instance.append(&brief, "next").await.expect("it is appended").expect("it has a position");
    assert_eq!(next, Position { offset: last.offset + 1, ..last }, "the numbering lives longer");
    assert_eq!(instance.kept(&brief).await, [(last.offset + 1, "next".to_owned())]);
    let Some(server) = &cluster.server else {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let later = instance.broker.position(&brief).await.expect("it can be read");
        assert!(
            later.offset > last.offset && later.epoch == last.epoch,
            "no offset is given twice: {later:?}"
        );
        return;
    };
    eventually("even the numbering is forgotten", async || {
        server.command::<u64>(&["EXISTS", "fanfare:top:{brief}"]).await == 0
    })
    .await;
    let later = instance.broker.position(&brief).await.expect("it can be read");
    assert!(later.offset == 0 && later.epoch != last.epoch, "{later:?}");
}

pub async fn a_removed_history_goes_on_counting(cluster: Cluster) {
    let channel = channel("kept:9:removed");
    let instance = &cluster.instances[0];
    instance.join(&channel).await;
    instance.append(&channel, "one").await.expect("it is appended");
    instance.broker.remove_history(&channel).await.expect("it is removed");
    assert_eq!(instance.kept(&channel).await, []);
    assert_eq!(instance.broker.position(&channel).await.map(|top| top.offset), Ok(1));
    instance.append(&channel, "two").await.expect("it is appended");
    assert_eq!(instance.kept(&channel).await, [(2, "two".to_owned())]);
    instance.relay.until_delivered(&channel, &["one", "two"]).await;
    assert_eq!(instance.relay.gaps(&channel), []);
}

pub async fn whoever_joins_and_reads_misses_nothing(cluster: Cluster) {
    let publisher = cluster.instances.last().expect("there is one").broker.clone();
    let channels: Vec<_> = (0..20).map(|n| channel(&format!("kept:100000:joined {n}"))).collect();
    let (stop, to) = (Arc::new(AtomicBool::new(false)), channels.clone());
    let stopped = stop.clone();
    let publishing = std::thread::spawn(move || {
        while !stopped.load(SeqCst) {
            to.iter().for_each(|channel| publisher.publish(channel, text("x")));
            std::thread::yield_now();
        }
    });
    let joiner = &cluster.instances[0];
    for channel in &channels {
        joiner.join(channel).await;
        let read = joiner.kept(channel).await;
        let after = read.last().map_or(0, |(offset, _)| *offset);
        // As a session would: what it has read, and of what it hears all that is newer.
        joiner
            .relay
            .until("something newer", |relay| {
                relay.numbered(channel).last().is_some_and(|(offset, _)| *offset > after)
            })
            .await;
        let heard = joiner.relay.numbered(channel);
        let newer = heard.iter().filter(|(offset, _)| *offset > after);
        assert!(
            read.iter().chain(newer.clone()).map(|(offset, _)| *offset).eq(1..=after + newer.count() as u64)
        );
        joiner.relay.assert_contiguous(channel);
        joiner.leave(channel);
    }
    stop.store(true, SeqCst);
    publishing.join().expect("it publishes");
}

pub async fn what_was_said_of_a_publication_is_kept(cluster: Cluster) {
    let channel = channel("kept:9:said");
    let sent = Publication {
        exclude: Some(uuid::Uuid::from_u128(7)),
        info: Some(Arc::new(Info {
            user: "ada".into(),
            client: "c1".into(),
            conn_info: Bytes::from_static(b"{}"),
            chan_info: Bytes::new(),
        })),
        tags: Some(Arc::new(BTreeMap::from([("key".to_owned(), "value".to_owned())]))),
        ..Publication::new(Kind::Binary, Bytes::from_static(b"\xFA\x00\xFF"))
    };
    let publisher = cluster.instances.last().expect("there is one");
    let at = publisher.broker.append(&channel, sent.clone(), AppendOptions::default()).await;
    let expected = Publication { position: at.expect("it is appended").position, ..sent };
    for instance in &cluster.instances {
        let read = instance.broker.history(&channel, Query::ALL).await.expect("it can be read");
        assert_eq!(read.publications, std::slice::from_ref(&expected));
    }
}

//! Frames that are made when somebody is to get them.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use fanfare_hub::{Frame, Unmade};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::*;

/// What is made takes so much of a turn that there is room for one.
const MUCH: usize = 256 << 10;

const SIX: [Format; 6] = {
    const fn of(encoding: Encoding, carrier: Carrier) -> Format {
        Format { encoding, carrier }
    }
    [
        of(Encoding::Raw, Carrier::Deflated),
        of(Encoding::Raw, Carrier::DeflatedNarrowly),
        of(Encoding::Json, Carrier::Deflated),
        of(Encoding::Json, Carrier::DeflatedNarrowly),
        of(Encoding::Protobuf, Carrier::Deflated),
        of(Encoding::Protobuf, Carrier::DeflatedNarrowly),
    ]
};

/// Delivers what has yet to be made in every format that is wanted, which takes so much work; `make` makes it.
fn deliver_unmade(
    hub: &Hub,
    channel: &str,
    work: usize,
    make: impl Fn(Format) -> Bytes + Clone + Send + Sync + 'static,
) {
    let channel = Channel::new(channel).unwrap();
    let audience = hub.audience(&channel);
    let frames = Frames::new(audience.formats.iter().map(|format| {
        let make = make.clone();
        (format, Frame::Later(Box::new(Unmade::new(100, work, move || make(format)))))
    }));
    let delivery = Delivery { frames, exclude: None, published_at: 0, offset: 0, tags: None, news: false };
    hub.deliver(audience.workers, &channel, &delivery);
}

/// However many formats are wanted, a neighbour waits for one of them and not for six; and each is made once for all.
#[test]
fn a_worker_gives_way_between_two_formats() {
    // What one takes, and how many are made in one turn.
    for (work, most) in [(MUCH, 1), (MUCH / 2, 2), (1, 6)] {
        with_shard(settings(), async |bench| {
            let mut peers = Vec::new();
            for format in SIX.into_iter().chain(SIX) {
                peers.push((format, bench.subscribed(wanting(format, "a"), None).await));
            }
            // One for whom it is held until its position is found gets no more at once.
            let held = Subscription { held: true, ..wanting(SIX[0], "a") };
            bench.subscribed(held, None).await;
            let mut bystander = bench.peer("b", true, false).await;

            let made = Arc::new(Mutex::new(Vec::new()));
            let log = made.clone();
            deliver_unmade(&bench.hub, "a", work, move |format| {
                log.lock().unwrap().push(format);
                written(format, b"large")
            });
            bench.publish("b", b"small", None);
            let (mut before, mut at_once) = (0, 0);
            while before < SIX.len() {
                yield_now().await;
                let now = made.lock().unwrap().len();
                assert!(now > before || bench.shard.stats().deliveries.read() > 0, "it goes on");
                (before, at_once) = (now, at_once.max(now - before));
                if most == 1 && now < SIX.len() && bench.shard.stats().messages_out.read() == 0 {
                    assert!(now < 2, "the neighbour has waited for {now}");
                }
            }
            assert_eq!(at_once, most, "in one turn");
            bystander.expect(&[binary(b"small")]).await;
            for (format, peer) in &mut peers {
                peer.expect(&[written(*format, b"large")]).await;
            }
            assert_eq!(made.lock().unwrap().len(), SIX.len(), "once each");
            assert_eq!(bench.hub.inbox_bytes(), 0);
        });
    }
}

/// Who leaves gets what it is owed first, and the round of the others goes on behind it.
#[test]
fn what_has_yet_to_be_made_is_made_for_who_leaves() {
    with_shard(settings(), async |bench| {
        let mut stays = bench.subscribed(wanting(DEFLATED, "a"), None).await;
        let mut leaves = bench.subscribed(wanting(DEFLATED, "a"), None).await;
        for _ in 0..3 {
            deliver_unmade(&bench.hub, "a", MUCH, |format| written(format, b"large"));
        }
        yield_now().await;
        assert!(bench.shard.unsubscribe(leaves.key, &Channel::new("a").unwrap()));
        bench.hub.gap(None);
        deliver_unmade(&bench.hub, "a", MUCH, |format| written(format, b"last"));
        let large = written(DEFLATED, b"large");
        stays.expect(&[large.clone(), large.clone(), large.clone(), written(DEFLATED, b"last")]).await;
        bench.shard.end(leaves.key, fanfare_hub::End::Kicked);
        let found = leaves.read_to_end().await;
        assert!(found.starts_with(&large) && !found.ends_with(&written(DEFLATED, b"last")), "{found:?}");
    });
}

/// A worker whose members need what another is at serves others meanwhile, and theirs as soon as it is made.
#[test]
fn nobody_waits_for_what_another_worker_makes() {
    let (hub, mut inboxes) = Hub::new(2, Bounds::default(), PHRASES);
    let [other, own] = [inboxes.remove(0), inboxes.remove(0)];
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel();
    let (ready, is_ready) = channel();
    let (end, ended) = oneshot::channel();

    let others_hub = hub.clone();
    let others = thread::spawn(move || {
        on_worker(others_hub, other, settings(), async |bench| {
            let mut peer = bench.subscribed(wanting(DEFLATED, "a"), None).await;
            ready.send(()).unwrap();
            peer.expect(&[written(DEFLATED, b"large")]).await;
            let _ = ended.await;
        });
    });
    is_ready.recv().unwrap();
    on_worker(hub, own, settings(), async |bench| {
        let mut peer = bench.subscribed(wanting(DEFLATED, "a"), None).await;
        let mut bystander = bench.peer("b", true, false).await;
        let slow = Slow::new(begun, may_go_on);
        let times = slow.times.clone();
        deliver_unmade(&bench.hub, "a", MUCH, move |format| slow.make(format));
        // Nothing runs on this thread until it is awaited, so it is the other worker's.
        has_begun.recv_timeout(SOON).expect("the other worker makes it");
        for text in [b"one", b"two"] {
            bench.publish("b", text, None);
            bystander.expect(&[binary(text)]).await;
        }
        assert_eq!(*times.lock().unwrap(), (1, 0), "begun, and not done");
        go_on.send(()).unwrap();
        peer.expect(&[written(DEFLATED, b"large")]).await;
        assert_eq!(*times.lock().unwrap(), (1, 1), "once for both");
        end.send(()).unwrap();
    });
    others.join().unwrap();
}

/// Makes a frame when the test says so.
#[derive(Clone)]
struct Slow {
    begun: Sender<()>,
    go_on: Arc<Mutex<Receiver<()>>>,
    /// How often it was begun, and done.
    times: Arc<Mutex<(usize, usize)>>,
}

impl Slow {
    fn new(begun: Sender<()>, go_on: Receiver<()>) -> Self {
        Self { begun, go_on: Arc::new(Mutex::new(go_on)), times: Arc::default() }
    }

    fn make(&self, format: Format) -> Bytes {
        self.times.lock().unwrap().0 += 1;
        let _ = self.begun.send(());
        let _ = self.go_on.lock().unwrap().recv_timeout(SOON);
        self.times.lock().unwrap().1 += 1;
        written(format, b"large")
    }
}

//! Clients of the protocol that are cut off and come back, as a library has them, and the rules that what they have
//! seen is held against. Who publishes, and what goes wrong meanwhile, is the business of the tests that use them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::{Caller, Instance, Setup};

/// An instance with an API, whose clients recover up to so many publications, and that gives Redis up after this time.
/// Nobody is pinged: whoever publishes does not always listen.
pub fn setup(kept: u64, redis_timeout: &str) -> Setup {
    let setup = Setup::open(&format!("history_size = {kept}\nrecovery = \"force\"")).api();
    setup.flags(&["--redis-timeout", redis_timeout, "--client-ping-interval", "10m"])
}

/// An epoch and an offset.
pub type Place = (String, u64);

/// Who has published it, and as the how manieth.
pub type Number = (u64, u64);

/// What one client has seen.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// It has a place now. It has asked for what it missed behind another one, if it had one.
    Place { asked: Option<Place>, given: Place, whole: bool },
    /// A publication at this offset.
    Publication(u64, Number),
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Some clients in the channel "kept", and what each has seen.
pub struct Recovering {
    clients: JoinSet<()>,
    cuts: Vec<mpsc::Sender<()>>,
    logs: Vec<Log>,
}

impl Recovering {
    pub const COUNT: usize = 6;

    /// Connects them to the instances in turn, to which they come back.
    pub fn start(instances: &[Instance]) -> Self {
        let (mut clients, mut cuts, mut logs) = (JoinSet::new(), Vec::new(), Vec::new());
        for number in 0..Self::COUNT {
            let (cut, asked) = mpsc::channel(8);
            let log = Log::default();
            clients.spawn(client(instances[number % instances.len()].address(), log.clone(), asked));
            cuts.push(cut);
            logs.push(log);
        }
        Self { clients, cuts, logs }
    }

    /// Has one lose its connection. False if it has yet to lose it for the eight times before.
    pub fn cut(&self, number: usize) -> bool {
        self.cuts[number].try_send(()).is_ok()
    }

    /// Whether all are subscribed.
    pub fn are_there(&self) -> bool {
        self.logs.iter().all(|log| !log.lock().is_empty())
    }

    /// Whether all have heard this publication.
    pub fn have_heard(&self, number: Number) -> bool {
        let is_it = |seen: &Seen| matches!(seen, Seen::Publication(_, other) if *other == number);
        self.logs.iter().all(|log| log.lock().iter().any(is_it))
    }

    /// Lets them go, and holds what they have seen against the rules where `kept` publications are kept: what they were
    /// told they had recovered is everything, once and in order; what they were told is missing, the history has lost.
    /// `all` is what stands where, as far as it is known. Gives, of all together, how each place was come by.
    pub async fn judged(self, kept: u64, all: &mut HashMap<Place, Number>, seed: u64) -> Vec<&'static str> {
        let Self { mut clients, cuts, logs } = self;
        drop(cuts);
        while clients.join_next().await.is_some_and(|ended| ended.is_ok()) {}
        assert!(clients.is_empty(), "seed {seed}: a client has panicked");
        logs.iter().flat_map(|log| judge(&log.lock(), kept, all, seed)).collect()
    }
}

/// A client as a library has it: it comes back, subscribes again, and asks for what it has missed.
async fn client(address: SocketAddr, log: Log, mut cut: mpsc::Receiver<()>) {
    let mut place: Option<Place> = None;
    loop {
        let mut caller = Caller::anonymous(address).await;
        let ended = async {
            loop {
                let asked = match &place {
                    None => json!({ "channel": "kept" }),
                    Some((epoch, offset)) => {
                        json!({ "channel": "kept", "recover": true, "epoch": epoch, "offset": offset })
                    }
                };
                let Ok(mut answer) = caller.try_call("subscribe", asked).await else { return };
                let mut result = answer["subscribe"].take();
                if result.is_null() {
                    assert_eq!(answer["error"]["temporary"], true, "{answer}");
                    continue;
                }
                let epoch = result["epoch"].as_str().unwrap().to_owned();
                let mut offset = result["offset"].as_u64().unwrap_or(0);
                let whole = result["recovered"] == true;
                let (asked, given) = (place.take(), (epoch.clone(), offset));
                log.lock().push(Seen::Place { asked, given, whole });
                let take = |publication: &Value| {
                    let offset = publication["offset"].as_u64().unwrap();
                    log.lock().push(Seen::Publication(offset, number_of(publication)));
                    offset
                };
                for publication in result["publications"].take().as_array().into_iter().flatten() {
                    offset = take(publication);
                }
                place = Some((epoch.clone(), offset));
                loop {
                    let Ok(message) = caller.message().await else { return };
                    let push = &message["push"];
                    if let Some(publication) = push.get("pub") {
                        place = Some((epoch.clone(), take(publication)));
                    } else {
                        assert_eq!(push["unsubscribe"]["code"], 2500, "{message}");
                        break;
                    }
                }
            }
        };
        tokio::select! {
            () = ended => {}
            asked = cut.recv() => {
                if asked.is_none() {
                    return;
                }
            }
        }
    }
}

/// Holds what a client has seen against the rules, and against what all others have seen. Gives how it came by each
/// place: "new", "recovered", or why it was told that something is missing.
fn judge(log: &[Seen], kept: u64, all: &mut HashMap<Place, Number>, seed: u64) -> Vec<&'static str> {
    let (mut at, mut last): (Option<Place>, _) = (None, HashMap::new());
    let mut told = Vec::new();
    for (n, seen) in log.iter().enumerate() {
        let around = || &log[n.saturating_sub(6)..(n + 6).min(log.len())];
        match seen {
            Seen::Place { asked, given, whole } => {
                assert_eq!(*asked, at, "seed {seed}: it asks for what it has missed");
                told.push(match asked {
                    None => "new",
                    Some(asked) if *whole => {
                        assert_eq!(asked, given, "seed {seed}: it goes on where it was");
                        "recovered"
                    }
                    Some((epoch, _)) if *epoch != given.0 => "another epoch",
                    Some((_, asked)) => {
                        // The place is where the history stood then.
                        let missed = given.1.checked_sub(*asked);
                        assert!(
                            missed.is_some_and(|missed| missed > kept),
                            "seed {seed}: not recovered, but it is kept: {:?}",
                            around()
                        );
                        "too far"
                    }
                });
                at = Some(given.clone());
            }
            Seen::Publication(offset, number) => {
                let (epoch, before) = at.as_mut().expect("nothing comes before the answer");
                assert_eq!(*offset, *before + 1, "seed {seed}: a hole, or twice: {:?}", around());
                let last = last.entry(number.0).or_insert(0);
                assert!(number.1 > *last, "seed {seed}: {number:?} after {last}: {:?}", around());
                let known = *all.entry((epoch.clone(), *offset)).or_insert(*number);
                assert_eq!(known, *number, "seed {seed}: others have seen something else at {offset}");
                (*before, *last) = (*offset, number.1);
            }
        }
    }
    told
}

/// Who has published it, and as the how manieth: what stands first in its data.
pub fn number_of(publication: &Value) -> Number {
    let of = |place: usize| publication["data"][place].as_u64().unwrap();
    (of(0), of(1))
}

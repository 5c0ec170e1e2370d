//! How many connections may wait for their clients: those that have been accepted and have not asked for anything
//! yet, those whose request has a body that is still on its way, and those kept open between two requests. Each has
//! its place in a line by when it began to wait. Beyond the bound the one that has waited longest is cut, for whoever
//! means well is through in a few round trips, however many come behind; and when memory runs out, those that hold
//! the most of it are cut before anybody who is in. It never touches who has asked: a handshake that waits for us is
//! no longer here, nor is what has become a connection of the hub's.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use fanfare_hub::LITTLE;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::admission::limits::{Full, household};

/// What it takes in memory to be in the line and say nothing, about: a task with its buffers, and a socket.
const COST: usize = 8 << 10;

/// The whole instance's, over all workers.
pub struct Unfinished {
    limit: usize,
    per_address: Option<usize>,
    line: Mutex<Line>,
}

/// Who waits, in the order in which they began to.
#[derive(Default)]
struct Line {
    next: u64,
    all: BTreeMap<u64, Waiting>,
    /// Of those whose address counts; empty where none does.
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many have been cut and have not let go of everything yet.
    leaving: usize,
}

struct Waiting {
    address: Option<IpAddr>,
    notice: Arc<Notice>,
}

/// Why somebody was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Others have come, and this bound was reached.
    Crowded(Full),
    /// Memory has run out.
    Memory,
}

/// What other workers know of a handshake, and how it is told by them that it has been cut.
#[derive(Default)]
struct Notice {
    why: OnceLock<Cut>,
    given: Notify,
    /// Bytes that have come of what is not whole.
    held: AtomicUsize,
}

/// One connection's place in the line, if it is in it.
pub struct Place {
    unfinished: Arc<Unfinished>,
    notice: Arc<Notice>,
    address: Cell<Option<IpAddr>>,
    /// Where in the line it is, or was last.
    number: Cell<u64>,
    waits: Cell<bool>,
    /// Bytes that have been read since it was last done with something.
    came: Cell<usize>,
}

impl Unfinished {
    /// So many at a time in all and from one address; never more in all than half of what `open_files` allow, so that
    /// there are files for those who ask.
    pub fn new(
        limit: Option<NonZeroUsize>,
        per_address: Option<NonZeroUsize>,
        open_files: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.map_or(usize::MAX, NonZeroUsize::get).min(open_files / 2),
            per_address: per_address.map(NonZeroUsize::get),
            line: Mutex::default(),
        })
    }

    /// The place of a connection that has just been accepted, which waits.
    pub fn begin(self: &Arc<Self>) -> Place {
        let place = Place {
            unfinished: self.clone(),
            notice: Arc::default(),
            address: Cell::new(None),
            number: Cell::new(0),
            waits: Cell::new(false),
            came: Cell::new(0),
        };
        place.wait();
        place
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.line.lock().all.len()
    }

    /// How many have been cut and hold what they held still.
    pub fn leaving(&self) -> usize {
        self.line.lock().leaving
    }

    /// Cuts those that hold the most, and of those that hold the same the one that has waited longest, until so many
    /// bytes are given up. Nobody who holds only a little, unless it is their number that takes so much. How many
    /// that were.
    pub fn shed(&self, bytes: usize) -> usize {
        let number_is_enough = self.count().saturating_mul(COST) >= bytes;
        self.shed_from(bytes, if number_is_enough { 0 } else { LITTLE })
    }

    /// The same of all of them, however little each holds.
    pub fn shed_anybody(&self, bytes: usize) -> usize {
        self.shed_from(bytes, 0)
    }

    fn shed_from(&self, bytes: usize, least: usize) -> usize {
        let mut line = self.line.lock();
        let holders = line.all.iter().filter_map(|(number, waiting)| {
            let held = waiting.notice.held.load(Ordering::Relaxed);
            (held >= least).then_some((Reverse(held), *number))
        });
        let mut holders: Vec<_> = holders.collect();
        holders.sort_unstable();
        let (mut given_up, mut count) = (0, 0);
        for (Reverse(held), number) in holders {
            if given_up >= bytes {
                break;
            }
            given_up += held + COST;
            count += 1;
            line.cut(number, Cut::Memory);
        }
        count
    }
}

impl Place {
    /// Has it count for this client's address, too. Until then, and for a proxy that speaks for many, it counts for
    /// none.
    pub fn belongs_to(&self, address: IpAddr) {
        let Some(most) = self.unfinished.per_address else { return };
        let address = household(address);
        self.address.set(Some(address));
        if !self.waits.get() {
            return;
        }
        let number = self.number.get();
        let mut line = self.unfinished.line.lock();
        // It may have been cut meanwhile.
        if let Some(waiting) = line.all.get_mut(&number) {
            waiting.address = Some(address);
            line.put(number, address, most);
        }
    }

    /// Its client has asked for something. False if it has been cut before that, of which it will hear at once.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.came.set(0);
        self.notice.held.store(0, Ordering::Relaxed);
        self.waits.replace(false) && self.unfinished.line.lock().remove(self.number.get()).is_some()
    }

    /// It waits, as the last one: it was answered, and is kept open.
    pub fn wait(&self) {
        let mut line = self.unfinished.line.lock();
        if self.waits.get() {
            // For the rest of what it had asked, with which nobody has to do any more.
            line.remove(self.number.get());
        }
        self.number.set(line.next);
        line.next += 1;
        self.stand(&mut line);
    }

    /// It has asked, but not to the end: it waits where it did before, so that coming bit by bit gains nothing.
    pub fn wait_on(&self) {
        if !self.waits.get() && !self.is_cut() {
            self.stand(&mut self.unfinished.line.lock());
        }
    }

    /// So many bytes have been read of what it sends, and so many are kept beside those.
    pub fn holds(&self, read: usize, beside: usize) {
        let came = self.came.get() + read;
        self.came.set(came);
        self.notice.held.store(came + beside, Ordering::Relaxed);
    }

    /// Memory has run out, and it is not read: whoever goes on sending is cut, if that comes to more than a little
    /// with what has been read. What waits in the kernel takes memory, too, and so much comes in the time that it
    /// takes to weigh everybody that there would be none left.
    pub fn press(&self, stream: &TcpStream) {
        let mut unread = [MaybeUninit::uninit(); LITTLE];
        let unread = SockRef::from(stream).peek(&mut unread).unwrap_or(0);
        if self.notice.held.load(Ordering::Relaxed) + unread >= LITTLE && self.waits.get() {
            self.unfinished.line.lock().cut(self.number.get(), Cut::Memory);
        }
    }

    /// Whether it has been cut.
    pub fn is_cut(&self) -> bool {
        self.notice.why.get().is_some()
    }

    fn stand(&self, line: &mut Line) {
        let Unfinished { limit, per_address, .. } = &*self.unfinished;
        let (number, address) = (self.number.get(), self.address.get());
        line.all.insert(number, Waiting { address, notice: self.notice.clone() });
        self.waits.set(true);
        if let (Some(address), Some(most)) = (address, *per_address) {
            line.put(number, address, most);
        }
        if line.all.len() > *limit
            && let Some((&longest, _)) = line.all.first_key_value()
        {
            line.cut(longest, Cut::Crowded(Full::Instance));
        }
    }

    /// Resolves when it has been cut, and says why.
    pub async fn cut(&self) -> Cut {
        loop {
            self.notice.given.notified().await;
            if let Some(why) = self.notice.why.get() {
                return *why;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.leave();
        if self.is_cut() {
            self.unfinished.line.lock().leaving -= 1;
        }
    }
}

impl Line {
    /// Has somebody count for an address, which may have so many.
    fn put(&mut self, number: u64, address: IpAddr, most: usize) {
        let theirs = self.by_address.entry(address).or_default();
        theirs.insert(number);
        if theirs.len() > most
            && let Some(&longest) = theirs.first()
        {
            self.cut(longest, Cut::Crowded(Full::Address));
        }
    }

    fn cut(&mut self, number: u64, why: Cut) {
        if let Some(waiting) = self.remove(number) {
            // Once: it may have begun to wait again before it heard of it.
            self.leaving += usize::from(waiting.notice.why.set(why).is_ok());
            waiting.notice.given.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.all.remove(&number)?;
        if let Some(address) = waiting.address
            && let Some(theirs) = self.by_address.get_mut(&address)
        {
            theirs.remove(&number);
            if theirs.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn unfinished(limit: usize, per_address: usize) -> Arc<Unfinished> {
        Unfinished::new(NonZeroUsize::new(limit), NonZeroUsize::new(per_address), 1000)
    }

    fn from(unfinished: &Arc<Unfinished>, address: &str) -> Place {
        let place = unfinished.begin();
        place.belongs_to(address.parse().unwrap());
        place
    }

    fn full(bound: Full) -> Cut {
        Cut::Crowded(bound)
    }

    /// Who was cut, and why.
    fn cut(places: &[Place]) -> Vec<Option<Cut>> {
        places.iter().map(|place| place.cut().now_or_never()).collect()
    }

    #[test]
    fn who_has_waited_longest_is_cut() {
        let unfinished = unfinished(3, 0);
        let places: Vec<_> = (0..3).map(|_| unfinished.begin()).collect();
        assert!(places[0].leave());
        let others = [unfinished.begin(), unfinished.begin()];
        assert_eq!(cut(&places), [None, Some(full(Full::Instance)), None]);
        assert_eq!(cut(&others), [None, None]);
        assert_eq!(unfinished.count(), 3);
        // Who was kept open begins anew, behind all others.
        places[0].wait();
        assert_eq!(places[2].cut().now_or_never(), Some(full(Full::Instance)));
        assert!(!places[1].leave() && !places[2].leave());
        drop((places, others));
        assert_eq!(unfinished.count(), 0);
    }

    #[test]
    fn a_request_that_comes_bit_by_bit_waits_where_it_did() {
        let unfinished = unfinished(2, 0);
        let places = [unfinished.begin(), unfinished.begin()];
        for _ in 0..3 {
            // Its head has come, and then a bit of its body, and another.
            assert!(places[0].leave());
            places[0].wait_on();
            places[0].wait_on();
        }
        let other = unfinished.begin();
        assert_eq!(cut(&places), [Some(full(Full::Instance)), None]);
        assert!(places[0].is_cut() && !places[0].leave());
        // Whoever has been cut does not come back, and whoever was answered before all had come is the last one.
        places[0].wait_on();
        assert!(places[1].leave());
        places[1].wait_on();
        places[1].wait();
        assert_eq!(unfinished.count(), 2);
        let another = unfinished.begin();
        assert_eq!((other.is_cut(), places[1].is_cut()), (true, false));
        drop((places, other, another));
        assert_eq!(unfinished.count(), 0);
    }

    #[test]
    fn an_address_is_held_to_its_own_bound() {
        let unfinished = unfinished(0, 2);
        let of_one = |address| (0..3).map(|_| from(&unfinished, address)).collect::<Vec<_>>();
        let (first, others) = (of_one("192.0.2.1"), of_one("2001:db8::1"));
        for places in [&first, &others] {
            assert_eq!(cut(places), [Some(full(Full::Address)), None, None]);
        }
        // A /64 is one client's, and an address in IPv6's clothes is none of its own.
        let more = [from(&unfinished, "2001:db8::2"), from(&unfinished, "::ffff:192.0.2.1")];
        assert_eq!(others[1].cut().now_or_never(), Some(full(Full::Address)));
        assert_eq!(first[1].cut().now_or_never(), Some(full(Full::Address)));
        assert_eq!(cut(&more), [None, None]);
        // A proxy's connections belong to nobody until it says to whom.
        let proxied: Vec<_> = (0..5).map(|_| unfinished.begin()).collect();
        assert_eq!(cut(&proxied), [None; 5]);
        drop((first, others, more, proxied));
        assert!(unfinished.line.lock().by_address.is_empty());
    }

    #[test]
    fn who_holds_the_most_is_cut_when_memory_runs_out() {
        let unfinished = unfinished(0, 0);
        let places: Vec<_> = (0..5).map(|_| unfinished.begin()).collect();
        for (place, kib) in places.iter().zip([0, 9, 60, 9, 3]) {
            place.holds(kib << 9, kib << 9);
            place.holds(0, kib << 9);
        }
        let gone = || places.iter().map(Place::is_cut).collect::<Vec<_>>();
        // A little is nobody's fault, if it is not their number.
        assert_eq!(unfinished.shed(60 << 10), 1);
        assert_eq!(gone(), [false, false, true, false, false]);
        assert_eq!(unfinished.shed(33 << 10), 2);
        assert_eq!(gone(), [false, true, true, true, false]);
        assert_eq!(places[3].cut().now_or_never(), Some(Cut::Memory));
        assert_eq!(unfinished.shed(usize::MAX), 0);
        assert_eq!(unfinished.leaving(), 3);
        // Whoever has asked begins anew.
        assert!(places[4].leave());
        places[4].wait();
        // If it takes everybody, whoever has waited longest is the next one.
        let more = [unfinished.begin(), unfinished.begin()];
        assert_eq!(unfinished.shed(4 * COST), 4);
        let places = [unfinished.begin(), unfinished.begin(), unfinished.begin()];
        assert_eq!(unfinished.shed(1), 1);
        assert!(places[0].is_cut() && !places[1].is_cut());
        assert_eq!(unfinished.shed(3 * COST), 0);
        assert_eq!(unfinished.shed_anybody(3 * COST), 2);
        drop((more, places));
        assert_eq!((unfinished.count(), unfinished.leaving()), (0, 5), "the first are here still");
    }

    #[test]
    fn half_of_the_open_files_are_left_to_others() {
        for (limit, open_files, expected) in [(0, 100, 50), (80, 100, 50), (20, 100, 20), (0, 20_000, 10_000)]
        {
            let unfinished = Unfinished::new(NonZeroUsize::new(limit), None, open_files);
            assert_eq!(unfinished.limit, expected, "{limit} {open_files}");
        }
    }
}

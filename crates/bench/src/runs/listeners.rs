//! The subscribers of one thread: its loop, and what each thing that happens to one of them means. It owns the
//! auditor; nobody else touches that until the run is over.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use crate::audit::latency::Latencies;
use crate::audit::{Audit, Auditor, Receipt};
use crate::client::connection::{End, Message, Traffic};
use crate::client::swarm::{Swarm, Watch, farewell};
use crate::client::sys;
use crate::flight::Flight;
use crate::runs::audience::{Attendance, Command, Counts, Seating};

/// How a text message begins that tells a subscriber of a gap.
const NOTICE: &[u8] = br#"{"fanfare":"gap""#;

/// The subscribers of one thread.
#[derive(Debug)]
pub(crate) struct Listeners {
    auditor: Auditor,
    attendance: Attendance,
    latencies: Latencies,
    recording: bool,
    members: Vec<Member>,
    reconnect: bool,
    flight: Option<Arc<Flight>>,
    counts: Arc<Counts>,
    began: u64,
    /// What has been added to `counts` so far, and what is to be.
    told: Told,
    now: Told,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    joined: bool,
    /// When the connection was lost that it had.
    lost: Option<u64>,
    /// Attempts at coming back that failed.
    failures: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    delivered: u64,
    accounted: u64,
    traffic: Traffic,
}

impl Listeners {
    /// Of one thread, which has `size` of the subscribers.
    pub(crate) fn new(seating: &Seating, size: usize, counts: Arc<Counts>) -> Self {
        Self {
            auditor: Auditor::new(seating.run, seating.pattern.clone(), Arc::clone(&seating.sent), size),
            attendance: Attendance {
                audit: Audit::default(),
                ends: BTreeMap::new(),
                ends_by_second: Vec::new(),
                notices: 0,
                away: Latencies::new(),
                handshakes: Latencies::new(),
            },
            latencies: Latencies::new(),
            recording: false,
            members: vec![Member::default(); size],
            reconnect: seating.reconnect,
            flight: seating.flight.clone(),
            counts,
            began: sys::monotonic(),
            told: Told::default(),
            now: Told::default(),
        }
    }

    /// Listens until it is told to stop, and says what was seen.
    pub(crate) fn listen(
        mut self,
        mut swarm: Swarm,
        inbox: &mpsc::Receiver<Command>,
    ) -> io::Result<Attendance> {
        while !self.obey(inbox) {
            swarm.turn(None, &mut self)?;
            self.now.traffic = swarm.traffic();
            self.tell();
        }
        self.attendance.audit = self.auditor.finish();
        farewell(&mut swarm, self.members.len())?;
        Ok(self.attendance)
    }

    /// Carries out what was asked for, and returns whether that was to stop.
    fn obey(&mut self, inbox: &mpsc::Receiver<Command>) -> bool {
        loop {
            match inbox.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return false,
                Ok(Command::Record(_told)) => {
                    self.latencies.clear();
                    self.recording = true;
                }
                Ok(Command::Collect(to)) => {
                    self.recording = false;
                    // Whoever asked and does not wait for the answer does not need it.
                    let _ = to.send(self.latencies.clone());
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Adds what is new to what everybody can see.
    fn tell(&mut self) {
        self.now.accounted = self.auditor.accounted();
        let Told { delivered, accounted, traffic } = self.now;
        // Before the deliveries, so that whoever sees those sees what they took.
        self.counts.wire.fetch_add(traffic.wire - self.told.traffic.wire, Ordering::AcqRel);
        self.counts.payload.fetch_add(traffic.payload - self.told.traffic.payload, Ordering::AcqRel);
        if delivered != self.told.delivered {
            self.counts.last.fetch_max(sys::monotonic(), Ordering::AcqRel);
            self.counts.delivered.fetch_add(delivered - self.told.delivered, Ordering::AcqRel);
        }
        self.counts.accounted.fetch_add(accounted.wrapping_sub(self.told.accounted), Ordering::AcqRel);
        self.told = self.now;
    }

    /// When to come back, if at all.
    fn return_at(&mut self, who: usize, end: &End, now: u64) -> Option<u64> {
        if !self.reconnect {
            return None;
        }
        let member = &mut self.members[who];
        // Somebody whom a restarting server sends away is one of many; so is anybody, when a server dies.
        let within = match end {
            End::Closed { .. } | End::Left | End::Lost(_) | End::Offence(_) => 250,
            End::Refused(_) | End::Unconnected(_) => {
                member.failures += 1;
                250 << member.failures.min(4)
            }
        };
        Some(now + fastrand::u64(0..within * 1_000_000))
    }
}

impl Watch for Listeners {
    fn opened(&mut self, who: usize, took: u64, now: u64) {
        self.attendance.handshakes.record(0, took);
        let member = &mut self.members[who];
        member.failures = 0;
        if let Some(lost) = member.lost.take() {
            self.attendance.away.record(lost, now);
            self.auditor.rejoined(who, now);
        }
        member.joined = true;
        let open = self.counts.open.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(flight) = &self.flight {
            flight.attend(open);
        }
    }

    fn message(&mut self, who: usize, Message { text, payload, .. }: Message<'_>, now: u64) {
        if text && payload.starts_with(NOTICE) {
            self.attendance.notices += 1;
            return self.auditor.noticed(who, now);
        }
        let (Receipt::Once(stamp) | Receipt::Reordered(stamp)) =
            self.auditor.received(who, text, payload, now)
        else {
            return;
        };
        self.now.delivered += 1;
        if self.recording {
            self.latencies.record(stamp.intended, now);
        }
        if let Some(flight) = &self.flight {
            flight.landed(stamp.publisher as usize, stamp.sequence);
        }
    }

    fn ended(&mut self, who: usize, end: End, now: u64) -> Option<u64> {
        *self.attendance.ends.entry(end.to_string()).or_default() += 1;
        let member = &mut self.members[who];
        if member.joined && member.lost.is_none() {
            member.lost = Some(now);
            self.auditor.left(who);
            let second = (now.saturating_sub(self.began) / 1_000_000_000) as usize;
            let by_second = &mut self.attendance.ends_by_second;
            by_second.resize(by_second.len().max(second + 1), 0);
            by_second[second] += 1;
            let open = self.counts.open.fetch_sub(1, Ordering::AcqRel) - 1;
            if let Some(flight) = &self.flight {
                flight.attend(open);
            }
        }
        self.counts.ended.fetch_add(1, Ordering::AcqRel);
        self.return_at(who, &end, now)
    }
}

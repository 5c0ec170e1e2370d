//! Where the broker's publications become the hub's deliveries: the only place that knows both. Each
//! publication is encoded here once for each format, whatever the number of its receivers.

mod carriage;
mod phrases;
mod previous;
mod stream;
mod wording;
pub mod work;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fanfare_broker::{Gap, GapCause, Pending, Relay};
use fanfare_hub::{Audience, Carrier, DEFLATING, Delivery, Format, Formats, Frame, Frames, Hub, Unmade};
use fanfare_protocol::{Channel, Control, PresenceChange, Publication, now_micros};
use fanfare_websocket::deflate::{Compressor, Level};
use fanfare_websocket::{frame, take_apart};

pub use self::carriage::{carry, last_words, push_format};
pub use self::phrases::{PHRASES, gap_notice, place_notice};
use self::previous::Previous;
pub use self::stream::{event, gap_event, overture, place_event};
pub use self::wording::Message;
use self::wording::Wording;
use crate::memory::Budget;
use crate::registers::Sessions;

/// What the broker hands this instance goes to its hub.
pub struct HubRelay {
    hub: Arc<Hub>,
    /// Which worker has a session that a client speaks to.
    sessions: Arc<Sessions>,
    memory: Arc<Budget>,
    compression: Option<Compression>,
    /// The last publication of channels in which somebody wants deltas to it.
    previous: Previous,
    gaps: [AtomicU64; GapCause::ALL.len()],
    /// Deltas between two publications that were made.
    deltas: AtomicU64,
    /// Bytes of the payloads that were deflated, and of the frames that they became.
    deflated: Arc<[AtomicU64; 2]>,
}

/// Which publications are deflated, and how hard.
#[derive(Debug, Clone, Copy)]
pub struct Compression {
    /// The fewest bytes of a payload.
    pub threshold: usize,
    /// How hard to try.
    pub level: Level,
}

impl HubRelay {
    /// A relay to this hub, for clients that may have agreed on `compression`.
    pub fn new(
        hub: Arc<Hub>,
        sessions: Arc<Sessions>,
        memory: Arc<Budget>,
        compression: Option<Compression>,
    ) -> Self {
        let previous = Previous::within(memory.limit());
        let (gaps, deltas, deflated) = Default::default();
        Self { hub, sessions, memory, compression, previous, gaps, deltas, deflated }
    }

    /// Gaps since the start, by cause.
    pub fn gaps(&self) -> impl Iterator<Item = (GapCause, u64)> {
        GapCause::ALL.into_iter().zip(self.gaps.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Deltas to the publication before that were made since the start: one for all who get it.
    pub fn deltas(&self) -> u64 {
        self.deltas.load(Ordering::Relaxed)
    }

    /// Bytes of the payloads that were deflated since the start, and of the frames that they became: once
    /// each, whatever the number of receivers.
    pub fn deflated_bytes(&self) -> (u64, u64) {
        let [payloads, frames] = &*self.deflated;
        (payloads.load(Ordering::Relaxed), frames.load(Ordering::Relaxed))
    }

    /// The whole frame of a message in every format that is wanted; `message` makes it for one encoding. What is to be
    /// deflated and is more than a turn's work is made later, by the worker that first needs it.
    fn frames<'m>(
        &self,
        formats: impl IntoIterator<Item = Format>,
        message: impl Fn(Format) -> Option<Message<'m>>,
    ) -> Frames {
        // Formats of one encoding are neighbours, and differ only in what carries them.
        let mut last: Option<(Format, Option<Message>, Option<Bytes>)> = None;
        Frames::new(formats.into_iter().map(|format| {
            if last.as_ref().is_none_or(|(other, ..)| other.encoding != format.encoding) {
                // Encoded as often as there are encodings, and that at once: it takes a quarter of what deflating does.
                last = Some((format, message(format), None));
            }
            let carried = last.as_mut().and_then(|(_, message, plain)| {
                let message = message.as_ref()?;
                let whole = |message: &Message| {
                    work::add(message.bytes.len());
                    frame(message.opcode, &message.bytes)
                };
                Some(match format.carrier {
                    Carrier::Stream => Frame::Made(stream::line(format.encoding, message)),
                    Carrier::Events => Frame::Made(event(format.encoding, message)),
                    Carrier::Frame => Frame::Made(plain.get_or_insert_with(|| whole(message)).clone()),
                    Carrier::Deflated | Carrier::DeflatedNarrowly => {
                        let plain = plain.get_or_insert_with(|| whole(message));
                        self.deflate(format.carrier, message.bytes.len(), plain)
                    }
                })
            });
            (format, carried.unwrap_or(Frame::Unsayable))
        }))
    }

    /// The frame of so long a message, deflated if it is worth it: at once, or when somebody is to get it.
    fn deflate(&self, carrier: Carrier, length: usize, plain: &Bytes) -> Frame {
        let Some(Compression { level, .. }) =
            self.compression.filter(|compression| length >= compression.threshold)
        else {
            return Frame::Made(plain.clone());
        };
        let is_later = work::is_a_turn();
        let work = length * DEFLATING;
        work::add(work);
        if !is_later {
            return Frame::Made(deflate(carrier, level, plain, &self.deflated));
        }
        let (plain, counts) = (plain.clone(), self.deflated.clone());
        let make = move || deflate(carrier, level, &plain, &counts);
        Frame::Later(Box::new(Unmade::new(length, work, make)))
    }

    /// What the publication before this one said, for those who want deltas; this one takes its place.
    fn replace_previous(&self, channel: &Channel, payload: &Bytes, formats: Formats) -> Option<Bytes> {
        if formats.iter().any(Format::tells_deltas) {
            return self.previous.replace(channel, payload);
        }
        // What is not kept up to date must not be taken for the one before when somebody wants deltas again.
        self.forget(channel);
        None
    }

    /// Forgets what a channel's last publication said: nobody is there who could want a delta to it.
    pub fn forget(&self, channel: &Channel) {
        self.previous.forget(channel);
    }
}

impl Relay for HubRelay {
    fn deliver(&self, channel: &Channel, publication: Publication) {
        let Audience { workers, formats } = self.hub.audience(channel);
        let previous = self.replace_previous(channel, &publication.payload, formats);
        if workers.is_empty() {
            return;
        }
        let wording = Wording::new(channel, &publication, previous, &self.deltas);
        let frames = self.frames(formats.iter(), |format| wording.message(format.encoding));
        let delivery = Delivery {
            frames,
            exclude: publication.exclude,
            published_at: publication.published_at,
            offset: publication.position.as_ref().map_or(0, |position| position.offset),
            tags: publication.tags.clone(),
            news: false,
        };
        self.hub.deliver(workers, channel, &delivery);
        self.memory.tally();
    }

    fn gap(&self, gap: Gap) {
        let index = GapCause::ALL.iter().position(|cause| *cause == gap.cause);
        self.gaps[index.expect("ALL has every cause")].fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            cause = gap.cause.label(),
            channels = gap.channels.as_ref().map(Vec::len),
            "publications may have been missed"
        );
        self.hub.gap(gap.channels);
    }

    fn heard(&self) -> Pending<'_, ()> {
        // Each worker is asked behind all that it was told.
        Box::pin(async { drop(self.hub.census().await) })
    }

    fn wanted(&self, channel: &Channel) -> bool {
        !self.hub.audience(channel).workers.is_empty()
    }

    fn presence(&self, channel: &Channel, change: PresenceChange) {
        let Audience { workers, formats } = self.hub.audience(channel);
        let formats = || formats.iter().filter(|format| wording::has_news(format.encoding));
        if formats().next().is_none() || !change.member().is_told() {
            return;
        }
        let frames = self.frames(formats(), |format| wording::news(channel, &change, format.encoding));
        let delivery =
            Delivery { frames, exclude: None, published_at: now_micros(), offset: 0, tags: None, news: true };
        self.hub.deliver(workers, channel, &delivery);
        self.memory.tally();
    }

    fn control(&self, message: Control) {
        let Control::Uplink(uplink) = &message else { return self.hub.control(message) };
        match self.sessions.find(&uplink.session) {
            Some(seat) => self.hub.control_at(seat.worker, message),
            None => self.sessions.count_lost(),
        }
    }

    fn subscribers(&self, channel: &Channel) -> u64 {
        self.hub.subscribers(channel)
    }
}

/// A whole frame deflated, and counted: the bytes of its payload, and of what it becomes.
fn deflate(carrier: Carrier, level: Level, plain: &Bytes, counts: &[AtomicU64; 2]) -> Bytes {
    let (opcode, message) = take_apart(plain);
    let frame =
        DEFLATERS.with_borrow_mut(|deflaters| deflaters.of(carrier, level).compress_frame(opcode, message));
    for (count, bytes) in counts.iter().zip([message.len(), frame.len()]) {
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    frame
}

thread_local! {
    /// One of each for a thread that delivers, which may be any publisher's: shared by all, one would make
    /// publishers of different channels wait for each other.
    static DEFLATERS: RefCell<Deflaters> = RefCell::default();
}

/// Made when they are first needed: each takes a third of a MiB.
#[derive(Default)]
struct Deflaters {
    wide: Option<(Level, Compressor)>,
    narrow: Option<(Level, Compressor)>,
}

impl Deflaters {
    fn of(&mut self, carrier: Carrier, level: Level) -> &mut Compressor {
        let (place, make): (_, fn(Level) -> Compressor) = match carrier {
            Carrier::DeflatedNarrowly => (&mut self.narrow, Compressor::shared_narrowly),
            _ => (&mut self.wide, Compressor::shared),
        };
        // Two instances of one process may differ.
        if place.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
            *place = None;
        }
        &mut place.get_or_insert_with(|| (level, make(level))).1
    }
}

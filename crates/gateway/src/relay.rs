//! Where the broker's publications become the hub's deliveries: the only place that knows both. Each
//! publication is encoded here once, whatever the number of its receivers.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fanfare_broker::{Gap, GapCause, Relay};
use fanfare_hub::{Audience, Carrier, Delivery, Format, Frames, Hub, Phrases};
use fanfare_protocol::{Channel, Kind, Publication};
use fanfare_websocket::deflate::{Compressor, Level};
use fanfare_websocket::{Opcode, frame};

use crate::memory::Budget;

/// What the broker hands this instance goes to its hub.
pub struct HubRelay {
    hub: Arc<Hub>,
    memory: Arc<Budget>,
    compression: Option<Compression>,
    gaps: [AtomicU64; GapCause::ALL.len()],
    /// Bytes of the payloads that were deflated, and of the frames that they became.
    deflated: [AtomicU64; 2],
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
    pub fn new(hub: Arc<Hub>, memory: Arc<Budget>, compression: Option<Compression>) -> Self {
        Self { hub, memory, compression, gaps: Default::default(), deflated: Default::default() }
    }

    /// Gaps since the start, by cause.
    pub fn gaps(&self) -> impl Iterator<Item = (GapCause, u64)> {
        GapCause::ALL.into_iter().zip(self.gaps.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Bytes of the payloads that were deflated since the start, and of the frames that they became: once
    /// each, whatever the number of receivers.
    pub fn deflated_bytes(&self) -> (u64, u64) {
        let [payloads, frames] = &self.deflated;
        (payloads.load(Ordering::Relaxed), frames.load(Ordering::Relaxed))
    }

    /// The whole frame in one format.
    fn encode(&self, format: Format, opcode: Opcode, payload: &[u8], plain: &Bytes) -> Bytes {
        let deflating = self.compression.filter(|compression| payload.len() >= compression.threshold);
        let (Some(Compression { level, .. }), true) = (deflating, format.is_deflated()) else {
            return plain.clone();
        };
        let frame = DEFLATERS
            .with_borrow_mut(|deflaters| deflaters.of(format.carrier, level).compress_frame(opcode, payload));
        for (count, bytes) in self.deflated.iter().zip([payload.len(), frame.len()]) {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        frame
    }
}

impl Relay for HubRelay {
    fn deliver(&self, channel: &Channel, publication: Publication) {
        let Audience { workers, formats } = self.hub.audience(channel);
        if workers.is_empty() {
            return;
        }
        let opcode = match publication.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let plain = frame(opcode, &publication.payload);
        let frames =
            formats.iter().map(|format| (format, self.encode(format, opcode, &publication.payload, &plain)));
        let delivery = Delivery {
            frames: Frames::new(frames),
            exclude: publication.exclude,
            published_at: publication.published_at,
            offset: publication.position.as_ref().map_or(0, |position| position.offset),
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

    fn wanted(&self, channel: &Channel) -> bool {
        !self.hub.audience(channel).workers.is_empty()
    }
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

/// What the hub says to clients of its own accord.
pub const PHRASES: Phrases = Phrases { gap: |_, channel| Some(gap_notice(channel)), ..Phrases::WEBSOCKET };

/// The text message that tells a client of a gap, for those who asked by `?notices=true`. Clients may know
/// it by how it begins, so it is always written in this one way.
fn gap_notice(channel: &Channel) -> Bytes {
    let channel = serde_json::Value::from(channel.as_str());
    frame(Opcode::Text, format!(r#"{{"fanfare":"gap","channel":{channel}}}"#).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_written_as_it_is_documented() {
        for (name, notice) in [
            ("news", r#"{"fanfare":"gap","channel":"news"}"#),
            ("a \"b\"\n", r#"{"fanfare":"gap","channel":"a \"b\"\n"}"#),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!(gap_notice(&channel)[2..], *notice.as_bytes());
        }
    }
}

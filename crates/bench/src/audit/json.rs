//! Messages as applications send them: JSON documents of one size, a stamp in each, and values that differ from
//! document to document, so that a compressor finds in them what it would find in real ones. All of a document
//! follows from its stamp, so whoever receives one can tell whether a byte was altered.
//!
//! It does not parse JSON: a document is right if it is the one that its stamp makes.

use std::io::Write;

use crate::audit::stamp::{HEX_BYTES, Stamp};

/// The documents of a run.
#[derive(Debug, Clone)]
pub struct Documents {
    size: usize,
    /// The latest ones, because a thousand subscribers get the same one.
    kept: Vec<Option<(Stamp, Vec<u8>)>>,
}

impl Documents {
    /// The smallest size: no vehicle and an empty note.
    pub(crate) const SMALLEST: usize = HEAD.len() + HEX_BYTES + LIST.len() + NOTE.len() + END.len();

    /// Documents of so many bytes, [`Self::SMALLEST`] at least.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, kept: vec![None; KEPT] }
    }

    /// The document that bears the stamp.
    pub(crate) fn of(&mut self, stamp: &Stamp) -> &[u8] {
        let slot = stamp.sequence.wrapping_add(u64::from(stamp.publisher) * 7) as usize % KEPT;
        let kept = &mut self.kept[slot];
        let reused = match kept.take() {
            Some((same, document)) if same == *stamp => document,
            other => write(self.size, stamp, other.map(|(_, old)| old).unwrap_or_default()),
        };
        &kept.insert((*stamp, reused)).1
    }

    /// The stamp of a document that came, if it is of this size and nothing in it was altered.
    pub(crate) fn read(&mut self, message: &[u8]) -> Option<Stamp> {
        if message.len() != self.size {
            return None;
        }
        let stamp = Stamp::from_hex(message.strip_prefix(HEAD)?.first_chunk()?)?;
        (self.of(&stamp) == message).then_some(stamp)
    }
}

fn write(size: usize, stamp: &Stamp, mut out: Vec<u8>) -> Vec<u8> {
    out.clear();
    out.extend_from_slice(HEAD);
    out.extend_from_slice(&stamp.to_hex());
    out.extend_from_slice(LIST);
    let most = size - NOTE.len() - END.len();
    let mut rng = fastrand::Rng::with_seed(
        stamp.run.wrapping_add(stamp.sequence) ^ u64::from(stamp.publisher).rotate_right(16),
    );
    let mut separator = "";
    loop {
        let end = out.len();
        put_vehicle(&mut out, separator, &mut rng);
        if out.len() > most {
            out.truncate(end);
            break;
        }
        separator = ",";
    }
    out.extend_from_slice(NOTE);
    out.extend(PROSE.iter().cycle().take(size - out.len() - END.len()));
    out.extend_from_slice(END);
    out
}

fn put_vehicle(out: &mut Vec<u8>, separator: &str, rng: &mut fastrand::Rng) {
    let line = LINES[rng.usize(..LINES.len())];
    let state = STATES[rng.usize(..STATES.len())];
    let (id, heading, delay) = (rng.u32(10_000..100_000), rng.u32(..360), rng.i32(-60..600));
    let (latitude, longitude) = (rng.u32(400_000..600_000), rng.u32(200_000..600_000));
    let (speed, tenths) = (rng.u32(..60), rng.u32(..10));
    write!(
        out,
        r#"{separator}{{"id":{id},"line":"{line}","lat":52.{latitude},"lon":13.{longitude},"speed":{speed}.{tenths},"heading":{heading},"delay":{delay},"state":"{state}"}}"#
    )
    .expect("memory takes what is written to it");
}

/// More than are under way at a time in any run worth its figures.
const KEPT: usize = 64;

const HEAD: &[u8] = br#"{"stamp":""#;
const LIST: &[u8] = br#"","kind":"positions","vehicles":["#;
const NOTE: &[u8] = br#"],"note":""#;
const END: &[u8] = br#""}"#;

/// What fills a document up, where no vehicle fits any more.
const PROSE: &[u8] =
    b"Due to works between the harbour and the old town, some departures take the northern bridge \
until further notice; please allow ten minutes more. ";

const LINES: [&str; 6] = ["M41", "100", "U7", "S25", "X9", "N2"];
const STATES: [&str; 4] = ["moving", "boarding", "waiting", "out of service"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_json_of_its_size_and_unlike_the_next() {
        let stamp = Stamp { run: 7, publisher: 1, sequence: 0, intended: 1 << 40 };
        for size in [Documents::SMALLEST, Documents::SMALLEST + 1, 250, 1024, 20_000] {
            let mut documents = Documents::new(size);
            let mut differing = 0;
            for sequence in 0..KEPT as u64 * 2 {
                let stamp = Stamp { sequence, ..stamp };
                let document = documents.of(&stamp).to_vec();
                assert_eq!(document.len(), size);
                let parsed: serde_json::Value = serde_json::from_slice(&document).unwrap();
                let vehicles = parsed["vehicles"].as_array().unwrap().len();
                assert!(vehicles >= (size - Documents::SMALLEST) / 140, "{vehicles} in {size} bytes");
                assert_eq!(documents.read(&document), Some(stamp));
                let next = documents.of(&Stamp { sequence: sequence + 1, ..stamp });
                differing =
                    differing.max(next.iter().zip(&document).filter(|(one, other)| one != other).count());
            }
            assert!(differing > size / 8 || size < 200, "{differing} of {size} bytes differ");
        }
    }
}

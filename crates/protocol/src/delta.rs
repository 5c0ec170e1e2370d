//! Fossil deltas: what changed between two payloads, as a patch that a receiver applies to the one before.
//!
//! A patch is text around the bytes that are new. Numbers are in base 64, their digits `0-9 A-Z _ a-z ~`, the most
//! significant first:
//!
//! | part              | what                                                              |
//! |-------------------|-------------------------------------------------------------------|
//! | `size` newline    | bytes of the target; first                                        |
//! | `n @ offset ,`    | copy so many bytes of the source, from there                      |
//! | `n :` and n bytes | insert these                                                      |
//! | `sum ;`           | the target's checksum: its big-endian 32-bit words, added; last   |
//!
//! It knows nothing of publications, and keeps no payload.

/// Makes a patch that turns `source` into `target`.
///
/// Takes time linear in both, whatever they hold, and memory of half the source. The patch may be longer than the
/// target: the caller compares. If the target is UTF-8, so is the patch, for it cuts no character in two.
pub fn create(source: &[u8], target: &[u8]) -> Vec<u8> {
    let mut patch = Vec::with_capacity(64);
    put_number(&mut patch, target.len() as u64);
    patch.push(b'\n');
    let index = Index::of(source);
    // What is before `done` is in the patch.
    let (mut done, mut at) = (0, 0);
    let mut hash = target.get(..WINDOW).map(Hash::of);
    while let Some(current) = hash {
        if let Some(found) = index.find(current, target, done, at) {
            put_literal(&mut patch, &target[done..found.target]);
            put_number(&mut patch, found.length as u64);
            patch.push(b'@');
            put_number(&mut patch, found.source as u64);
            patch.push(b',');
            done = found.target + found.length;
            at = done;
            hash = target.get(at..at + WINDOW).map(Hash::of);
        } else {
            let next = target.get(at + WINDOW);
            hash = next.map(|next| current.roll(target[at], *next));
            at += 1;
        }
    }
    put_literal(&mut patch, &target[done..]);
    put_number(&mut patch, checksum(target).into());
    patch.push(b';');
    patch
}

/// Applies a patch to what it was made against.
///
/// Never makes more than `limit` bytes, and reserves none before it has them.
///
/// # Errors
///
/// When the patch is malformed, was made against something else, or wants more than `limit` bytes.
pub fn apply(source: &[u8], patch: &[u8], limit: usize) -> Result<Vec<u8>, DeltaError> {
    let mut rest = patch;
    let size = number(&mut rest, b"\n")?.0;
    let size =
        usize::try_from(size).ok().filter(|size| *size <= limit).ok_or(DeltaError::TooBig { size, limit })?;
    let mut target = Vec::new();
    loop {
        let (value, command) = number(&mut rest, b"@:;")?;
        if command == b';' {
            return match (target.len() == size, u64::from(checksum(&target)) == value, rest.is_empty()) {
                (true, true, true) => Ok(target),
                (_, _, false) => Err(DeltaError::Malformed),
                (false, ..) | (_, false, _) => Err(DeltaError::Mismatch),
            };
        }
        let length = usize::try_from(value).map_err(|_| DeltaError::OutOfRange)?;
        if length > size - target.len() {
            return Err(DeltaError::OutOfRange);
        }
        let bytes = if command == b'@' {
            let offset = usize::try_from(number(&mut rest, b",")?.0).map_err(|_| DeltaError::OutOfRange)?;
            let end = offset.checked_add(length).ok_or(DeltaError::OutOfRange)?;
            source.get(offset..end).ok_or(DeltaError::OutOfRange)?
        } else {
            let (bytes, after) = rest.split_at_checked(length).ok_or(DeltaError::OutOfRange)?;
            rest = after;
            bytes
        };
        target.extend_from_slice(bytes);
    }
}

/// Why a patch cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The text of the patch is not one.
    #[error("a patch is malformed; expected a size, then copies and insertions, then a checksum")]
    Malformed,
    /// It copies what is not in the source, inserts what is not in the patch, or makes more than it said.
    #[error("a patch reaches beyond the payload before it, beyond its own end, or beyond its size")]
    OutOfRange,
    /// It makes something else than it was made for.
    #[error("a patch was made against another payload: size or checksum differ")]
    Mismatch,
    /// It wants to make more than is allowed.
    #[error("a patch makes {size} bytes; expected at most {limit}")]
    TooBig {
        /// What it says.
        size: u64,
        /// What is allowed.
        limit: usize,
    },
}

/// A part of the source that is in the target as well.
#[derive(Clone, Copy)]
struct Match {
    source: usize,
    target: usize,
    length: usize,
}

/// Where in the source blocks of [`WINDOW`] bytes are, by hash. A copy is found where the target has such a block
/// anywhere, and then made as long as it can be, so that nothing of 31 bytes or more is overlooked.
struct Index<'a> {
    source: &'a [u8],
    /// By slot the first block; by block the next one of the same slot. `NONE` is the end.
    first: Vec<u32>,
    next: Vec<u32>,
}

impl<'a> Index<'a> {
    fn of(source: &'a [u8]) -> Self {
        // What a `u32` cannot number is left out; no payload comes near.
        let blocks = (source.len() / WINDOW).min(NONE as usize);
        let mut index =
            Self { source, first: vec![NONE; blocks.next_power_of_two()], next: vec![NONE; blocks] };
        // From the last to the first, so that a chain begins with the first.
        for block in (0..blocks).rev() {
            let slot = index.slot(Hash::of(&source[block * WINDOW..][..WINDOW]));
            index.next[block] = std::mem::replace(&mut index.first[slot], block as u32);
        }
        index
    }

    fn slot(&self, hash: Hash) -> usize {
        // The high bits are the mixed ones; there is a power of two of slots.
        let mixed = u64::from(hash.0.wrapping_mul(0x9E37_79B1));
        ((mixed * self.first.len() as u64) >> 32) as usize
    }

    /// The longest copy that covers the window of the target at `at`, and nothing before `done`.
    fn find(&self, hash: Hash, target: &[u8], done: usize, at: usize) -> Option<Match> {
        let mut best: Option<Match> = None;
        let mut block = self.first[self.slot(hash)];
        for _ in 0..CANDIDATES {
            let start = block as usize * WINDOW;
            let Some(after) = self.next.get(block as usize) else { break };
            block = *after;
            if self.source[start..start + WINDOW] != target[at..at + WINDOW] {
                continue;
            }
            let ahead = same(self.source[start..].iter(), target[at..].iter());
            let back = same(self.source[..start].iter().rev(), target[done..at].iter().rev());
            let found = Match { source: start - back, target: at - back, length: back + ahead };
            if best.is_none_or(|best| best.length < found.length) {
                best = Some(found);
            }
        }
        best.map(|found| whole_characters(found, target)).filter(|found| found.length >= WORTHWHILE)
    }
}

/// How far two sequences are the same.
fn same<'a>(a: impl Iterator<Item = &'a u8>, b: impl Iterator<Item = &'a u8>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

/// Leaves a character that the match has only a part of to the insertions beside it.
fn whole_characters(found: Match, target: &[u8]) -> Match {
    let inside = |at: usize| target.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    let Match { source, target: start, length } = found;
    // A character has at most three such bytes; what has more is no text.
    let front = (0..3).take_while(|skipped| inside(start + skipped)).count();
    let end = start + length;
    let back = (0..3).take_while(|skipped| inside(end - skipped)).count();
    Match { source: source + front, target: start + front, length: length.saturating_sub(front + back) }
}

/// A hash of [`WINDOW`] bytes that moves on by one in constant time: a polynomial modulo 2^32.
#[derive(Clone, Copy)]
struct Hash(u32);

impl Hash {
    fn of(window: &[u8]) -> Self {
        Self(window.iter().fold(0, |hash: u32, byte| hash.wrapping_mul(FACTOR).wrapping_add((*byte).into())))
    }

    fn roll(self, leaves: u8, comes: u8) -> Self {
        let kept =
            self.0.wrapping_sub(u32::from(leaves).wrapping_mul(FACTOR.wrapping_pow(WINDOW as u32 - 1)));
        Self(kept.wrapping_mul(FACTOR).wrapping_add(comes.into()))
    }
}

fn put_literal(patch: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_number(patch, bytes.len() as u64);
        patch.push(b':');
        patch.extend_from_slice(bytes);
    }
}

fn put_number(patch: &mut Vec<u8>, number: u64) {
    let bits = u64::BITS - number.leading_zeros();
    for digit in (0..bits.div_ceil(6).max(1)).rev() {
        patch.push(DIGITS[(number >> (6 * digit) & 63) as usize]);
    }
}

/// Reads a number and the command after it, which must be one of these.
fn number(rest: &mut &[u8], commands: &[u8]) -> Result<(u64, u8), DeltaError> {
    let mut number = 0;
    for (count, byte) in rest.iter().enumerate() {
        if let Some(digit) = digit(*byte) {
            if number >> 32 != 0 {
                return Err(DeltaError::OutOfRange);
            }
            number = number << 6 | digit;
        } else if count > 0 && commands.contains(byte) {
            *rest = &rest[count + 1..];
            return Ok((number, *byte));
        } else {
            break;
        }
    }
    Err(DeltaError::Malformed)
}

fn digit(byte: u8) -> Option<u64> {
    Some(u64::from(match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        b'_' => 36,
        b'a'..=b'z' => byte - b'a' + 37,
        b'~' => 63,
        _ => return None,
    }))
}

fn checksum(bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    words.iter().chain([&last]).fold(0, |sum: u32, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Bytes of a block: what others use, and shorter copies hardly pay for their numbers.
const WINDOW: usize = 16;

/// A copy costs up to fourteen bytes itself, and splits an insertion.
const WORTHWHILE: usize = 12;

/// How many blocks of one hash are tried, so that payloads which repeat themselves do not take quadratic time.
const CANDIDATES: usize = 16;

const FACTOR: u32 = 0x0100_0193;

const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by another implementation (the JavaScript one that the clients use).
    const FOREIGN: &[(&str, &str, &str)] = &[
        (
            r#"{"symbol":"EURUSD","bid":1.0849,"ask":1.0852,"time":1764085321}"#,
            r#"{"symbol":"EURUSD","bid":1.0850,"ask":1.0853,"time":1764085322}"#,
            "~\nT@0,Y:50,\"ask\":1.0853,\"time\":1764085322}R0A7o;",
        ),
        ("", "hello", "5\n5:hello3NPMmh;"),
        ("hello", "", "0\n0:0;"),
        (
            "The quick brown fox jumps over the lazy dog, twice a day.",
            "Twice a day the quick brown fox jumps over the lazy dog, twice a day.",
            "15\nD:Twice a day tt@1,28Sq8i;",
        ),
        (
            "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]",
            "[20,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]",
            "p\n4:[20,k@1,1:]2rOu2F;",
        ),
    ];

    #[test]
    fn patches_of_another_implementation_are_applied() {
        for (source, target, patch) in FOREIGN {
            assert_eq!(
                apply(source.as_bytes(), patch.as_bytes(), 1 << 16),
                Ok(target.as_bytes().to_vec()),
                "{patch}"
            );
        }
    }

    #[test]
    fn patches_are_small_where_little_changes() {
        let price = |price: &str| {
            format!(
                r#"{{"symbol":"EURUSD","venue":"somewhere","bid":{price},"ask":1.0852,"time":"2026-11-25T15:42:01Z","depth":[1,2,3]}}"#
            )
        };
        let (before, after) = (price("1.0849"), price("1.0850"));
        let check = |source: &str, target: &str, longest: usize| {
            let patch = create(source.as_bytes(), target.as_bytes());
            assert_eq!(apply(source.as_bytes(), &patch, target.len()), Ok(target.as_bytes().to_vec()));
            assert!(str::from_utf8(&patch).is_ok(), "{patch:?}");
            assert!(patch.len() <= longest, "{} bytes: {}", patch.len(), String::from_utf8_lossy(&patch));
        };
        check(&before, &after, 40);
        check(&before, &before, 16);
        check(&before, "", 8);
        check("", &after, after.len() + 16);
        check(&before, &format!("{after}{before}"), 60);
        // é and è begin alike, é and ĩ end alike.
        check(&format!("é{before}é"), &format!("ĩ{before}è"), 24);
        check(&"ab".repeat(5_000), &"ab".repeat(9_000), 50);
    }

    #[test]
    fn what_is_hostile_is_refused_before_it_costs_anything() {
        let source = b"0123456789";
        for (patch, expected) in [
            ("", DeltaError::Malformed),
            ("\n", DeltaError::Malformed),
            ("A", DeltaError::Malformed),
            ("A:", DeltaError::Malformed),
            ("-1\n0;", DeltaError::Malformed),
            ("1\n", DeltaError::Malformed),
            ("1\nx", DeltaError::Malformed),
            ("1\n1@;", DeltaError::Malformed),
            ("1\n1@0;", DeltaError::Malformed),
            ("0\n0;0;", DeltaError::Malformed),
            ("0\n;", DeltaError::Malformed),
            ("1\n1:", DeltaError::OutOfRange),
            ("1\n2:ab0;", DeltaError::OutOfRange),
            ("A\nB@0,0;", DeltaError::OutOfRange),
            ("A\nA@1,0;", DeltaError::OutOfRange),
            ("A\nA@3~~~~~,0;", DeltaError::OutOfRange),
            ("A\nA@~~~~~~~~~~~~~~~~~,0;", DeltaError::OutOfRange),
            ("~~~~~~~~~~~~~~~~~\n", DeltaError::OutOfRange),
            ("1\n0;", DeltaError::Mismatch),
            ("1\n1:a0;", DeltaError::Mismatch),
            ("3~~~~~\n0;", DeltaError::TooBig { size: (1 << 32) - 1, limit: 16 }),
            ("H\n", DeltaError::TooBig { size: 17, limit: 16 }),
        ] {
            assert_eq!(apply(source, patch.as_bytes(), 16), Err(expected), "{patch:?}");
        }
        assert_eq!(apply(source, b"0\n0;", 0), Ok(vec![]));
    }

    /// Repetition is where such algorithms become quadratic.
    #[test]
    fn repetition_takes_linear_time() {
        let zeros = vec![0; 1 << 20];
        let mut other = zeros.clone();
        for at in (0..other.len()).step_by(40) {
            other[at] = 1;
        }
        for (source, target) in [(&zeros, &zeros), (&zeros, &other), (&other, &zeros), (&other, &other)] {
            let patch = create(source, target);
            assert!(apply(source, &patch, target.len()).as_ref() == Ok(target));
        }
    }

    /// Two texts with something in common.
    fn related(piece: &'static str) -> impl Strategy<Value = (String, String)> {
        let pieces = proptest::collection::vec(piece, 1..8);
        let order = || proptest::collection::vec(any::<prop::sample::Index>(), 0..12);
        (pieces, order(), order()).prop_map(|(pieces, a, b)| {
            let text =
                |order: Vec<prop::sample::Index>| order.iter().map(|at| at.get(&pieces).as_str()).collect();
            (text(a), text(b))
        })
    }

    proptest! {
        #[test]
        fn what_was_created_is_applied(source: Vec<u8>, target: Vec<u8>) {
            let patch = create(&source, &target);
            prop_assert_eq!(apply(&source, &patch, target.len()), Ok(target));
        }

        #[test]
        fn what_is_related_is_applied_and_stays_text((source, target) in related("[aéèĩĨ漢漣🦀🦁]{1,60}")) {
            let patch = create(source.as_bytes(), target.as_bytes());
            prop_assert!(str::from_utf8(&patch).is_ok());
            prop_assert_eq!(apply(source.as_bytes(), &patch, target.len()), Ok(target.into_bytes()));
        }

        #[test]
        fn no_bytes_break_apply(source: Vec<u8>, patch in "[0-3A~]{0,2}(\n|)([0-9A~]{1,3}[@:,;\n]){0,9}") {
            if let Ok(target) = apply(&source, patch.as_bytes(), 100) {
                prop_assert!(target.len() <= 100);
            }
        }
    }
}

//! The option `name_pattern`: how it is read, what it matches, and which names it surely never does. What follows
//! from that is for `rules`.

use std::collections::HashSet;
use std::fmt;

use regex::Regex;
use regex_automata::nfa::thompson::{self, NFA, State};
use regex_automata::util::primitives::StateID;

use super::value::{Hint, Kind, Value, string};

/// A regular expression that the whole of a channel's name must match.
#[derive(Clone)]
pub struct NamePattern {
    written: String,
    whole: Regex,
}

impl NamePattern {
    /// The largest compiled pattern, in bytes.
    const LIMIT: usize = 1 << 20;

    /// Whether it matches the whole of a name.
    pub fn matches(&self, name: &str) -> bool {
        self.whole.is_match(name)
    }

    /// Whether it may match a name that begins so. Only a no is certain.
    pub fn admits_prefix(&self, prefix: &str) -> bool {
        let Some(nfa) = self.nfa() else { return true };
        let mut at = reached(&nfa, [nfa.start_anchored()]);
        for byte in prefix.bytes() {
            at = reached(&nfa, at.iter().filter_map(|state| next(nfa.state(*state), byte)));
        }
        !at.is_empty()
    }

    /// Whether it may match a name that has this ASCII character in it. Only a no is certain.
    pub fn admits_character(&self, character: u8) -> bool {
        self.nfa().is_none_or(|nfa| nfa.states().iter().any(|state| next(state, character).is_some()))
    }

    /// What a name goes through, byte by byte. Nothing for what cannot be built, which was refused before.
    fn nfa(&self) -> Option<NFA> {
        let bounded = thompson::Config::new().nfa_size_limit(Some(Self::LIMIT));
        NFA::compiler().configure(bounded).build(self.whole.as_str()).ok()
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.written, f)
    }
}

impl Value for NamePattern {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str = r#"a regular expression such as "chat:[a-z0-9-]{1,40}""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        let build = |text: &str| regex::RegexBuilder::new(text).size_limit(Self::LIMIT).build();
        // By itself first: `a)(b` is no pattern, and in the brackets it would be one.
        let whole = build(text).and_then(|_| build(&format!(r"\A(?:{text})\z")));
        let whole = whole.map_err(|error| {
            // The parser draws where it stopped, over several lines; the last says what is wrong.
            let line = error.to_string();
            let line = line.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Some(line)
        })?;
        Ok(Self { written: text.to_owned(), whole })
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.written))
    }
}

/// Where these lead without another byte, as if whatever is looked at beside (`^`, `\b`) were there.
fn reached(nfa: &NFA, from: impl IntoIterator<Item = StateID>) -> HashSet<StateID> {
    let (mut seen, mut open) = (HashSet::new(), Vec::from_iter(from));
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        match nfa.state(at) {
            State::Look { next, .. } | State::Capture { next, .. } => open.push(*next),
            State::Union { alternates } => open.extend(alternates),
            State::BinaryUnion { alt1, alt2 } => open.extend([*alt1, *alt2]),
            State::ByteRange { .. }
            | State::Sparse(_)
            | State::Dense(_)
            | State::Fail
            | State::Match { .. } => {}
        }
    }
    seen
}

/// Where a byte leads.
fn next(state: &State, byte: u8) -> Option<StateID> {
    match state {
        State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
        State::Sparse(transitions) => transitions.matches_byte(byte),
        State::Dense(transitions) => transitions.matches_byte(byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_name_can_be_is_known() {
        // (pattern, a beginning, whether there is one with it, whether there is one with a `#`)
        for (pattern, prefix, begins, has_hash) in [
            ("a:[a-z]+", "a:", true, false),
            ("a:[a-z]+", "a:#", false, false),
            ("a:[a-z]+", "a:b1", false, false),
            ("a:.*", "a:#", true, true),
            ("b:.*", "a:", false, true),
            ("(a|b):#?[a-z]+", "b:#", true, true),
            ("(?i)A:x", "a:", true, false),
            ("a:\\w{1,3}", "a:é", true, false),
            (r"[^\W\d_]{2}:\S+", "$a:", false, true),
            ("", "a:", false, false),
            (r"\ba:[!-/]{3}$", "a:#", true, true),
        ] {
            let pattern = NamePattern::parse(pattern).unwrap();
            let found = (pattern.admits_prefix(prefix), pattern.admits_character(b'#'));
            assert_eq!(found, (begins, has_hash), "{pattern:?} for {prefix}");
        }
    }
}

//! What a raw client that comes back has missed, from the position that it names. Its subscription is made before, and holds
//! what is published meanwhile; the history is read then, and says from which offset on that is wanted. So nothing is
//! lost and nothing comes twice. What is not kept any more is a gap, and is said to be one.

use bytes::Bytes;
use fanfare_broker::Query;
use fanfare_protocol::{Channel, Position, Publication};

use super::rejection::Rejection;
use crate::client::{Outcome, judge};
use crate::worker::Worker;

/// Where a client says it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Nowhere: it wants to know where it is.
    Now,
    /// There.
    Position(Position),
    /// Somewhere that no history has.
    Unknown,
}

impl Since {
    /// Out of a query.
    pub fn asked(value: &str) -> Result<Self, Rejection> {
        if value.is_empty() {
            return Ok(Self::Now);
        }
        let refuse = || Rejection::Since(value.chars().take(40).collect());
        Position::parse(value).map(Self::Position).ok_or_else(refuse)
    }

    /// Out of a `Last-Event-ID`, which a browser sends of its own accord: what is none of ours is no reason to refuse it.
    pub fn remembered(value: &[u8]) -> Self {
        let position = std::str::from_utf8(value).ok().and_then(Position::parse);
        position.map_or(Self::Unknown, Self::Position)
    }
}

/// How what was missed is written.
pub trait Words {
    /// A publication.
    fn publication(&self, publication: &Publication) -> Bytes;
    /// Some may have been missed.
    fn gap(&self) -> Bytes;
    /// Where the client is now.
    fn place(&self, position: Position) -> Bytes;
}

/// What is written before what is published from now on.
pub struct CaughtUp {
    pub words: Bytes,
    /// The offset that it reaches; 0 if that is not known.
    pub after: u64,
}

/// Reads what was missed. While the broker is away that is not known, which is a gap as well: nobody is refused for it.
pub async fn catch_up(worker: &Worker, channel: &Channel, since: Since, words: &impl Words) -> CaughtUp {
    let instance = &worker.instance;
    let query = match since {
        Since::Position(position) => {
            let limit = instance.config.history_limit.map_or(usize::MAX, |limit| limit.get() as usize);
            Query::since(position, limit)
        }
        Since::Now | Since::Unknown => Query::TOP,
    };
    let (mut out, mut after) = (Vec::new(), 0);
    let reading = instance.broker.history(channel, query);
    let read = match since {
        Since::Position(_) => worker.recoveries.in_turn(reading).await,
        Since::Now | Since::Unknown => reading.await,
    };
    match read {
        Err(error) => {
            tracing::debug!(%channel, "what was missed is not known: {error}");
            if since != Since::Now {
                out.extend_from_slice(&words.gap());
            }
        }
        Ok(history) => {
            after = history.top.offset;
            let outcome = match since {
                Since::Now => None,
                Since::Position(position) => Some(judge(position.offset, &history)),
                Since::Unknown => Some(Outcome::OtherEpoch),
            };
            for publication in history.publications.iter().filter(|_| outcome == Some(Outcome::Recovered)) {
                out.extend_from_slice(&words.publication(publication));
            }
            // Whoever cannot have all of it would be cut as slow, come back, and be cut again.
            let outcome = match outcome {
                Some(Outcome::Recovered) if out.len() > instance.config.outbox_limit / 2 => {
                    Some(Outcome::TooFar)
                }
                outcome => outcome,
            };
            if let Some(outcome) = outcome {
                instance.counts.recovery(outcome);
                if !outcome.is_whole() {
                    out = words.gap().to_vec();
                }
            }
            out.extend_from_slice(&words.place(history.top));
        }
    }
    CaughtUp { words: out.into(), after }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Epoch;

    use super::*;

    #[test]
    fn a_place_is_asked_for_or_remembered() {
        let at = |offset| Since::Position(Position { offset, epoch: Epoch::new("kRtA").unwrap() });
        for (value, asked, remembered) in [
            ("", Some(Since::Now), Since::Unknown),
            ("42:kRtA", Some(at(42)), at(42)),
            ("nonsense", None, Since::Unknown),
            ("-1:kRtA", None, Since::Unknown),
        ] {
            assert_eq!(Since::asked(value).ok(), asked, "{value}");
            assert_eq!(Since::remembered(value.as_bytes()), remembered, "{value}");
        }
        assert_eq!(Since::remembered(b"\xff"), Since::Unknown);
    }
}

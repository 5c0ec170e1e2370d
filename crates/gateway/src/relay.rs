//! Where the broker's publications become the hub's deliveries: the only place that knows both. Each
//! publication is encoded here once, whatever the number of its receivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fanfare_broker::{Gap, GapCause, Relay};
use fanfare_hub::{Delivery, Hub};
use fanfare_protocol::{Channel, Kind, Publication};
use fanfare_websocket::{Opcode, frame};

/// What the broker hands this instance goes to its hub.
pub struct HubRelay {
    hub: Arc<Hub>,
    gaps: [AtomicU64; GapCause::ALL.len()],
}

impl HubRelay {
    /// A relay to this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, gaps: Default::default() }
    }

    /// Gaps since the start, by cause.
    pub fn gaps(&self) -> impl Iterator<Item = (GapCause, u64)> {
        GapCause::ALL.into_iter().zip(self.gaps.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

impl Relay for HubRelay {
    fn deliver(&self, channel: &Channel, publication: Publication) {
        let workers = self.hub.workers(channel);
        if workers.is_empty() {
            return;
        }
        let opcode = match publication.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let delivery = Delivery {
            frame: frame(opcode, &publication.payload),
            exclude: publication.exclude,
            published_at: publication.published_at,
        };
        self.hub.deliver(workers, channel, &delivery);
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
        !self.hub.workers(channel).is_empty()
    }
}

/// The text message that tells a client of a gap, for those who asked by `?notices=true`. Clients may know
/// it by how it begins, so it is always written in this one way.
pub fn gap_notice(channel: &Channel) -> Bytes {
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

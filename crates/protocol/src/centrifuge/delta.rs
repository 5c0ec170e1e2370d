//! Publications for subscriptions that have agreed on Fossil deltas.
//!
//! A patch is made once, however many receivers and encodings there are. It does not remember what came before:
//! the broker or the list knows the predecessor.

use bytes::Bytes;

use super::framing::Encoding;
use super::messages::Publication;
use super::reply::NotJson;
use crate::delta;
use crate::payload::check_json;

/// What a publication changed in its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Everything: there is none before it, or a patch would not be shorter.
    Whole,
    /// What a patch says, against the publication before it.
    Patch(Bytes),
}

impl Delta {
    /// Compares a payload with the one before it in the channel, if there is one.
    pub fn between(previous: Option<&[u8]>, payload: &[u8]) -> Self {
        let patch = previous.map(|previous| delta::create(previous, payload));
        patch
            .filter(|patch| patch.len() < payload.len())
            .map_or(Self::Whole, |patch| Self::Patch(patch.into()))
    }
}

impl Encoding {
    /// The publication as a receiver with deltas gets it. In JSON, `data` becomes a string, of the payload as of the
    /// patch.
    ///
    /// # Errors
    ///
    /// When the payload is not JSON, for a JSON client.
    pub fn with_delta(self, publication: &Publication, delta: &Delta) -> Result<Publication, NotJson> {
        let (data, delta) = match self {
            Self::Protobuf => match delta {
                Delta::Whole => (publication.data.clone(), false),
                Delta::Patch(patch) => (patch.clone(), true),
            },
            Self::Json => {
                let whole = str::from_utf8(&publication.data).map_err(|_| NotJson)?;
                check_json(&publication.data).map_err(|_| NotJson)?;
                match delta {
                    // A patch of texts is text; but what was before need not have been one.
                    Delta::Patch(patch) if let Ok(patch) = str::from_utf8(patch) => (string(patch), true),
                    Delta::Patch(_) | Delta::Whole => (string(whole), false),
                }
            }
        };
        Ok(Publication { data, delta, ..publication.clone() })
    }

    /// The publications of a recovery as a receiver with deltas gets them: the first one whole, each other one against
    /// the one before it in the list.
    ///
    /// # Errors
    ///
    /// When a payload is not JSON, for a JSON client.
    pub fn with_deltas(self, publications: &[Publication]) -> Result<Vec<Publication>, NotJson> {
        let mut previous = None;
        let mut result = Vec::with_capacity(publications.len());
        for publication in publications {
            let delta = Delta::between(previous, &publication.data);
            result.push(self.with_delta(publication, &delta)?);
            previous = Some(&publication.data[..]);
        }
        Ok(result)
    }
}

/// A JSON string that holds this text.
fn string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

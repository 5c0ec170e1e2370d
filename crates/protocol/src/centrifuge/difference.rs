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
pub enum Difference {
    /// Everything: there is none before it, or a patch would not be shorter.
    Whole,
    /// What a patch says, against the publication before it.
    Patch(Bytes),
}

impl Difference {
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
    pub fn with_difference(
        self,
        publication: &Publication,
        difference: &Difference,
    ) -> Result<Publication, NotJson> {
        let (data, delta) = match self {
            Self::Protobuf => match difference {
                Difference::Whole => (publication.data.clone(), false),
                Difference::Patch(patch) => (patch.clone(), true),
            },
            Self::Json => {
                let whole = str::from_utf8(&publication.data).map_err(|_| NotJson)?;
                check_json(&publication.data).map_err(|_| NotJson)?;
                match difference {
                    // A patch of texts is text; but what was before need not have been one.
                    Difference::Patch(patch) if let Ok(patch) = str::from_utf8(patch) => {
                        (string(patch), true)
                    }
                    Difference::Patch(_) | Difference::Whole => (string(whole), false),
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
    pub fn with_differences(self, publications: &[Publication]) -> Result<Vec<Publication>, NotJson> {
        let mut previous = None;
        let mut result = Vec::with_capacity(publications.len());
        for publication in publications {
            let difference = Difference::between(previous, &publication.data);
            result.push(self.with_difference(publication, &difference)?);
            previous = Some(&publication.data[..]);
        }
        Ok(result)
    }
}

/// A JSON string that holds this text.
fn string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

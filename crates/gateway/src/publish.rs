//! What may be published, and how it goes out: the one place for the raw endpoints, for sessions and for the HTTP API. Who
//! may publish is asked before (`namespace`); where it goes from here is the broker's business.

use fanfare_broker::{AppendOptions, Broker, BrokerError};
use fanfare_protocol::payload::{DataFormat, PayloadError};
use fanfare_protocol::{Channel, Position, Publication};

use crate::config::Config;

/// The longest header of a server's frame (RFC 6455 section 5.2).
const FRAME_HEADER: usize = 10;

/// Why something was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// No outbox would hold it, so it would cut every subscriber.
    #[error("data has {bytes} bytes; at most {most} are possible")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
    /// It is not in its channel's format.
    #[error(transparent)]
    Format(#[from] PayloadError),
    /// The broker did not take it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// The largest payload that reaches a client, whoever publishes it.
pub fn payload_limit(config: &Config) -> usize {
    config.outbox_limit.saturating_sub(FRAME_HEADER)
}

/// Whether a payload may be published where this format is wanted.
///
/// # Errors
///
/// When it is too large, or in another format.
pub fn check(config: &Config, format: DataFormat, payload: &[u8]) -> Result<(), Unpublished> {
    let (bytes, most) = (payload.len(), payload_limit(config));
    if bytes > most {
        return Err(Unpublished::TooLarge { bytes, most });
    }
    Ok(format.check(payload)?)
}

/// Publishes, and resolves when the broker has it, with its position where the channel has a history. The call itself
/// puts it into the order of this thread's publications.
///
/// # Errors
///
/// As [`check`], and when the broker refuses or is away; then nothing is published later.
pub fn publish<'a>(
    broker: &'a dyn Broker,
    config: &Config,
    format: DataFormat,
    channel: &'a Channel,
    publication: Publication,
    options: AppendOptions,
) -> impl Future<Output = Result<Option<Position>, Unpublished>> + use<'a> {
    let checked = check(config, format, &publication.payload);
    let appended = checked.map(|()| broker.append(channel, publication, options));
    async { Ok(appended?.await?) }
}

//! What may be published, and how it goes out: the one place for the raw endpoints, for sessions and for the HTTP API. Who
//! may publish is asked before (`namespace`); where it goes from here is the broker's business.

use fanfare_broker::{AppendOptions, Appended, BrokerError};
use fanfare_protocol::payload::{DataFormat, PayloadError};
use fanfare_protocol::{Channel, Publication};

use crate::config::Config;
use crate::instance::Instance;
use crate::namespace::Namespace;

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

/// What publications in a namespace keep to, and where they are counted.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How payloads must be.
    pub format: DataFormat,
    /// Its place among the namespaces.
    pub namespace: usize,
}

impl Rules {
    /// Where there is no namespace but the default's, of which nothing is configured.
    pub const NONE: Self = Self { format: DataFormat::Binary, namespace: 0 };
}

impl From<&Namespace> for Rules {
    fn from(namespace: &Namespace) -> Self {
        Self { format: namespace.data_format, namespace: namespace.index }
    }
}

/// Publishes, and resolves when the broker has it, with what came of it. The call itself puts it into the order of this
/// thread's publications. What was rightly not published is no error, and is counted as that.
///
/// # Errors
///
/// When the payload is too large or in another format, and when the broker refuses or is away; then nothing is published
/// later.
pub fn publish<'a>(
    instance: &'a Instance,
    rules: Rules,
    channel: &'a Channel,
    publication: Publication,
    options: AppendOptions,
) -> impl Future<Output = Result<Appended, Unpublished>> + use<'a> {
    let checked = check(instance, rules, &publication);
    let appended = checked.map(|()| instance.broker.append(channel, publication, options));
    async move {
        let appended = appended?.await?;
        match appended.suppressed {
            None => instance.counts.publication(rules.namespace),
            Some(why) => instance.counts.suppressed(why),
        }
        Ok(appended)
    }
}

/// Publishes for somebody who waits for nothing.
///
/// # Errors
///
/// When the payload is too large or in another format.
pub fn publish_unconfirmed(
    instance: &Instance,
    rules: Rules,
    channel: &Channel,
    publication: Publication,
) -> Result<(), Unpublished> {
    check(instance, rules, &publication)?;
    instance.counts.publication(rules.namespace);
    instance.broker.publish(channel, publication);
    Ok(())
}

fn check(instance: &Instance, rules: Rules, publication: &Publication) -> Result<(), Unpublished> {
    let (bytes, most) = (publication.payload.len(), payload_limit(&instance.config));
    if bytes > most {
        return Err(Unpublished::TooLarge { bytes, most });
    }
    Ok(rules.format.check(&publication.payload)?)
}

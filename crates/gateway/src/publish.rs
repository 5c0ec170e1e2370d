//! What may be published, and how it goes out: the one place for the raw endpoints, for sessions and for the HTTP
//! API. Who may publish is asked before (`namespace`); where it goes from here is the broker's business.

use fanfare_broker::{AppendOptions, Appended, BrokerError};
use fanfare_protocol::payload::{DataFormat, PayloadError};
use fanfare_protocol::{Channel, Publication, Tags, TagsError, check_tags};

use crate::instance::Instance;
use crate::namespace::Namespace;

/// Why something was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// No outbox would hold it, so it would cut every subscriber.
    #[error(
        "data has {bytes} bytes, with its tags and what is shown of its publisher; at most {most} are possible"
    )]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
    /// It is not in its channel's format.
    #[error(transparent)]
    Format(#[from] PayloadError),
    /// Its tags would cost every subscriber who has a filter too much.
    #[error(transparent)]
    Tags(#[from] TagsError),
    /// The broker did not take it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
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

/// What whoever came in may publish: anything that keeps to these rules, or nothing at all.
pub type MayPublish = Option<Rules>;

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
/// When the payload with its tags and its publisher is too large, or in another format, and when the broker refuses
/// or is away; then nothing is published later.
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
/// When the payload with its tags and its publisher is too large, or in another format.
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
    let tags = publication.tags.as_deref().map_or(0, length_of);
    let shown = publication.info.as_ref().map_or(0, |info| info.conn_info.len() + info.chan_info.len());
    let (bytes, most) = (publication.payload.len() + tags + shown, instance.config.payload_limit());
    if bytes > most {
        return Err(Unpublished::TooLarge { bytes, most });
    }
    publication.tags.as_deref().map_or(Ok(()), check_tags)?;
    Ok(rules.format.check(&publication.payload)?)
}

/// What tags add to a publication where it is longest, in JSON, in bytes.
fn length_of(tags: &Tags) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let written = |text: &str| text.bytes().map(escaped).sum::<usize>() + 2;
    // Behind each word a colon or a comma.
    tags.iter().map(|(key, value)| written(key) + written(value) + 2).sum::<usize>() + r#","tags":{}"#.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_as_long_as_they_are_written() {
        for tags in [
            &[("a", "b")][..],
            &[("topic", "weather"), ("é", "\u{1}\u{8}\u{c}\n\r\t\"\\\u{7f}")],
            &[("", "")],
        ] {
            let tags: Tags =
                tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let written = serde_json::to_string(&tags).unwrap().len() + r#","tags":"#.len();
            // A comma is counted behind the last, too.
            assert_eq!(length_of(&tags), written + 1, "{tags:?}");
        }
    }
}

//! `publish` and `broadcast`: what a back end says to channels. The rules for data are `crate::publish`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_broker::{AppendOptions, Version};
use fanfare_protocol::payload::DataFormat;
use fanfare_protocol::{Channel, Kind, Publication};
use futures_util::stream::{self, StreamExt};
use serde_json::value::RawValue;

use super::Api;
use super::data::{self, decode};
use super::error::{ApiError, Code};
use super::reply::Reply;
use super::shape::{AtLeastOne, Base64, Name, Whole, requests, results};
use crate::publish::{Rules, publish};

/// How many channels of a broadcast are published to at a time.
const AT_ONCE: usize = 1024;

/// The longest idempotency key and version epoch, in bytes.
const LONGEST: usize = 255;

requests! {
    /// Publishes to a channel.
    Publish {
        /// To which channel
        needed channel: Name,
        /// Any JSON. Needed, if there is no `b64data`, unless the channel's namespace takes binary data
        optional data: Box<RawValue>,
        /// Any bytes, in base64, instead of `data`: a binary publication
        optional b64data: Base64,
        /// Neither keeps nor numbers it, though the channel has a history
        optional skip_history: bool,
        /// Words to choose publications by
        optional tags: BTreeMap<String, String>,
        /// Whoever publishes to the channel with the same key again, within five minutes, gets the first result, and
        /// nothing is published
        optional idempotency_key: String,
        /// Asks that subscribers that take deltas get one; they do so anyway, where the channel's namespace allows it
        optional delta: bool,
        /// Publishes only what is newer than what was published in the channel with a version before; needs a history
        optional version: Whole<u64>,
        /// What the version is a version of; those of different epochs say nothing about each other
        optional version_epoch: String,
    }

    /// Publishes the same to many channels.
    Broadcast {
        /// To which channels
        needed channels: AtLeastOne<Name>,
        /// Any JSON. Needed, if there is no `b64data`, unless the channels' namespaces take binary data
        optional data: Box<RawValue>,
        /// Any bytes, in base64, instead of `data`: binary publications
        optional b64data: Base64,
        /// Neither keeps nor numbers it, though a channel has a history
        optional skip_history: bool,
        /// Words to choose publications by
        optional tags: BTreeMap<String, String>,
        /// As of `publish`, for each channel by itself
        optional idempotency_key: String,
        /// As of `publish`
        optional delta: bool,
        /// As of `publish`, for each channel by itself
        optional version: Whole<u64>,
        /// As of `publish`
        optional version_epoch: String,
    }
}

results! {
    /// Where a publication stands; nothing where no history is kept.
    Published {
        /// Its offset in the channel's history
        maybe offset: Option<u64>,
        /// The history's epoch
        maybe epoch: Option<String>,
    }

    /// What came of each channel of a broadcast, in their order.
    Broadcasted {
        /// A result or an error for each channel
        always responses: Vec<Reply<Published>>,
    }
}

/// See [`Publish`].
pub async fn publish_one(api: &Api, request: Publish) -> Result<Published, ApiError> {
    let Publish {
        channel, data, b64data, skip_history, tags, idempotency_key, version, version_epoch, ..
    } = request;
    let what = What::read(data, b64data, tags)?;
    let options = options(skip_history, idempotency_key, version, version_epoch)?;
    what.publish(api, &channel.unwrap_or_default().0, options).await
}

/// See [`Broadcast`].
pub async fn broadcast(api: &Api, request: Broadcast) -> Result<Broadcasted, ApiError> {
    let Broadcast {
        channels,
        data,
        b64data,
        skip_history,
        tags,
        idempotency_key,
        version,
        version_epoch,
        ..
    } = request;
    let channels = channels.unwrap_or_default().0;
    if channels.is_empty() {
        return Err(ApiError::bad("`channels` is empty; expected at least one"));
    }
    let what = What::read(data, b64data, tags)?;
    let options = options(skip_history, idempotency_key, version, version_epoch)?;
    let published = stream::iter(channels).map(|Name(name)| what.publish(api, &name, options.clone()));
    let responses = published.buffered(AT_ONCE).map(Reply::from).collect().await;
    Ok(Broadcasted { responses })
}

/// What is published, to one channel or to many.
struct What {
    kind: Kind,
    payload: Bytes,
    tags: Option<Arc<BTreeMap<String, String>>>,
}

impl What {
    fn read(
        data: Option<Box<RawValue>>,
        b64data: Option<Base64>,
        tags: Option<BTreeMap<String, String>>,
    ) -> Result<Self, ApiError> {
        let tags = tags.filter(|tags| !tags.is_empty()).map(Arc::new);
        // Base64 wins, as in tokens.
        if let Some(bytes) = decode("b64data", b64data)? {
            return Ok(Self { kind: Kind::Binary, payload: bytes, tags });
        }
        let Some(json) = data else {
            return Ok(Self { kind: Kind::Binary, payload: Bytes::new(), tags });
        };
        Ok(Self { kind: Kind::Text, payload: data::json("data", json)?, tags })
    }

    /// The order of calls is that of publications; the future only waits.
    fn publish<'a>(
        &'a self,
        api: &'a Api,
        name: &str,
        options: AppendOptions,
    ) -> impl Future<Output = Result<Published, ApiError>> + use<'a> {
        let prepared = self.prepare(api, name, &options);
        async move {
            let (channel, rules) = prepared?;
            let publication =
                Publication { tags: self.tags.clone(), ..Publication::new(self.kind, self.payload.clone()) };
            let instance = &api.instance;
            let appended = publish(instance, rules, &channel, publication, options).await?;
            if appended.suppressed.is_none() {
                api.calls.count_publication();
            }
            let at = appended.position;
            Ok(Published { offset: at.map(|at| at.offset), epoch: at.map(|at| at.epoch.as_str().to_owned()) })
        }
    }

    fn prepare(&self, api: &Api, name: &str, options: &AppendOptions) -> Result<(Channel, Rules), ApiError> {
        let (channel, namespace) = api.channel(name)?;
        if self.payload.is_empty() && namespace.data_format != DataFormat::Binary {
            return Err(ApiError::bad("there is neither `data` nor `b64data`; expected one of them"));
        }
        if options.version.is_some() && namespace.history_size.is_none() {
            return Err(ApiError::new(
                Code::NotAvailable,
                "a version needs a history, and the channel keeps none",
            ));
        }
        Ok((channel, (&*namespace).into()))
    }
}

fn options(
    skip_history: Option<bool>,
    idempotency_key: Option<String>,
    version: Option<Whole<u64>>,
    version_epoch: Option<String>,
) -> Result<AppendOptions, ApiError> {
    let epoch = version_epoch.unwrap_or_default();
    let idempotency_key = idempotency_key.filter(|key| !key.is_empty());
    for (name, text) in [("idempotency_key", idempotency_key.as_deref()), ("version_epoch", Some(&*epoch))] {
        if let Some(bytes) = text.map(str::len).filter(|bytes| *bytes > LONGEST) {
            return Err(ApiError::bad(format!("`{name}` has {bytes} bytes; at most {LONGEST} are possible")));
        }
    }
    // 0 is none, as in the protocol's other encoding.
    let version =
        version.map(|version| version.0).filter(|number| *number > 0).map(|number| Version { number, epoch });
    let skip_history = skip_history.unwrap_or_default();
    if skip_history && version.is_some() {
        return Err(ApiError::bad(
            "`version` is held against the history; expected it without `skip_history`",
        ));
    }
    Ok(AppendOptions { idempotency_key, skip_history, version, ..AppendOptions::default() })
}

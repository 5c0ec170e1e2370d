//! `presence`, `presence_stats`, `history`, `history_remove`, `channels`, `info`: what there is, over all instances.
//! It asks the broker and no instance, and reads what may be long in pages.

use std::collections::BTreeMap;

use fanfare_broker::{self as broker, Away, Cursor, Page, Portion, Query};
use fanfare_protocol::{Epoch, Info as Publisher, Member, Position, Publication};
use serde_json::value::RawValue;

use super::Api;
use super::data::{encode, raw};
use super::error::{ApiError, Code};
use super::shape::{Done, Name, Whole, requests, results};
use crate::listing;
use crate::memory::LITTLE;

/// The most entries of one answer; whoever wants more goes on at `next`.
const MOST: usize = 100_000;

/// What a name and its place in a map take beside the text, about.
const ENTRY: usize = 64;

/// The most publications of one answer; whoever wants more goes on with `since`.
const MOST_PUBLICATIONS: usize = 1000;

requests! {
    /// Who is subscribed to a channel.
    Presence {
        /// To which channel
        needed channel: Name,
        /// About how many at most; 0 for as many as possible
        optional limit: Whole<u32>,
        /// Where to go on: `next` of the answer before
        optional cursor: String,
    }

    /// How many are subscribed to a channel.
    PresenceStats {
        /// To which channel
        needed channel: Name,
    }

    /// What was published in a channel.
    History {
        /// In which channel
        needed channel: Name,
        /// How many publications at most, and never more than 1000; 0 for where the history stands alone, below 0 for
        /// as many as possible
        optional limit: Whole<i32>,
        /// After this place; in reverse, before it
        optional since: Since,
        /// The newest first
        optional reverse: bool,
    }

    /// A place in a channel's history.
    Since {
        /// Of a publication
        optional offset: Whole<u64>,
        /// Of the history; the empty one is any
        optional epoch: String,
    }

    /// Forgets what was published in a channel.
    HistoryRemove {
        /// In which channel
        needed channel: Name,
    }

    /// Which channels have subscribers.
    Channels {
        /// Which names: `*` is anything, `?` any character, `[a-z]` one of these, `\` says that the next is meant as
        /// such
        optional pattern: String,
        /// About how many at most; 0 for as many as possible
        optional limit: Whole<u32>,
        /// Where to go on: `next` of the answer before
        optional cursor: String,
    }

    /// Which instances there are.
    Info {}
}

results! {
    /// Who is subscribed.
    PresenceResult {
        /// Clients, by connection
        always presence: BTreeMap<String, Client>,
        /// If there are more: where to go on
        maybe next: Option<String>,
    }

    /// A client, as others may see it.
    Client {
        /// Its connection's id
        always client: String,
        /// Its user; empty for an anonymous one
        always user: String,
        /// What its connection's token says of it
        maybe conn_info: Option<Box<RawValue>>,
        /// What its subscription's token says of it
        maybe chan_info: Option<Box<RawValue>>,
    }

    /// How many are subscribed.
    PresenceStatsResult {
        /// Connections
        always num_clients: u64,
        /// Users, all anonymous ones together being one
        always num_users: u64,
    }

    /// What was published, and where the history stands.
    HistoryResult {
        /// In the order that was asked for
        always publications: Vec<Said>,
        /// Of the newest publication, kept or not
        always offset: u64,
        /// Of the history
        always epoch: String,
    }

    /// A publication.
    Said {
        /// The data, if it is JSON, and null if not
        always data: Box<RawValue>,
        /// What is not JSON, in base64
        maybe b64data: Option<String>,
        /// Who published it, if a client did
        maybe info: Option<Client>,
        /// Its offset
        always offset: u64,
        /// Its tags, if it has any
        maybe tags: Option<BTreeMap<String, String>>,
    }

    /// Channels with subscribers.
    ChannelsResult {
        /// By name
        always channels: BTreeMap<String, ChannelFacts>,
        /// If there are more: where to go on
        maybe next: Option<String>,
    }

    /// A channel.
    ChannelFacts {
        /// Connections that are subscribed
        always num_clients: u64,
    }

    /// The instances.
    InfoResult {
        /// Those that are alive, by id
        always nodes: Vec<Node>,
    }

    /// An instance.
    Node {
        /// Its id
        always uid: String,
        /// What people call it
        always name: String,
        /// Of its program
        always version: String,
        /// Open connections
        always num_clients: u64,
        /// Different users among them
        always num_users: u64,
        /// Subscriptions
        always num_subs: u64,
        /// Channels with subscribers there
        always num_channels: u64,
        /// Seconds since it started
        always uptime: u64,
        /// What it takes of its machine
        always process: Process,
    }

    /// What an instance takes of its machine.
    Process {
        /// Percent of one core
        always cpu: f64,
        /// Bytes that are resident
        always rss: u64,
    }
}

/// See [`Presence`].
pub async fn presence(api: &Api, request: Presence) -> Result<PresenceResult, ApiError> {
    let (channel, namespace) = api.channel(&request.channel.unwrap_or_default().0)?;
    if !namespace.presence {
        return Err(ApiError::new(Code::NotAvailable, "the channel's namespace has no presence"));
    }
    let broker = &*api.instance.broker;
    let read = |from, portion| broker.members(&channel, from, portion);
    let named = |member: Member| {
        let client = client(&member.client());
        let size = ENTRY + client.client.len() + client.size();
        (client.client.clone(), client, size)
    };
    let (presence, next) = list(api, "presence", request.limit, request.cursor, read, named).await?;
    Ok(PresenceResult { presence, next })
}

/// See [`PresenceStats`].
pub async fn presence_stats(api: &Api, request: PresenceStats) -> Result<PresenceStatsResult, ApiError> {
    let (channel, namespace) = api.channel(&request.channel.unwrap_or_default().0)?;
    if !namespace.presence {
        return Err(ApiError::new(Code::NotAvailable, "the channel's namespace has no presence"));
    }
    let count = api.instance.broker.member_count(&channel).await?;
    Ok(PresenceStatsResult { num_clients: count.clients, num_users: count.users })
}

/// See [`History`].
pub async fn history(api: &Api, request: History) -> Result<HistoryResult, ApiError> {
    let (channel, _) = api.channel(&request.channel.unwrap_or_default().0)?;
    let limit = usize::try_from(request.limit.unwrap_or_default().0).unwrap_or(usize::MAX);
    let reverse = request.reverse.unwrap_or_default();
    let since = request.since.map(|since| Position {
        offset: since.offset.unwrap_or_default().0,
        epoch: Epoch::claimed(&since.epoch.unwrap_or_default()),
    });
    if reverse && since.is_some_and(|since| since.offset == 0) {
        return Err(ApiError::bad(
            "`since.offset` is 0, and nothing is before that; expected more, or no `reverse`",
        ));
    }
    let query = Query { since, limit: limit.min(MOST_PUBLICATIONS), reverse, ..Query::TOP };
    let broker = &api.instance.broker;
    let mut reading = api.room(LITTLE).await?;
    let mut history = broker.history(&channel, query.within(LITTLE)).await?;
    if history.too_much {
        drop(reading);
        reading = api.room(history.bytes).await?;
        history = broker.history(&channel, query).await?;
    }
    if !history.epoch_matches {
        let top = history.top;
        return Err(ApiError::new(
            Code::UnrecoverablePosition,
            format!("`since.epoch` is not that of the history, which is {:?}", top.epoch.as_str()),
        ));
    }
    let publications: Vec<_> = history.publications.into_iter().map(said).collect();
    reading.keep(publications.iter().map(Said::size).sum());
    Ok(HistoryResult {
        publications,
        offset: history.top.offset,
        epoch: history.top.epoch.as_str().to_owned(),
    })
}

impl Said {
    /// What it takes of the memory, about.
    fn size(&self) -> usize {
        let b64data = self.b64data.as_ref().map_or(0, String::len);
        let tags = self.tags.iter().flatten().map(|(name, value)| ENTRY + name.len() + value.len());
        let info = self.info.as_ref().map_or(0, Client::size);
        size_of::<Self>() + self.data.get().len() + b64data + info + tags.sum::<usize>()
    }
}

impl Client {
    /// What it takes of the memory, about.
    fn size(&self) -> usize {
        let infos = self.conn_info.iter().chain(&self.chan_info).map(|info| info.get().len());
        size_of::<Self>() + self.client.len() + self.user.len() + infos.sum::<usize>()
    }
}

fn said(publication: Publication) -> Said {
    let data = raw(&publication.payload);
    Said {
        b64data: data.is_none().then(|| encode(&publication.payload)),
        data: data.unwrap_or_else(|| RawValue::NULL.to_owned()),
        info: publication.info.as_deref().map(client),
        offset: publication.position.map_or(0, |position| position.offset),
        tags: publication.tags.map(|tags| (*tags).clone()),
    }
}

fn client(info: &Publisher) -> Client {
    Client {
        client: info.client.clone(),
        user: info.user.clone(),
        conn_info: raw(&info.conn_info),
        chan_info: raw(&info.chan_info),
    }
}

/// See [`HistoryRemove`].
pub async fn history_remove(api: &Api, request: HistoryRemove) -> Result<Done, ApiError> {
    let (channel, _) = api.channel(&request.channel.unwrap_or_default().0)?;
    api.instance.broker.remove_history(&channel).await?;
    Ok(Done {})
}

/// See [`Channels`].
pub async fn channels(api: &Api, request: Channels) -> Result<ChannelsResult, ApiError> {
    let pattern = request.pattern.filter(|pattern| !pattern.is_empty());
    let broker = &*api.instance.broker;
    let read = |from, portion| broker.channels(pattern.as_deref(), from, portion);
    let named = |facts: broker::ChannelFacts| {
        let size = ENTRY + facts.channel.as_str().len() + size_of::<ChannelFacts>();
        (facts.channel.to_string(), ChannelFacts { num_clients: facts.subscribers }, size)
    };
    let (channels, next) = list(api, "channels", request.limit, request.cursor, read, named).await?;
    Ok(ChannelsResult { channels, next })
}

/// See [`Info`].
pub async fn info(api: &Api, _: Info) -> Result<InfoResult, ApiError> {
    let instances = api.instance.broker.instances().await?;
    let nodes = instances.into_iter().map(|facts| Node {
        uid: facts.id.to_string(),
        name: facts.name,
        version: facts.version,
        num_clients: facts.connections,
        num_users: facts.users,
        num_subs: facts.subscriptions,
        num_channels: facts.channels,
        uptime: facts.uptime.as_secs(),
        process: Process { cpu: facts.cpu * 100.0, rss: facts.resident_bytes },
    });
    Ok(InfoResult { nodes: nodes.collect() })
}

/// Reads a list from where a request wants to go on, as much of it as it wants, or as is given at a time.
async fn list<T, U, F>(
    api: &Api,
    list: &str,
    limit: Option<Whole<u32>>,
    cursor: Option<String>,
    read: impl FnMut(Cursor, Portion) -> F,
    named: impl Fn(T) -> (String, U, usize),
) -> Result<(BTreeMap<String, U>, Option<String>), ApiError>
where
    F: Future<Output = Result<Page<T>, Away>>,
{
    let limit = limit
        .map(|limit| limit.0)
        .filter(|limit| *limit > 0)
        .map_or(MOST, |limit| (limit as usize).min(MOST));
    let cursor = cursor.filter(|cursor| !cursor.is_empty());
    let from = cursor.map_or(Ok(Cursor::start()), |cursor| read_cursor(list, &cursor))?;
    let (entries, next) = listing::read(&api.room, limit, from, read, named).await?;
    Ok((entries, next.map(|cursor| write_cursor(list, &cursor))))
}

/// A place in a list, with a sum over both: what somebody has made up, or brings to another list, would be read as
/// another place.
fn write_cursor(list: &str, cursor: &Cursor) -> String {
    // FNV-1a: against mistakes; nobody gains anything by a forged one.
    let sum = [list, "\n", cursor.as_str()].into_iter().flat_map(str::bytes);
    let sum = sum.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{sum:08x}.{cursor}")
}

fn read_cursor(list: &str, written: &str) -> Result<Cursor, ApiError> {
    let cursor = written.split_once('.').map(|(_, place)| Cursor::new(place));
    cursor.filter(|cursor| write_cursor(list, cursor) == written).ok_or_else(|| {
        ApiError::bad(format!("`cursor` is {written:?}; expected `next` of an answer to `{list}`, or none"))
    })
}

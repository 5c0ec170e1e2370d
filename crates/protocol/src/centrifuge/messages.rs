//! The catalogue: every message, with its fields and their Protobuf numbers.
//!
//! The envelopes are not here: [`Command`](super::Command), [`Answer`](super::Answer) and [`Push`](super::Push) are
//! closed enums. Nor is what only commercial servers have, which is ignored when it comes.

use super::fields::{Named, json};

// Data.
messages! {
    /// Who a connection belongs to. `conn_info` comes from its token, `chan_info` from the subscription's. Either may
    /// be any bytes; nobody who reads JSON is cut for what somebody else's token says.
    ClientInfo {
        user: (always str) = 1,
        client: (always str) = 2,
        conn_info: (if_json bytes) = 3,
        chan_info: (if_json bytes) = 4,
    }

    /// One publication, as a client sees it.
    Publication {
        /// The payload, or with `delta` the patch against the one before.
        data: bytes = 4,
        info: ClientInfo = 5,
        offset: u64 = 6,
        tags: map = 7,
        delta: bool = 8,
        /// Milliseconds since 1970.
        time: i64 = 9,
        channel: str = 10,
        key: str = 11,
        removed: bool = 12,
        score: sint64 = 13,
        /// Between servers only.
        epoch: str = 14,
        /// Between servers only.
        prev_data: bytes = 15,
        version: u64 = 16,
    }

    /// A place in a channel's history.
    StreamPosition {
        offset: u64 = 1,
        epoch: str = 2,
    }

    /// A node of a tags filter; [`Filter`](crate::Filter) is what it means.
    FilterNode {
        op: str = 1,
        key: str = 2,
        cmp: str = 3,
        val: str = 4,
        vals: [str] = 5,
        nodes: [FilterNode] = 6,
    }

    /// A key that a shared poll subscription tracks.
    KeyedItem {
        key: str = 1,
        version: u64 = 2,
    }

    /// Keys to track, with the signature that allows it.
    TrackBatch {
        signature: str = 1,
        items: [KeyedItem] = 2,
    }

    /// Why a command failed. Made from an [`ErrorCode`](super::ErrorCode).
    Error {
        code: u32 = 1,
        message: str = 2,
        temporary: bool = 3,
    }
}

// Requests.
messages! {
    /// Opens a session; the first command of every connection.
    ConnectRequest {
        token: str = 1,
        data: bytes = 2,
        /// Where the client was in server-side subscriptions, by channel.
        subs: {SubscribeRequest} = 3,
        /// What client this is: `js`, `python`, `go` …
        name: str = 4,
        version: str = 5,
        /// Headers that a browser could not send, by name.
        headers: map = 6,
        flag: i64 = 7,
        dict: str = 8,
        profile: str = 9,
    }

    /// A new token for the connection.
    RefreshRequest {
        token: str = 1,
    }

    /// Asks for a channel's publications, perhaps from a position on.
    SubscribeRequest {
        channel: str = 1,
        token: str = 2,
        recover: bool = 3,
        /// Empty is any epoch; `_` is none.
        epoch: str = 6,
        offset: u64 = 7,
        data: bytes = 8,
        positioned: bool = 9,
        recoverable: bool = 10,
        join_leave: bool = 11,
        /// An algorithm; the only one is `fossil`.
        delta: str = 12,
        tf: FilterNode = 13,
        /// Bits: 1 compaction, 2 an unrecovered position is an error.
        flag: i64 = 14,
        /// Of subscription: 0 stream, 1 map, 2 map of clients, 3 map of users, 4 shared poll.
        r#type: i32 = 15,
        phase: i32 = 16,
        cursor: str = 17,
        limit: i32 = 18,
        asc: bool = 19,
    }

    /// A new token for a subscription, or other keys to track.
    SubRefreshRequest {
        channel: str = 1,
        token: str = 2,
        /// 0 refresh, 1 track, 2 untrack.
        r#type: i32 = 3,
        track: [TrackBatch] = 4,
        untrack: [str] = 5,
    }

    /// Ends a subscription.
    UnsubscribeRequest {
        channel: str = 1,
    }

    /// Publishes to a channel.
    PublishRequest {
        channel: str = 1,
        data: bytes = 2,
        /// 0 stream, 1 map.
        r#type: i32 = 3,
        key: str = 4,
        removed: bool = 5,
    }

    /// Asks who is in a channel.
    PresenceRequest {
        channel: str = 1,
    }

    /// Asks how many are in a channel.
    PresenceStatsRequest {
        channel: str = 1,
    }

    /// Asks for a channel's history.
    HistoryRequest {
        channel: str = 1,
        /// 0 is the position alone; below 0 is as many as are allowed.
        limit: i32 = 7,
        since: StreamPosition = 8,
        reverse: bool = 9,
    }

    /// Calls a method of the application.
    RpcRequest {
        data: bytes = 1,
        method: str = 2,
    }

    /// A message to the application, without an answer.
    SendRequest {
        data: bytes = 1,
    }
}

// Results.
messages! {
    /// The session is open.
    ConnectResult {
        client: str = 1,
        version: str = 2,
        /// The client is to refresh its token within `ttl` seconds.
        expires: bool = 3,
        ttl: u32 = 4,
        data: bytes = 5,
        subs: (named SubscribeResult) = 6,
        /// Seconds between pings; 0 is none.
        ping: u32 = 7,
        /// Pings are to be answered.
        pong: bool = 8,
        session: str = 9,
        node: str = 10,
        /// Milliseconds since 1970.
        time: i64 = 11,
        flag: i64 = 12,
    }

    /// The new token is taken.
    RefreshResult {
        client: str = 1,
        version: str = 2,
        expires: bool = 3,
        ttl: u32 = 4,
    }

    /// The subscription stands.
    SubscribeResult {
        expires: bool = 1,
        ttl: u32 = 2,
        recoverable: bool = 3,
        epoch: str = 6,
        publications: [Publication] = 7,
        recovered: bool = 8,
        offset: u64 = 9,
        positioned: bool = 10,
        data: bytes = 11,
        was_recovering: bool = 12,
        delta: bool = 13,
        id: i64 = 14,
        r#type: i32 = 15,
        phase: i32 = 16,
        cursor: str = 17,
        state: [Publication] = 18,
        /// Milliseconds.
        publish_debounce: u32 = 19,
    }

    /// The new token is taken, or the keys are.
    SubRefreshResult {
        expires: bool = 1,
        ttl: u32 = 2,
        items: [Publication] = 3,
    }

    /// Who is in a channel, by connection.
    PresenceResult {
        presence: (always named ClientInfo) = 1,
    }

    /// How many connections are in a channel, and of how many users.
    PresenceStatsResult {
        num_clients: (always u32) = 1,
        num_users: (always u32) = 2,
    }

    /// A part of a channel's history, and its newest position.
    HistoryResult {
        publications: (always [Publication]) = 1,
        epoch: (always str) = 2,
        offset: (always u64) = 3,
    }

    /// What the method returned.
    RpcResult {
        data: bytes = 1,
    }
}

// Pushes.
messages! {
    /// Somebody came, or in a push named leave, went.
    Join {
        info: ClientInfo = 1,
    }

    /// The server has ended a subscription. Made from an [`UnsubscribeCode`](super::UnsubscribeCode).
    Unsubscribe {
        code: u32 = 2,
        reason: str = 3,
    }

    /// A message from the application to this connection alone.
    Message {
        data: bytes = 1,
    }

    /// The server has subscribed the connection.
    Subscribe {
        recoverable: bool = 1,
        epoch: str = 4,
        offset: u64 = 5,
        positioned: bool = 6,
        data: bytes = 7,
    }

    /// A unidirectional session is open.
    Connect {
        client: str = 1,
        version: str = 2,
        data: bytes = 3,
        subs: (named SubscribeResult) = 4,
        expires: bool = 5,
        ttl: u32 = 6,
        ping: u32 = 7,
        pong: bool = 8,
        session: str = 9,
        node: str = 10,
        time: i64 = 11,
    }

    /// The connection ends. Made from a [`DisconnectCode`](super::DisconnectCode).
    Disconnect {
        code: u32 = 1,
        reason: str = 2,
        reconnect: bool = 3,
    }

    /// The connection's expiry has changed.
    Refresh {
        expires: bool = 1,
        ttl: u32 = 2,
    }
}

/// What a client is told of a publication. Its time is left out, which most would not read.
impl From<&crate::Publication> for Publication {
    fn from(publication: &crate::Publication) -> Self {
        Self {
            data: publication.payload.clone(),
            info: publication.info.as_deref().map(ClientInfo::from),
            offset: publication.position.as_ref().map_or(0, |position| position.offset),
            tags: publication.tags.as_deref().cloned().unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl From<&crate::Info> for ClientInfo {
    fn from(info: &crate::Info) -> Self {
        let crate::Info { user, client, conn_info, chan_info } = info.clone();
        Self { user, client, conn_info, chan_info }
    }
}

//! The first command of every connection: who the client is, whether there is room for it,
//! and what it is subscribed to from the start. All of it succeeds, or nothing is left of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanfare_hub::Heartbeat;
use fanfare_protocol::Channel;
use fanfare_protocol::centrifuge::{
    Answer, Connect, ConnectRequest, ConnectResult, DisconnectCode, ErrorCode, Event, Named, Push, Refusal,
    SubscribeRequest, SubscribeResult,
};

use super::claimed::{Claimed, NoClaim};
use super::commands::{refusal, seconds_left};
use super::making::undo;
use super::plan::{FILTERS, Origin};
use super::session::{Client, Stage};
use crate::identity::{Grant, Identity};
use crate::namespace::may_subscribe;
use crate::registers::Seat;

/// What the server calls itself.
pub const VERSION: &str = concat!("Fanfare ", env!("CARGO_PKG_VERSION"));

impl Client {
    /// Says who the client is, makes the subscriptions that its token and its request name, and writes the answer to
    /// the command `id` behind `out`.
    pub(super) async fn connect(
        &mut self,
        id: u32,
        request: ConnectRequest,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let identity = self.identify(&request.token).await?;
        self.enter(&identity);
        let wanted = self.at_the_start(&identity, &request)?;
        let most = self.worker.instance.config.max_channels;
        if most.is_some_and(|most| wanted.len() > most.get() as usize) {
            return Err(DisconnectCode::ChannelLimit.into());
        }
        // What would stay, while nothing can be given up for it: the client comes back later, and to another instance.
        if !wanted.is_empty() && self.worker.instance.memory.is_full() {
            return Err(ErrorCode::Internal.into());
        }
        let ttl = seconds_left(identity.expiry, ErrorCode::TokenExpired.into())?;
        let claimed = Claimed::take(&self.worker.instance, &self.user, self.id).await;
        self.claimed = claimed.map_err(|why| match why {
            NoClaim::Full => Refusal::from(DisconnectCode::ConnectionLimit),
            // With this one it comes again.
            NoClaim::InDoubt => ErrorCode::TooManyRequests.into(),
        })?;
        let asked = SubscribeRequest::default();
        let plans = wanted.into_iter().map(|(channel, (grant, origin))| {
            let request = request.subs.get(channel.as_str()).unwrap_or(&asked);
            self.plan(channel, request, grant, origin)
        });
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        if plans.iter().map(|plan| plan.filter() as usize).sum::<usize>() > FILTERS {
            return Err(DisconnectCode::ChannelLimit.into());
        }
        let (established, room) = self.establish_all(&plans).await;
        if let Some(refusal) = established.iter().find_map(|outcome| outcome.as_ref().err()) {
            let made = plans.iter().zip(&established).filter(|(_, outcome)| outcome.is_ok());
            made.for_each(|(plan, _)| undo(plan));
            return Err(*refusal);
        }
        let mut established: Vec<_> = established.into_iter().flatten().collect();
        let mut subs = Vec::with_capacity(plans.len());
        for (plan, established) in plans.iter().zip(&mut established) {
            subs.push(Named::from((plan.channel.as_str(), std::mem::take(&mut established.result))));
        }
        self.stage = Stage::Connected;
        self.be_spoken_to();
        self.welcome(id, ttl, subs, out);
        // Before what was held of their publications.
        self.flush(out);
        drop(room);
        for (plan, established) in plans.into_iter().zip(established) {
            self.install(&plan, &Bytes::new(), established.after);
        }
        self.worker.shard.introduce(self.key, self.heartbeat);
        Ok(())
    }

    async fn identify(&self, token: &str) -> Result<Identity, Refusal> {
        let verifier = &self.worker.instance.identity;
        if token.is_empty() || !verifier.has_keys() {
            return verifier.without_token().ok_or(DisconnectCode::BadRequest.into());
        }
        verifier.connection(token).await.map_err(|fault| refusal(fault.on_connect()))
    }

    /// From now on what is for its user reaches it.
    fn enter(&mut self, identity: &Identity) {
        self.weighing_who_it_is(|client| {
            client.user = identity.user.clone();
            client.info = identity.info.clone();
        });
        self.expiry = identity.expiry;
        self.worker.roster.enter(self.key, &self.user, &self.mail);
        self.worker.instance.users.enter(&self.user);
        self.entered = true;
    }

    /// The channels that the token names, the user's own, and those that the client names and might subscribe to
    /// itself; others that it names are passed over.
    fn at_the_start(
        &self,
        identity: &Identity,
        request: &ConnectRequest,
    ) -> Result<BTreeMap<Channel, (Grant, Origin)>, Refusal> {
        let config = &self.worker.instance.config;
        let mut wanted = BTreeMap::new();
        for (channel, grant) in &identity.subs {
            self.namespace(channel)?;
            wanted.insert(channel.clone(), (grant.clone(), Origin::Token));
        }
        if let Some(personal) = config.personal_channel.as_ref().filter(|_| !self.user.is_anonymous()) {
            match personal.of(self.user.as_str()) {
                Ok(channel) => {
                    wanted.entry(channel).or_insert_with(|| (Grant::default(), Origin::Server));
                }
                // No channel has a name of that length, so there is none; the user is to come in all the same.
                Err(error) => tracing::debug!(id = %self.id, "no channel of its own: {error}"),
            }
        }
        for name in request.subs.keys() {
            let Ok(channel) = Channel::new(name) else { continue };
            if wanted.contains_key(&channel) {
                continue;
            }
            let namespace = config.channels.resolve(&channel).map_err(|_| DisconnectCode::BadRequest)?;
            let may = may_subscribe(namespace, &channel, &self.user, false);
            if namespace.admits(&channel) && may.is_ok() {
                wanted.insert(channel, (Grant::default(), Origin::Server));
            }
        }
        Ok(wanted)
    }

    /// From now on what its client says in other requests finds the session, if it has a name and listens.
    fn be_spoken_to(&self) {
        let (worker, key) = (&self.worker, self.key);
        if let Some(session) = self.mail.session().filter(|_| !self.one_way && !worker.shard.is_closing(key))
        {
            worker.sessions().enter(session, Seat { worker: worker.number, key });
        }
    }

    fn welcome(&mut self, id: u32, ttl: Option<u32>, subs: Vec<Named<SubscribeResult>>, out: &mut Vec<u8>) {
        let (client, version) = (self.id.to_string(), VERSION.to_owned());
        let (expires, ttl) = (ttl.is_some(), ttl.unwrap_or(0));
        let session = self.mail.session().map(|name| name.to_string()).unwrap_or_default();
        if self.one_way {
            let connect = Connect { client, version, subs, expires, ttl, session, ..Connect::default() };
            let push = Push { id: 0, channel: String::new(), event: Event::Connect(connect) };
            return self.push(out, &push);
        }
        let instance = &self.worker.instance;
        let node = if session.is_empty() { String::new() } else { instance.id.to_string() };
        // In whole seconds; 0 would be none at all, as where pings are WebSocket's own.
        let ping = instance.config.client_ping_interval.as_millis().div_ceil(1000) as u32;
        let pong = self.heartbeat == Heartbeat::Answers;
        let result = ConnectResult {
            client,
            version,
            subs,
            expires,
            ttl,
            ping: if pong { ping } else { 0 },
            pong,
            session,
            node,
            ..ConnectResult::default()
        };
        self.answer(out, id, &Answer::Connect(result));
    }
}

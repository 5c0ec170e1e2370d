//! What a client may ask about a channel: who is there, how many, and what was said.

use std::sync::Arc;

use fanfare_broker::{Cursor, Query};
use fanfare_protocol::centrifuge::{
    Answer, ClientInfo, ErrorCode, HistoryRequest, HistoryResult, Named, PresenceResult, PresenceStatsResult,
    Publication, Refusal,
};
use fanfare_protocol::{Channel, Epoch, Position};

use super::making::history_limit;
use super::session::Client;
use crate::identity::User;
use crate::namespace::{Namespace, Refusal as Refused, may_read_history, may_read_presence};

/// So many members are read at a time.
const PAGE: usize = 1000;

/// Whether a right is given: the options, the channel, the user, and whether it is subscribed.
type Right = fn(&Namespace, &Channel, &User, bool) -> Result<(), Refused>;

impl Client {
    pub(super) async fn presence(&self, name: &str) -> Result<Answer, Refusal> {
        let channel = self.readable(name, may_read_presence)?;
        let broker = &self.worker.instance.broker;
        let (mut presence, mut from) = (Vec::new(), Some(Cursor::start()));
        while let Some(cursor) = from {
            let page = broker.members(&channel, cursor, PAGE).await.map_err(|_| ErrorCode::Internal)?;
            presence.extend(page.items.iter().map(|member| {
                let client = member.client();
                Named::from((client.client.clone(), ClientInfo::from(&client)))
            }));
            from = page.next;
        }
        // Who is there throughout may come in two pages.
        presence.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        presence.dedup_by(|one, other| one.name == other.name);
        Ok(Answer::Presence(PresenceResult { presence }))
    }

    pub(super) async fn presence_stats(&self, name: &str) -> Result<Answer, Refusal> {
        let channel = self.readable(name, may_read_presence)?;
        let counted = self.worker.instance.broker.member_count(&channel).await;
        let counted = counted.map_err(|_| ErrorCode::Internal)?;
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let (num_clients, num_users) = (number(counted.clients), number(counted.users));
        Ok(Answer::PresenceStats(PresenceStatsResult { num_clients, num_users }))
    }

    pub(super) async fn history(&self, request: &HistoryRequest) -> Result<Answer, Refusal> {
        let channel = self.readable(&request.channel, may_read_history)?;
        let most = history_limit(&self.worker);
        // What is negative means as many as there may be.
        let limit = usize::try_from(request.limit).unwrap_or(most).min(most);
        let since = request.since.as_ref();
        let since = since.map(|since| Position { offset: since.offset, epoch: Epoch::claimed(&since.epoch) });
        let query = Query { since, limit, reverse: request.reverse, ..Query::TOP };
        let read = self.worker.instance.broker.history(&channel, query).await;
        let history = read.map_err(|_| ErrorCode::Internal)?;
        if !history.epoch_matches {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        Ok(Answer::History(HistoryResult {
            publications: history.publications.iter().map(Publication::from).collect(),
            epoch: history.top.epoch.to_string(),
            offset: history.top.offset,
        }))
    }

    /// The namespace of a channel, if there is one, and it lets channels be named so.
    pub(super) fn namespace(&self, channel: &Channel) -> Result<&Arc<Namespace>, Refusal> {
        let namespaces = &self.worker.instance.config.channels;
        let namespace = namespaces.resolve(channel).map_err(|_| ErrorCode::UnknownChannel)?;
        if namespace.admits(channel) { Ok(namespace) } else { Err(ErrorCode::BadRequest.into()) }
    }

    fn readable(&self, name: &str, right: Right) -> Result<Channel, Refusal> {
        let channel = Channel::new(name)?;
        let namespace = self.namespace(&channel)?;
        let is_subscribed = self.subs.get(&channel).is_some();
        right(namespace, &channel, &self.user, is_subscribed).map_err(Refused::code)?;
        Ok(channel)
    }
}

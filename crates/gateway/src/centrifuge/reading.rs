//! What a client may ask about a channel: who is there, how many, and what was said.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_broker::{Away, Cursor, Portion, Query};
use fanfare_protocol::centrifuge::{
    Answer, ClientInfo, ErrorCode, HistoryRequest, HistoryResult, Named, PresenceResult, PresenceStatsResult,
    Publication, Refusal,
};
use fanfare_protocol::{Channel, Epoch, Member, Position};

use super::session::Client;
use crate::admission::recoveries::Guest;
use crate::identity::User;
use crate::listing::{self, Unlisted};
use crate::memory::{AnswerRoom, FIRST_LOOK};
use crate::namespace::{Denial, Namespace, may_read_history, may_read_presence};
use crate::session::backpressure::room_to_read;
use crate::worker::Worker;

/// Who is in a channel is read beside so many others.
const PART: usize = 4;

/// What a member takes beside what is said of it, about.
const MEMBER: usize = 128;

/// Whether a right is given: the options, the channel, the user, and whether it is subscribed.
type Right = fn(&Namespace, &Channel, &User, bool) -> Result<(), Denial>;

impl Client {
    /// Answers with who is there. What is more than a little is read into room that was waited for.
    pub(super) async fn presence(&mut self, id: u32, name: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let channel = self.readable(name, may_read_presence)?;
        let worker = self.worker.clone();
        if let Some(presence) = few(&worker, &channel).await.map_err(|_| ErrorCode::Internal)? {
            self.answer(out, id, &presence_of(presence));
            return Ok(());
        }
        let key = self.key;
        let all = async {
            let free = worker.instance.memory.at_once() / PART;
            let room = room_to_read(&worker, key, Guest::Staying, free).await;
            let answer = AnswerRoom::new(worker.instance.memory.clone(), free);
            let read = |from, portion| worker.instance.broker.members(&channel, from, portion);
            let (presence, _) =
                listing::read(&answer, usize::MAX, Cursor::start(), read, |member: Member| shown(&member))
                    .await?;
            Ok::<_, Unlisted>((presence, answer, room))
        };
        match self.meanwhile(out, all).await {
            // It was told to go.
            None => Ok(()),
            // It may ask again, later.
            Some(Err(_)) => Err(ErrorCode::Internal.into()),
            Some(Ok((presence, _answer, _room))) => {
                // Its right may have gone while it waited.
                self.readable(name, may_read_presence)?;
                self.answer(out, id, &presence_of(presence));
                self.flush(out);
                Ok(())
            }
        }
    }

    /// How many are there, by connections and by users.
    pub(super) async fn presence_stats(&self, name: &str) -> Result<Answer, Refusal> {
        let channel = self.readable(name, may_read_presence)?;
        let counted = self.worker.instance.broker.member_count(&channel).await;
        let counted = counted.map_err(|_| ErrorCode::Internal)?;
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let (num_clients, num_users) = (number(counted.clients), number(counted.users));
        Ok(Answer::PresenceStats(PresenceStatsResult { num_clients, num_users }))
    }

    /// Answers with what was said. What is more than a little is read into room that was waited for, as what was
    /// missed is, and counted for that until it waits for the socket, where it is weighed.
    pub(super) async fn history(
        &mut self,
        id: u32,
        request: &HistoryRequest,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let most = self.worker.instance.config.most_at_a_time();
        // What is negative means as many as there may be.
        let limit = usize::try_from(request.limit).unwrap_or(most).min(most);
        let since = request.since.as_ref();
        let since = since.map(|since| Position { offset: since.offset, epoch: Epoch::claimed(&since.epoch) });
        let query = Query { since, limit, reverse: request.reverse, ..Query::TOP };
        let (mut bytes, mut room) = (FIRST_LOOK, None);
        let history = loop {
            // Its right may have gone while it waited.
            let channel = self.readable(&request.channel, may_read_history)?;
            let read = self.worker.instance.broker.history(&channel, query.within(bytes)).await;
            let history = read.map_err(|_| ErrorCode::Internal)?;
            if !history.too_much {
                break history;
            }
            drop(room.take());
            let (worker, key) = (self.worker.clone(), self.key);
            bytes = worker.instance.memory.room_after(bytes, history.bytes);
            room = match self.meanwhile(out, room_to_read(&worker, key, Guest::Staying, bytes)).await {
                // It was told to go.
                None => return Ok(()),
                // It may ask for less, or later.
                Some(None) => return Err(ErrorCode::Internal.into()),
                Some(room) => room,
            };
        };
        if !history.epoch_matches {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        let result = HistoryResult {
            publications: history.publications.iter().map(Publication::from).collect(),
            epoch: history.top.epoch.to_string(),
            offset: history.top.offset,
        };
        self.answer(out, id, &Answer::History(result));
        drop(history);
        if room.is_some() {
            self.flush(out);
        }
        Ok(())
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
        right(namespace, &channel, &self.user, is_subscribed).map_err(Denial::code)?;
        Ok(channel)
    }
}

/// Who is there, if those are few.
async fn few(worker: &Worker, channel: &Channel) -> Result<Option<BTreeMap<String, ClientInfo>>, Away> {
    let (mut presence, mut from, mut left) = (BTreeMap::new(), Some(Cursor::start()), FIRST_LOOK);
    while let Some(cursor) = from {
        let page = Portion { entries: FIRST_LOOK / Portion::ENTRY, bytes: left };
        let page = worker.instance.broker.members(channel, cursor, page).await?;
        if page.too_much.is_some() {
            return Ok(None);
        }
        for (name, info, bytes) in page.items.iter().map(shown) {
            left = left.saturating_sub(bytes);
            presence.insert(name, info);
        }
        from = page.next;
    }
    Ok(Some(presence))
}

/// A member, as others see it: its name in the answer, and what it takes, about.
fn shown(member: &Member) -> (String, ClientInfo, usize) {
    let client = member.client();
    let info = ClientInfo::from(&client);
    let said = info.user.len() + info.conn_info.len() + info.chan_info.len();
    (client.client.clone(), info, MEMBER + 2 * client.client.len() + said)
}

fn presence_of(members: BTreeMap<String, ClientInfo>) -> Answer {
    let presence = members.into_iter().map(Named::from).collect();
    Answer::Presence(PresenceResult { presence })
}

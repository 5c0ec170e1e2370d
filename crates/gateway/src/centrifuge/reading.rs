//! What a client may ask about a channel: who is there, how many, and what was said.

use std::sync::Arc;

use fanfare_broker::{Cursor, Portion, Query};
use fanfare_hub::Key;
use fanfare_protocol::centrifuge::{
    Answer, ClientInfo, ErrorCode, HistoryRequest, HistoryResult, Named, PresenceResult, PresenceStatsResult,
    Publication, Refusal,
};
use fanfare_protocol::{Channel, Epoch, Position};

use super::making::{LITTLE, allowance, wait_for_memory};
use super::session::Client;
use crate::admission::recoveries::{Guest, Room};
use crate::identity::User;
use crate::namespace::{Denial, Namespace, may_read_history, may_read_presence};
use crate::session::backpressure::{has_taken_it_all, is_pressed};
use crate::worker::Worker;

/// So many members are read whatever is said of them: most channels have no more.
const FEW: usize = 16;

/// So many are read at a time, with room for them.
const PAGE: usize = 1000;

/// Whether a right is given: the options, the channel, the user, and whether it is subscribed.
type Right = fn(&Namespace, &Channel, &User, bool) -> Result<(), Denial>;

impl Client {
    /// Answers with who is there. Where those are many, what is said of them is read into room that was waited for.
    pub(super) async fn presence(&mut self, id: u32, name: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (mut presence, mut from, mut room) = (Vec::new(), Some(Cursor::start()), None);
        while let Some(cursor) = from {
            if !presence.is_empty() && room.is_none() {
                let (worker, key) = (self.worker.clone(), self.key);
                room = self.meanwhile(out, room_for(&worker, key, usize::MAX)).await;
                if room.is_none() {
                    // It was told to go.
                    return Ok(());
                }
            }
            // Its right may have gone while it waited.
            let channel = self.readable(name, may_read_presence)?;
            let page = Portion::of(if room.is_some() { PAGE } else { FEW });
            let page = self.worker.instance.broker.members(&channel, cursor, page).await;
            let page = page.map_err(|_| ErrorCode::Internal)?;
            presence.extend(page.items.iter().map(|member| {
                let client = member.client();
                Named::from((client.client.clone(), ClientInfo::from(&client)))
            }));
            from = page.next;
        }
        // Who is there throughout may come in two pages.
        presence.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        presence.dedup_by(|one, other| one.name == other.name);
        self.answer(out, id, &Answer::Presence(PresenceResult { presence }));
        if room.is_some() {
            self.flush(out);
        }
        Ok(())
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
        let (mut bytes, mut room) = (LITTLE, None);
        let history = loop {
            // Its right may have gone while it waited.
            let channel = self.readable(&request.channel, may_read_history)?;
            let read = self.worker.instance.broker.history(&channel, query.within(bytes)).await;
            let history = read.map_err(|_| ErrorCode::Internal)?;
            if !history.too_much {
                break history;
            }
            // More may come meanwhile, and it may have been estimated. Who has been wrong once takes all room.
            bytes = if bytes == LITTLE { allowance(history.bytes, LITTLE) } else { usize::MAX };
            drop(room.take());
            let (worker, key) = (self.worker.clone(), self.key);
            let memory = &worker.instance.memory;
            let waiting = async {
                let fits = memory.has_room_for_answer(history.bytes).await;
                if fits { Some(room_for(&worker, key, bytes).await) } else { None }
            };
            room = match self.meanwhile(out, waiting).await {
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

/// Resolves when a client that has asked for so many bytes has taken what it was given before, and there is room for
/// them and memory for its answer: whoever had the room before may have left none.
async fn room_for(worker: &Worker, key: Key, bytes: usize) -> Room {
    loop {
        has_taken_it_all(worker, key).await;
        wait_for_memory(worker, key).await;
        let room = worker.recoveries.room(Guest::Staying, bytes).await;
        worker.instance.memory.tally();
        if !is_pressed(worker) || worker.shard.is_closing(key) {
            return room;
        }
    }
}

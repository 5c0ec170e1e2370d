//! What the back end wants of a client: to be subscribed, unsubscribed, closed, refreshed. Messages for a user come
//! to each of its sessions in the order in which they were sent, and each is done with before the next is looked at;
//! but for subscriptions that have to wait for the client, which what comes later can take back.

use std::collections::VecDeque;

use bytes::Bytes;
use fanfare_hub::{End, Format, Key};
use fanfare_protocol::centrifuge::{
    DisconnectCode, Event, Push, Refresh as RefreshPush, Subscribe as SubscribePush, SubscribeRequest,
    SubscribeResult, Unsubscribe,
};
use fanfare_protocol::control::{Control, Disconnect, Refresh, Subscribe};
use fanfare_protocol::{Channel, Member};
use fanfare_websocket::CloseCode;

use super::commands::seconds_left;
use super::plan::Origin;
use super::session::{Client, Stage};
use super::subscribe::{Asker, Making, Makings, Wished};
use super::subscriptions::{Presence, Sub};
use crate::expiry::Expiry;
use crate::identity::{Grant, Overrides};
use crate::registers::MOST_LETTERS;
use crate::relay::last_words;
use crate::worker::Worker;

/// Subscriptions that the back end wants and that have to wait, in its order. Most sessions have none.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "nothing takes 8 bytes of a connection instead of 32")]
pub struct Wishes(Option<Box<VecDeque<Subscribe>>>);

impl Wishes {
    fn add(&mut self, wish: Subscribe) {
        self.0.get_or_insert_default().push_back(wish);
    }

    /// Takes back those in this channel, or in all.
    fn forget(&mut self, channel: Option<&Channel>) {
        if let Some(wishes) = &mut self.0 {
            wishes.retain(|wish| channel.is_some_and(|channel| wish.channel != *channel));
        }
    }

    /// The oldest.
    pub fn take(&mut self) -> Option<Subscribe> {
        let oldest = self.0.as_mut()?.pop_front();
        if oldest.is_none() {
            self.0 = None;
        }
        oldest
    }

    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |wishes| wishes.len())
    }
}

impl Client {
    /// Does what the back end wants of this client; what it is told of it comes behind `out`.
    pub(super) async fn control(&mut self, message: &Control, out: &mut Vec<u8>) {
        match message {
            Control::Subscribe(subscribe) => self.be_subscribed(subscribe, out).await,
            Control::Unsubscribe(unsubscribe) => {
                self.wishes.forget(unsubscribe.channel.as_ref());
                let channels: Vec<_> = match &unsubscribe.channel {
                    Some(channel) => vec![channel.clone()],
                    None => self.subs.iter().map(|sub| sub.channel.clone()).collect(),
                };
                for channel in channels {
                    let why = Unsubscribe { code: unsubscribe.code, reason: unsubscribe.reason.clone() };
                    self.end_subscription(&channel, why, out);
                }
            }
            Control::Disconnect(disconnect) => self.be_disconnected(disconnect, out),
            Control::Refresh(refresh) => self.be_refreshed(refresh, out),
            // The client's own words are no letter.
            Control::Uplink(_) => {}
        }
    }

    /// At once, unless it has to wait: for the client, which is to be given what it has missed behind what it was
    /// given before, or for what the client itself has asked for.
    async fn be_subscribed(&mut self, wanted: &Subscribe, out: &mut Vec<u8>) {
        match self.subs.get(&wanted.channel) {
            Some(sub) if sub.told => {}
            None if wanted.since.is_none() => {
                // Boxed, because what waits may be what is interrupted by this.
                Box::pin(self.carry_out(wanted.clone(), out)).await;
            }
            _ if self.wishes.len() < MOST_LETTERS => self.wishes.add(wanted.clone()),
            // One of them might be lost.
            _ => self.end(DisconnectCode::ServerError, out),
        }
    }

    /// Makes a subscription that the back end wants, unless there is one.
    pub(super) async fn carry_out(&mut self, wanted: Subscribe, out: &mut Vec<u8>) {
        if self.subs.get(&wanted.channel).is_some() {
            return;
        }
        let most = self.worker.instance.config.max_channels;
        if most.is_some_and(|most| self.subs.len() >= most.get() as usize) {
            return self.end(DisconnectCode::ChannelLimit, out);
        }
        let Subscribe { channel, expire_at, info, data, since, overrides, .. } = wanted;
        let grant = Grant {
            info,
            data,
            expiry: expire_at.map(Expiry),
            overrides: Overrides {
                presence: overrides.presence,
                join_leave: overrides.join_leave,
                force_push_join_leave: overrides.push_join_leave,
                force_positioning: overrides.positioning,
                force_recovery: overrides.recovery,
            },
        };
        let recover = since.is_some();
        let (offset, epoch) = since.map_or((0, String::new()), |since| (since.offset, since.epoch));
        let request = SubscribeRequest { recover, offset, epoch, ..SubscribeRequest::default() };
        let wish = Wished { channel, request: Box::new(request), grant, origin: Origin::Server };
        let making = match self.plan_for(&wish) {
            Ok(plan) => {
                self.subs.put(plan.sub(false));
                Ok(Making::begin(wish, plan, 1).await)
            }
            Err(refusal) => Err(refusal),
        };
        self.make(Makings::from([(Asker::BackEnd, making)]), out).await;
    }

    /// Tells the client of a subscription that it has not asked for.
    pub(super) fn tell_of(&mut self, channel: &str, result: SubscribeResult, out: &mut Vec<u8>) {
        let event = Event::Subscribe(SubscribePush {
            recoverable: result.recoverable,
            epoch: result.epoch,
            offset: result.offset,
            positioned: result.positioned,
            data: result.data,
        });
        self.push(out, &Push { id: 0, channel: channel.to_owned(), event });
        for publication in result.publications {
            let event = Event::Publication(publication);
            self.push(out, &Push { id: 0, channel: channel.to_owned(), event });
        }
    }

    fn be_disconnected(&mut self, wanted: &Disconnect, out: &mut Vec<u8>) {
        if wanted.spared.contains(&self.id) {
            return;
        }
        self.flush(out);
        self.stage = Stage::Over;
        send_away(&self.worker, self.key, self.format, wanted);
    }

    fn be_refreshed(&mut self, wanted: &Refresh, out: &mut Vec<u8>) {
        let expiry = wanted.expire_at.map(Expiry);
        let ttl = seconds_left(expiry, DisconnectCode::Expired.into());
        let (false, Ok(ttl)) = (wanted.expired, ttl) else { return self.end(DisconnectCode::Expired, out) };
        self.expiry = expiry;
        if wanted.info.is_some() {
            self.show(wanted.info.clone());
        }
        let event = Event::Refresh(RefreshPush { expires: ttl.is_some(), ttl: ttl.unwrap_or(0) });
        self.push(out, &Push { id: 0, channel: String::new(), event });
    }

    /// Others are shown this of the client from now on, where it can be looked up as well.
    pub(super) fn show(&mut self, info: Option<Bytes>) {
        if self.info == info {
            return;
        }
        self.weighing_who_it_is(|client| client.info = info);
        self.subs.iter().for_each(|sub| self.show_in(&sub.channel));
    }

    /// Others are shown in this channel what is to be shown there now, where it can be looked up at all.
    pub(super) fn show_in(&self, channel: &Channel) {
        // One that is under way may have come to nothing, of which nobody would take it back again.
        let is_shown = |sub: &&Sub| sub.told && sub.presence != Presence::Absent;
        let Some(sub) = self.subs.get(channel).filter(is_shown) else { return };
        let member = self.member(sub.info.as_ref(), sub.presence);
        // Registered by the call; nobody waits for others to see it.
        drop(self.worker.instance.broker.enter(channel, member));
    }

    /// How others see the client in a channel where this is shown of it.
    pub(super) fn member(&self, info: Option<&Bytes>, presence: Presence) -> Member {
        Member::of(self.id, &self.seen(info), presence == Presence::Told)
    }
}

/// Ends a connection that is spoken to in this format with the words of the back end.
pub(super) fn send_away(worker: &Worker, key: Key, format: Format, wanted: &Disconnect) {
    match u16::try_from(wanted.code).ok().and_then(CloseCode::from_wire) {
        Some(code) => worker.shard.end_saying(key, End::Kicked, last_words(format, code, &wanted.reason)),
        None => worker.shard.end(key, End::Kicked),
    }
}

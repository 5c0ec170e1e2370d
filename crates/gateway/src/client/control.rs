//! What the back end wants of a client: to be subscribed, unsubscribed, closed, refreshed. Messages for a user come to each
//! of its sessions in the order in which they were sent, and each is done with before the next is looked at.

use bytes::Bytes;
use fanfare_hub::{End, Format, Key};
use fanfare_protocol::centrifuge::{
    DisconnectCode, Event, Push, Refresh as RefreshPush, Refusal, Subscribe as SubscribePush,
    SubscribeRequest, Unsubscribe,
};
use fanfare_protocol::control::{Control, Disconnect, Refresh, Subscribe};
use fanfare_protocol::{Channel, Member};
use fanfare_websocket::CloseCode;

use super::commands::seconds_left;
use super::making::{Established, establish};
use super::session::{Client, Stage};
use super::subscribe::Origin;
use super::subscriptions::Presence;
use crate::identity::{Expiry, Grant, Overrides};
use crate::relay::last_words;
use crate::worker::Worker;

impl Client {
    pub(super) async fn control(&mut self, message: &Control, out: &mut Vec<u8>) {
        match message {
            Control::Subscribe(subscribe) => {
                if let Err(refusal) = self.be_subscribed(subscribe, out).await {
                    // Nobody waits for an answer.
                    tracing::debug!(id = %self.id, channel = subscribe.channel.as_str(), ?refusal, "not subscribed by control");
                }
            }
            Control::Unsubscribe(unsubscribe) => {
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

    async fn be_subscribed(&mut self, wanted: &Subscribe, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.subs.get(&wanted.channel).is_some() {
            return Ok(());
        }
        let most = self.worker.instance.config.max_channels;
        if most.is_some_and(|most| self.subs.len() >= most.get() as usize) {
            self.end(DisconnectCode::ChannelLimit, out);
            return Ok(());
        }
        let overrides = &wanted.overrides;
        let grant = Grant {
            info: wanted.info.clone(),
            data: wanted.data.clone(),
            expiry: wanted.expire_at.map(Expiry),
            overrides: Overrides {
                presence: overrides.presence,
                join_leave: overrides.join_leave,
                force_push_join_leave: overrides.push_join_leave,
                force_positioning: overrides.positioning,
                force_recovery: overrides.recovery,
            },
        };
        let since = wanted.since.as_ref();
        let request = SubscribeRequest {
            recover: since.is_some(),
            offset: since.map_or(0, |since| since.offset),
            epoch: since.map(|since| since.epoch.clone()).unwrap_or_default(),
            ..SubscribeRequest::default()
        };
        let plan = self.plan(wanted.channel.clone(), &request, grant, Origin::Server)?;
        let Established { result, after } = establish(&plan).await?;
        let name = wanted.channel.as_str().to_owned();
        let event = Event::Subscribe(SubscribePush {
            recoverable: result.recoverable,
            epoch: result.epoch,
            offset: result.offset,
            positioned: result.positioned,
            data: result.data,
        });
        self.push(out, &Push { id: 0, channel: name.clone(), event });
        for publication in result.publications {
            self.push(out, &Push { id: 0, channel: name.clone(), event: Event::Publication(publication) });
        }
        let words = self.take_carried(out);
        if !self.install(&plan, &words, after) && self.stage == Stage::Connected {
            // It has lapsed already, which the client can make good by coming back.
            self.end(DisconnectCode::InsufficientState, out);
        }
        Ok(())
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
        self.info = info;
        self.subs.iter().for_each(|sub| self.show_in(&sub.channel));
    }

    /// Others are shown in this channel what is to be shown there now, where it can be looked up at all.
    pub(super) fn show_in(&self, channel: &Channel) {
        let Some(sub) = self.subs.get(channel).filter(|sub| sub.presence != Presence::Absent) else { return };
        let member = Member::of(self.id, &self.seen(sub.info.as_ref()), sub.presence == Presence::Told);
        // Registered by the call; nobody waits for others to see it.
        drop(self.worker.instance.broker.enter(channel, member));
    }
}

/// Ends a connection that is spoken to in this format with the words of the back end.
pub(super) fn send_away(worker: &Worker, key: Key, format: Format, wanted: &Disconnect) {
    match u16::try_from(wanted.code).ok().and_then(CloseCode::from_wire) {
        Some(code) => worker.shard.end_saying(key, End::Kicked, last_words(format, code, &wanted.reason)),
        None => worker.shard.end(key, End::Kicked),
    }
}

//! Which command does what, and what it is answered. Each one that takes more than a few lines has a file of its own.

use fanfare_protocol::Channel;
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, ErrorCode, Offence, RefreshRequest, RefreshResult, Refusal, Request,
    SubRefreshRequest, SubRefreshResult,
};

use super::connect::VERSION;
use super::session::{Client, Stage};
use crate::expiry::Expiry;
use crate::identity::Consequence;
use crate::registers::Letter;
use crate::telemetry::Method;

impl Client {
    /// Does what a client has said.
    pub(super) async fn handle(&mut self, heard: Result<Command, Offence>, out: &mut Vec<u8>) {
        let Command { id, request } = match heard {
            Ok(command) => command,
            Err(offence) => {
                tracing::debug!(id = %self.id, "the client broke the protocol: {offence}");
                return self.end(offence.disconnect(), out);
            }
        };
        let method = Method::of(&request);
        let in_time = matches!(request, Request::Connect(_)) == (self.stage == Stage::New);
        if self.stage == Stage::Over {
            return;
        }
        if !in_time || self.stage == Stage::Refused {
            self.worker.instance.counts.command::<()>(method, &Err(DisconnectCode::BadRequest.into()));
            return self.end(DisconnectCode::BadRequest, out);
        }
        if let Request::Pong = request {
            if !self.worker.shard.answered(self.key) {
                self.end(DisconnectCode::BadRequest, out);
            }
            return;
        }
        if !self.is_in_rate() {
            return self.end(DisconnectCode::TooManyRequests, out);
        }
        match request {
            Request::Publish(_) => return self.publish(id, request, out).await,
            Request::Subscribe(_) => return self.subscribe(id, request, out).await,
            _ => {}
        }
        let result = match request.check() {
            Err(refusal) => Err(refusal),
            Ok(()) => self.obey(id, request, out).await,
        };
        self.worker.instance.counts.command(method, &result);
        match result {
            Ok(answer) => answer.into_iter().for_each(|answer| self.answer(out, id, &answer)),
            Err(refusal) => self.refuse(id, refusal, out),
        }
    }

    /// Does what a command asks for; nothing, if it has been answered already.
    async fn obey(
        &mut self,
        id: u32,
        request: Request,
        out: &mut Vec<u8>,
    ) -> Result<Option<Answer>, Refusal> {
        match request {
            // Those are looked at before, each in its own way.
            Request::Pong | Request::Publish(_) | Request::Subscribe(_) => Ok(None),
            Request::Connect(request) => self.connect(id, *request, out).await.map(|()| None),
            Request::Unsubscribe(request) => {
                self.drop_subscription(&Channel::new(&request.channel)?);
                Ok(Some(Answer::Unsubscribe))
            }
            Request::Presence(request) => self.presence(id, &request.channel, out).await.map(|()| None),
            Request::PresenceStats(request) => self.presence_stats(&request.channel).await.map(Some),
            Request::History(request) => self.history(id, &request, out).await.map(|()| None),
            // Nobody is there to be called, or told.
            Request::Rpc(_) => Err(ErrorCode::NotAvailable.into()),
            Request::Send(_) => Err(DisconnectCode::NotAvailable.into()),
            Request::Refresh(request) => self.refresh(&request).await.map(Some),
            Request::SubRefresh(request) => self.sub_refresh(&request).await.map(Some),
        }
    }

    /// Answers a command that failed.
    pub(super) fn refuse(&mut self, id: u32, refusal: Refusal, out: &mut Vec<u8>) {
        match refusal {
            Refusal::Disconnect(why) => self.end(why, out),
            // Who only listens gets no answers.
            Refusal::Error(error) if self.one_way => self.end(error.disconnect(), out),
            Refusal::Error(error) => {
                if self.stage == Stage::New {
                    self.stage = Stage::Refused;
                    // It may linger until it is stale, and is none of its user's connections.
                    self.claimed = None;
                }
                self.answer(out, id, &error.into());
            }
        }
    }

    /// Reads what has come from elsewhere.
    pub(super) async fn open(&mut self, letter: Letter, out: &mut Vec<u8>) {
        match letter {
            Letter::TooMuch => self.end(DisconnectCode::ServerError, out),
            Letter::TooLoud => self.end(DisconnectCode::TooManyRequests, out),
            Letter::Lapsed(channel) => self.lapsed(&channel, out),
            Letter::Control(message) => {
                if self.stage == Stage::Connected {
                    self.control(&message, out).await;
                }
            }
        }
    }

    async fn refresh(&mut self, request: &RefreshRequest) -> Result<Answer, Refusal> {
        let verifier = &self.worker.instance.identity;
        let refreshed = verifier.refreshed(&request.token, &self.user).await;
        let identity = refreshed.map_err(|fault| refusal(fault.on_refresh()))?;
        let ttl = seconds_left(identity.expiry, DisconnectCode::Expired.into())?;
        let ours: Vec<_> = self.subs.iter().filter(|sub| sub.in_token).map(|sub| &sub.channel).collect();
        let same =
            ours.len() == identity.subs.len() && ours.iter().all(|ours| identity.subs.contains_key(*ours));
        if !same {
            return Err(DisconnectCode::InsufficientState.into());
        }
        self.expiry = identity.expiry;
        self.show(identity.info);
        Ok(Answer::Refresh(RefreshResult {
            client: self.id.to_string(),
            version: VERSION.into(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        }))
    }

    async fn sub_refresh(&mut self, request: &SubRefreshRequest) -> Result<Answer, Refusal> {
        let channel = Channel::new(&request.channel)?;
        if self.subs.get(&channel).is_none() {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let verifier = &self.worker.instance.identity;
        let granted = verifier.subscription(&request.token, &channel, &self.user, &self.id.to_string()).await;
        let grant = granted.map_err(|fault| refusal(fault.on_sub_refresh()))?;
        let ttl = seconds_left(grant.expiry, DisconnectCode::SubscriptionExpired.into())?;
        if let Some(sub) = self.subs.get_mut(&channel) {
            let changed = sub.info != grant.info;
            (sub.expiry, sub.info) = (grant.expiry, grant.info);
            if changed {
                self.show_in(&channel);
            }
        }
        Ok(Answer::SubRefresh(SubRefreshResult {
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            items: Vec::new(),
        }))
    }
}

/// Seconds until an end, for the client; `over`, if it has passed.
pub(super) fn seconds_left(end: Option<Expiry>, over: Refusal) -> Result<Option<u32>, Refusal> {
    end.map(|end| end.seconds_left().ok_or(over)).transpose()
}

/// What the protocol does about a token.
pub(super) fn refusal(consequence: Consequence) -> Refusal {
    match consequence {
        Consequence::Error(error) => error.into(),
        Consequence::Close(why) => why.into(),
    }
}

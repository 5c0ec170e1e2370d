//! The user of a connection on which the client protocol is not spoken: a raw WebSocket or an event stream that was
//! opened with a token. It counts as one of its user's connections, and what the back end wants of the user reaches
//! it. It says nothing but goodbye; a connection without a token, as most are, has none and pays for none.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fanfare_hub::{End, Format, Key};
use fanfare_protocol::{Channel, ConnectionId, Control};

use super::alarm::{Alarm, has_passed};
use super::claimed::{Claimed, NoClaim};
use super::control::send_away;
use crate::expiry::Expiry;
use crate::identity::{Identity, User};
use crate::instance::Instance;
use crate::registers::{Letter, Mail, Roster};
use crate::worker::Worker;

/// See the module. Dropping it takes the connection out of its user's.
pub struct Owner {
    instance: Arc<Instance>,
    roster: Rc<Roster>,
    key: Key,
    id: ConnectionId,
    format: Format,
    /// The one that it is subscribed to.
    channel: Channel,
    user: User,
    /// Nothing can be refreshed by the client, so there is no grace.
    expiry: Option<Expiry>,
    mail: Rc<Mail>,
    claimed: Option<Box<Claimed>>,
}

impl Owner {
    /// Takes a connection that has a place, and is spoken to in this format, among its user's.
    ///
    /// # Errors
    ///
    /// When the user has `max_connections_per_user` of them, over all instances, or may have.
    pub async fn admit(
        worker: &Worker,
        (key, id): (Key, ConnectionId),
        format: Format,
        channel: &Channel,
        identity: Identity,
    ) -> Result<Box<Self>, NoClaim> {
        let Identity { user, expiry, .. } = identity;
        let (instance, roster, mail) = (worker.instance.clone(), worker.roster.clone(), Mail::new(id));
        roster.enter(key, &user, &mail);
        instance.users.enter(&user);
        worker.shard.weigh_beside(key, 0, u32::try_from(user.as_str().len()).unwrap_or(u32::MAX));
        let channel = channel.clone();
        let claimed = None;
        let mut owner =
            Box::new(Self { instance, roster, key, id, format, channel, user, expiry, mail, claimed });
        owner.claimed = Claimed::take(&owner.instance, &owner.user, id).await?;
        Ok(owner)
    }

    /// Lives as long as the connection's session, which it ends when the back end wants that or its token is over.
    pub async fn accompany(mut self: Box<Self>, worker: Rc<Worker>, session: impl Future<Output = ()>) {
        let (mut session, mut alarm) = (pin!(session), Alarm::default());
        loop {
            if self.expiry.is_some_and(|end| has_passed(end, Duration::ZERO)) {
                self.expiry = None;
                worker.shard.end(self.key, End::TokenExpired);
            }
            alarm.set(self.expiry.into_iter(), Duration::ZERO);
            tokio::select! {
                () = session.as_mut() => return,
                () = self.mail.arrived() => {}
                () = alarm.rings() => {}
            }
            while let Some(letter) = self.mail.take() {
                self.open(letter, &worker);
            }
        }
    }

    fn open(&mut self, letter: Letter, worker: &Worker) {
        match letter {
            Letter::Control(message) => self.control(&message, worker),
            // Any of what is lost might have been its end.
            Letter::TooMuch => worker.shard.end(self.key, End::Kicked),
            // It has no name to be spoken for by, and its one subscription ends with it.
            Letter::TooLoud | Letter::Lapsed(_) => {}
        }
    }

    fn control(&mut self, message: &Control, worker: &Worker) {
        match message {
            Control::Disconnect(disconnect) if disconnect.spared.contains(&self.id) => {}
            Control::Disconnect(disconnect) => send_away(worker, self.key, self.format, disconnect),
            // The connection is its subscription.
            Control::Unsubscribe(unsubscribe) => {
                if unsubscribe.channel.as_ref().is_none_or(|channel| *channel == self.channel) {
                    worker.shard.end(self.key, End::Kicked);
                }
            }
            Control::Refresh(refresh) if refresh.expired => worker.shard.end(self.key, End::TokenExpired),
            Control::Refresh(refresh) => self.expiry = refresh.expire_at.map(Expiry),
            // It has its one channel for ever, and its words come by its socket.
            Control::Subscribe(_) | Control::Uplink(_) => {}
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.roster.leave(self.key, &self.user);
        self.instance.users.leave(&self.user);
    }
}

//! What instances share through Redis beside publications, as the traits have it. Each answer is the ledger's, the
//! herald's, or read out of Redis here; nothing is decided here.

use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Control, Member};

use super::Redis;
use super::fault::Fault;
use super::rows::reading;
use crate::{
    Away, Census, ChannelFacts, Claim, Claims, ControlBus, Cursor, InstanceFacts, MemberCount, Page, Pending,
    Presence, Target, Unsent,
};

impl Redis {
    fn read<'a, T>(
        &'a self,
        reading: impl Future<Output = Result<T, Fault>> + Send + 'a,
    ) -> Pending<'a, Result<T, Away>> {
        Box::pin(async {
            let read = self.questions.ask(reading).await;
            read.map_err(|fault| Away(self.lanes[0].because(&fault)))
        })
    }
}

impl Presence for Redis {
    fn enter(&self, channel: &Channel, member: Member) -> Pending<'static, Result<(), Away>> {
        self.ledger.enter(channel, member)
    }

    fn leave(&self, channel: &Channel, connection: ConnectionId, grace: Duration) {
        self.ledger.leave(channel, connection, grace);
    }

    fn members<'a>(
        &'a self,
        channel: &'a Channel,
        from: Cursor,
        limit: usize,
    ) -> Pending<'a, Result<Page<Member>, Away>> {
        self.read(
            async move { reading::members(&self.calls, self.ledger.names(), channel, &from, limit).await },
        )
    }

    fn member_count<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<MemberCount, Away>> {
        self.read(reading::member_count(&self.calls, self.ledger.names(), channel))
    }
}

impl Claims for Redis {
    fn claim<'a>(&'a self, user: &'a str, connection: ConnectionId, limit: u32) -> Pending<'a, Claim> {
        Box::pin(self.ledger.claim(user, connection, limit))
    }

    fn give_back(&self, user: &str, connection: ConnectionId) {
        self.ledger.give_back(user, connection);
    }
}

impl Census for Redis {
    fn describe(&self, facts: InstanceFacts) {
        self.ledger.describe(facts);
    }

    fn subscribers_changed(&self, channel: &Channel) {
        self.ledger.subscribers_changed(channel);
    }

    fn instances(&self) -> Pending<'_, Result<Vec<InstanceFacts>, Away>> {
        self.read(reading::instances(&self.calls, self.ledger.names()))
    }

    fn channels<'a>(
        &'a self,
        pattern: Option<&'a str>,
        from: Cursor,
        limit: usize,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>> {
        self.read(
            async move { reading::channels(&self.calls, self.ledger.names(), pattern, &from, limit).await },
        )
    }
}

impl ControlBus for Redis {
    fn control(&self, target: Target, message: Control) -> Pending<'static, Result<(), Unsent>> {
        self.herald.send(target, message)
    }
}

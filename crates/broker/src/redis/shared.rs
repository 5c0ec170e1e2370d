//! What instances share through Redis beside publications. Until its rows are written there, every question is
//! answered with "away", and nothing pretends otherwise.

use std::future::ready;
use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Control, Member};

use super::Redis;
use crate::{
    Away, Census, ChannelFacts, Claim, Claims, ControlBus, Cursor, InstanceFacts, MemberCount, Page, Pending,
    Presence, Target, Unsent,
};

fn away() -> Away {
    Away("this is not shared through Redis yet".to_owned())
}

impl Presence for Redis {
    fn enter(&self, _: &Channel, _: Member) -> Pending<'static, Result<(), Away>> {
        Box::pin(ready(Err(away())))
    }

    fn leave(&self, _: &Channel, _: ConnectionId, _: Duration) {}

    fn members<'a>(&'a self, _: &'a Channel, _: Cursor, _: usize) -> Pending<'a, Result<Page<Member>, Away>> {
        Box::pin(ready(Err(away())))
    }

    fn member_count<'a>(&'a self, _: &'a Channel) -> Pending<'a, Result<MemberCount, Away>> {
        Box::pin(ready(Err(away())))
    }
}

impl Claims for Redis {
    fn claim<'a>(&'a self, _: &'a str, _: ConnectionId, _: u32) -> Pending<'a, Claim> {
        Box::pin(ready(Claim::Unproven(away())))
    }

    fn give_back(&self, _: &str, _: ConnectionId) {}
}

impl Census for Redis {
    fn describe(&self, _: InstanceFacts) {}

    fn subscribers_changed(&self, _: &Channel) {}

    fn instances(&self) -> Pending<'_, Result<Vec<InstanceFacts>, Away>> {
        Box::pin(ready(Err(away())))
    }

    fn channels<'a>(
        &'a self,
        _: Option<&'a str>,
        _: Cursor,
        _: usize,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>> {
        Box::pin(ready(Err(away())))
    }
}

impl ControlBus for Redis {
    fn control(&self, _: Target, _: Control) -> Pending<'static, Result<(), Unsent>> {
        Box::pin(ready(Err(Unsent::Away(away()))))
    }
}

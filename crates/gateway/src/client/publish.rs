//! Publishing. What a client sends without waiting for answers is handed to the broker together, and answered in its order
//! as the broker confirms it.

use std::sync::Arc;

use super::counts::Method;
use super::session::Client;
use crate::namespace::{Refusal as Refused, may_publish};
use crate::publish::{Rules, Unpublished, publish};
use bytes::Bytes;
use fanfare_broker::AppendOptions;
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, ErrorCode, PublishRequest, Refusal, Request,
};
use fanfare_protocol::{Channel, Kind, Publication};
use futures_util::future::join_all;

/// So many are handed over together.
const TOGETHER: usize = 256;

impl Client {
    /// Publishes, and with it what the client wants to publish right behind it.
    pub(super) async fn publish(&mut self, id: u32, request: Request, out: &mut Vec<u8>) {
        let mut asked = vec![(id, self.publication(request))];
        while asked.len() < TOGETHER
            && asked.last().is_some_and(|(_, last)| !matches!(last, Err(Refusal::Disconnect(_))))
            && let Some(Command { id, request }) =
                self.next_if(|request| matches!(request, Request::Publish(_)))
        {
            let publication = match self.is_in_rate() {
                true => self.publication(request),
                false => Err(DisconnectCode::TooManyRequests.into()),
            };
            asked.push((id, publication));
        }
        let instance = self.worker.instance.clone();
        // The call puts it into the order of publications; the answers may come as they like.
        let appends = asked.iter().map(|(_, asked)| {
            let asked = asked.as_ref().map_err(|refusal| *refusal);
            let published = asked.map(|(channel, rules, publication)| {
                publish(&instance, *rules, channel, publication.clone(), AppendOptions::default())
            });
            async move { published?.await.map_err(|error| unpublished(&error)) }
        });
        for ((id, _), result) in asked.iter().zip(join_all(appends).await) {
            self.worker.instance.counts.command(Method::PUBLISH, &result);
            match result {
                Ok(_) => {
                    self.worker.shard.stats().publications.add(1);
                    self.answer(out, *id, &Answer::Publish);
                }
                Err(refusal) => self.refuse(*id, refusal, out),
            }
        }
    }

    /// What is published, if it may be.
    fn publication(&self, request: Request) -> Result<(Channel, Rules, Publication), Refusal> {
        request.check()?;
        let Request::Publish(PublishRequest { channel, data, .. }) = request else {
            return Err(DisconnectCode::BadRequest.into());
        };
        let channel = Channel::new(&channel)?;
        let instance = &self.worker.instance;
        let namespace = instance.config.channels.resolve(&channel).map_err(|_| ErrorCode::UnknownChannel)?;
        if !namespace.admits(&channel) {
            return Err(ErrorCode::BadRequest.into());
        }
        let sub = self.subs.get(&channel);
        may_publish(namespace, &channel, &self.user, sub.is_some()).map_err(Refused::code)?;
        let info = self.seen(sub.and_then(|sub| sub.info.as_ref()));
        let publication = Publication { info: Some(Arc::new(info)), ..Publication::new(kind(&data), data) };
        Ok((channel, (&**namespace).into(), publication))
    }
}

/// To clients of the raw endpoints text is text.
fn kind(data: &Bytes) -> Kind {
    if std::str::from_utf8(data).is_ok() { Kind::Text } else { Kind::Binary }
}

fn unpublished(error: &Unpublished) -> Refusal {
    match error {
        Unpublished::TooLarge { .. } | Unpublished::Format(_) | Unpublished::Tags(_) => {
            ErrorCode::BadRequest.into()
        }
        Unpublished::Broker(error) => {
            tracing::debug!("a publication fails: {error}");
            ErrorCode::Internal.into()
        }
    }
}

//! Publishing. What a client sends without waiting for answers is handed to the broker together, and answered in its
//! order as the broker confirms it.

use std::sync::Arc;

use super::session::Client;
use crate::namespace::{Denial, may_publish};
use crate::publish::{Rules, Unpublished, publish};
use crate::relay::work;
use crate::telemetry::Method;
use bytes::Bytes;
use fanfare_broker::AppendOptions;
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, ErrorCode, PublishRequest, Refusal, Request,
};
use fanfare_protocol::{Channel, Kind, Publication};
use futures_util::future::join_all;

/// So many are handed over together, and so many bytes of them: what they are encoded and deflated to is done in one
/// turn, but for what is put off.
const TOGETHER: usize = 256;
const BYTES: usize = 64 << 10;

impl Client {
    /// Publishes, and with it what the client wants to publish right behind it.
    pub(super) async fn publish(&mut self, id: u32, request: Request, out: &mut Vec<u8>) {
        let first = self.publication(request);
        let mut bytes = length_of(&first);
        let mut asked = vec![(id, first)];
        while asked.len() < TOGETHER
            && bytes < BYTES
            && asked.last().is_some_and(|(_, last)| !matches!(last, Err(Refusal::Disconnect(_))))
            && let Some(Command { id, request }) =
                self.next_if(|request| matches!(request, Request::Publish(_)))
        {
            let publication = match self.is_in_rate() {
                true => self.publication(request),
                false => Err(DisconnectCode::TooManyRequests.into()),
            };
            bytes += length_of(&publication);
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
        // What came before was not this one's doing.
        work::take();
        let results = join_all(appends);
        let turns = work::take() / work::TURN;
        for ((id, _), result) in asked.iter().zip(results.await) {
            self.worker.instance.counts.command(Method::PUBLISH, &result);
            match result {
                Ok(_) => {
                    self.worker.shard.stats().publications.add(1);
                    self.answer(out, *id, &Answer::Publish);
                }
                Err(refusal) => self.refuse(*id, refusal, out),
            }
        }
        for _ in 0..turns {
            self.pause(out).await;
        }
    }

    /// What is published, if it may be.
    fn publication(&self, request: Request) -> Asked {
        request.check()?;
        let Request::Publish(PublishRequest { channel, data, .. }) = request else {
            return Err(DisconnectCode::BadRequest.into());
        };
        let channel = Channel::new(&channel)?;
        let namespace = self.namespace(&channel)?;
        let sub = self.subs.get(&channel);
        may_publish(namespace, &channel, &self.user, sub.is_some()).map_err(Denial::code)?;
        let info = self.seen(sub.and_then(|sub| sub.info.as_ref()));
        let publication = Publication { info: Some(Arc::new(info)), ..Publication::new(kind(&data), data) };
        Ok((channel, (&**namespace).into(), publication))
    }
}

type Asked = Result<(Channel, Rules, Publication), Refusal>;

fn length_of(asked: &Asked) -> usize {
    asked.as_ref().map_or(0, |(.., publication)| publication.payload.len())
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

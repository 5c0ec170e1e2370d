//! What members are given on a visit: the frames that they have not seen, laid together once for all who want the
//! same. When somebody is visited is not decided here.

use bytes::Bytes;
use smallvec::SmallVec;

use super::rounds::DEFLATING;
use crate::batch;
use crate::connection::{Connection, Sent};
use crate::context::Context;
use crate::mailbox::Delivery;
use crate::outbox::Chunk;
use crate::room::Membership;
use crate::subscription::WhenSlow;

/// What one visit after the other comes to.
#[derive(Default)]
pub(super) struct Written {
    pub(super) publications: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Written {
    /// Writes this behind what came before it.
    pub(super) fn send(&mut self, before: Sent, connection: &mut Connection, laid: &Laid) -> Sent {
        let mut sent = before;
        self.publications += laid.publications as u64;
        self.frames += laid.frames as u64;
        self.bytes += laid.bytes as u64;
        for chunk in &laid.chunks {
            if laid.member.when_slow == WhenSlow::KeepLatest
                && let Some(room) = chunk.droppable
                && let Some(outbox) = &mut connection.outbox
            {
                outbox.drop_all_of(room);
            }
            sent = sent.and(|| connection.send_as(&chunk.bytes, |bytes| Chunk { bytes, ..*chunk }));
        }
        laid.and_then(sent)
    }
}

/// What a member has not seen, ready to be written.
pub(super) struct Laid {
    member: Membership,
    chunks: Vec<Chunk>,
    frames: usize,
    /// Those of them that are publications; the others are news.
    publications: usize,
    /// Something is in it to which the next delta is made.
    pub(super) begun: bool,
    bytes: usize,
    /// What was deflated for it alone, as bytes that are written.
    pub(super) work: usize,
    /// There is more, and it cannot be said.
    unsayable: bool,
}

impl Laid {
    /// For this member of a room, in its format. What has no frame in it was published before it came.
    pub(super) fn new<'d>(
        member: &Membership,
        room: u32,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
        context: Option<&mut Context>,
    ) -> Self {
        let (mut frames, mut publications) = (SmallVec::<[_; 16]>::new(), 0);
        let (mut begun, mut unsayable) = (false, false);
        let mut format = if member.fresh { member.format.whole() } else { member.format };
        for delivery in deliveries.into_iter().filter(|delivery| member.news || !delivery.news) {
            match delivery.frames.of(format) {
                None => {}
                Some(None) => {
                    unsayable = true;
                    break;
                }
                Some(Some(frame)) => {
                    frames.push((frame, delivery.news));
                    publications += usize::from(!delivery.news);
                    // Until its position is reached, what comes without a number is not what others' deltas are to.
                    if !delivery.news && (member.after == 0 || delivery.offset > member.after) {
                        begun = true;
                        format = member.format;
                    }
                }
            }
        }
        let count = frames.len();
        let droppable = member.when_slow != WhenSlow::Close;
        let plain = frames.iter().map(|(frame, _)| *frame);
        let mut work = 0;
        let chunks = match context {
            // Each by itself, so that it can be dropped by itself; who comes and goes is not. A context would refer to
            // what was dropped, so it is left out of this, which RFC 7692 allows for any message.
            _ if droppable => {
                let chunk = |(frame, news): &(&Bytes, bool)| Chunk {
                    bytes: Bytes::clone(frame),
                    droppable: (!news).then_some(room),
                };
                frames.iter().map(chunk).collect()
            }
            None => whole(batch::chunks(plain, member.format.joint())),
            // Deflated, messages cannot share a frame any more.
            Some(context) => {
                let deflated = plain.clone().filter(|plain| context.deflates(plain));
                work = deflated.map(Bytes::len).sum::<usize>() * DEFLATING;
                whole(batch::chunks(&plain.map(|plain| context.frame(plain)).collect::<Vec<_>>(), None))
            }
        };
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        Self { member: *member, bytes, work, chunks, frames: count, publications, begun, unsayable }
    }

    /// What came of writing it, if it went as `sent` says.
    fn and_then(&self, sent: Sent) -> Sent {
        if self.unsayable { sent.and(|| Sent::Unsayable) } else { sent }
    }

    /// Laid once for all who have seen the same and want the same format: in a round, mostly neighbours.
    pub(super) fn shared<'l>(
        laid: &'l mut Vec<Self>,
        member: &Membership,
        room: u32,
        unseen: &[Delivery],
    ) -> &'l Self {
        let place = laid.iter().position(|laid| laid.member.wants_like(member));
        let place = place.unwrap_or(laid.len());
        match laid.get_mut(place) {
            Some(laid) if laid.member.is_like(member) => {}
            Some(laid) => *laid = Self::new(member, room, unseen, None),
            None => laid.push(Self::new(member, room, unseen, None)),
        }
        &laid[place]
    }
}

/// Chunks of which every one must be written.
fn whole(chunks: Vec<Bytes>) -> Vec<Chunk> {
    chunks.into_iter().map(Chunk::of).collect()
}

//! The life of one connection that speaks the client protocol: it waits for commands, for mail and for the end of its
//! tokens, and does one thing after the other. What a command does is in the files beside this one.

use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_hub::{End, Format, Heartbeat, Key, Socket};
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, Encoding, NotJson, Offence, Push, Request,
};
use fanfare_protocol::{ConnectionId, Info};
use fanfare_websocket::Limits;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::alarm::Alarm;
use super::claimed::Claimed;
use super::control::Wishes;
use super::dialect::{Dialect, encoding_of, is_one_way, words};
use super::subscriptions::{Presence, Subs};
use crate::admission::limits::Permit;
use crate::admission::recoveries::Stay;
use crate::expiry::Expiry;
use crate::identity::User;
use crate::registers::{Mail, Sessions};
use crate::relay::{carry, push_format};
use crate::session::backpressure::{PATIENCE, has_taken_it_all, is_pressed, wait_for_room};
use crate::session::inbound::{Inbound, Read};
use crate::session::listening::Listening;
use crate::session::rate::Bucket;
use crate::worker::Worker;

/// How long commands may take before it is seen whether the client is to be excused for not having answered a ping:
/// meanwhile it is not read.
const LOOK: Duration = Duration::from_millis(500);

/// How long others wait for a client to come back before they are told that it has left, if it has not said so.
const GRACE: Duration = Duration::from_secs(5);

/// So much is said in one piece, about, before the client is waited for: one frame may ask for a hundred thousand
/// times of what is in it.
const PIECE: usize = 64 << 10;

/// After so many commands, be their answers as small as may be, others have their turn.
const TURN: u32 = 64;

/// So many of the largest requests may wait for a session that is busy with one.
const REQUESTS: usize = 16;

/// One connection's session, from its first byte to its last.
pub struct Session {
    ears: Ears,
    client: Client,
    _permit: Permit,
    /// Counted as long as the task lives that this is in.
    _alive: Rc<()>,
}

/// What becomes of the bytes that a client sends on its connection.
enum Ears {
    /// They are its words.
    Frames(Inbound),
    /// It says its words in other requests, and nothing is expected here.
    Body(Listening),
}

/// What is known of the client.
pub(super) struct Client {
    pub worker: Rc<Worker>,
    pub key: Key,
    pub id: ConnectionId,
    pub format: Format,
    /// The client only listens, once it has said who it is.
    pub one_way: bool,
    /// How it is found out whether it is still there, from then on.
    pub heartbeat: Heartbeat,
    pub stage: Stage,
    /// Anonymous until it has said who it is.
    pub user: User,
    /// What others are shown of it.
    pub info: Option<Bytes>,
    /// When the connection has to be refreshed; never, if none.
    pub expiry: Option<Expiry>,
    pub subs: Subs,
    pub mail: Rc<Mail>,
    /// What the back end wants and has to wait for.
    pub wishes: Wishes,
    /// It is in the worker's roster.
    pub entered: bool,
    pub claimed: Option<Box<Claimed>>,
    /// How many channels it has recovered: who has recovered few comes first.
    pub stay: Stay,
    /// Commands that were heard and not handled yet. What is no command ends the connection in its turn.
    heard: VecDeque<Result<Command, Offence>>,
    alarm: Alarm,
    bucket: Option<Box<Bucket>>,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has yet to connect.
    New,
    /// It tried to, in vain, and may do nothing any more.
    Refused,
    Connected,
    /// It was told to go.
    Over,
}

impl Session {
    /// The session of a connection that has been opened.
    pub fn new(
        worker: Rc<Worker>,
        key: Key,
        id: ConnectionId,
        dialect: Dialect,
        limits: Limits,
        permit: Permit,
    ) -> Self {
        let alive = worker.alive.clone();
        let Dialect { format, greeting, heartbeat } = dialect;
        let is_body = format.carrier.is_body();
        let mail = match is_body || is_one_way(format) {
            true => Mail::named(id, Sessions::name(), REQUESTS * limits.message),
            false => Mail::new(id),
        };
        let client = Client {
            key,
            id,
            format,
            one_way: is_one_way(format),
            heartbeat,
            stage: Stage::New,
            user: User::anonymous(),
            info: None,
            expiry: None,
            subs: Subs::default(),
            mail,
            wishes: Wishes::default(),
            entered: false,
            stay: Stay::default(),
            claimed: None,
            heard: greeting.into(),
            alarm: Alarm::default(),
            bucket: Bucket::new(&worker.instance.config),
            worker: worker.clone(),
        };
        let ears = match is_body {
            true => Ears::Body(Listening::new(worker, key)),
            false => Ears::Frames(Inbound::new(worker, key, id, limits)),
        };
        Self { ears, client, _permit: permit, _alive: alive }
    }

    /// Takes in what came with the handshake, before anything is read.
    pub fn hear(&mut self, early: &[u8]) {
        if let Self { ears: Ears::Frames(inbound), client, .. } = self {
            inbound.take_in(&mut early.to_vec(), |_, message| client.hear(message));
        }
    }

    /// Serves the client until it has gone or was made to.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice: 200 bytes a connection"
    )]
    pub fn run(mut self, socket: Rc<Socket>) -> impl Future<Output = ()> {
        async move {
            // All of it, and borrowed: what an async block does not name is dropped before it runs, and what is moved
            // inside of it is kept twice.
            let Self { ears, client, .. } = &mut self;
            loop {
                if client.has_work() {
                    // Boxed, or every idle connection would keep the room for it.
                    Box::pin(client.work_patiently(&socket)).await;
                }
                if ears.are_over() {
                    break;
                }
                tokio::select! {
                    readable = socket.readable() => {
                        if readable.is_err() {
                            break;
                        }
                    }
                    () = client.mail.arrived() => continue,
                    () = client.alarm.rings() => {
                        client.look_at_ends();
                        continue;
                    }
                }
                // Asked just before reading, or all who were silent till now could come in at the same time.
                if is_pressed(&client.worker) {
                    // Boxed for the same reason.
                    Box::pin(client.find_room(&mut Vec::new())).await;
                }
                let read = match ears {
                    Ears::Frames(inbound) => inbound.read(&socket, |_, message| client.hear(message)),
                    Ears::Body(listening) => listening.read(&socket),
                };
                match read {
                    Read::Ended => break,
                    Read::Dry | Read::Some => {}
                }
                if let Ears::Frames(inbound) = ears {
                    inbound.give_way().await;
                }
            }
            // What it said before it went counts.
            if client.has_work() {
                Box::pin(client.work_patiently(&socket)).await;
            }
            // The socket first: what follows may be slow, and the client may be back meanwhile.
            client.worker.shard.remove(client.key);
            Box::pin(client.worker.shard.close(socket)).await;
            client.leave(if ears.heard_a_goodbye() { Duration::ZERO } else { GRACE });
        }
    }
}

impl Ears {
    /// Whether both have said goodbye.
    fn are_over(&self) -> bool {
        matches!(self, Self::Frames(inbound) if inbound.is_over())
    }

    fn heard_a_goodbye(&self) -> bool {
        matches!(self, Self::Frames(inbound) if inbound.said_goodbye())
    }
}

impl Client {
    /// Takes a message apart into commands, which wait for their turn; but for the answer to a ping, which may not
    /// wait behind them. Ends nothing by itself: what came before an offence is still to be done.
    fn hear(&mut self, message: &[u8]) -> Option<End> {
        if !self.heard.back().is_some_and(Result::is_err) {
            let (shard, key) = (&self.worker.shard, self.key);
            let is_pong = |word: &Result<Command, Offence>| {
                matches!(word, Ok(Command { request: Request::Pong, .. })) && shard.answered(key)
            };
            self.heard.extend(words(self.format, message).into_iter().filter(|word| !is_pong(word)));
        }
        None
    }

    /// The same with what came in a request. It is not listened to while there is no room for what it may say.
    async fn hear_request(&mut self, said: &[u8], out: &mut Vec<u8>) {
        if is_pressed(&self.worker) {
            self.find_room(out).await;
        }
        let stats = self.worker.shard.stats();
        stats.messages_in.add(1);
        stats.bytes_in.add(said.len() as u64);
        self.hear(said);
    }

    /// How it is spoken to.
    pub(super) fn encoding(&self) -> Encoding {
        encoding_of(self.format)
    }

    fn has_work(&self) -> bool {
        !self.heard.is_empty() || !self.mail.is_empty()
    }

    /// Works off what there is. While that takes long, the client is not blamed for an answer to a ping that may be
    /// among what is not read yet, nor for one to a ping that has yet to reach it behind what it has asked for.
    async fn work_patiently(&mut self, socket: &Socket) {
        let (worker, key, mail) = (self.worker.clone(), self.key, self.mail.clone());
        let mut silent = Duration::ZERO;
        {
            let mut work = pin!(self.work());
            while timeout(LOOK, &mut work).await.is_err() {
                if mail.has_said() || socket.has_unread() {
                    worker.shard.presume(key);
                }
                silent = if worker.shard.is_asked(key) { silent + LOOK } else { Duration::ZERO };
                if silent <= PATIENCE {
                    worker.shard.excuse(key);
                }
            }
        }
        self.set_alarm();
    }

    async fn work(&mut self) {
        let (mut out, mut commands, mut weighed) = (Vec::new(), 0, 0);
        loop {
            if commands % TURN == 0 {
                weighed = self.weigh_heard(weighed);
            }
            commands += 1;
            // What an answer takes is known before the next one is made.
            self.worker.instance.memory.tally();
            if out.len() >= PIECE || commands % TURN == 0 || is_pressed(&self.worker) {
                self.pause(&mut out).await;
            }
            self.look_up(&mut out).await;
            if self.stage == Stage::Over {
                self.heard = VecDeque::new();
                self.wishes = Wishes::default();
            }
            if let Some(wish) = self.wishes.take() {
                self.carry_out(wish, &mut out).await;
            } else if let Some(command) = self.heard.pop_front() {
                self.handle(command, &mut out).await;
            } else if let Some(said) = self.mail.take_said() {
                self.hear_request(&said, &mut out).await;
            } else {
                break;
            }
        }
        self.flush(&mut out);
        self.heard = VecDeque::new();
        self.weigh_heard(weighed);
    }

    /// Has what was heard and not handled yet counted as the client's, in bytes, where `before` was. One turn's
    /// commands are a message on its way, and are not counted.
    fn weigh_heard(&self, before: u32) -> u32 {
        let waiting = if self.heard.len() > TURN as usize { self.heard.capacity() } else { 0 };
        let now = u32::try_from(waiting * size_of::<Result<Command, Offence>>()).unwrap_or(u32::MAX);
        if now != before {
            self.worker.shard.weigh_beside(self.key, before, now);
        }
        now
    }

    /// Has what is known of the user counted as the client's when it changes: a token may say nearly as much as a
    /// message.
    pub(super) fn weighing_who_it_is(&mut self, change: impl FnOnce(&mut Self)) {
        let bytes = |client: &Self| {
            let info = client.info.as_ref().map_or(0, Bytes::len);
            u32::try_from(client.user.as_str().len() + info).unwrap_or(u32::MAX)
        };
        let before = bytes(self);
        change(self);
        self.worker.shard.weigh_beside(self.key, before, bytes(self));
    }

    /// Does what has come from elsewhere, in its order, and ends what is over.
    async fn look_up(&mut self, out: &mut Vec<u8>) {
        while let Some(letter) = self.mail.take() {
            self.open(letter, out).await;
        }
        self.end_what_is_over(out);
    }

    /// Waits for what may take as long as the client or others please, and looks up whenever there is something to
    /// see: no end and no word of the back end waits for whoever reads slowly. Nothing, if the client was told to go.
    /// What is waited for is to be read anew behind this, for it may have changed.
    pub(super) async fn meanwhile<T>(
        &mut self,
        out: &mut Vec<u8>,
        awaited: impl Future<Output = T>,
    ) -> Option<T> {
        let mut awaited = pin!(awaited);
        loop {
            self.look_up(out).await;
            self.flush(out);
            if self.stage == Stage::Over {
                return None;
            }
            self.set_alarm();
            tokio::select! {
                done = awaited.as_mut() => return Some(done),
                () = self.mail.letter() => {}
                () = self.alarm.rings() => {}
            }
        }
    }

    /// Gives the client what it has asked for so far, and everybody else a turn; goes on when the client has taken it
    /// and there is room for more.
    pub(super) async fn pause(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        yield_now().await;
        let (worker, key) = (self.worker.clone(), self.key);
        self.meanwhile(out, has_taken_it_all(&worker, key)).await;
        if is_pressed(&worker) {
            self.find_room(out).await;
            // It was told to go, maybe for what it has said, which takes what is wanted.
            if is_pressed(&worker) && worker.shard.is_closing(key) {
                self.heard = VecDeque::new();
            }
        }
    }

    /// Goes on when there is room for what the client may say.
    async fn find_room(&mut self, out: &mut Vec<u8>) {
        let (worker, key) = (self.worker.clone(), self.key);
        self.meanwhile(out, wait_for_room(&worker, key)).await;
    }

    /// The next command, if it is one of these.
    pub(super) fn next_if(&mut self, is_one: impl Fn(&Request) -> bool) -> Option<Command> {
        let next = self.heard.front()?.as_ref().ok().filter(|command| is_one(&command.request));
        if next.is_some() { self.heard.pop_front()?.ok() } else { None }
    }

    /// Whether the client may send one more message now.
    pub(super) fn is_in_rate(&mut self) -> bool {
        self.bucket.as_mut().is_none_or(|bucket| bucket.take())
    }

    /// Adds an answer to what is to be written.
    pub(super) fn answer(&mut self, out: &mut Vec<u8>, id: u32, answer: &Answer) {
        if let Err(NotJson) = self.encoding().put_answer(out, id, answer) {
            self.end(DisconnectCode::InappropriateProtocol, out);
        }
    }

    /// Adds a push to what is to be written.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, push: &Push) {
        if self.put_push(out, push).is_err() {
            self.end(DisconnectCode::InappropriateProtocol, out);
        }
    }

    /// The same, for those who do not end by it.
    pub(super) fn put_push(&self, out: &mut Vec<u8>, push: &Push) -> Result<(), NotJson> {
        push_format(self.format).put_push(out, push)
    }

    /// Writes what has come together, in one piece.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        let carried = self.take_carried(out);
        if !carried.is_empty() {
            self.worker.shard.send(self.key, &carried);
        }
    }

    /// What has come together, as it is to be written.
    pub(super) fn take_carried(&self, out: &mut Vec<u8>) -> Bytes {
        let messages = std::mem::take(out);
        if messages.is_empty() { Bytes::new() } else { carry(self.format, messages) }
    }

    /// Closes the connection, after what was to be written before.
    pub(super) fn end(&mut self, why: DisconnectCode, out: &mut Vec<u8>) {
        self.flush(out);
        self.stage = Stage::Over;
        self.worker.shard.end(self.key, End::Disconnected(why));
    }

    /// How others see the client; in a channel where it is subscribed, with what is shown of it there.
    pub(super) fn seen(&self, chan_info: Option<&Bytes>) -> Info {
        Info {
            user: self.user.as_str().to_owned(),
            client: self.id.to_string(),
            conn_info: self.info.clone().unwrap_or_default(),
            chan_info: chan_info.cloned().unwrap_or_default(),
        }
    }

    fn set_alarm(&mut self) {
        if self.stage != Stage::Connected {
            // What is over stays over, and would ring without end until the client has gone; and whoever was refused
            // for it has been told.
            self.alarm = Alarm::default();
            return;
        }
        let grace = self.worker.instance.config.refresh_grace;
        self.alarm.set(self.first_end().into_iter(), grace);
    }

    /// The first of all its tokens' ends.
    pub(super) fn first_end(&self) -> Option<Expiry> {
        self.subs.iter().filter_map(|sub| sub.expiry).chain(self.expiry).min()
    }

    /// The alarm has rung: whatever is over ends.
    fn look_at_ends(&mut self) {
        let mut out = Vec::new();
        self.end_what_is_over(&mut out);
        self.flush(&mut out);
        self.set_alarm();
    }

    /// The connection is no more. Others are told that it has left its channels after `grace`, unless its user is back.
    fn leave(&mut self, grace: Duration) {
        let broker = &self.worker.instance.broker;
        for sub in self.subs.take() {
            if sub.presence != Presence::Absent {
                broker.leave(&sub.channel, self.id, grace);
            }
        }
        if let Some(session) = self.mail.session() {
            self.worker.sessions().leave(session);
        }
        self.claimed = None;
        if self.entered {
            self.worker.roster.leave(self.key, &self.user);
            self.worker.instance.users.leave(&self.user);
        }
    }
}

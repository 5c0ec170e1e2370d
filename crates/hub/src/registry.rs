//! A worker's connections and rooms: plain data without locks, because no other thread touches it.
//! It writes to sockets that take bytes at once and never waits; who must wait is left in the
//! news for the shard to look after.

mod ahead;
mod heartbeat;
mod laid;
mod loudness;
mod pressure;
mod rounds;
mod subscriptions;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_protocol::centrifuge::DisconnectCode;
use fanfare_protocol::{Channel, ConnectionId, Control};
use fanfare_websocket::Decoder;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use self::loudness::Loudness;
pub use self::rounds::DEFLATING;
use crate::connection::{Connection, Sent, State};
use crate::context::Context;
use crate::end::End;
use crate::format::Format;
use crate::mailbox::{Census, Hub};
use crate::outbox::Chunk;
use crate::room::Room;
use crate::socket::Socket;
use crate::stats::Stats;
use crate::wheel::Wheel;

/// Names one connection of a worker; never another one after its end. The default names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Key {
    index: u32,
    serial: u32,
}

impl Key {
    pub(crate) fn new(index: u32, serial: u32) -> Self {
        Self { index, serial }
    }
}

/// What a shard holds its connections to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From one ping to the next.
    pub ping_interval: Duration,
    /// A connection without a frame for so long is ended, where any frame is a sign of life.
    pub idle_timeout: Duration,
    /// How long a peer may take to go after it was told to.
    pub close_timeout: Duration,
    /// From one ping to the next where clients answer in their own protocol, or only listen.
    pub client_ping_interval: Duration,
    /// How long such an answer may take; less than from one ping to the next.
    pub pong_timeout: Duration,
    /// How long a client may take to say who it is.
    pub stale_timeout: Duration,
    /// Whether what the kernel holds for sockets is a part of the memory that may run out.
    pub weigh_sockets: bool,
}

/// A connection as it begins.
pub struct Opening {
    /// Its name.
    pub id: ConnectionId,
    /// How it is spoken to by ourselves.
    pub format: Format,
    /// How it is found out whether somebody is still there.
    pub heartbeat: Heartbeat,
    /// The most bytes that may wait for its socket.
    pub outbox_limit: usize,
    /// Where its publications are to refer to earlier ones, what they are compressed with.
    pub context: Option<Context>,
}

/// How it is found out whether somebody is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Any frame is a sign of life, and pings ask for one.
    AnyFrame,
    /// Once it has said who it is, it is asked and has to answer.
    Answers,
    /// It cannot answer, and only wants to know that we are there.
    OneWay,
    /// It has to say who it is, whatever comes then.
    Introduction,
}

/// See the module.
pub(crate) struct Registry {
    worker: usize,
    hub: Arc<Hub>,
    settings: Settings,
    stats: Arc<Stats>,
    lag: metrics::Histogram,
    connections: Slab<Connection>,
    /// Boxed: where there are many, to let them all move into a larger slab would take much memory in one moment, and
    /// what has gone would keep its room.
    rooms: Slab<Box<Room>>,
    by_channel: HashMap<Channel, u32>,
    /// Rooms in which a round is under way or publications wait, in the order of their turns, each with its serial.
    rounds: VecDeque<(u32, u32)>,
    /// Channels that lost their last member here, and the tick at which they last did: the directory forgets them a
    /// while later.
    deserted: HashMap<Channel, u64>,
    /// Bytes that all rooms keep for their rounds.
    kept_bytes: usize,
    /// Bytes of what was taken up since this was last asked: what waits counts for the mailbox still.
    dealt_with: usize,
    ended: Vec<(Key, End)>,
    wheel: Wheel,
    loudness: Loudness,
    /// How many tasks of connections are alive, but for those that wait for full sockets.
    tasks: Box<dyn Fn() -> usize>,
    next_serial: u32,
    next_room: u32,
    /// Sessions that go on when nothing waits for their sockets any more, or when they were told to go: what is dropped
    /// here is told to them.
    patient: HashMap<Key, oneshot::Sender<()>>,
    pub(crate) news: News,
}

/// What a change means to others: whoever made it passes it on.
#[derive(Default)]
pub(crate) struct News {
    /// Connections whose outbox is not empty and for which nobody waits yet.
    pub(crate) blocked: Vec<(Key, Rc<Socket>)>,
    /// Channels that this worker has no members of any more.
    pub(crate) released: Vec<Channel>,
    /// Subscriptions that have ended because of a gap.
    pub(crate) lapsed: Vec<(Key, Channel)>,
    /// Connections that were told to go, of those whose clients speak another way.
    pub(crate) parted: Vec<Key>,
    /// Channels that have more or fewer subscribers now.
    pub(crate) changed: Vec<Channel>,
    /// What the back end wants of clients.
    pub(crate) controls: Vec<Arc<Control>>,
}

impl Registry {
    pub(crate) fn new(
        worker: usize,
        hub: Arc<Hub>,
        settings: Settings,
        stats: Arc<Stats>,
        lag: metrics::Histogram,
        tasks: Box<dyn Fn() -> usize>,
    ) -> Self {
        let shortest = settings.ping_interval.min(settings.idle_timeout).min(settings.close_timeout);
        Self {
            worker,
            hub,
            wheel: Wheel::new(shortest.min(settings.pong_timeout).min(settings.stale_timeout)),
            settings,
            stats,
            lag,
            connections: Slab::new(),
            rooms: Slab::new(),
            by_channel: HashMap::new(),
            rounds: VecDeque::new(),
            deserted: HashMap::new(),
            kept_bytes: 0,
            dealt_with: 0,
            ended: Vec::new(),
            loudness: Loudness::default(),
            tasks,
            next_serial: 0,
            next_room: 0,
            patient: HashMap::new(),
            news: News::default(),
        }
    }

    /// What counted for so many bytes does not wait any more.
    pub(crate) fn deal_with(&mut self, bytes: usize) {
        self.dealt_with += bytes;
    }

    /// How many bytes have left the mailbox for good since this was last asked.
    pub(crate) fn take_dealt_with(&mut self) -> usize {
        std::mem::take(&mut self.dealt_with)
    }

    /// How often the wheel is to be turned.
    pub(crate) fn tick_length(&self) -> Duration {
        self.wheel.tick()
    }

    /// Takes a place for a connection whose handshake is not answered yet.
    pub(crate) fn place(&mut self, opening: Opening) -> Key {
        self.next_serial = self.next_serial.wrapping_add(1);
        let key = Key::new(self.connections.vacant_key() as u32, self.next_serial);
        let (life, due) = self.begin_life(opening.heartbeat);
        self.connections.insert(Connection {
            serial: key.serial,
            state: State::Joining,
            life,
            format: opening.format,
            flushing: false,
            presumed: 0,
            seats: SmallVec::new(),
            kept_beside: 0,
            outbox_limit: opening.outbox_limit,
            socket: None,
            outbox: None,
            decoder: None,
            context: opening.context.map(Box::new),
            held: None,
            filters: Vec::new(),
            heard: self.wheel.now(),
            due,
            id: opening.id,
            opened: Instant::now(),
        });
        key
    }

    /// Keeps what is to be written first, while there is no socket yet.
    pub(crate) fn greet(&mut self, key: Key, head: Bytes) {
        if let Some(connection) = find(&mut self.connections, key).filter(|c| c.state == State::Joining) {
            connection.outbox.get_or_insert_default().push(Chunk::of(head), 0);
        }
    }

    /// The handshake is answered, and this is the socket and what reads it. Whoever was ended meanwhile is
    /// told so now.
    pub(crate) fn open(&mut self, key: Key, socket: Rc<Socket>, decoder: Decoder) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        if !socket.is_flushed() {
            // The end of the handshake's answer; what is published now comes behind it.
            connection.outbox.get_or_insert_default();
        }
        connection.socket = Some(socket);
        connection.decoder = Some(decoder);
        connection.heard = self.wheel.now();
        if connection.state == State::Joining {
            connection.state = State::Open;
            self.stats.opened[connection.format.encoding.protocol() as usize].add(1);
        }
        self.look_again(key);
        self.flush(key);
    }

    /// Lends the decoder out; nothing if the connection was made to give up what it held.
    pub(crate) fn take_decoder(&mut self, key: Key) -> Option<Decoder> {
        find(&mut self.connections, key)?.decoder.take()
    }

    /// Takes it back.
    pub(crate) fn return_decoder(&mut self, key: Key, decoder: Decoder) {
        if let Some(connection) = find(&mut self.connections, key) {
            connection.decoder = Some(decoder);
        }
    }

    /// Sends whole frames to one connection: pongs, and answers.
    pub(crate) fn send(&mut self, key: Key, frames: &Bytes) {
        let Some(connection) = find(&mut self.connections, key).filter(|c| c.state == State::Open) else {
            return;
        };
        let sent = connection.answer(frames);
        self.stats.bytes_out.add(frames.len() as u64);
        self.note(key.index, sent);
    }

    /// Writes some of what waits for this socket. Whether nothing is left to wait for, and how many bytes were written.
    pub(crate) fn flush(&mut self, key: Key) -> (bool, usize) {
        let Some(connection) = find(&mut self.connections, key) else { return (true, 0) };
        let (Some(socket), Some(outbox)) = (&connection.socket, &mut connection.outbox) else {
            connection.flushing = false;
            return (true, 0);
        };
        let (closing, before) = (connection.state == State::Closing, outbox.bytes());
        let written = outbox.write_to(socket).map(|all| all && (!closing || socket.finish_writing()));
        let bytes = before - outbox.bytes();
        let done = match written {
            Ok(true) => {
                connection.outbox = None;
                connection.flushing = false;
                self.patient.remove(&key);
                true
            }
            Ok(false) => {
                if !std::mem::replace(&mut connection.flushing, true) {
                    self.news.blocked.push((key, socket.clone()));
                }
                false
            }
            Err(_) => {
                connection.cut();
                self.end(key, End::Vanished);
                true
            }
        };
        (done, bytes)
    }

    /// Ends a connection: out of its rooms, counted, logged, told. Once; a second reason changes nothing.
    pub(crate) fn end(&mut self, key: Key, end: End) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        let words = (self.hub.phrases().goodbye)(connection.format, end);
        self.end_saying(key, end, words);
    }

    /// The same with last words of the caller's.
    pub(crate) fn end_saying(&mut self, key: Key, end: End, words: Option<Bytes>) {
        let Some(connection) = find(&mut self.connections, key).filter(|c| c.state != State::Closing) else {
            return;
        };
        let seats = connection.take_seats();
        seats.iter().for_each(|seat| self.bring_up_to_date(seat.room, seat.index));
        let connection = &mut self.connections[key.index as usize];
        if connection.state == State::Joining {
            // It ends before its handshake was answered to the end; it still counts as one of each.
            self.stats.opened[connection.format.encoding.protocol() as usize].add(1);
        }
        connection.state = State::Closing;
        self.patient.remove(&key);
        (connection.held, connection.filters) = (None, Vec::new());
        connection.due = self.wheel.now() + self.wheel.ticks(self.settings.close_timeout);
        self.wheel.at(connection.due, key);
        if connection.format.carrier.is_body() {
            self.news.parted.push(key);
        }
        connection.report(end, end.is_notable() && self.loudness.permits());
        let sent = connection.say_goodbye(end, words);
        self.stats.closed[end.index()].add(1);
        seats.iter().for_each(|seat| self.leave_room(*seat));
        self.note(key.index, sent);
    }

    /// The handshake came to nothing: forgets the connection as if it had never been.
    pub(crate) fn abandon(&mut self, key: Key) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        let seats = connection.take_seats();
        for seat in seats {
            self.bring_up_to_date(seat.room, seat.index);
            self.leave_room(seat);
        }
        self.remove(key);
    }

    /// The reader has seen the end of the socket, or nobody will read it: frees the connection's place.
    pub(crate) fn remove(&mut self, key: Key) {
        if find(&mut self.connections, key).is_some() {
            self.connections.remove(key.index as usize);
            // What a storm of connections took is given back when the last of them has gone.
            if self.connections.is_empty() {
                self.connections = Slab::new();
            }
        }
    }

    /// What ends when all that it is owed has been written or it was told to go; nothing if that is so already.
    pub(crate) fn wait_until_written(&mut self, key: Key) -> Option<oneshot::Receiver<()>> {
        find(&mut self.connections, key).filter(|c| c.state == State::Open && c.outbox.is_some())?;
        let (sender, receiver) = oneshot::channel();
        self.patient.insert(key, sender);
        Some(receiver)
    }

    /// Whether all that it was owed has been written, the Close frame included.
    pub(crate) fn is_written(&mut self, key: Key) -> bool {
        find(&mut self.connections, key).is_none_or(|connection| connection.outbox.is_none())
    }

    /// Whether it has been told to go.
    pub(crate) fn is_closing(&mut self, key: Key) -> bool {
        find(&mut self.connections, key).is_none_or(|connection| connection.state == State::Closing)
    }

    /// Every connection that is not closing yet.
    pub(crate) fn open_keys(&self) -> Vec<Key> {
        let open = self.connections.iter().filter(|(_, connection)| connection.state != State::Closing);
        open.map(|(index, connection)| Key::new(index as u32, connection.serial)).collect()
    }

    /// How many connections are there, closing ones included.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// By its name, which takes a look at every connection.
    pub(crate) fn find_id(&self, id: ConnectionId) -> Option<Key> {
        let mut open = self.connections.iter().filter(|(_, connection)| connection.state == State::Open);
        open.find(|(_, connection)| connection.id == id)
            .map(|(index, connection)| Key::new(index as u32, connection.serial))
    }

    /// Counts what is open, by looking.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census { tasks: (self.tasks)() as u64, ..Census::default() };
        for (_, connection) in &self.connections {
            match connection.state {
                State::Open => {
                    census.connections += 1;
                    census.by_protocol[connection.format.encoding.protocol() as usize] += 1;
                }
                State::Closing => census.closing += 1,
                State::Joining => {}
            }
            census.tasks += u64::from(connection.flushing);
            census.outbox_bytes += connection.waiting() as u64;
            census.compressed +=
                u64::from(connection.context.is_some() && connection.state != State::Closing);
        }
        for (_, room) in &self.rooms {
            census.subscriptions += room.members.len() as u64;
            census.compressed += room.wanting(Format::is_deflated);
        }
        census
    }

    /// Remembers who must wait and who must go; members cannot leave while their room is visited.
    fn note(&mut self, index: u32, sent: Sent) {
        let connection = &mut self.connections[index as usize];
        let key = Key::new(index, connection.serial);
        if let Some(outbox) = &mut connection.outbox {
            self.stats.dropped.add(outbox.take_dropped());
        }
        match sent {
            Sent::Whole => {}
            Sent::Queued => {
                if let Some(socket) = &connection.socket
                    && !std::mem::replace(&mut connection.flushing, true)
                {
                    self.news.blocked.push((key, socket.clone()));
                }
            }
            Sent::Overflowed => self.ended.push((key, End::SlowConsumer)),
            Sent::Broken => self.ended.push((key, End::Vanished)),
            Sent::Unsayable => {
                self.ended.push((key, End::Disconnected(DisconnectCode::InappropriateProtocol)));
            }
        }
    }

    /// Ends those for whom it turned out on the way that they must go, and gives what others have to hear, if
    /// anything. To be called after every change.
    pub(crate) fn conclude(&mut self) -> Option<News> {
        while let Some((key, end)) = self.ended.pop() {
            self.end(key, end);
        }
        (!self.news.is_empty()).then(|| std::mem::take(&mut self.news))
    }
}

impl News {
    fn is_empty(&self) -> bool {
        let Self { blocked, released, lapsed, parted, changed, controls } = self;
        blocked.is_empty()
            && released.is_empty()
            && lapsed.is_empty()
            && parted.is_empty()
            && changed.is_empty()
            && controls.is_empty()
    }
}

fn find(connections: &mut Slab<Connection>, key: Key) -> Option<&mut Connection> {
    connections.get_mut(key.index as usize).filter(|connection| connection.serial == key.serial)
}

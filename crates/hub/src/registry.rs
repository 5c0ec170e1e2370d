//! A worker's connections and rooms: plain data without locks, because no other thread touches it.
//! It writes to sockets that take bytes at once and never waits; who must wait is left in `blocked`
//! for the shard to look after.

mod rounds;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_protocol::{Channel, ConnectionId};
use fanfare_websocket::{Opcode, frame};
use slab::Slab;

use crate::connection::{Connection, Sent, State};
use crate::context::Context;
use crate::end::End;
use crate::format::Format;
use crate::mailbox::{Census, Hub};
use crate::room::{Membership, Room};
use crate::socket::Socket;
use crate::stats::Stats;
use crate::wheel::Wheel;

/// Names one connection of a worker; never another one after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// A connection without a frame for so long is ended.
    pub idle_timeout: Duration,
    /// How long a peer may take to go after it was told to.
    pub close_timeout: Duration,
}

/// Who joins a channel, and how.
#[derive(Debug, Clone)]
pub struct Member {
    /// The connection's name.
    pub id: ConnectionId,
    /// The channel.
    pub channel: Channel,
    /// Whether it gets what it publishes.
    pub echo: bool,
    /// Whether it is told of gaps.
    pub notices: bool,
    /// How it wants its publications.
    pub format: Format,
    /// The most bytes that may wait for its socket.
    pub outbox_limit: usize,
}

/// See the module.
pub(crate) struct Registry {
    worker: usize,
    hub: Arc<Hub>,
    settings: Settings,
    stats: Arc<Stats>,
    lag: metrics::Histogram,
    connections: Slab<Connection>,
    rooms: Slab<Room>,
    by_channel: HashMap<Channel, u32>,
    /// Rooms in which a round is under way, in the order of their turns.
    rounds: VecDeque<u32>,
    /// Bytes that all rooms keep for their rounds.
    kept_bytes: usize,
    ended: Vec<(Key, End)>,
    wheel: Wheel,
    ping: Bytes,
    next_serial: u32,
    /// Connections whose outbox is not empty and for which nobody waits yet.
    pub(crate) blocked: Vec<(Key, Rc<Socket>)>,
    /// Channels that this worker has no members of any more.
    pub(crate) released: Vec<Channel>,
}

impl Registry {
    pub(crate) fn new(
        worker: usize,
        hub: Arc<Hub>,
        settings: Settings,
        stats: Arc<Stats>,
        lag: metrics::Histogram,
    ) -> Self {
        let wheel = Wheel::new(settings.ping_interval.min(settings.idle_timeout).min(settings.close_timeout));
        Self {
            worker,
            hub,
            settings,
            stats,
            lag,
            connections: Slab::new(),
            rooms: Slab::new(),
            by_channel: HashMap::new(),
            rounds: VecDeque::new(),
            kept_bytes: 0,
            ended: Vec::new(),
            wheel,
            ping: frame(Opcode::Ping, b""),
            next_serial: 0,
            blocked: Vec::new(),
            released: Vec::new(),
        }
    }

    pub(crate) fn tick_length(&self) -> Duration {
        self.wheel.tick()
    }

    /// Lets a connection into its room before its handshake is answered, so that nothing published
    /// after the answer can miss it. Also tells whether the broker has yet to confirm the channel.
    pub(crate) fn join(&mut self, member: &Member, context: Option<Context>) -> (Key, bool) {
        let room = self.room(&member.channel);
        let ping_ticks = self.wheel.ticks(self.settings.ping_interval);
        let now = self.wheel.now();
        self.next_serial = self.next_serial.wrapping_add(1);
        let key = Key::new(self.connections.vacant_key() as u32, self.next_serial);
        let Member { echo, notices, format, .. } = *member;
        let membership = Membership::new(key.index, format, echo, notices);
        let (place, is_first) = self.rooms[room as usize].join(membership);
        if is_first {
            self.hub.directory().join(&member.channel, format, self.worker);
        }
        self.connections.insert(Connection {
            serial: key.serial,
            room,
            place,
            state: State::Joining,
            flushing: false,
            outbox_limit: member.outbox_limit,
            socket: None,
            outbox: None,
            context: context.map(Box::new),
            heard: now,
            // A random first ping spreads the heartbeats of those who came together.
            due: now + fastrand::u64(1..=ping_ticks.max(1)),
            id: member.id,
            opened: Instant::now(),
        });
        (key, !self.rooms[room as usize].confirmed)
    }

    /// The broker has confirmed the channel.
    pub(crate) fn confirm(&mut self, channel: &Channel) {
        if let Some(&room) = self.by_channel.get(channel) {
            self.rooms[room as usize].confirmed = true;
        }
    }

    /// The handshake is answered and this is the socket. Whoever was ended meanwhile is told so now.
    pub(crate) fn open(&mut self, key: Key, socket: Rc<Socket>) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        connection.socket = Some(socket);
        connection.heard = self.wheel.now();
        if connection.state == State::Joining {
            connection.state = State::Open;
            self.stats.opened.add(1);
        }
        let next = connection.due.min(connection.heard + self.wheel.ticks(self.settings.idle_timeout));
        self.wheel.at(next, key);
        self.flush(key);
    }

    /// A frame came.
    pub(crate) fn heard(&mut self, key: Key) {
        let now = self.wheel.now();
        if let Some(connection) = find(&mut self.connections, key) {
            connection.heard = now;
        }
    }

    /// Sends whole frames to one connection: pongs.
    pub(crate) fn send(&mut self, key: Key, frames: &Bytes) {
        let Some(connection) = find(&mut self.connections, key).filter(|c| c.state == State::Open) else {
            return;
        };
        let sent = connection.send(frames);
        self.stats.bytes_out.add(frames.len() as u64);
        self.note(key.index, sent);
    }

    /// Goes on by one tick: pings, timeouts, and cuts of those who do not go.
    pub(crate) fn tick(&mut self) {
        self.stats.ticks.add(1);
        let mut due = Vec::new();
        self.wheel.turn(&mut due);
        let (now, ping) = (self.wheel.now(), self.wheel.ticks(self.settings.ping_interval).max(1));
        let idle = self.wheel.ticks(self.settings.idle_timeout);
        for key in due {
            let Some(connection) = find(&mut self.connections, key) else { continue };
            if connection.state == State::Closing {
                if now >= connection.due {
                    connection.cut();
                } else {
                    self.wheel.at(connection.due, key);
                }
                continue;
            }
            if now >= connection.heard + idle {
                self.end(key, End::TimedOut);
                continue;
            }
            let pinged = now >= connection.due;
            if pinged {
                connection.due = now + ping;
            }
            let next = connection.due.min(connection.heard + idle);
            if pinged {
                let sent = connection.send(&self.ping);
                self.stats.bytes_out.add(self.ping.len() as u64);
                self.note(key.index, sent);
            }
            self.wheel.at(next, key);
        }
    }

    /// Writes what waits for this socket. True when nothing is left to wait for.
    pub(crate) fn flush(&mut self, key: Key) -> bool {
        let Some(connection) = find(&mut self.connections, key) else { return true };
        let (Some(socket), Some(outbox)) = (&connection.socket, &mut connection.outbox) else {
            connection.flushing = false;
            return true;
        };
        match outbox.write_to(socket) {
            Ok(()) if outbox.is_empty() => {
                connection.outbox = None;
                connection.flushing = false;
                if connection.state == State::Closing {
                    socket.finish_writing();
                }
                true
            }
            Ok(()) => {
                if !std::mem::replace(&mut connection.flushing, true) {
                    self.blocked.push((key, socket.clone()));
                }
                false
            }
            Err(_) => {
                connection.cut();
                self.end(key, End::Vanished);
                true
            }
        }
    }

    /// Ends a connection: out of its room, counted, logged, told. Once; a second reason changes nothing.
    pub(crate) fn end(&mut self, key: Key, end: End) {
        let Some(connection) = find(&mut self.connections, key).filter(|c| c.state != State::Closing) else {
            return;
        };
        let (room, place) = (connection.room, connection.place);
        self.finish_round(room);
        let connection = &mut self.connections[key.index as usize];
        if connection.state == State::Joining {
            // It ends before its handshake was answered to the end; it still counts as one of each.
            self.stats.opened.add(1);
        }
        connection.state = State::Closing;
        connection.due = self.wheel.now() + self.wheel.ticks(self.settings.close_timeout);
        self.wheel.at(connection.due, key);
        connection.report(end);
        let sent = connection.say_goodbye(end);
        self.stats.closed[end.index()].add(1);
        self.leave(room, place);
        self.note(key.index, sent);
    }

    /// The handshake came to nothing: forgets the connection as if it had never been.
    pub(crate) fn abandon(&mut self, key: Key) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        if connection.state == State::Joining {
            let (room, place) = (connection.room, connection.place);
            self.finish_round(room);
            self.leave(room, place);
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

    pub(crate) fn find_id(&self, id: ConnectionId) -> Option<Key> {
        let mut open = self.connections.iter().filter(|(_, connection)| connection.state == State::Open);
        open.find(|(_, connection)| connection.id == id)
            .map(|(index, connection)| Key::new(index as u32, connection.serial))
    }

    /// Counts what is open, by looking.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for (_, connection) in &self.connections {
            match connection.state {
                State::Open => census.connections += 1,
                State::Closing => census.closing += 1,
                State::Joining => {}
            }
            census.outbox_bytes += connection.outbox.as_ref().map_or(0, |outbox| outbox.bytes() as u64);
            census.compressed +=
                u64::from(connection.context.is_some() && connection.state != State::Closing);
        }
        for (_, room) in &self.rooms {
            census.subscriptions += room.members.len() as u64;
            census.compressed += room.wanting(Format::is_deflated);
        }
        census
    }

    fn room(&mut self, channel: &Channel) -> u32 {
        if let Some(&room) = self.by_channel.get(channel) {
            return room;
        }
        let room = Room::new(channel.clone());
        let room = self.rooms.insert(room) as u32;
        self.by_channel.insert(channel.clone(), room);
        room
    }

    fn leave(&mut self, room: u32, place: u32) {
        let left = &mut self.rooms[room as usize];
        let (moved, unwanted) = left.leave(place);
        if let Some(moved) = moved {
            self.connections[moved as usize].place = place;
        }
        if let Some(format) = unwanted {
            self.hub.directory().leave(&left.channel, format, self.worker);
        }
        if left.members.is_empty() {
            let Room { channel, .. } = self.rooms.remove(room as usize);
            self.by_channel.remove(&channel);
            self.released.push(channel);
        }
    }

    /// Remembers who must wait and who must go; members cannot leave while their room is visited.
    fn note(&mut self, index: u32, sent: Sent) {
        let connection = &mut self.connections[index as usize];
        let key = Key::new(index, connection.serial);
        match sent {
            Sent::Whole => {}
            Sent::Queued => {
                if let Some(socket) = &connection.socket
                    && !std::mem::replace(&mut connection.flushing, true)
                {
                    self.blocked.push((key, socket.clone()));
                }
            }
            Sent::Overflowed => self.ended.push((key, End::SlowConsumer)),
            Sent::Broken => self.ended.push((key, End::Vanished)),
        }
    }

    /// Ends those for whom it turned out on the way that they must go. To be called after every change.
    pub(crate) fn carry_out_ends(&mut self) {
        while let Some((key, end)) = self.ended.pop() {
            self.end(key, end);
        }
    }
}

fn find(connections: &mut Slab<Connection>, key: Key) -> Option<&mut Connection> {
    connections.get_mut(key.index as usize).filter(|connection| connection.serial == key.serial)
}

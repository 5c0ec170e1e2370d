//! Who is asked for a sign of life, when, and who has not given one. What a ping looks like is not known here.

use std::time::Duration;

use fanfare_websocket::{Opcode, frame};

use super::{Heartbeat, Key, Registry, find};
use crate::connection::{Life, State};
use crate::end::End;

/// How long a channel without members is kept in the directory: they often come back, and a flood of connections has
/// each of them come to a channel that the last one has just left.
const DESERTED: Duration = Duration::from_secs(1);

impl Registry {
    /// What is due first in a life, and when.
    pub(super) fn begin_life(&self, heartbeat: Heartbeat) -> (Life, u64) {
        let (now, settings) = (self.wheel.now(), &self.settings);
        // A random first ping spreads the heartbeats of those who came together.
        let spread = |span| now + fastrand::u64(1..=self.wheel.ticks(span).max(1));
        match heartbeat {
            Heartbeat::AnyFrame => (Life::Heard, spread(settings.ping_interval)),
            Heartbeat::Answers | Heartbeat::Introduction => {
                (Life::Unknown, now + self.wheel.ticks(settings.stale_timeout))
            }
            Heartbeat::OneWay => (Life::Told, spread(settings.client_ping_interval)),
        }
    }

    /// A frame came.
    pub(crate) fn heard(&mut self, key: Key) {
        let now = self.wheel.now();
        if let Some(connection) = find(&mut self.connections, key) {
            connection.heard = now;
        }
    }

    /// The client has said who it is: from now on it is asked, or told. The first time in the second half of an
    /// interval, so that those who came together are not asked together.
    pub(crate) fn introduce(&mut self, key: Key, heartbeat: Heartbeat) {
        let (life, interval) = match heartbeat {
            Heartbeat::AnyFrame => (Life::Heard, self.settings.ping_interval),
            Heartbeat::Answers | Heartbeat::Introduction => (Life::Asked, self.settings.client_ping_interval),
            Heartbeat::OneWay => (Life::Told, self.settings.client_ping_interval),
        };
        let interval = self.wheel.ticks(interval);
        let first = self.wheel.now() + fastrand::u64(interval / 2..=interval).max(1);
        let Some(connection) = find(&mut self.connections, key) else { return };
        if connection.state == State::Open && connection.life == Life::Unknown {
            (connection.life, connection.due) = (life, first);
            self.wheel.at(first, key);
        }
    }

    /// What the client sends is not read for the moment, so it cannot be blamed for an answer that is missing, nor for
    /// not having said who it is: it may have, and wait for us.
    pub(crate) fn excuse(&mut self, key: Key) {
        let (now, settings) = (self.wheel.now(), &self.settings);
        let ticks = |span| self.wheel.ticks(span).max(1);
        let (pong, stale) = (ticks(settings.pong_timeout), ticks(settings.stale_timeout));
        let Some(connection) = find(&mut self.connections, key) else { return };
        connection.heard = now;
        if connection.state != State::Open {
            return;
        }
        // It will be looked at when it was due before, and then again.
        match connection.life {
            Life::Asking { answered: false } => connection.due = now + pong,
            Life::Unknown => connection.due = now + stale,
            _ => {}
        }
    }

    /// What the client has sent is not read for the moment, and an answer that is due may be among it: it is taken
    /// for that, and the client is pinged as before.
    pub(crate) fn presume(&mut self, key: Key) {
        let Some(connection) = find(&mut self.connections, key) else { return };
        if connection.life == (Life::Asking { answered: false }) {
            connection.life = Life::Asking { answered: true };
            connection.presumed = connection.presumed.saturating_add(1);
        }
    }

    /// Whether an answer to a ping is due.
    pub(crate) fn is_asked(&mut self, key: Key) -> bool {
        find(&mut self.connections, key)
            .is_some_and(|connection| connection.life == Life::Asking { answered: false })
    }

    /// An answer to a ping came. Whether one was due.
    pub(crate) fn answered(&mut self, key: Key) -> bool {
        let Some(connection) = find(&mut self.connections, key) else { return false };
        let was_due = connection.life == (Life::Asking { answered: false });
        if was_due {
            connection.life = Life::Asking { answered: true };
            return true;
        }
        // Or it comes late.
        let was_presumed = connection.presumed > 0;
        connection.presumed = connection.presumed.saturating_sub(1);
        was_presumed
    }

    /// Goes on by one tick: pings, timeouts, and cuts of those who do not go.
    pub(crate) fn tick(&mut self) {
        self.stats.ticks.add(1);
        let mut due = Vec::new();
        self.wheel.turn(&mut due);
        for key in due {
            self.look(key);
        }
        self.tidy();
    }

    /// Has the directory forget channels that were deserted a while ago, and are still.
    fn tidy(&mut self) {
        let (now, span) = (self.wheel.now(), self.wheel.ticks(DESERTED).max(1));
        if now.is_multiple_of(span) {
            self.forget(|since| now >= since + span);
        }
    }

    /// The same with all of them now: their names are memory, too.
    pub(super) fn forget_deserted(&mut self) {
        self.forget(|_| true);
    }

    fn forget(&mut self, is_long_ago: impl Fn(u64) -> bool) {
        if self.deserted.is_empty() {
            return;
        }
        let (by_channel, directory) = (&self.by_channel, self.hub.directory());
        self.deserted.retain(|channel, since| {
            let still = !is_long_ago(*since);
            if !still && !by_channel.contains_key(channel) {
                directory.tidy(channel);
            }
            still
        });
        // What a flood of channels took is given back.
        self.deserted.shrink_to(1024);
    }

    fn look(&mut self, key: Key) {
        let (now, settings) = (self.wheel.now(), &self.settings);
        let ticks = |span| self.wheel.ticks(span).max(1);
        let (ping, client_ping) = (ticks(settings.ping_interval), ticks(settings.client_ping_interval));
        let (pong, idle) = (ticks(settings.pong_timeout), ticks(settings.idle_timeout));
        let Some(connection) = find(&mut self.connections, key) else { return };
        if connection.state == State::Closing {
            if now >= connection.due {
                connection.cut();
            } else {
                self.wheel.at(connection.due, key);
            }
            return;
        }
        if connection.life == Life::Heard && now >= connection.heard + idle {
            return self.end(key, End::TimedOut);
        }
        if now < connection.due {
            return self.look_again(key);
        }
        let mut is_pinged = true;
        match connection.life {
            Life::Heard => connection.due = now + ping,
            Life::Told => connection.due = now + client_ping,
            Life::Asked => {
                connection.life = Life::Asking { answered: false };
                connection.due = now + pong;
            }
            Life::Asking { answered: true } => {
                connection.life = Life::Asked;
                connection.due = now + client_ping.saturating_sub(pong).max(1);
                is_pinged = false;
            }
            Life::Asking { answered: false } => return self.end(key, End::TimedOut),
            Life::Unknown => return self.end(key, End::Stale),
        }
        if is_pinged {
            let ping = match connection.life {
                // Whoever knows nothing of the client's protocol on the way, the browser included, answers this one.
                Life::Heard => frame(Opcode::Ping, b""),
                _ => (self.hub.phrases().ping)(connection.format),
            };
            let sent = connection.send(&ping);
            self.stats.bytes_out.add(ping.len() as u64);
            self.note(key.index, sent);
        }
        self.look_again(key);
    }

    /// Has the connection looked at when something is due.
    pub(super) fn look_again(&mut self, key: Key) {
        let idle = self.wheel.ticks(self.settings.idle_timeout);
        let Some(connection) = find(&mut self.connections, key) else { return };
        let next = match connection.life {
            Life::Heard => connection.due.min(connection.heard + idle),
            _ => connection.due,
        };
        self.wheel.at(next, key);
    }
}

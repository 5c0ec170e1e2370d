//! What connections hold, and the end of those that hold the most. Which of all workers' connections those
//! are is not decided here.

use super::{Key, Registry, find};
use crate::connection::State;
use crate::end::End;
use crate::pressure::{LITTLE, Leaving, Shed, Urgent, largest};

impl Registry {
    /// Answers. Whoever asked may have stopped waiting.
    pub(crate) fn answer(&mut self, urgent: Urgent) {
        match urgent {
            Urgent::Weigh(answer) => {
                let _ = answer.send(self.weigh().into_iter().map(|(weight, _)| weight).collect());
            }
            Urgent::Shed(count, leaving, answer) => {
                let _ = answer.send(self.shed(count, leaving));
            }
        }
    }

    /// What others keep for a connection has become more or less.
    pub(crate) fn weigh_beside(&mut self, key: Key, before: u32, now: u32) {
        if let Some(connection) = find(&mut self.connections, key) {
            connection.kept_beside = connection.kept_beside.saturating_sub(before).saturating_add(now);
        }
    }

    /// Who holds more than a little and has not been told to go, the largest first.
    fn weigh(&self) -> Vec<(usize, Key)> {
        let holders = self.holders(|state| state != State::Closing);
        largest(holders.filter(|(weight, _)| *weight >= LITTLE).collect())
    }

    /// Ends so many of the largest.
    fn shed(&mut self, count: usize, leaving: Leaving) -> Shed {
        let mut shed = Shed::default();
        if leaving == Leaving::Cut {
            let late: Vec<_> = self.holders(|state| state == State::Closing).collect();
            for (_, key) in late {
                self.connections[key.index as usize].cut();
            }
        }
        for (weight, key) in self.weigh().into_iter().take(count) {
            shed.bytes += weight;
            shed.connections += 1;
            self.end(key, End::MemoryPressure);
        }
        self.forget_deserted();
        shed.leaving = self.holders(|state| state == State::Closing).map(|(weight, _)| weight).sum();
        shed
    }

    fn holders(&self, wanted: impl Fn(State) -> bool) -> impl Iterator<Item = (usize, Key)> {
        self.connections.iter().filter_map(move |(index, connection)| {
            let weight = match wanted(connection.state) {
                true => connection.weight(self.settings.weigh_sockets),
                false => 0,
            };
            (weight > 0).then(|| (weight, Key::new(index as u32, connection.serial)))
        })
    }
}

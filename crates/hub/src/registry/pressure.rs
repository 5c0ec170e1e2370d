//! What connections hold, and the end of those that hold the most. Which of all workers' connections those
//! are is not decided here.

use super::{Key, Registry};
use crate::connection::State;
use crate::end::End;
use crate::pressure::{Shed, Urgent, largest};

impl Registry {
    /// Answers. Whoever asked may have stopped waiting.
    pub(crate) fn answer(&mut self, urgent: Urgent) {
        match urgent {
            Urgent::Weigh(answer) => {
                let _ = answer.send(self.weigh().into_iter().map(|(weight, _)| weight).collect());
            }
            Urgent::Shed(count, answer) => {
                let _ = answer.send(self.shed(count));
            }
        }
    }

    /// Who holds anything, the largest first.
    fn weigh(&self) -> Vec<(usize, Key)> {
        let weighed = self.connections.iter().filter_map(|(index, connection)| {
            let weight = connection.weight(self.settings.weigh_sockets);
            (weight > 0).then(|| (weight, Key::new(index as u32, connection.serial)))
        });
        largest(weighed.collect())
    }

    /// Ends so many of the largest. One that was told to go before, and still holds something, is cut.
    fn shed(&mut self, count: usize) -> Shed {
        let mut shed = Shed::default();
        for (weight, key) in self.weigh().into_iter().take(count) {
            shed.bytes += weight;
            shed.connections += 1;
            let connection = &mut self.connections[key.index as usize];
            if connection.state == State::Closing {
                connection.cut();
            } else {
                self.end(key, End::MemoryPressure);
            }
        }
        shed
    }
}

//! Where more is sent or asked for than there is room for: who publishes waits before it is read on, and who gets what
//! it has missed, until its socket has taken what it got. Nobody is slowed down who only listens.

use std::time::Duration;

use fanfare_hub::Key;
use tokio::time::{sleep, timeout};

use crate::admission::recoveries::Guest;
use crate::memory::Room;
use crate::worker::Worker;

/// How often a publisher that waits for room looks whether it was told to go.
const LOOK: Duration = Duration::from_millis(500);

/// Whether there is so much under way that nobody should read more.
pub fn is_pressed(worker: &Worker) -> bool {
    worker.instance.hub.pressed() || worker.instance.memory.is_past()
}

/// How long a client may take for what waits for its socket before it gets more of what it has asked for: a piece of 64
/// KiB comes at 6 KiB/s.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until nothing waits for a client's socket any more. False if it takes longer than it may: it is slow.
pub async fn has_taken_it_all(worker: &Worker, key: Key) -> bool {
    timeout(PATIENCE, worker.shard.written(key)).await.is_ok()
}

/// Resolves when a client has taken what it was given before, memory is not short, and there is room to read so many
/// bytes more for it. Nothing, if they do not fit.
pub async fn room_to_read(worker: &Worker, key: Key, guest: Guest, bytes: usize) -> Option<Room> {
    loop {
        has_taken_it_all(worker, key).await;
        wait_for_memory(worker, key).await;
        // Counted are those who wait for us.
        let waiting = worker.recoveries.join(guest);
        let room = worker.instance.memory.room(bytes).await?;
        drop(waiting);
        // Much may have come under way meanwhile.
        if !is_pressed(worker) || worker.shard.is_closing(key) {
            return Some(room);
        }
    }
}

/// While memory is short, nothing more is read.
pub async fn wait_for_memory(worker: &Worker, key: Key) {
    worker.instance.memory.tally();
    if is_pressed(worker) {
        wait_for_room(worker, key).await;
    }
}

/// A publisher reads on when the workers and the bus have room for what it may send, or when it was told to
/// go: then it must be seen to go.
pub async fn wait_for_room(worker: &Worker, key: Key) {
    let instance = &worker.instance;
    let room = async {
        loop {
            instance.memory.relieved().await;
            instance.hub.relieved().await;
            instance.broker.ready().await;
            // All who wait are woken together, and the first of them may have taken what room there was.
            if !is_pressed(worker) {
                return;
            }
        }
    };
    tokio::pin!(room);
    while !worker.shard.is_closing(key) {
        // Whoever is ended for want of memory must let go of its socket before others are ended, too.
        tokio::select! {
            () = &mut room => return,
            () = worker.shard.shed() => {}
            () = sleep(LOOK) => {}
        }
        // What it has sent meanwhile is not read, so its silence says nothing.
        worker.shard.excuse(key);
    }
}

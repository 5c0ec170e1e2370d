//! A thread of its own writes what is logged, so that no worker waits for whoever reads the log: a pipe that nobody
//! reads, or whose reader has gone, and a disk that is full cost lines and nothing else, and how many is counted. It
//! knows nothing of what a line says. (tracing-appender does the same, but says on standard output that it could not
//! end in time, and waits for that: the same reader, as a rule.)

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// So many lines wait at most.
const MOST: usize = 4096;

/// So long the end waits for the last of them.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether there is room to say that this is the end.
const LOOK: Duration = Duration::from_millis(10);

/// The process has one log.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Lines that were not written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where lines are put, one `write` each. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Queue(SyncSender<Entry>);

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// All before it has been written when this is dropped.
    End(#[expect(dead_code, reason = "only its drop is of interest")] SyncSender<()>),
}

/// Starts the thread that writes to `out`, if there is none yet.
pub fn start(out: impl Write + Send + 'static) -> Queue {
    QUEUE
        .get_or_init(|| {
            let (queue, entries) = sync_channel(MOST);
            let thread = thread::Builder::new().name("log".to_owned());
            // Without a thread its end of the queue is gone, and all lines are lost: no reason not to serve.
            let _ = thread.spawn(move || write_all(out, &entries));
            Queue(queue)
        })
        .clone()
}

/// How many lines have been lost.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits until what was logged is written, but not for ever.
pub fn finish() {
    let Some(Queue(queue)) = QUEUE.get() else { return };
    let deadline = Instant::now() + PATIENCE;
    let (end, written) = sync_channel(0);
    let mut entry = Entry::End(end);
    while let Err(TrySendError::Full(back)) = queue.try_send(entry) {
        if Instant::now() > deadline {
            return;
        }
        entry = back;
        #[expect(clippy::disallowed_methods, reason = "nothing says that there is room in the queue")]
        thread::sleep(LOOK);
    }
    let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

fn write_all(mut out: impl Write, entries: &Receiver<Entry>) {
    for entry in entries {
        if let Entry::Line(line) = entry
            && out.write_all(&line).is_err()
        {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Entry::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

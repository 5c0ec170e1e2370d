//! What takes an attacker's place while bystanders are timed without it: threads that talk to themselves over the same
//! network, for as much of the time as the attacker did. Whoever shares a few cores with somebody busy notices that,
//! and most of all while it is in the kernel, which nobody can interrupt; what a server does under an attack is the
//! rest. It never speaks to a server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crate::client::sys;

/// It talks for a part of each of these, in nanoseconds.
const PERIOD: u64 = 2_000_000;

/// Stands back and talks until it is dropped.
pub(super) struct Decoy {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Decoy {
    /// `share` is what the attacker took of a core; more than 1 of several.
    pub(super) fn start(share: f64) -> io::Result<Self> {
        let over = Arc::<AtomicBool>::default();
        let count = share.ceil().max(1.0);
        let busy = (share / count * PERIOD as f64) as u64;
        let thread = |_| {
            let over = over.clone();
            Builder::new().name("decoy".to_owned()).spawn(move || talk(busy, &over))
        };
        let threads = (0..count as usize).map(thread).collect::<io::Result<_>>()?;
        Ok(Self { over, threads })
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What is said at a time, in bytes: the kernel holds it until it is read.
const SAID: usize = 16 << 10;

fn talk(busy: u64, over: &AtomicBool) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut mouth = TcpStream::connect(listener.local_addr()?)?;
    let (mut ear, _) = listener.accept()?;
    mouth.set_nodelay(true)?;
    let mut said = vec![0; SAID];
    sys::stand_back()?;
    while !over.load(Ordering::Relaxed) {
        let (begun, spent) = (sys::monotonic(), sys::thread_cpu()?);
        while sys::thread_cpu()? < spent + busy && !over.load(Ordering::Relaxed) {
            mouth.write_all(&said)?;
            ear.read_exact(&mut said)?;
        }
        sys::sleep_until(begun + PERIOD);
    }
    Ok(())
}

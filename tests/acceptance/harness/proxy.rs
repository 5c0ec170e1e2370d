//! A TCP proxy that misbehaves on demand: latency, silence, resets, little bandwidth. It does not look at
//! what it carries.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing: they pass.
    None,
    /// They stay here, in both directions, and new connections are accepted and never answered.
    Blackhole,
    /// What comes back stays here; what goes there passes.
    Mute,
    /// Each piece arrives this much later, in order.
    Latency(Duration),
    /// So many bytes a second, for each direction of each connection.
    Bandwidth(u32),
}

/// A proxy in front of one address. Dropping it closes everything.
pub struct TcpProxy {
    address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    fault: watch::Sender<Fault>,
    reset: broadcast::Sender<()>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let (target, targets) = watch::channel(target);
        let (reset, _) = broadcast::channel(1);
        let accepting = tokio::spawn(accept(listener, targets, faults, reset.clone()));
        Self { address, target, fault, reset, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// New connections lead elsewhere; the others stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Ends every connection of now with a RST.
    pub fn reset_all(&self) {
        let _ = self.reset.send(());
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset_all();
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<SocketAddr>,
    faults: watch::Receiver<Fault>,
    reset: broadcast::Sender<()>,
) {
    while let Ok((inside, _)) = listener.accept().await {
        let mut ended = reset.subscribe();
        let (targets, faults) = (targets.clone(), faults.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = carry(inside, targets, faults) => {}
                _ = ended.recv() => {}
            }
        });
    }
}

async fn carry(inside: TcpStream, targets: watch::Receiver<SocketAddr>, mut faults: watch::Receiver<Fault>) {
    abortive(&inside);
    // A connection that is made into a black hole has nobody behind it until the hole is gone.
    if faults.wait_for(|fault| *fault != Fault::Blackhole).await.is_err() {
        return;
    }
    let target = *targets.borrow();
    let Ok(outside) = TcpStream::connect(target).await else { return };
    abortive(&outside);
    let (inside_read, inside_write) = inside.into_split();
    let (outside_read, outside_write) = outside.into_split();
    tokio::select! {
        () = pump(inside_read, outside_write, faults.clone(), &[Fault::Blackhole]) => {}
        () = pump(outside_read, inside_write, faults, &[Fault::Blackhole, Fault::Mute]) => {}
    }
}

/// A dropped end is a RST, not a FIN: that is what a vanished peer looks like.
fn abortive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Carries one direction, which stands still during some faults.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
    still: &[Fault],
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let read_at = Instant::now();
        if faults.wait_for(|fault| !still.contains(fault)).await.is_err() {
            return;
        }
        let fault = *faults.borrow();
        match fault {
            Fault::Latency(delay) => sleep_until(read_at + delay).await,
            Fault::Bandwidth(rate) => {
                sleep_until(read_at + Duration::from_secs(1).mul_f64(length as f64 / f64::from(rate))).await;
            }
            Fault::None | Fault::Blackhole | Fault::Mute => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

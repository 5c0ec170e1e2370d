//! What the tests stand on: processes that end with the test, clients, faults, and waiting for events.
//! It judges nothing about Fanfare; that is the tests' part.

mod balancer;
mod body;
mod caller;
mod cgroup;
mod client;
mod confined;
mod events;
mod http;
mod instance;
mod metrics;
mod process;
mod protobuf;
mod proxy;
mod redis;
mod remote;
mod setup;
mod socket;
mod tls;
mod token;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, interval};

pub use balancer::LoadBalancer;
pub use body::Body;
pub use caller::Caller;
pub use cgroup::Cgroup;
pub use client::{Client, Said, fence};
pub use confined::{BYSTANDERS, Confined, LIMIT, MIB, OWED, PART};
pub use events::{Event, EventStream};
pub use http::{Response, post, request};
pub use instance::{Instance, refused_to_start, run_to_end};
pub use metrics::Metrics;
pub use process::resident_bytes;
pub use protobuf::{field, fields, varint};
pub use proxy::{Fault, TcpProxy};
pub use redis::RedisServer;
pub use remote::{Remote, encoded};
pub use setup::{API_KEY, SECRET, Setup};
pub use socket::{Frame, Socket, frame};
pub use tls::{Certificates, TlsClient, certificate, openssl};
pub use token::{created, token};

/// How long anything may take that is not about time. Generous, because the machine may be busy: a test
/// that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, asking every few milliseconds; panics with `what` after `DEADLINE`.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) -> Duration {
    within(DEADLINE, what, condition).await
}

/// As `eventually`, with a deadline that is part of what is promised. Gives the time it took.
pub async fn within(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if condition().await {
            return start.elapsed();
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
    }
}

/// Checks that `condition` holds, again and again, for as long as `span`.
pub async fn throughout(span: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    while start.elapsed() < span {
        ticks.tick().await;
        assert!(condition().await, "no longer so after {:?}: {what}", start.elapsed());
    }
}

/// A port for a server that cannot be told to let the kernel choose, and that no other test is given. It is outside the
/// range from which outgoing connections take theirs, so a server that is restarted finds it free again.
fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(12_000..32_000)));
        if TcpListener::bind(address).is_ok() && GIVEN.lock().insert(address) {
            return address;
        }
    }
}

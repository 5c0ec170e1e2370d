//! How many connections may be open, in all and from one address. A permit is taken before the
//! handshake is answered and given back by being dropped. Nothing is metered from here: what is open is
//! read from the registries.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Files that connections may not take: listeners, Redis, logs, and HTTP requests that are to be told
/// that there is no room. A quarter where files are few.
const RESERVED_FILES: usize = 256;

/// The limits, and what is taken of them.
pub struct Admission {
    limit: usize,
    per_address: Option<usize>,
    taken: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to one connection.
pub struct Permit {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Instance,
    Address,
}

impl Admission {
    /// `limit` connections in all, or as many as `open_files` allow if that is less or nothing is said.
    pub fn new(
        limit: Option<NonZeroUsize>,
        per_address: Option<NonZeroUsize>,
        open_files: usize,
    ) -> Arc<Self> {
        let possible = open_files - RESERVED_FILES.min(open_files / 4);
        let wanted = limit.map_or(possible, NonZeroUsize::get);
        if wanted > possible {
            tracing::warn!(
                max_connections = wanted,
                open_files,
                possible,
                "open files allow fewer connections"
            );
        }
        Arc::new(Self {
            limit: wanted.min(possible),
            per_address: per_address.map(NonZeroUsize::get),
            taken: AtomicUsize::new(0),
            by_address: Mutex::default(),
        })
    }

    /// A permit for a client at this address.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Full> {
        let mut permit = Permit { admission: self.clone(), address: None };
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.limit {
            return Err(Full::Instance);
        }
        if let Some(most) = self.per_address {
            let address = household(address);
            let mut by_address = self.by_address.lock();
            let taken = by_address.entry(address).or_default();
            if *taken >= most {
                return Err(Full::Address);
            }
            *taken += 1;
            permit.address = Some(address);
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.taken.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut by_address = self.admission.by_address.lock();
        if let Some(taken) = by_address.get_mut(&address) {
            *taken -= 1;
            if *taken == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// What counts as one address: for IPv6 the /64, which is what one client can choose freely from.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back() {
        let admission = Admission::new(NonZeroUsize::new(3), NonZeroUsize::new(2), 1000);
        let admit = |address: &str| admission.admit(address.parse().unwrap());
        let (first, second) = (admit("10.0.0.1").unwrap(), admit("::ffff:10.0.0.1").unwrap());
        assert_eq!(admit("10.0.0.1").err(), Some(Full::Address));
        let third = admit("2001:db8::1").unwrap();
        assert_eq!(admit("10.0.0.2").err(), Some(Full::Instance));
        drop(first);
        let fourth = admit("2001:db8::ffff:2").unwrap();
        drop((second, third));
        assert_eq!(admit("2001:db8:0:1::1").err(), None);
        drop(fourth);
        assert!(admission.by_address.lock().is_empty());
        assert_eq!(admission.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn open_files_bound_the_limit() {
        for (limit, open_files, expected) in
            [(0, 20_000, 19_744), (100, 20_000, 100), (50_000, 20_000, 19_744), (0, 80, 60)]
        {
            let admission = Admission::new(NonZeroUsize::new(limit), None, open_files);
            assert_eq!(admission.limit, expected, "{limit} {open_files}");
        }
    }
}

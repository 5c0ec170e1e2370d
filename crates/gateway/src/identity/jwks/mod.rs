//! Public keys that are fetched (RFC 7517), and kept: one task of the backend fetches them, everybody else reads what
//! it has. A token never causes more than one fetch in [`Jwks::PAUSE`], whoever sends it, and nobody waits longer
//! than for one, nor than [`Jwks::MOST`].

mod fetch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use self::fetch::fetch;
use crate::config::Config;
use crate::config::tokens::JwksUrl;
use crate::signature::TokenKey;

/// The keys behind one URL.
pub struct Jwks {
    url: JwksUrl,
    refresh: Duration,
    deadline: Duration,
    pause: Duration,
    state: watch::Sender<State>,
    wanted: Notify,
    fetches: AtomicU64,
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Those of the last fetch that went well, however long ago.
    keys: Arc<[TokenKey]>,
    /// How many fetches have ended.
    rounds: u64,
    /// When the last one did.
    ended: Option<Instant>,
    failed: bool,
}

/// What is known of the keys after somebody wanted them to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// They were fetched just now: what is not among them is nowhere.
    Fresh,
    /// They could not be fetched, or must not be again so soon.
    Stale,
}

impl Jwks {
    /// How long after a fetch no unknown key causes another one.
    pub const PAUSE: Duration = Duration::from_secs(10);

    /// Nobody waits longer for keys than a library of the client protocol waits for an answer, which is 5 s: told in
    /// time that there are none, it comes back as whoever is welcome.
    const MOST: Duration = Duration::from_secs(4);

    /// The longest pause between attempts while fetching fails.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The set that a configuration names, if it does. Nothing is fetched yet.
    pub fn new(config: &Config) -> Option<Self> {
        let url = config.token_jwks.clone()?;
        Some(Self::of(url, config.token_jwks_refresh, config.token_jwks_timeout, Self::PAUSE))
    }

    fn of(url: JwksUrl, refresh: Duration, deadline: Duration, pause: Duration) -> Self {
        let (state, wanted) = (watch::Sender::default(), Notify::new());
        let (fetches, failures) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { url, refresh, deadline, pause, state, wanted, fetches, failures }
    }

    /// The keys as they are now.
    pub fn keys(&self) -> Arc<[TokenKey]> {
        self.state.borrow().keys.clone()
    }

    /// Fetches that were begun since the start, and how many of them failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.fetches.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// Fetches the keys, and again whenever it is time, or somebody wants it. Never returns.
    pub async fn keep(&self) {
        let mut failures = 0_u32;
        loop {
            let url = self.url.as_str();
            failures = match self.fetch_once().await {
                Ok(()) => 0,
                // Told once, not with each attempt.
                Err(error) if failures == 0 => {
                    tracing::warn!(url, "cannot fetch keys, those of the last time stay valid: {error}");
                    1
                }
                Err(error) => {
                    tracing::debug!(url, "still cannot fetch keys: {error}");
                    failures.saturating_add(1)
                }
            };
            let again = sleep(self.pause_after(failures));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    () = self.wanted.notified() => {
                        // A wish from before the last fetch has been fulfilled by it.
                        if !self.is_recent(&self.state.borrow()) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Wants keys that are newer than those that there are. At the start it waits for the first ones.
    pub async fn refetch(&self) -> News {
        let mut state = self.state.subscribe();
        let rounds = {
            let state = state.borrow_and_update();
            if self.is_recent(&state) {
                return News::Stale;
            }
            state.rounds
        };
        self.wanted.notify_one();
        // The fetch has its own deadline; this one is for a backend that is busy.
        let patience = (self.deadline + Duration::from_secs(1)).min(Self::MOST);
        match timeout(patience, state.wait_for(|state| state.rounds > rounds)).await {
            Ok(Ok(state)) if !state.failed => News::Fresh,
            _ => News::Stale,
        }
    }

    /// Whether the last fetch ended so recently that no unknown key causes another one. Asked by whoever wants one and
    /// by who is to make it: if they did not agree, the one would wait for what the other does not do.
    fn is_recent(&self, state: &State) -> bool {
        state.ended.is_some_and(|ended| ended.elapsed() < self.pause)
    }

    /// One fetch.
    ///
    /// # Errors
    ///
    /// When it brought no keys; one line for people.
    pub async fn fetch_once(&self) -> Result<(), String> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let fetched = timeout(self.deadline, fetch(&self.url)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer in {:?}", self.deadline)));
        self.failures.fetch_add(u64::from(fetched.is_err()), Ordering::Relaxed);
        self.state.send_modify(|state| {
            state.rounds += 1;
            state.ended = Some(Instant::now());
            state.failed = fetched.is_err();
            if let Ok(keys) = &fetched {
                state.keys = keys.as_slice().into();
            }
        });
        fetched.map(|_| ())
    }

    /// Until the next fetch. Instances that were started together drift apart.
    fn pause_after(&self, failures: u32) -> Duration {
        let whole = match failures {
            0 => self.refresh,
            _ => Self::PATIENCE.min(Duration::from_secs(1 << failures.min(6))).min(self.refresh),
        };
        whole.mul_f64(0.8 + 0.2 * fastrand::f64())
    }
}

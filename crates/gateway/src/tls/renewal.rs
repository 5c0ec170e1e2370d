//! The certificate in use, and its replacement when its files change or SIGHUP asks for it. Whoever shakes hands takes
//! what is in use at that moment; nobody who has is touched. A pair that is no good leaves the old one in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::certificate::{Certificate, CertificateError, Files};
use crate::config::Config;

/// How often the files are read. They are compared by what is in them: Kubernetes swaps a link above them, and a copy
/// may keep the old file's time.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate of this instance, as it is now.
pub struct LiveCertificate {
    paths: (PathBuf, PathBuf),
    /// What it was made of when the instance started.
    first: Files,
    in_use: ArcSwap<Certificate>,
    loaded: AtomicU64,
    failed: AtomicU64,
}

impl LiveCertificate {
    /// The values of the metric label `result`.
    pub const RESULTS: [&str; 2] = ["loaded", "failed"];

    /// Reads the files that the configuration names; nothing where it names none.
    ///
    /// # Errors
    ///
    /// When they are not a certificate and its key.
    pub fn load(config: &Config) -> Result<Option<Arc<Self>>, CertificateError> {
        let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let first = Files::read(certificate, key)?;
        let in_use = Certificate::parse(&first, certificate, key)?;
        Ok(Some(Arc::new(Self {
            paths: (certificate.clone(), key.clone()),
            first,
            in_use: ArcSwap::from_pointee(in_use),
            loaded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })))
    }

    /// What a handshake is answered with now.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.in_use.load().server.clone()
    }

    /// When the certificate in use expires, in seconds since 1970; 0 if that is not known.
    pub fn expires(&self) -> u64 {
        self.in_use.load().expires.unwrap_or(0)
    }

    /// How often it was replaced, and how often that came to nothing, in the order of `RESULTS`.
    pub fn reloads(&self) -> [u64; 2] {
        [self.loaded.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed)]
    }

    /// Replaces it for as long as the instance lives: at once when `hangups` yields; when the files have changed, after
    /// they have stayed so for one look, for who writes two files writes one before the other.
    pub async fn keep_fresh(&self, mut hangups: mpsc::Receiver<()>) {
        warn(&self.in_use.load());
        let mut looking = Looking::since(Ok(self.first.clone()));
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => {
                    let found = self.read().await;
                    self.replace(&found);
                    looking = Looking::since(found);
                }
                _ = looks.tick() => {
                    let found = self.read().await;
                    if looking.is_due(&found) {
                        self.replace(&found);
                    }
                }
            }
        }
    }

    /// On a thread of its own: a file system that hangs must not hold up Redis.
    async fn read(&self) -> Read {
        let (certificate, key) = self.paths.clone();
        let read = spawn_blocking(move || Files::read(&certificate, &key)).await;
        read.expect("reading does not panic").map_err(|error| error.to_string())
    }

    fn replace(&self, files: &Read) {
        let (certificate, key) = &self.paths;
        let parsed = files
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|files| Certificate::parse(files, certificate, key).map_err(|error| error.to_string()));
        match parsed {
            Ok(fresh) => {
                warn(&fresh);
                self.loaded.fetch_add(1, Ordering::Relaxed);
                tracing::info!(expires = fresh.expires, "certificate replaced");
                self.in_use.store(Arc::new(fresh));
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the certificate is not replaced, the old one stays in use: {error}");
            }
        }
    }
}

/// What one look saw: the files, or why there are none.
type Read = Result<Files, String>;

/// What the looks have seen. Whoever writes two files writes one before the other, and neither in one go: only what two
/// looks have found alike is tried, and that once.
struct Looking<T> {
    seen: T,
    tried: T,
}

impl<T: Clone + PartialEq> Looking<T> {
    fn since(tried: T) -> Self {
        Self { seen: tried.clone(), tried }
    }

    /// Whether what a look found is to be tried now.
    fn is_due(&mut self, found: &T) -> bool {
        let due = *found == self.seen && *found != self.tried;
        self.seen = found.clone();
        if due {
            self.tried = found.clone();
        }
        due
    }
}

fn warn(certificate: &Certificate) {
    if certificate.has_expired() {
        tracing::warn!(expired = certificate.expires, "the certificate has expired: clients will refuse it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_written_is_not_tried() {
        // (what the looks find, in which of them it is tried)
        let rows = [
            ("it stays", "aaaa", "...."),
            ("it is replaced", "abbbb", "..!.."),
            ("it is written in pieces", "abcdd", "....!"),
            ("and put back", "aba", "..."),
            ("what was no good is tried once", "abbba", "..!.."),
            ("and what was good before again", "abbaaa", "..!.!."),
        ];
        for (name, finds, expected) in rows {
            let mut looking = Looking::since('a');
            let tried: String =
                finds.chars().map(|found| if looking.is_due(&found) { '!' } else { '.' }).collect();
            assert_eq!(tried, expected, "{name}");
        }
    }
}

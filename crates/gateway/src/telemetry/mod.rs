//! What is told of an instance: every metric by name, what is counted where no worker counts, and the log. The recorder
//! belongs to the instance, not to the process, so that a test can run two. What the counts are is gathered elsewhere
//! (`http::metrics`), when somebody asks.

pub mod catalog;
mod counts;
pub mod log;
mod tally;

use std::time::Duration;

use fanfare_broker::Timings;
use metrics::{describe_counter, describe_gauge, describe_histogram, histogram, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

use self::catalog::{BUCKETS, Kind, METRICS};
pub use self::counts::{Counts, Method};
pub use self::tally::Tally;

/// How often histograms are emptied of their raw samples, which otherwise pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The instance's recorder.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: Collector,
}

impl Telemetry {
    /// A recorder that knows every metric of the catalog.
    pub fn new() -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new().set_buckets(BUCKETS)?.build_recorder();
        let (handle, process) = (recorder.handle(), Collector::default());
        with_local_recorder(&recorder, || {
            for metric in METRICS {
                match metric.kind {
                    Kind::Counter => describe_counter!(metric.name, metric.help),
                    Kind::Gauge => describe_gauge!(metric.name, metric.help),
                    Kind::Histogram => describe_histogram!(metric.name, metric.help),
                }
            }
            process.describe();
        });
        Ok(Self { recorder, handle, process })
    }

    /// Where workers put the seconds from publication to write.
    pub fn lag(&self) -> metrics::Histogram {
        with_local_recorder(&self.recorder, || histogram!("fanfare_broker_lag_seconds"))
    }

    /// Where the broker puts the seconds that questions take.
    pub fn timings(&self) -> Timings {
        with_local_recorder(&self.recorder, || Timings {
            history: histogram!("fanfare_history_read_seconds"),
            presence: histogram!("fanfare_presence_read_seconds"),
        })
    }

    /// Keeps the histograms small for as long as the instance lives.
    pub async fn upkeep(&self) {
        let mut interval = tokio::time::interval(UPKEEP);
        loop {
            interval.tick().await;
            self.handle.run_upkeep();
        }
    }

    /// The page in Prometheus' text format, with what `gather` sets and what is known of the process.
    pub fn render(&self, gather: impl FnOnce()) -> String {
        with_local_recorder(&self.recorder, || {
            self.process.collect();
            gather();
        });
        self.handle.render()
    }
}

//! From a configuration to a running process: the log, open files, listeners, signals, exit status.
//! What happens between is the lifecycle's.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::lifecycle::{Outcome, Signals, run};
use crate::listener::{Listeners, raise_open_files};
use crate::memory::give_back_by_itself;
use crate::telemetry::log;
use crate::tls::LiveCertificate;

/// Serves until a signal ends it. 0 after a whole drain, 1 when connections had to be cut or nothing
/// could be served at all.
pub fn serve(config: Config) -> ExitCode {
    log::start(&config);
    let status = match try_serve(config) {
        Ok(Outcome::Drained) => ExitCode::SUCCESS,
        Ok(Outcome::Cut { connections }) => {
            tracing::warn!(connections, "ended before the drain was over");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("cannot serve: {error:#}");
            ExitCode::FAILURE
        }
    };
    log::finish();
    status
}

fn try_serve(config: Config) -> anyhow::Result<Outcome> {
    let open_files = raise_open_files();
    give_back_by_itself();
    let certificate = LiveCertificate::load(&config)?;
    let listeners = Listeners::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let signals = signals()?;
        run(config, listeners, certificate, open_files, signals).await
    });
    // Dropping it would wait for what blocks a thread, as looking up the name of a Redis that is away can.
    runtime.shutdown_background();
    outcome
}

/// SIGTERM and SIGINT end it, SIGHUP has it read its certificate again.
fn signals() -> anyhow::Result<Signals> {
    let (end, shutdown) = mpsc::channel(2);
    // One that waits stands for all that come meanwhile.
    let (read_again, hangup) = mpsc::channel(1);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hung_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hung_up.recv() => {
                    let _ = read_again.try_send(());
                    continue;
                }
            }
            if end.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(Signals { shutdown, hangup })
}

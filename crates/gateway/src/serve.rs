//! From a configuration to a running process: logging, open files, listeners, signals, exit status.
//! What happens between is the lifecycle's.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Config, LogFormat};
use crate::lifecycle::{Outcome, run};
use crate::listener::{Listeners, raise_open_files};

/// Serves until a signal ends it. 0 after a whole drain, 1 when connections had to be cut or nothing
/// could be served at all.
pub fn serve(config: Config) -> ExitCode {
    start_logging(&config);
    match try_serve(config) {
        Ok(Outcome::Drained) => ExitCode::SUCCESS,
        Ok(Outcome::Cut { connections }) => {
            tracing::warn!(connections, "ended before the drain was over");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("cannot serve: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_serve(config: Config) -> anyhow::Result<Outcome> {
    let open_files = raise_open_files()?;
    let listeners = Listeners::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let shutdown = signals()?;
        run(config, listeners, open_files, shutdown).await
    });
    // Dropping it would wait for what blocks a thread, as looking up the name of a Redis that is away can.
    runtime.shutdown_background();
    outcome
}

/// Yields once for each SIGTERM or SIGINT.
fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn start_logging(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.log_level.filter())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call in one process, as a test makes it, finds logging started.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

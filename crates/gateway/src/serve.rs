//! From a configuration to a running process: logging, open files, listeners, signals, exit status.
//! What happens between is the lifecycle's.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Config, LogFormat};
use crate::lifecycle::{Outcome, Signals, run};
use crate::listener::{Listeners, raise_open_files};
use crate::memory::give_back_by_itself;
use crate::tls::LiveCertificate;

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

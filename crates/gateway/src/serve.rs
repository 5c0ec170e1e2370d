//! From a configuration to a running process: logging, open files, listeners, signals, exit status.
//! What happens between is the lifecycle's.

use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

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
        .fmt_fields(one_line())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call in one process, as a test makes it, finds logging started.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Fields as they are written by default, but on one line whatever is in them: what a peer has said may be a part of an
/// error's text, and must not look like a line of ours or speak to a terminal. JSON escapes by itself.
fn one_line() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|writer, field, value| match field.name() {
        "message" => write!(Escaping(writer), "{value:?}"),
        name => write!(Escaping(writer), "{name}={value:?}"),
    })
    .delimited(" ")
}

/// Writes control characters as Rust writes them in a literal.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.split_inclusive(char::is_control).try_for_each(|piece| {
            let last = piece.chars().next_back().filter(|last| last.is_control());
            self.0.write_str(&piece[..piece.len() - last.map_or(0, char::len_utf8)])?;
            last.map_or(Ok(()), |control| write!(self.0, "{}", control.escape_debug()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_logged_stays_on_its_line() {
        const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR fanfare: forged\r\u{1b}[31m\u{85}\u{9b}é\u{7f}";
        const HARMLESS: &str =
            r"x\n2026-01-01T00:00:00Z ERROR fanfare: forged\r\u{1b}[31m\u{85}\u{9b}é\u{7f}";
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(one_line())
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        with_default(subscriber, || {
            tracing::warn!("said: {FORGED}");
            tracing::warn!(number = 7, channel = FORGED, shown = %FORGED, "plain");
        });
        let lines = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let target = module_path!();
        let expected = format!(
            " WARN {target}: said: {HARMLESS}\n WARN {target}: plain number=7 channel=\"{HARMLESS}\" shown={HARMLESS}\n"
        );
        assert_eq!(lines, expected);
    }
}

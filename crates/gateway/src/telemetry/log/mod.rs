//! The log: what a line looks like, and that it is one line whatever is in it. Which events there are is for those to
//! say who have them.

mod queue;

use std::fmt::{self, Write};
use std::io::{IsTerminal, stderr};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

pub use self::queue::{finish, lost};
use crate::config::{Config, LogFormat};

/// From now on what is logged goes to standard error, in the configured format and from the configured level on.
pub fn start(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.log_level.filter())
        .fmt_fields(one_line())
        .with_ansi(stderr().is_terminal())
        // Or it would say on standard error that it cannot write there, and panic.
        .log_internal_errors(false)
        .with_writer(queue::start(stderr()));
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

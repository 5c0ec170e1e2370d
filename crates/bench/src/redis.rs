//! How often Redis has been asked for what, out of `INFO commandstats`. What a script calls is counted there as well,
//! beside the call of the script. It does nothing else with Redis.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Calls of each command since Redis was started.
pub(crate) type Calls = BTreeMap<String, u64>;

/// Asks a Redis at `HOST:PORT` that wants no password.
pub(crate) fn calls(address: &str) -> io::Result<Calls> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    (&stream).write_all(b"INFO commandstats\r\n")?;
    let mut reader = BufReader::new(&stream);
    let mut length = String::new();
    reader.read_line(&mut length)?;
    let unexpected = || io::Error::other(format!("Redis at {address} answers {}", length.trim_end()));
    let length = length.trim_end().strip_prefix('$').and_then(|length| length.parse().ok());
    let length: usize = length.filter(|length| *length <= LONGEST).ok_or_else(unexpected)?;
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    Ok(read(&String::from_utf8_lossy(&text)))
}

/// What was called since, and how often.
pub(crate) fn since(now: Calls, before: &Calls) -> Calls {
    let more = |(name, calls): (String, u64)| {
        let calls = calls.saturating_sub(before.get(&name).copied().unwrap_or(0));
        (calls > 0).then_some((name, calls))
    };
    now.into_iter().filter_map(more).collect()
}

fn read(text: &str) -> Calls {
    let line = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = figures.strip_prefix("calls=")?.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), calls))
    };
    text.lines().filter_map(line).collect()
}

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_called_meanwhile_is_told() {
        let text = |evalsha: u64| {
            format!(
                "# Commandstats\r\ncmdstat_evalsha:calls={evalsha},usec=7,usec_per_call=1.00\r\n\
                 cmdstat_client|list:calls=3,usec=1\r\nrubbish\r\ncmdstat_x:calls=y\r\n"
            )
        };
        let (before, now) = (read(&text(2)), read(&text(12)));
        assert_eq!(before.get("client|list"), Some(&3));
        assert_eq!(since(now, &before), Calls::from([("evalsha".to_owned(), 10)]));
    }
}

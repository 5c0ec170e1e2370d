//! A conversation in lines with a process that plays a part in a floor. The process ends with the conversation.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use serde::Serialize;

use crate::error::BenchError;
use crate::runs::floor::Program;

/// A process, what it hears and what it says.
#[derive(Debug)]
pub(super) struct Talk {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    part: &'static str,
}

impl Talk {
    /// Starts the process that plays `part`; its settings are its last argument, as JSON.
    pub(super) fn start(
        program: &Program,
        part: &'static str,
        settings: &impl Serialize,
    ) -> Result<Self, BenchError> {
        let settings = serde_json::to_string(settings).map_err(|error| failed(part, &error))?;
        let mut child = Command::new(&program.path)
            .args(&program.arguments)
            .args([part, &settings])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(part, &format!("{}: {error}", program.path.display())))?;
        let input = child.stdin.take().ok_or_else(|| failed(part, &"it has no standard input"))?;
        let output = child.stdout.take().ok_or_else(|| failed(part, &"it has no standard output"))?;
        let (sender, lines) = channel();
        std::thread::Builder::new().name(format!("floor {part}")).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { child, input, lines, part })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to it, without waiting for what it says to that.
    pub(super) fn say(&self, line: &str) -> Result<(), BenchError> {
        writeln!(&self.input, "{line}").map_err(|error| failed(self.part, &error))
    }

    /// Waits for a line, which must be this one.
    pub(super) fn expect(&mut self, line: &str) -> Result<(), BenchError> {
        self.listen(line).map(drop)
    }

    /// Waits for a line, which must begin so, and returns the rest of it.
    pub(super) fn listen(&mut self, beginning: &str) -> Result<String, BenchError> {
        let line = self.lines.recv().map_err(|_| failed(self.part, &"its process has ended"))?;
        match line.strip_prefix(beginning) {
            Some(rest) => Ok(rest.to_owned()),
            None => Err(failed(self.part, &line)),
        }
    }

    /// A line, if there is one.
    pub(super) fn heard(&self) -> Result<Option<String>, BenchError> {
        match self.lines.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(failed(self.part, &"its process has ended")),
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(part: &str, why: &dyn std::fmt::Display) -> BenchError {
    BenchError::Floor(format!("{part}: {why}"))
}

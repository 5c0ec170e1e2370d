//! One connection on which commands are answered in the order in which they are sent, each pipeline within the
//! deadline: what writes rows must know what came of one thing before it does the next.

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;

use super::super::commands::Commands;
use super::super::fault::Fault;
use super::super::link::Link;
use super::super::script::{Script, is_noscript};

/// See the module.
pub(super) struct Line {
    connection: Commands,
    link: Link,
    scripts: Vec<&'static Script>,
}

impl Line {
    /// A connection on which these scripts are known.
    pub async fn open(link: &Link, scripts: Vec<&'static Script>) -> Result<Self, Fault> {
        let connection = link.commands().await?;
        let mut line = Self { connection, link: link.clone(), scripts };
        line.load().await?;
        Ok(line)
    }

    /// The answers to all of these, or a fault if there is an error among them.
    pub async fn ask(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, Fault> {
        let answers = self.answers(commands).await?;
        Fault::among(&answers).map_or(Ok(answers), Err)
    }

    /// The same where one key can be in a state that is nobody's doing here (somebody has written a string there):
    /// that is no reason to give up the others.
    pub async fn ask_each(&mut self, commands: Vec<Cmd>) -> Result<Vec<Result<Value, Fault>>, Fault> {
        let each = |answer: Value| match Fault::among(std::slice::from_ref(&answer)) {
            None => Ok(Ok(answer)),
            Some(fault) if matches!(&fault, Fault::Answered(code, _) if OF_THE_KEY.contains(&code.as_str())) => {
                Ok(Err(fault))
            }
            Some(fault) => Err(fault),
        };
        self.answers(commands).await?.into_iter().map(each).collect()
    }

    async fn answers(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = self.send(&pipeline_of(&commands)).await?;
        if answers.iter().any(is_noscript) {
            // Somebody has flushed them. All are told at once, so that none is known before another.
            self.load().await?;
            self.repeat(commands.clone(), &mut answers).await?;
        }
        if answers.iter().any(is_noscript) {
            let in_full = |command: &Cmd| {
                let script = self.scripts.iter().find(|script| script.is_run_by(command));
                script.map_or_else(|| command.clone(), |script| script.in_full(command))
            };
            let in_full = commands.iter().map(in_full).collect();
            self.repeat(in_full, &mut answers).await?;
        }
        Ok(answers)
    }

    /// Only what was not done is done again.
    async fn repeat(&mut self, commands: Vec<Cmd>, answers: &mut [Value]) -> Result<(), Fault> {
        let undone = commands.into_iter().zip(&*answers).filter(|(_, answer)| is_noscript(answer));
        let undone: Vec<_> = undone.map(|(command, _)| command).collect();
        let again = self.send(&pipeline_of(&undone)).await?;
        answers.iter_mut().filter(|answer| is_noscript(answer)).zip(again).for_each(|(answer, again)| {
            *answer = again;
        });
        Ok(())
    }

    /// The answer to one command.
    pub async fn ask_one(&mut self, command: Cmd) -> Result<Value, Fault> {
        let mut answers = self.ask(vec![command]).await?;
        answers.pop().ok_or(Fault::Closed)
    }

    async fn load(&mut self) -> Result<(), Fault> {
        let mut pipeline = Pipeline::with_capacity(self.scripts.len());
        self.scripts.iter().for_each(|script| {
            pipeline.add_command(script.load());
        });
        let answers = self.send(&pipeline).await?;
        Fault::among(&answers).map_or(Ok(()), Err)
    }

    async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Fault> {
        let answers = self.connection.req_packed_commands(pipeline, 0, pipeline.len());
        match timeout(self.link.timeout, answers).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => Err(Fault::read(&error, self.link.timeout)),
            Err(_) => Err(Fault::TimedOut(self.link.timeout)),
        }
    }
}

fn pipeline_of(commands: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    commands.iter().for_each(|command| {
        pipeline.add_command(command.clone());
    });
    pipeline
}

const OF_THE_KEY: [&str; 2] = ["WRONGTYPE", "ERR"];

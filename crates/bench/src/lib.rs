//! Load generator and delivery auditor for WebSocket relays: what `fanfare bench` does, as a library.
//!
//! [`Fanout`] sends to one channel and checks every delivery, [`Idle`] and [`Connect`] measure what connections
//! cost, [`Recover`] lets clients lose their instance, [`Floor`] is the yardstick: the least that the same writes can cost, and [`Hostile`] attacks. They return reports, and tell
//! a [`Progress`] how far they are; nothing here prints.
//!
//! The program must cost far less than the server that it shares a machine with. So it is built on epoll, with
//! one scratch buffer for each thread, no memory for what is idle, and one `read` a delivery.

mod attack;
mod audience;
mod audit;
mod body;
mod connect;
mod connection;
mod error;
mod fanout;
mod flight;
mod floor;
mod idle;
mod json;
mod latency;
mod listeners;
mod losses;
mod progress;
mod publishers;
mod recover;
mod redis;
mod report;
mod returners;
mod run;
mod schedule;
mod speech;
mod stamp;
mod stream;
mod swarm;
mod sys;
mod table;
mod target;
mod transport;
mod uplink;
mod usage;

pub use attack::{
    ATTACKS, Answer, Attack, Blow, Counted, Field, Hostile, HostileReport, Outcome, Siege, Toll,
};
pub use connect::Connect;
pub use error::BenchError;
pub use fanout::{Fanout, Load};
pub use floor::{Floor, Program, play};
pub use idle::Idle;
pub use latency::Quantiles;
pub use losses::Complaint;
pub use progress::{Bar, Progress, Silent};
pub use recover::{Loss, Recover};
pub use report::{
    AuditReport, ConnectReport, Cost, FanoutReport, FloorReport, IdleReport, RecoverReport, Round, Slice,
    Wire,
};
pub use speech::Protocol;
pub use stamp::Payload;
pub use stream::AnyCertificate;
pub use target::{Target, TargetError};
pub use transport::Transport;
pub use usage::{Cpu, Processes};

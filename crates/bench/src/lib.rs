//! Load generator and delivery auditor for WebSocket relays: what `fanfare bench` does, as a library.
//!
//! [`Fanout`] sends to one channel and checks every delivery, [`Idle`] and [`Connect`] measure what connections
//! cost, [`Recover`] lets clients lose their instance, [`Floor`] is the yardstick: the least that the same writes can
//! cost, and [`Hostile`] attacks. They return reports, and tell a [`Progress`] how far they are; nothing here prints.
//!
//! The program must cost far less than the server that it shares a machine with. So it is built on epoll, with
//! one scratch buffer for each thread, no memory for what is idle, and one `read` a delivery.

mod attack;
mod audit;
mod client;
mod error;
mod flight;
mod progress;
mod redis;
mod report;
mod runs;

pub use attack::{
    ATTACKS, Answer, Attack, Blow, Counted, Field, Hostile, HostileReport, Outcome, Siege, Toll,
};
pub use audit::latency::Quantiles;
pub use audit::losses::Complaint;
pub use audit::stamp::Payload;
pub use client::speech::Protocol;
pub use client::stream::AnyCertificate;
pub use client::target::{Target, TargetError};
pub use client::transport::Transport;
pub use error::BenchError;
pub use progress::{Bar, Progress, Silent};
pub use report::usage::{Cpu, Processes};
pub use report::{
    AuditReport, ConnectReport, Cost, FanoutReport, FloorReport, IdleReport, RecoverReport, Round, Slice,
    Wire,
};
pub use runs::connect::Connect;
pub use runs::fanout::{Fanout, Load};
pub use runs::floor::{Floor, Program, play};
pub use runs::idle::Idle;
pub use runs::recover::{Loss, Recover};

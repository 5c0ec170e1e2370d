//! The measurements: what clients are made to do, when, and what is taken down meanwhile. How a report looks is not
//! known here.

pub mod audience;
pub mod connect;
pub mod fanout;
pub mod floor;
pub mod idle;
pub mod listeners;
pub mod publishers;
pub mod recover;
pub mod returners;
pub mod run;
pub mod schedule;

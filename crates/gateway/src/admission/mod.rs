//! Who gets in, and when: how many connections there may be, how many of them may be unfinished, whose address one is,
//! who waits for whom while thousands come at once, and how much goes to other instances at a time. What a client may
//! do once it is in is not decided here.

pub mod address;
pub mod crowd;
pub mod limits;
pub mod newcomers;
pub mod recoveries;
pub mod unfinished;
pub mod uplinks;

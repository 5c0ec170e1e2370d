//! Who gets in, and when: how many connections there may be, how many of them may be unfinished, whose address one
//! is, and who waits for whom while thousands come at once. What a client may do once it is in is not decided here.

pub mod address;
pub mod crowd;
pub mod limits;
pub mod newcomers;
pub mod recoveries;
pub mod unfinished;

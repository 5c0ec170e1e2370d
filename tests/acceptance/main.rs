//! Fanfare from outside.

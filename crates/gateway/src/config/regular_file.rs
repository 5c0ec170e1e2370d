//! The files that the configuration is, or names: regular ones alone, read to their end. A pipe is read by whoever
//! opens it first, and not by the command that looks at the same configuration later; it, or a device, may never end.
//! What is in a file is not known here.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What is in a file.
///
/// # Errors
///
/// When it is none, or cannot be read. What is in the way is said, the path is not.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: to open a pipe is to wait for whoever writes into it.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(io::Error::other(format!("it is {}; expected a regular file", named(kind))));
    }
    fs::read(path)
}

/// The same of one that is text.
///
/// # Errors
///
/// Those of [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::other("it is not text; expected UTF-8"))
}

fn named(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

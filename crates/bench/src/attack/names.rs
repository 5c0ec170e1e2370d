//! Names of channels that are too long, no text, or mean something to a shell, a log, a path, a page or Redis. What
//! is 1 to 255 bytes of UTF-8 is a name like any other, and nothing more.

use std::io;

use super::assailant::{Assailant, handshake};
use super::{Answer, Blow, Counted, Field, Outcome};

pub(super) fn nasty(field: &Field) -> io::Result<Outcome> {
    let mut blows = Vec::new();
    let long = |letter: &str, times: usize| letter.repeat(times);
    let refused = [
        String::new(),
        long("a", 256),
        long("a", 8_000),
        long("%61", 256),
        long("%F0%9F%A6%80", 64),
        "%".to_owned() + &long("25", 4_000),
        "%FF".to_owned(),
        "%C0%AF".to_owned(),
        "%ED%A0%80".to_owned(),
        "ok%F0%9F".to_owned(),
        "a/b".to_owned(),
        "/".to_owned(),
        "../../etc/passwd".to_owned(),
    ];
    let taken = [
        long("a", 255),
        long("%61", 255),
        ".".to_owned(),
        "..".to_owned(),
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        "%00".to_owned(),
        "a%00b".to_owned(),
        "%0D%0ASet-Cookie:%20a=b".to_owned(),
        "%1B[2J%07".to_owned(),
        "%0A{%22level%22:%22ERROR%22}".to_owned(),
        "*".to_owned(),
        "[a-z]*%3F".to_owned(),
        "fanfare:channel:lobby".to_owned(),
        "__keyspace@0__:*".to_owned(),
        "{tag}".to_owned(),
        "$(reboot)".to_owned(),
        "';DROP%20TABLE%20channels;--".to_owned(),
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(),
        "__proto__".to_owned(),
        "%E2%80%AEdrawkcab".to_owned(),
        "%EF%BB%BF".to_owned(),
        "%EF%BF%BF".to_owned(),
        "%zz".to_owned(),
        "%".to_owned(),
        "%252F".to_owned(),
        "null".to_owned(),
        "NaN".to_owned(),
        "%22quoted%22=%22label%22".to_owned(),
    ];
    for name in refused {
        blows.push(ask(field, &name, 400, Counted::Rejected("channel_name"))?);
    }
    for name in taken {
        blows.push(ask(field, &name, 101, Counted::Closed("closed_by_client"))?);
    }
    for flag in ["?echo=maybe", "?notices=", "?echo=%FF", "?echo=true%00"] {
        blows.push(ask(field, &format!("x{flag}"), 400, Counted::Rejected("malformed"))?);
    }
    Ok(Outcome::of(blows))
}

fn ask(field: &Field, name: &str, status: u16, counted: Counted) -> io::Result<Blow> {
    let mut socket = Assailant::connect(field)?;
    socket.write(field, handshake(field, name, "").as_bytes());
    let mut got = socket.answers(field);
    if got == Answer::Http(vec![101]) {
        let left = socket.leave(field);
        if left != Answer::Close(1000) {
            got = left;
        }
    }
    let shown: String = name.chars().take(40).collect();
    Ok(Blow::new(format!("{shown:?}"), Answer::Http(vec![status]), counted, got))
}

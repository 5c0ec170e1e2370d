//! Attacks by what sockets do rather than by what is said on them: they wait, dawdle, do not read, vanish, or come and
//! go.

use std::io;
use std::thread;

use super::assailant::{Assailant, BINARY, CLOSE, FIN, TEXT, frame, handshake};
use super::{Answer, Blow, Counted, Field, Outcome};
use crate::client::sys;

/// From one byte of a slow handshake to the next.
const SLOWLY: u64 = 20_000_000;

/// A connection that asks for nothing, which must be cut when its time is over.
pub(super) fn cut_in_time(got: Answer) -> Blow {
    Blow::new("a handshake that does not come", Answer::Cut, Counted::Rejected("timeout"), got)
}

/// One of so many that others come in its place, or its time is over.
pub(super) fn cut_in_a_crowd(got: Answer) -> Blow {
    let counted = Counted::Either(["timeout", "instance_crowded"]);
    Blow::new("a handshake that does not come, of many", Answer::Cut, counted, got)
}

pub(super) fn slow_headers(field: &Field) -> io::Result<Outcome> {
    let text = handshake(field, "hostile-slow", &"X-Slow: 1\r\n".repeat(1000));
    let sockets = (0..200).map(|_| Assailant::connect(field)).collect::<io::Result<Vec<_>>>()?;
    drip(field, sockets, text.as_bytes())
}

/// Writes a byte at a time to each, until the server has ended all of them.
pub(super) fn drip(field: &Field, mut sockets: Vec<Assailant>, bytes: &[u8]) -> io::Result<Outcome> {
    let (mut blows, mut bytes) = (Vec::new(), bytes.iter().copied());
    while !sockets.is_empty()
        && !field.is_over()
        && let Some(byte) = bytes.next()
    {
        sockets.retain_mut(|socket| {
            let gone = !socket.write(field, &[byte]) || socket.has_ended();
            if gone {
                blows.push(cut_in_time(Answer::Cut));
            }
            !gone
        });
        sys::sleep_until(sys::monotonic() + SLOWLY);
    }
    blows.extend(sockets.iter().map(|_| cut_in_time(Answer::Open)));
    Ok(Outcome::of(blows))
}

/// How many wait with half a handshake.
const HALF_OPEN: usize = 5_000;

pub(super) fn half_open(field: &Field) -> io::Result<Outcome> {
    sys::raise_open_files()?;
    let text = handshake(field, "hostile-half", "");
    let half = &text.as_bytes()[..text.len() / 2];
    let mut sockets = Vec::new();
    for number in 0..HALF_OPEN {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::connect(field)?;
        // Every other one says nothing at all.
        if number % 2 == 0 {
            socket.write(field, half);
        }
        sockets.push(socket);
    }
    let blows = sockets.iter_mut().map(|socket| cut_in_a_crowd(socket.answers(field)));
    Ok(Outcome::of(blows.collect()))
}

/// Subscribers that read badly.
const READERS: usize = 20;

/// What is published to them: more than the outbox and the kernel take.
const PUBLISHED: usize = 512;
const SIZE: usize = 16 << 10;

pub(super) fn stopped_readers(field: &Field) -> io::Result<Outcome> {
    bad_readers(field, |_| {})
}

pub(super) fn dripping_readers(field: &Field) -> io::Result<Outcome> {
    bad_readers(field, |reader| reader.sip(1))
}

fn bad_readers(field: &Field, read: impl Fn(&mut Assailant)) -> io::Result<Outcome> {
    let reader = || Assailant::connect_narrow(field)?.joined(field, "hostile-readers");
    let mut readers = (0..READERS).map(|_| reader()).collect::<io::Result<Vec<_>>>()?;
    let mut publisher = Assailant::join(field, "hostile-readers?echo=false")?;
    let message = frame(FIN | BINARY, &[7; SIZE]);
    for _ in 0..PUBLISHED {
        if !publisher.write(field, &message) || field.is_over() {
            break;
        }
        readers.iter_mut().for_each(&read);
    }
    // The last word of the publisher is answered when all before it has been taken in.
    let got = publisher.leave(field);
    let mut blows =
        vec![Blow::new("the publisher", Answer::Close(1000), Counted::Closed("closed_by_client"), got)];
    blows.extend(readers.iter_mut().map(|reader| {
        let got = reader.closed(field);
        Blow::new("a reader", Answer::Close(1008), Counted::Closed("slow_consumer"), got)
    }));
    Ok(Outcome::of(blows))
}

pub(super) fn vanished(field: &Field) -> io::Result<Outcome> {
    let mut held = Vec::new();
    for _ in 0..100 {
        let socket = Assailant::join(field, "hostile-vanished")?;
        socket.vanish()?;
        held.push(socket);
    }
    let blow = |_| Blow::new("a socket", Answer::Silence, Counted::Closed("timed_out"), Answer::Silence);
    Ok(Outcome { blows: (0..held.len()).map(blow).collect(), held })
}

/// How many come and go in a second, and how many threads of the attacker's share in it: each waits for the answer to
/// its handshake, so one alone could be held up.
const CHURN: u64 = 1_000;
const THREADS: u64 = 4;

pub(super) fn churn(field: &Field) -> io::Result<Outcome> {
    let start = sys::monotonic();
    let end = start + field.span.as_nanos() as u64;
    let between = 1_000_000_000 * THREADS / CHURN;
    let visits = |thread: u64| -> io::Result<Vec<Blow>> {
        let (mut blows, mut due) = (Vec::new(), start + thread * 1_000_000_000 / CHURN);
        while due < end && !field.is_over() {
            sys::sleep_until(due);
            blows.push(visit(field, blows.len() as u64 * THREADS + thread)?);
            due += between;
        }
        field.spend()?;
        Ok(blows)
    };
    let mut all = Vec::new();
    thread::scope(|scope| -> io::Result<()> {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || visits(thread))).collect();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok(())
    })?;
    Ok(Outcome::of(all))
}

/// One connection in a channel of its own, from connect to its end.
fn visit(field: &Field, number: u64) -> io::Result<Blow> {
    let channel = format!("hostile-churn-{number}");
    let blow = |name, expected, reason, got| Ok(Blow::new(name, expected, Counted::Closed(reason), got));
    let opened = |got| if got == Answer::Http(vec![101]) { Answer::Open } else { got };
    let mut socket = Assailant::connect(field)?;
    if number % 5 == 4 {
        // It goes before it has asked for anything.
        socket.write(field, b"GET /ws/");
        let counted = Counted::Rejected("abandoned");
        return Ok(Blow::new("gone before its handshake", Answer::Open, counted, Answer::Open));
    }
    socket.write(field, handshake(field, &channel, "").as_bytes());
    let got = socket.answers(field);
    if got != Answer::Http(vec![101]) {
        return blow("a handshake", Answer::Open, "", got);
    }
    match number % 5 {
        0 => blow("a proper goodbye", Answer::Close(1000), "closed_by_client", socket.leave(field)),
        1 => {
            socket.reset()?;
            blow("a reset", Answer::Open, "vanished", opened(got))
        }
        2 => {
            socket.write(field, &frame(FIN | TEXT, b"bye"));
            socket.write(field, &frame(FIN | CLOSE, b""));
            blow(
                "a message and a goodbye without a code",
                Answer::Close(1000),
                "closed_by_client",
                socket.closed(field),
            )
        }
        _ => {
            socket.finish();
            blow("an end without a goodbye", Answer::Cut, "vanished", socket.closed(field))
        }
    }
}

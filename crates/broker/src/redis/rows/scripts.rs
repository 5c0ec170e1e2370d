//! The scripts that write rows, and the commands that run them. What they do stands beside them, in Lua; in what order
//! they run is their callers' business.

use std::sync::LazyLock;
use std::time::Duration;

use fanfare_protocol::{Channel, JOINED_HEADER, LEFT_HEADER};
use redis::{Cmd, FromRedisValue, Value};
use uuid::Uuid;

use super::super::keys::Keys;
use super::super::script::Script;
use super::names::{Names, Place};
use super::{book, roster};

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+))
        });)*
    };
}

scripts! {
    ENTER = "presence" "enter";
    LEAVE = "presence" "leave";
    SETTLE = "presence" "settle";
    EVICT = "presence" "evict";
    ADMIT = "admit";
    ADMIT_USER = "admit_user";
    CLAIM = "claim";
    DISCLAIM = "disclaim";
    RENEW = "renew";
    NOTE = "note";
    CONDEMN = "condemn";
    BURY = "bury";
}

/// Those that an instance needs to write its own rows.
pub(super) fn of_the_keeper() -> Vec<&'static Script> {
    vec![&ADMIT, &ENTER, &LEAVE, &SETTLE, &ADMIT_USER, &CLAIM, &RENEW, &NOTE, &CONDEMN]
}

/// Those that remove the rows of others.
pub(super) fn of_the_reaper() -> Vec<&'static Script> {
    vec![&EVICT, &DISCLAIM, &CONDEMN, &BURY]
}

/// Renews a lease for `length`; one that is not `new` only if Redis still knows it.
pub(super) fn renew(names: &Names, lease: Uuid, length: Duration, new: bool) -> Cmd {
    let mut command = RENEW.command(&[&names.alive()]);
    command.arg(lease.to_string()).arg(length.as_millis() as u64).arg(u8::from(new));
    command
}

/// Puts these places among those of a lease.
pub(super) fn note(names: &Names, lease: Uuid, places: &[Place]) -> Cmd {
    let mut command = NOTE.command(&[&names.alive(), &names.places(lease)]);
    command.arg(lease.to_string());
    places.iter().for_each(|place| {
        command.arg(place.encode());
    });
    command
}

/// `score` is how the end of the lease read when it was looked at; nothing, if the lease is the asker's own.
pub(super) fn condemn(names: &Names, lease: Uuid, score: &str) -> Cmd {
    let mut command = CONDEMN.command(&[&names.alive(), &names.dying()]);
    command.arg(lease.to_string()).arg(score);
    command
}

/// Forgets a dead lease, whose rows have gone.
pub(super) fn bury(names: &Names, lease: Uuid) -> Cmd {
    let mut command = BURY.command(&[&names.dying(), &names.places(lease)]);
    command.arg(lease.to_string());
    command
}

/// A change of a member. `lost` is the least grace for one of which Redis has lost the row.
pub(super) fn presence(
    names: &Names,
    keys: &Keys,
    lease: Uuid,
    change: &roster::Change,
    lost: Duration,
) -> Cmd {
    let (channel, member) = (&change.channel, &change.member);
    let connection = &member.connection.as_bytes()[..];
    let previous = change.previous.map(|lease| lease.to_string()).unwrap_or_default();
    let told = u8::from(change.told);
    let bus = keys.channel(channel);
    match change.what {
        roster::What::Enter => {
            let mut command = changing(&ENTER, names, lease, change);
            command.arg(lease.to_string()).arg(connection).arg(&*member.user).arg(&member.encode()[..]);
            command.arg(bus).arg(&JOINED_HEADER).arg(previous).arg(told);
            command
        }
        roster::What::Leave { grace } => {
            let mut command = changing(&LEAVE, names, lease, change);
            command.arg(lease.to_string()).arg(connection).arg(&member.encode()[..]);
            command.arg(bus).arg(&LEFT_HEADER).arg(previous).arg(told);
            command.arg(millis(grace)).arg(millis(lost));
            command
        }
        roster::What::Settle => {
            let [fence, instances, _, leaving, members] = member_keys(names, channel, lease);
            let mut command = SETTLE.command(&[&fence, &instances, &leaving, &members]);
            command.arg(lease.to_string()).arg(connection).arg(bus).arg(&LEFT_HEADER);
            command
        }
    }
}

fn changing(script: &Script, names: &Names, lease: Uuid, change: &roster::Change) -> Cmd {
    let [fence, instances, users, leaving, members] = member_keys(names, &change.channel, lease);
    let before = names.members(&change.channel, change.previous.unwrap_or(lease));
    script.command(&[&fence, &instances, &users, &leaving, &members, &before])
}

/// A change of a claim.
pub(super) fn claim(names: &Names, lease: Uuid, change: &book::Change) -> Cmd {
    let connection = &change.connection.as_bytes()[..];
    match change.what {
        book::What::Claim { limit } => {
            let mut command = CLAIM.command(&user_keys(names, &change.user).each_ref().map(String::as_str));
            command.arg(lease.to_string()).arg(connection).arg(limit.map_or(-1, i64::from));
            command
        }
        book::What::GiveBack => {
            let mut command = Cmd::new();
            command.arg("HDEL").arg(names.claims(&change.user)).arg(connection);
            command
        }
    }
}

/// By which leases the places of a user are taken, if an answer to a claim says so.
pub(super) fn taken(answer: Value) -> Option<Vec<(Uuid, u64)>> {
    let Value::Array(_) = answer else { return None };
    let pairs = Vec::<(String, u64)>::from_redis_value(answer).unwrap_or_default();
    Some(pairs.into_iter().filter_map(|(lease, places)| Some((lease.parse().ok()?, places))).collect())
}

/// Removes up to `rows` rows of a lease from one place; answers how many were removed and how many are left.
pub(super) fn evict(names: &Names, keys: &Keys, lease: Uuid, place: &Place, rows: usize) -> Cmd {
    match place {
        Place::Channel(channel) => {
            let mut command =
                EVICT.command(&member_keys(names, channel, lease).each_ref().map(String::as_str));
            command.arg(lease.to_string()).arg(millis(FENCE)).arg(rows);
            command.arg(keys.channel(channel)).arg(&LEFT_HEADER);
            command
        }
        Place::User(user) => {
            let mut command = DISCLAIM.command(&user_keys(names, user).each_ref().map(String::as_str));
            command.arg(lease.to_string()).arg(millis(FENCE));
            command
        }
    }
}

/// Lets the lease write in a place that has been noted.
pub(super) fn admit(names: &Names, lease: Uuid, place: &Place) -> Cmd {
    let mut command = match place {
        Place::Channel(channel) => ADMIT.command(&[&names.fence(channel), &names.instances(channel)]),
        Place::User(user) => ADMIT_USER.command(&[&names.user_fence(user), &names.admitted(user)]),
    };
    command.arg(lease.to_string());
    command
}

/// Takes that back, when no row is left there.
pub(super) fn dismiss(names: &Names, lease: Uuid, place: &Place) -> Cmd {
    let mut command = Cmd::new();
    match place {
        Place::Channel(channel) => command.arg("HDEL").arg(names.instances(channel)),
        Place::User(user) => command.arg("SREM").arg(names.admitted(user)),
    };
    command.arg(lease.to_string());
    command
}

fn user_keys(names: &Names, user: &str) -> [String; 3] {
    [names.user_fence(user), names.admitted(user), names.claims(user)]
}

fn member_keys(names: &Names, channel: &Channel, lease: Uuid) -> [String; 5] {
    [
        names.fence(channel),
        names.instances(channel),
        names.users(channel),
        names.leaving(channel),
        names.members(channel, lease),
    ]
}

/// Redis counts in whole milliseconds, and a grace below one is still a grace.
fn millis(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000_000).min(MOST_MILLIS) as u64
}

/// How long what an instance had on its way when it was taken for dead is kept from being written. Beyond that it
/// would have to stand still for so long between two steps and die before it looks at its lease again.
const FENCE: Duration = Duration::from_secs(3600);
/// As much as 15 digits of time have room for beside the present.
const MOST_MILLIS: u128 = 100_000_000_000_000;

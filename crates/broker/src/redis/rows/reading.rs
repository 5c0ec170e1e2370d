//! Questions about all instances, answered out of Redis alone, each in a bounded number of round trips. What is
//! read may be a lease too old; the reaper sees to that.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Channel, Member};
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, Value};
use uuid::Uuid;

use super::super::calls::Calls;
use super::super::fault::Fault;
use super::super::script::Script;
use super::names::Names;
use crate::{ChannelFacts, Cursor, InstanceFacts, MemberCount, Page, Portion};

/// Reads a piece of a hash.
static SCAN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/scan.lua")));

/// A page of a channel's members: those under one lease after the other, each read by Redis' own cursor.
pub(in crate::redis) async fn members(
    calls: &Calls,
    names: &Names,
    channel: &Channel,
    from: &Cursor,
    portion: Portion,
) -> Result<Page<Member>, Fault> {
    let leases: Vec<Uuid> = leases(calls.call(command("HKEYS", &names.instances(channel))).await?);
    let Some(bookmark) = Bookmark::find(leases, from) else {
        return Ok(Page::end());
    };
    let key = names.members(channel, bookmark.lease());
    let (cursor, rows, bytes) = scan::<Bytes>(calls, &key, &bookmark.cursor, "*", portion).await?;
    // Those who are only waited for are none.
    let present = rows.into_iter().filter(|(_, row)| row.first() == Some(&b'P'));
    let items = present.filter_map(|(_, row)| Member::read(&row.slice(1..))).collect();
    let next = bookmark.next(&cursor);
    Ok(Page::within(portion, bytes, from, || Page { items, next, too_much: None }))
}

/// A channel's members, counted by lease as they come and go.
pub(in crate::redis) async fn member_count(
    calls: &Calls,
    names: &Names,
    channel: &Channel,
) -> Result<MemberCount, Fault> {
    let (by_lease, users) = futures_util::future::try_join(
        calls.call(command("HVALS", &names.instances(channel))),
        calls.call(command("HLEN", &names.users(channel))),
    )
    .await?;
    let by_lease = Vec::<i64>::from_redis_value(by_lease).unwrap_or_default();
    let clients = by_lease.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).sum();
    Ok(MemberCount { clients, users: u64::from_redis_value(users).unwrap_or(0) })
}

/// What the instances whose leases hold say of themselves.
pub(in crate::redis) async fn instances(calls: &Calls, names: &Names) -> Result<Vec<InstanceFacts>, Fault> {
    let facts = try_join_all(alive(calls, names).await?.into_iter().map(|lease| async move {
        let fields = calls.call(command("HGETALL", &names.facts(lease))).await?;
        Ok(Vec::<(String, String)>::from_redis_value(fields).ok().and_then(|fields| facts_of(&fields)))
    }));
    let mut facts: Vec<_> = facts.await?.into_iter().flatten().collect();
    facts.sort_by_key(|facts| facts.id);
    Ok(facts)
}

/// A page of the channels of one instance after the other. Each channel is told where it comes first, with the
/// subscribers of all the others, who are asked for the channels of the page alone.
pub(in crate::redis) async fn channels(
    calls: &Calls,
    names: &Names,
    pattern: Option<&str>,
    from: &Cursor,
    portion: Portion,
) -> Result<Page<ChannelFacts>, Fault> {
    let leases = alive(calls, names).await?;
    let Some(bookmark) = Bookmark::find(leases, from) else {
        return Ok(Page::end());
    };
    let key = names.counts(bookmark.lease());
    let pattern = pattern.unwrap_or("*");
    let (cursor, found, bytes) = scan::<u64>(calls, &key, &bookmark.cursor, pattern, portion).await?;
    let next = bookmark.next(&cursor);
    if found.is_empty() {
        return Ok(Page::within(portion, bytes, from, || Page { next, ..Page::end() }));
    }
    let (names_found, before) = (&found, bookmark.at);
    let others = bookmark.leases.iter().enumerate().filter(|(at, _)| *at != bookmark.at);
    let others = others.map(|(at, lease)| async move {
        let mut ask = command("HMGET", &names.counts(*lease));
        names_found.iter().for_each(|(name, _)| {
            ask.arg(&name[..]);
        });
        let counts = calls.call(ask).await?;
        Ok((at < before, Vec::<Option<u64>>::from_redis_value(counts).unwrap_or_default()))
    });
    let others = try_join_all(others).await?;
    let told = |index: usize| {
        others.iter().any(|(before, counts)| *before && counts.get(index).is_some_and(Option::is_some))
    };
    let elsewhere = |index: usize| -> u64 {
        others.iter().filter_map(|(_, counts)| counts.get(index).copied().flatten()).sum()
    };
    let items =
        found.iter().enumerate().filter(|(index, _)| !told(*index)).filter_map(|(index, (name, count))| {
            let channel = Channel::new(std::str::from_utf8(name).ok()?).ok()?;
            Some(ChannelFacts { channel, subscribers: count + elsewhere(index) })
        });
    Ok(Page { items: items.collect(), next, too_much: None })
}

/// A place in the lists of several leases: the lease, and Redis' cursor in its list.
struct Bookmark {
    /// Ascending, so that all pages go through them in one order.
    leases: Vec<Uuid>,
    at: usize,
    cursor: String,
}

impl Bookmark {
    /// Where a cursor says, or at the next lease, if that one is gone. Nothing behind the last.
    fn find(mut leases: Vec<Uuid>, from: &Cursor) -> Option<Self> {
        leases.sort_unstable();
        let written = from.as_str().split_once('.');
        let written = written.and_then(|(lease, cursor)| Some((lease.parse::<Uuid>().ok()?, cursor)));
        let Some((lease, cursor)) = written else {
            return (!leases.is_empty()).then_some(Self { leases, at: 0, cursor: "0".to_owned() });
        };
        let at = leases.partition_point(|other| *other < lease);
        let same = *leases.get(at)? == lease
            && cursor.bytes().all(|digit| digit.is_ascii_digit())
            && !cursor.is_empty();
        Some(Self { leases, at, cursor: if same { cursor } else { "0" }.to_owned() })
    }

    fn lease(&self) -> Uuid {
        self.leases[self.at]
    }

    fn next(&self, cursor: &str) -> Option<Cursor> {
        let (lease, cursor) = match cursor {
            "0" => (self.leases.get(self.at + 1)?, "0"),
            _ => (&self.leases[self.at], cursor),
        };
        Some(Cursor::new(format!("{lease}.{cursor}")))
    }
}

/// The leases that hold, by Redis' clock.
async fn alive(calls: &Calls, names: &Names) -> Result<Vec<Uuid>, Fault> {
    let mut all = command("ZRANGE", &names.alive());
    all.arg(0).arg(-1).arg("WITHSCORES");
    let mut time = Cmd::new();
    time.arg("TIME");
    let (now, all) = futures_util::future::try_join(calls.call(time), calls.call(all)).await?;
    let now =
        <(u64, u64)>::from_redis_value(now).map_or(0, |(seconds, micros)| seconds * 1000 + micros / 1000);
    let all = Vec::<(String, f64)>::from_redis_value(all).unwrap_or_default();
    Ok(all
        .into_iter()
        .filter(|(_, end)| *end > now as f64)
        .filter_map(|(lease, _)| lease.parse().ok())
        .collect())
}

fn leases(names: Value) -> Vec<Uuid> {
    let names = Vec::<String>::from_redis_value(names).unwrap_or_default();
    names.iter().filter_map(|lease| lease.parse().ok()).collect()
}

/// Redis' next cursor, fields with their values, and how many bytes these are; none, if that is too much.
async fn scan<T: FromRedisValue>(
    calls: &Calls,
    key: &str,
    cursor: &str,
    pattern: &str,
    portion: Portion,
) -> Result<(String, Vec<(Bytes, T)>, usize), Fault> {
    let complete = |command: &mut Cmd| {
        command.arg(cursor).arg(portion.entries.clamp(1, MOST)).arg(pattern).arg(Portion::ENTRY);
        command.arg(portion.bytes.min(i64::MAX as usize));
    };
    let scanned = calls.script(&SCAN, &[key], complete).await?;
    let read = <(String, Vec<Value>, usize)>::from_redis_value(scanned).ok();
    let read = read.and_then(|(cursor, found, bytes)| {
        let found = Vec::<(Bytes, T)>::from_redis_value(Value::Array(found)).ok()?;
        Some((cursor, found, bytes))
    });
    Ok(read.unwrap_or_else(|| ("0".to_owned(), Vec::new(), 0)))
}

fn command(verb: &str, key: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(verb).arg(key);
    command
}

/// Facts as fields, which a later version may add to.
pub(super) fn fields_of(facts: &InstanceFacts) -> [(&'static str, String); 10] {
    let InstanceFacts {
        id,
        name,
        version,
        connections,
        users,
        subscriptions,
        channels,
        uptime,
        cpu,
        resident_bytes,
    } = facts;
    [
        ("id", id.to_string()),
        ("name", name.clone()),
        ("version", version.clone()),
        ("connections", connections.to_string()),
        ("users", users.to_string()),
        ("subscriptions", subscriptions.to_string()),
        ("channels", channels.to_string()),
        ("uptime", uptime.as_millis().to_string()),
        ("cpu", cpu.to_string()),
        ("resident_bytes", resident_bytes.to_string()),
    ]
}

fn facts_of(fields: &[(String, String)]) -> Option<InstanceFacts> {
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value);
    let number = |name: &str| field(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    Some(InstanceFacts {
        id: field("id")?.parse().ok()?,
        name: field("name").unwrap_or_default().to_owned(),
        version: field("version").unwrap_or_default().to_owned(),
        connections: number("connections"),
        users: number("users"),
        subscriptions: number("subscriptions"),
        channels: number("channels"),
        uptime: Duration::from_millis(number("uptime")),
        cpu: field("cpu").and_then(|value| value.parse().ok()).unwrap_or(0.0),
        resident_bytes: number("resident_bytes"),
    })
}

/// The largest page.
const MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_on_where_it_was_or_after_what_is_gone() {
        let lease = Uuid::from_u128;
        let leases = vec![lease(5), lease(1), lease(3)];
        let at = |lease: Uuid, cursor: &str| format!("{lease}.{cursor}");
        let rows = [
            (String::new(), Some((lease(1), "0"))),
            ("nonsense".to_owned(), Some((lease(1), "0"))),
            (at(lease(3), "77"), Some((lease(3), "77"))),
            (at(lease(3), "x"), Some((lease(3), "0"))),
            (at(lease(3), ""), Some((lease(3), "0"))),
            (at(lease(2), "77"), Some((lease(3), "0"))),
            (at(lease(6), "77"), None),
        ];
        for (cursor, expected) in rows {
            let bookmark = Bookmark::find(leases.clone(), &Cursor::new(cursor.clone()));
            let found = bookmark.as_ref().map(|bookmark| (bookmark.lease(), &*bookmark.cursor));
            assert_eq!(found, expected, "{cursor}");
        }
        let bookmark = Bookmark::find(leases, &Cursor::start()).expect("there are leases");
        assert_eq!(bookmark.next("8"), Some(Cursor::new(at(lease(1), "8"))));
        assert_eq!(bookmark.next("0"), Some(Cursor::new(at(lease(3), "0"))));
        assert!(Bookmark::find(Vec::new(), &Cursor::start()).is_none());
    }

    #[test]
    fn facts_are_read_as_they_were_written() {
        let facts = InstanceFacts {
            id: Uuid::from_u128(7),
            name: "host".into(),
            version: "1".into(),
            connections: 1,
            users: 2,
            subscriptions: 3,
            channels: 4,
            uptime: Duration::from_millis(5),
            cpu: 0.1,
            resident_bytes: 6,
        };
        let mut fields: Vec<_> = fields_of(&facts).map(|(name, value)| (name.to_owned(), value)).into();
        fields.push(("new".into(), "unknown".into()));
        assert_eq!(facts_of(&fields), Some(facts));
        assert_eq!(facts_of(&fields[1..]), None, "without an id it is nobody");
    }
}

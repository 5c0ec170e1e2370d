//! Names, tables and rights as rows.

use fanfare_protocol::Channel;

use super::*;
use crate::config::{Config, Sources};
use crate::identity::{Overrides, User};

/// What a file with these tables makes of channels; it has keys, so that clients can have users.
fn namespaces(tables: &str) -> Namespaces {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("token_secrets = [\"only for tests, and long enough to be one\"]\n{tables}");
    std::fs::write(directory.path().join("fanfare.toml"), text).unwrap();
    let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
    Config::load(sources).unwrap_or_else(|error| panic!("{error}\n{tables}")).0.channels
}

fn default(lines: &str) -> Namespace {
    (**namespaces(&format!("[channels]\n{lines}")).iter().next().unwrap()).clone()
}

#[test]
fn a_name_belongs_to_one_namespace() {
    let two = "[namespaces.chat]\n[namespaces.\"a.b\"]\n";
    let default = "[channels]\n";
    for (tables, name, label) in [
        ("", "lobby", Some("(default)")),
        ("", "chat:room", Some("(default)")),
        ("", ":", Some("(default)")),
        (default, "chat:room", Some("(default)")),
        (default, "$chat:room", Some("(default)")),
        (two, "lobby", Some("(default)")),
        (two, "$lobby", Some("(default)")),
        (two, "chat:room", Some("chat")),
        (two, "chat:", Some("chat")),
        (two, "chat:a:b", Some("chat")),
        (two, "$chat:room", Some("chat")),
        (two, "chat:#42", Some("chat")),
        (two, "a.b:c", Some("a.b")),
        (two, "chat", Some("(default)")),
        (two, "Chat:room", None),
        (two, ":room", None),
        (two, "$:room", None),
        (two, "$$chat:room", None),
        (two, "news:room", None),
        (two, "cha:t", None),
    ] {
        let namespaces = namespaces(tables);
        let found = namespaces.resolve(&Channel::new(name).unwrap());
        assert_eq!(found.as_ref().ok().map(|namespace| namespace.label()), label, "{tables:?} {name}");
    }
}

#[test]
fn without_tables_everything_is_open_and_with_one_everything_else_is_closed() {
    for (tables, name, subscribe, publish) in [
        ("", "lobby", true, true),
        ("", "a:b", true, true),
        ("", "$a", true, true),
        ("", "a#1", true, true),
        ("[namespaces.a]", "lobby", false, false),
        ("[namespaces.a]\nmay_subscribe = \"anonymous\"", "a:b", true, false),
        ("[channels]\nmay_publish = \"anonymous\"", "lobby", false, true),
        ("[channels]\nmay_publish = \"anonymous\"\n[namespaces.a]", "a:b", false, false),
    ] {
        let namespaces = namespaces(tables);
        let (channel, nobody) = (Channel::new(name).unwrap(), User::anonymous());
        let namespace = namespaces.resolve(&channel).unwrap();
        assert_eq!(may_subscribe(namespace, &channel, &nobody, false).is_ok(), subscribe, "{tables} {name}");
        assert_eq!(may_publish(namespace, &channel, &nobody, false).is_ok(), publish, "{tables} {name}");
        assert_eq!(may_read_history(namespace, &channel, &nobody, true), Err(Denial::NotKept));
        assert_eq!(may_read_presence(namespace, &channel, &nobody, true), Err(Denial::NotKept));
    }
}

#[test]
fn who_may_subscribe() {
    use Denial::{Anonymous, NotPermitted, OtherUsers, Private};
    let limited = |right: &str| format!("user_limited = true\nmay_subscribe = \"{right}\"");
    let plain = |right: &str| format!("may_subscribe = \"{right}\"");
    let open = "private_prefix = false\nmay_subscribe = \"anonymous\"".to_owned();
    for (lines, name, user, granted, expected) in [
        (plain("token"), "a", "", false, Err(NotPermitted)),
        (plain("token"), "a", "42", false, Err(NotPermitted)),
        (plain("token"), "a", "42", true, Ok(())),
        (plain("token"), "a", "", true, Ok(())),
        (plain("client"), "a", "", false, Err(Anonymous)),
        (plain("client"), "a", "42", false, Ok(())),
        (plain("anonymous"), "a", "", false, Ok(())),
        (plain("anonymous"), "$a", "42", false, Err(Private)),
        (plain("anonymous"), "$a", "42", true, Ok(())),
        (open.clone(), "$a", "", false, Ok(())),
        (plain("anonymous"), "a#7", "42", false, Ok(())),
        (limited("anonymous"), "a", "", false, Ok(())),
        (limited("anonymous"), "a#7", "42", false, Err(OtherUsers)),
        (limited("anonymous"), "a#7", "", false, Err(OtherUsers)),
        (limited("anonymous"), "a#", "", false, Err(OtherUsers)),
        (limited("anonymous"), "a#7,", "", false, Err(OtherUsers)),
        (limited("token"), "a#7,42", "42", false, Ok(())),
        (limited("token"), "a#7,42", "4", false, Err(OtherUsers)),
        (limited("token"), "a#42#7", "42", false, Err(OtherUsers)),
        (limited("token"), "a#42#7", "7", false, Err(OtherUsers)),
        (limited("token"), "a#42#7", "42#7", false, Ok(())),
        (limited("token"), "a#urn:1", "urn:1", false, Ok(())),
        (limited("token"), "#42", "42", false, Ok(())),
        (limited("token"), "a#7", "42", true, Ok(())),
        (limited("token"), "$a#42", "42", false, Err(Private)),
        (limited("token"), "a", "42", false, Err(NotPermitted)),
    ] {
        let channel = Channel::new(name).unwrap();
        let got = may_subscribe(&default(&lines), &channel, &User::new(user), granted);
        assert_eq!(got, expected, "{lines} {name} {user:?} {granted}");
    }
}

/// Whatever else holds in their namespace, and whatever is in the user's name.
#[test]
fn a_users_own_channel_is_nobody_elses() {
    let open = "may_subscribe = \"anonymous\"\nmay_publish = \"anonymous\"\n";
    let limited = format!("{open}user_limited = true\n");
    for (personal, lines) in [("#", open), ("#", &limited), ("own:#", open), ("own:#", &limited)] {
        let (table, before) = match personal {
            "#" => ("[channels]", ""),
            _ => ("[namespaces.own]", "own:"),
        };
        // With a namespace, in which what looks like one is to be told from one.
        let tables = format!("personal_channel = \"{personal}\"\n{table}\n{lines}[namespaces.other]\n{open}");
        let namespaces = namespaces(&tables);
        let ask = |name: &str, user: &str| {
            let (channel, user) = (Channel::new(name).unwrap(), User::new(user));
            let namespace = namespaces.resolve(&channel).unwrap();
            let may = may_subscribe(namespace, &channel, &user, false);
            assert_eq!(may_publish(namespace, &channel, &user, false), may, "{tables} {name} {user}");
            may.is_ok()
        };
        for owner in ["ann", "ann,bob", "x#bob", "urn:1", "#", "é", "own:#ann"] {
            let name = format!("{before}#{owner}");
            assert!(ask(&name, owner), "{tables} {owner}");
            for other in ["", "bob", "ann,", "1"] {
                assert!(!ask(&name, other), "{tables} {owner} {other:?}");
            }
        }
        assert!(!ask(&format!("{before}#"), "") && !ask(&format!("{before}#"), "ann"));
        assert!(ask(&format!("{before}room"), "") && ask("other:#ann", "bob"));
    }
}

/// The three rights that a subscription may bring are one function; each is shown to ask it about its own option.
#[test]
fn who_may_publish_and_read() {
    use Denial::{Anonymous, NotPermitted, NotSubscribed, OtherUsers, Private};
    for (right, name, user, subscribed, expected) in [
        ("nobody", "a", "42", true, Err(NotPermitted)),
        ("subscriber", "a", "42", false, Err(NotSubscribed)),
        ("subscriber", "a", "", true, Ok(())),
        ("client", "a", "", true, Err(Anonymous)),
        ("client", "a", "42", false, Ok(())),
        ("anonymous", "a", "", false, Ok(())),
        ("anonymous", "$a", "42", false, Err(Private)),
        ("anonymous", "$a", "42", true, Ok(())),
        ("anonymous", "a#7", "42", false, Err(OtherUsers)),
        ("anonymous", "a#7", "42", true, Ok(())),
        ("client", "a#42", "42", false, Ok(())),
        ("nobody", "a#42", "42", true, Err(NotPermitted)),
        ("subscriber", "a#42", "42", false, Err(NotSubscribed)),
    ] {
        let kept = "user_limited = true\nhistory_size = 1\npresence = true\n";
        let (channel, user) = (Channel::new(name).unwrap(), User::new(user));
        type May = fn(&Namespace, &Channel, &User, bool) -> Result<(), Denial>;
        let rights: [(&str, May); 3] = [
            ("may_publish", may_publish),
            ("may_read_history", may_read_history),
            ("may_read_presence", may_read_presence),
        ];
        for (option, may) in rights {
            let namespace = default(&format!("{kept}{option} = \"{right}\""));
            let got = may(&namespace, &channel, &user, subscribed);
            assert_eq!(got, expected, "{option} = {right}, {name} {user} {subscribed}");
        }
    }
}

#[test]
fn a_name_must_match_its_pattern_whole() {
    for (lines, name, admitted, raw) in [
        ("", "a", true, true),
        ("", "é", false, true),
        ("name_pattern = \"[a-z]+\"", "abc", true, true),
        ("name_pattern = \"[a-z]+\"", "abc1", false, false),
        ("name_pattern = \"[a-z]+\"", "ab\nc", false, false),
        ("name_pattern = \"a|b\"", "ab", false, false),
        ("name_pattern = \".+\"", "é", true, true),
    ] {
        let (namespace, channel) = (default(lines), Channel::new(name).unwrap());
        assert_eq!(namespace.admits(&channel), admitted, "{lines} {name}");
        assert_eq!(namespace.admits_raw(&channel), raw, "{lines} {name}");
    }
}

#[test]
fn a_token_overrides_what_the_namespace_can_give() {
    use Offer::{Allow, Force, Off};
    let history = "history_size = 1\npositioning = \"force\"\nrecovery = \"allow\"";
    let events = "presence = true\njoin_leave = \"force\"";
    let none = Overrides::default();
    let recovery = Overrides { force_recovery: Some(true), force_positioning: Some(false), ..none };
    let pushed = Overrides { force_push_join_leave: Some(true), ..none };
    let quiet = Overrides { join_leave: Some(false), force_push_join_leave: Some(true), ..none };
    let asked = Overrides { join_leave: Some(true), presence: Some(true), ..none };
    for (lines, overrides, presence, join_leave, positioning, recovery) in [
        ("", none, false, Off, Off, Off),
        ("", recovery, false, Off, Off, Off),
        (history, none, false, Off, Force, Allow),
        (history, recovery, false, Off, Allow, Force),
        (events, none, true, Force, Off, Off),
        (events, quiet, true, Off, Off, Off),
        (events, Overrides { presence: Some(false), ..none }, false, Force, Off, Off),
        (events, Overrides { force_push_join_leave: Some(false), ..none }, true, Allow, Off, Off),
        ("", asked, true, Allow, Off, Off),
        ("", pushed, false, Off, Off, Off),
    ] {
        let expected = Features { presence, join_leave, positioning, recovery };
        assert_eq!(default(lines).features(&overrides), expected, "{lines} {overrides:?}");
    }
}

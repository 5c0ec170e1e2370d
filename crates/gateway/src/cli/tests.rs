//! The whole way from a command line, an environment and a file to a configuration or a line on standard error.

use std::fs;

use super::*;
use crate::config::{KEYS, Settings};

/// What a user has set: arguments and `NAME=value` variables separated by spaces, and the text of `fanfare.toml`.
fn load(arguments: &str, variables: &str, file: &str) -> Result<(Config, Settings), String> {
    let directory = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        fs::write(directory.path().join("fanfare.toml"), file).unwrap();
    }
    let here = format!("{}/", directory.path().display());
    let read = |variable: &str| {
        let (name, value) = variable.split_once('=').unwrap();
        (name.into(), value.replace("HERE/", &here).into())
    };
    let surroundings = Surroundings {
        variables: variables.split_whitespace().map(read).collect(),
        directory: directory.path().to_owned(),
    };
    let arguments = arguments.split_whitespace().map(|argument| argument.replace("HERE/", &here));
    let matches = command()
        .try_get_matches_from([String::from("fanfare")].into_iter().chain(arguments))
        .map_err(|error| usage_line(&error))?;
    let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    flags::load(matches, surroundings).map_err(|error| error.to_string().replace(&here, ""))
}

#[test]
fn a_later_layer_wins() {
    let file = "drain_window = \"1s\"\nallowed_origins = [\"https://a.example\"]\nredis = \"redis://file\"";
    for (arguments, variables, file, expected) in [
        ("", "", "", "20s default"),
        ("", "", file, "1s fanfare.toml line 1"),
        ("", "FANFARE_DRAIN_WINDOW=2s", file, "2s FANFARE_DRAIN_WINDOW"),
        ("--drain-window 3s", "FANFARE_DRAIN_WINDOW=2s", file, "3s --drain-window"),
        ("serve --drain-window=3s", "FANFARE_DRAIN_WINDOW=2s", file, "3s --drain-window"),
        ("config --drain-window 3s", "", "", "3s --drain-window"),
        ("", "FANFARE_CONFIG= HOME=/root", file, "1s fanfare.toml line 1"),
        ("--config HERE/fanfare.toml", "FANFARE_CONFIG=/nonexistent", file, "1s fanfare.toml line 1"),
    ] {
        let (config, settings) = load(arguments, variables, file).unwrap();
        let layer = settings.layer("drain_window").to_string();
        let layer = layer.rsplit_once('/').map_or(layer.as_str(), |(_, name)| name);
        assert_eq!(format!("{:?} {layer}", config.drain_window), expected, "{arguments} {variables}");
    }
}

#[test]
fn every_sort_of_value_is_read_from_every_layer() {
    for (arguments, variables, file, key, written) in [
        ("--workers 3", "", "", "workers", "3"),
        ("", "FANFARE_WORKERS=3", "", "workers", "3"),
        ("", "", "workers = 3", "workers", "3"),
        ("", "", "message_limit = 0x1_0000", "message_limit", "\"64KiB\""),
        ("--message-limit 1MB", "", "", "message_limit", "\"1MB\""),
        // More than Redis' spool by default, of which an instance alone has none.
        ("--message-limit 16MiB --outbox-limit 64MiB", "", "", "message_limit", "\"16MiB\""),
        ("--message-limit 1048566", "", "", "message_limit", "1048566"),
        ("--page false", "", "", "page", "false"),
        ("--page=false", "", "", "page", "false"),
        ("--page", "FANFARE_PAGE=false", "", "page", "true"),
        ("", "FANFARE_PAGE=false", "", "page", "false"),
        ("", "", "page = false", "page", "false"),
        (
            "--trusted-proxies 10.0.0.0/8 --trusted-proxies ::1,127.0.0.1",
            "",
            "",
            "trusted_proxies",
            r#"["10.0.0.0/8", "::1", "127.0.0.1"]"#,
        ),
        ("", "FANFARE_TRUSTED_PROXIES=10.0.0.0/8,::1/128", "", "trusted_proxies", r#"["10.0.0.0/8", "::1"]"#),
        (
            "",
            "",
            "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]",
            "trusted_proxies",
            r#"["10.0.0.0/8", "::1"]"#,
        ),
        ("", "", "allowed_origins = \"*\"", "allowed_origins", r#"["*"]"#),
        ("", "FANFARE_ALLOWED_ORIGINS=", "allowed_origins = [\"*\"]", "allowed_origins", "[]"),
        ("", "FANFARE_INTERNAL_LISTEN=:9090", "", "internal_listen", "\":9090\""),
        ("--log-format json", "", "", "log_format", "\"json\""),
    ] {
        let (config, _) = load(arguments, variables, file).unwrap();
        let key = KEYS.iter().find(|row| row.name == key).unwrap();
        assert_eq!((key.written)(&config).as_deref(), Some(written), "{arguments} {variables} {file}");
    }
    let (config, _) = load("", "FANFARE_REDIS=", "redis = \"redis://file\"").unwrap();
    assert_eq!(config.redis, None, "an empty variable unsets what the file has set");
}

#[test]
fn a_service_named_fanfare_may_stand_beside_the_gateway() {
    let links = "FANFARE_SERVICE_HOST=10.0.0.1 FANFARE_SERVICE_PORT=80 FANFARE_SERVICE_PORT_HTTP=80 \
        FANFARE_PORT=tcp://10.0.0.1:80 FANFARE_PORT_80_TCP=tcp://10.0.0.1:80 FANFARE_PORT_80_TCP_PROTO=tcp \
        FANFARE_PORT_80_TCP_PORT=80 FANFARE_PORT_80_TCP_ADDR=10.0.0.1 FANFARE_GATEWAY_SERVICE_HOST=10.0.0.1 \
        FANFARE_GATEWAY_PORT_80_TCP_ADDR=10.0.0.1";
    assert_eq!(load("", links, "").unwrap().0, Config::default());
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    for (arguments, variables, file, line) in WRONG {
        match load(arguments, variables, file) {
            Err(error) => assert_eq!(error, *line),
            Ok(_) => panic!("accepted: {arguments} {variables} {file}"),
        }
    }
}

#[test]
fn what_was_written_over_several_lines_is_quoted_in_one() {
    for (arguments, file, line) in [
        (&[][..], "\"a\\nb\" = 1", r"unknown key `a\nb` in fanfare.toml line 1"),
        (
            &[],
            "page = \"\\u001b[2J\"",
            r#"`page` (fanfare.toml line 1): expected true or false, found "\u{1b}[2J""#,
        ),
        (&["--co\rlour"], "", r"unknown flag `--co\rlour`; see `fanfare --help`"),
        (&["con\nfig"], "", r"unknown command `con\nfig`; did you mean `config`?"),
        (&["--config", "a\nb"], "", r"cannot read a\nb: No such file or directory (os error 2)"),
        (&["healthcheck"], "", "`healthcheck` is neither `serve` nor `config`"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("fanfare.toml"), file).unwrap();
        let arguments = [&["fanfare"], arguments].concat().into_iter().map(OsString::from);
        let error = read(arguments, Vec::new(), directory.path()).unwrap_err();
        assert_eq!(error.replace(&format!("{}/", directory.path().display()), ""), line);
    }
}

/// Arguments, variables, file, and the line.
#[rustfmt::skip]
const WRONG: &[(&str, &str, &str, &str)] = &[
    // Names.
    ("", "", "\n# a comment\ndrain_windw = \"6s\"", "unknown key `drain_windw` in fanfare.toml line 3; did you mean `drain_window`?"),
    ("", "", "drain-window = \"6s\"", "unknown key `drain-window` in fanfare.toml line 1; did you mean `drain_window`?"),
    ("", "", "redis_url = \"redis://h\"", "unknown key `redis_url` in fanfare.toml line 1; did you mean `redis`?"),
    ("", "", "origins = []", "unknown key `origins` in fanfare.toml line 1; did you mean `allowed_origins`?"),
    ("", "", "colour = \"red\"", "unknown key `colour` in fanfare.toml line 1"),
    ("", "", "zebra = 1\napple = 2", "unknown key `zebra` in fanfare.toml line 1"),
    ("", "", "page = true\n[limits]\nmessage = 1", "`limits` in fanfare.toml line 2 is a table: keys are flat, such as `drain_window`; tables are [channels] and [namespaces.NAME]"),
    ("", "", "drain.window = \"6s\"", "`drain` in fanfare.toml line 1 is a table: keys are flat, such as `drain_window`; tables are [channels] and [namespaces.NAME]"),
    ("", "FANFARE_DRAIN_WINDW=6s", "", "unknown variable `FANFARE_DRAIN_WINDW`; did you mean `FANFARE_DRAIN_WINDOW`?"),
    ("", "FANFARE_PORT=8080", "", "unknown variable `FANFARE_PORT`"),
    ("--drain-windw 6s", "", "", "unknown flag `--drain-windw`; did you mean `--drain-window`?"),
    ("--colour red", "", "", "unknown flag `--colour`; see `fanfare --help`"),
    ("confg", "", "", "unknown command `confg`; did you mean `config`?"),
    ("config now", "", "", "unknown argument `now`; see `fanfare --help`"),
    ("--workers 2 config", "", "", "flags follow their command: `fanfare config --…`"),
    ("--listen", "", "", "a value is required for '--listen <ADDRESS>' but none was supplied; see `fanfare --help`"),
    ("bench connect", "", "", "missing --connections <N>, <URL>...; see `fanfare --help`"),
    ("--workers 2 --workers 3", "", "", "the argument '--workers <COUNT>' cannot be used multiple times; see `fanfare --help`"),
    // The file.
    ("--config HERE/other.toml", "", "", "cannot read other.toml: No such file or directory (os error 2)"),
    ("", "FANFARE_CONFIG=HERE/other.toml", "", "cannot read other.toml: No such file or directory (os error 2)"),
    ("", "", "page = true\nworkers = ", "fanfare.toml line 2: string values must be quoted, expected literal string"),
    ("", "", "page = true\npage = false", "fanfare.toml line 2: duplicate key"),
    // Types.
    ("", "", "drain_window = 6", r#"`drain_window` (fanfare.toml line 1): expected a duration such as "250ms", "6s" or "1m30s", found 6; a duration names its unit: "6s" or "6ms""#),
    ("", "FANFARE_DRAIN_WINDOW=6", "", r#"`drain_window` (FANFARE_DRAIN_WINDOW): expected a duration such as "250ms", "6s" or "1m30s", found "6"; a duration names its unit: "6s" or "6ms""#),
    ("--drain-window soon", "", "", r#"`drain_window` (--drain-window): expected a duration such as "250ms", "6s" or "1m30s", found "soon""#),
    ("", "", "drain_window = 1.5", r#"`drain_window` (fanfare.toml line 1): expected a duration such as "250ms", "6s" or "1m30s", found a number with a fraction"#),
    ("--message-limit 64k", "", "", r#"`message_limit` (--message-limit): expected a size such as 65536, "64KiB" or "1MiB", found "64k"; write "64KiB""#),
    ("", "", "message_limit = -1", r#"`message_limit` (fanfare.toml line 1): expected a size such as 65536, "64KiB" or "1MiB", found -1"#),
    ("", "", "workers = \"4\"", r#"`workers` (fanfare.toml line 1): expected a whole number, found "4"; write it without quotes"#),
    ("--workers four", "", "", r#"`workers` (--workers): expected a whole number, found "four""#),
    ("--message-rate 99999999999", "", "", r#"`message_rate` (--message-rate): expected a whole number, found "99999999999"; the largest possible is 4294967295"#),
    ("", "", "page = \"true\"", r#"`page` (fanfare.toml line 1): expected true or false, found "true"; write it without quotes"#),
    ("--page=no", "", "", r#"`page` (--page): expected true or false, found "no""#),
    ("--log-format xml", "", "", r#"`log_format` (--log-format): expected "text" or "json", found "xml""#),
    ("--log-level inof", "", "", r#"`log_level` (--log-level): expected "off", "error", "warn", "info", "debug", "trace" or a filter such as "info,fanfare_broker=debug", found "inof""#),
    ("--listen 8080", "", "", r#"`listen` (--listen): expected an address such as "127.0.0.1:8080", "[::]:8080" or ":8080", found "8080"; a port alone is ":8080""#),
    ("--listen ::1", "", "", r#"`listen` (--listen): expected an address such as "127.0.0.1:8080", "[::]:8080" or ":8080", found "::1"; the port is missing: "[::1]:8080""#),
    ("--listen 127.0.0.1:80800", "", "", r#"`listen` (--listen): expected an address such as "127.0.0.1:8080", "[::]:8080" or ":8080", found "127.0.0.1:80800"; a port is a number from 0 to 65535"#),
    ("--trusted-proxies 10.0.0.1/8", "", "", r#"`trusted_proxies` (--trusted-proxies): expected a list of addresses and networks such as "10.0.0.0/8" or "::1", found "10.0.0.1/8"; "10.0.0.1/8" is an address inside a network; the network is "10.0.0.0/8""#),
    ("", "", "trusted_proxies = [\"::1\", 4]", r#"`trusted_proxies` (fanfare.toml line 1): expected a list of addresses and networks such as "10.0.0.0/8" or "::1", found ["::1", 4]; 4 is not a string"#),
    ("", "", "allowed_origins = [\"wss://a.example\"]", r#"`allowed_origins` (fanfare.toml line 1): expected a list of origins such as "https://example.com", "*.example.com" or "self", or "*", found ["wss://a.example"]; "wss://a.example" is where a client connects to; an origin is the page it comes from, http or https"#),
    // Secrets are not shown, not even wrong ones.
    ("", "FANFARE_REDIS=http://:hunter2@h", "", r#"`redis` (FANFARE_REDIS): expected a URL such as "redis://user:password@host:6379/0" or "rediss://host", found something else (not shown, it may hold a password); it begins with redis:// or, for TLS, rediss://"#),
    ("", "", "redis = [\"hunter2\"]", r#"`redis` (fanfare.toml line 1): expected a URL such as "redis://user:password@host:6379/0" or "rediss://host", found something else (not shown, it may hold a password)"#),
    // Ranges.
    ("--workers 65", "", "", "`workers` (--workers): expected between 0 and 64, found 65"),
    ("--idle-timeout 0s", "", "", r#"`idle_timeout` (--idle-timeout): expected between 10ms and 24h, found "0s""#),
    ("--retry-after 500ms", "", "", r#"`retry_after` (--retry-after): expected between 1s and 1h, found "500ms""#),
    ("", "", "redis_prefix = \"\"", r#"`redis_prefix` (fanfare.toml line 1): expected 1 to 64 visible ASCII characters, found """#),
    // Combinations.
    ("--ping-interval 60s", "", "", r#"`ping_interval` ("60s", --ping-interval) must be shorter than `idle_timeout` ("60s", default): a quiet client would be cut before its first ping"#),
    ("", "", "idle_timeout = \"20s\"", r#"`ping_interval` ("30s", default) must be shorter than `idle_timeout` ("20s", fanfare.toml line 1): a quiet client would be cut before its first ping"#),
    ("--header-timeout 11s", "", "", r#"`header_timeout` ("11s", --header-timeout) must not be longer than `handshake_timeout` ("10s", default): the headers are a part of the handshake"#),
    ("--message-limit 2MiB", "", "", r#"`message_limit` ("2MiB", --message-limit) must be at least 10 bytes less than `outbox_limit` ("1MiB", default): the largest message, in its frame, would cut whoever cannot take it at once"#),
    ("--message-limit 1048567", "", "", r#"`message_limit` (1048567, --message-limit) must be at least 10 bytes less than `outbox_limit` ("1MiB", default): the largest message, in its frame, would cut whoever cannot take it at once"#),
    ("--internal-listen :8080", "", "", r#"`internal_listen` (":8080", --internal-listen) cannot share its address with `listen` ("127.0.0.1:8080", default): clients would reach what is for operators"#),
    ("--redis-prefix chat", "", "", r#"`redis_prefix` ("chat", --redis-prefix) needs `redis` (not set, default): an instance without Redis serves alone"#),
    ("--redis-timeout 1s", "", "", r#"`redis_timeout` ("1s", --redis-timeout) needs `redis` (not set, default): an instance without Redis serves alone"#),
    ("--redis-spool 1MiB", "", "", r#"`redis_spool` ("1MiB", --redis-spool) needs `redis` (not set, default): an instance without Redis serves alone"#),
    ("--redis-spool 1KiB --redis redis://h", "", "", r#"`redis_spool` ("1KiB", --redis-spool) must be 0 or at least `message_limit` ("64KiB", default): the largest message would never fit"#),
    ("--history-memory 0", "", "", r#"`history_memory` (--history-memory): expected a size of at least "1MiB", or "auto", found "0"; to keep no history, leave out `history_size`"#),
    ("--history-memory 1000KiB", "", "", r#"`history_memory` (--history-memory): expected a size of at least "1MiB", or "auto", found "1000KiB""#),
    ("--history-memory 8MiB --redis redis://h", "", "", r#"`history_memory` ("8MiB", --history-memory) has no meaning with `redis` ("redis://h", --redis): histories are kept there, within its own `maxmemory`"#),
    ("--history-memory 1MiB --message-limit 2MiB --outbox-limit 3MiB", "", "", r#"`history_memory` ("1MiB", --history-memory) must be at least `message_limit` ("2MiB", --message-limit): the largest message would never be kept"#),
    ("--history-memory 33MiB --memory-limit 64MiB", "", "", r#"`history_memory` ("33MiB", --history-memory) must not be larger than half of `memory_limit` ("64MiB", --memory-limit): connections take memory as well"#),
    ("--message-burst 5", "", "", "`message_burst` (5, --message-burst) needs `message_rate` (0, default): without a rate there is nothing to burst above"),
    ("--max-connections 5 --max-connections-per-address 6", "", "", "`max_connections_per_address` (6, --max-connections-per-address) must not be larger than `max_connections` (5, --max-connections): no address could ever reach it"),
    ("--proxy-protocol", "", "", "`proxy_protocol` (true, --proxy-protocol) needs `trusted_proxies` ([], default): its header is read from proxies that are named there, and from nobody else"),
    // Identity.
    ("", "FANFARE_TOKEN_SECRETS=hunter2,hunter3 FANFARE_TOKEN_AUDIENCE=me", "allow_anonymous = \"yes\"", r#"`allow_anonymous` (fanfare.toml line 1): expected true or false, found "yes""#),
    ("", "", "token_secrets = [\"hunter2 until tomorrow\"]", r#"`token_secrets` (fanfare.toml line 1): expected a list of secrets such as "secret" or "secret until 2026-12-31", found something else (not shown, it may hold a password); after " until " stands a date such as 2026-12-31 or 2026-12-31T18:00:00Z"#),
    ("", "", "token_secrets = [\"***\"]", r#"`token_secrets` (fanfare.toml line 1): expected a list of secrets such as "secret" or "secret until 2026-12-31", found something else (not shown, it may hold a password); what `fanfare config` shows in the place of a secret is not one"#),
    ("", "", "token_secrets = [7777]", r#"`token_secrets` (fanfare.toml line 1): expected a list of secrets such as "secret" or "secret until 2026-12-31", found something else (not shown, it may hold a password); each is a string"#),
    ("--token-secrets-file /nonexistent", "", "", r#"`token_secrets_file` (--token-secrets-file): expected a file with one secret a line, found "/nonexistent"; No such file or directory (os error 2)"#),
    ("--token-public-keys /nonexistent", "", "", r#"`token_public_keys` (--token-public-keys): expected a list of PEM files such as "/etc/fanfare/key.pem", found "/nonexistent"; /nonexistent: No such file or directory (os error 2)"#),
    ("--token-public-keys HERE/fanfare.toml", "", "workers = 1", r#"`token_public_keys` (--token-public-keys): expected a list of PEM files such as "/etc/fanfare/key.pem", found "fanfare.toml"; fanfare.toml: it is no PEM file with a public key (BEGIN PUBLIC KEY, BEGIN RSA PUBLIC KEY or BEGIN CERTIFICATE)"#),
    ("--token-jwks ftp://h/keys", "", "", r#"`token_jwks` (--token-jwks): expected a URL such as "https://login.example.com/.well-known/jwks.json", found "ftp://h/keys"; it begins with https:// or http://"#),
    ("--token-audience me", "", "", r#"`token_audience` (["me"], --token-audience) needs keys, as in `token_secrets` ([], default): without keys no token is read"#),
    ("--token-leeway 5s", "", "", r#"`token_leeway` ("5s", --token-leeway) needs keys, as in `token_secrets` ([], default): without keys no token is read"#),
    ("--allow-anonymous=false", "", "", "`allow_anonymous` (false, --allow-anonymous) needs keys, as in `token_secrets` ([], default): nobody could connect"),
    ("--token-jwks-refresh 2m", "", "", r#"`token_jwks_refresh` ("2m", --token-jwks-refresh) needs `token_jwks` (not set, default): there is nothing to fetch"#),
    // Redis Cluster.
    ("--redis-cluster-nodes redis://h", "", "", r#"`redis_cluster_nodes` (["redis://h"], --redis-cluster-nodes) needs `redis` (not set, default): an instance without Redis serves alone"#),
    ("--redis-cluster-nodes redis://:secret@h --redis redis://h/3", "", "", r#"`redis` ("redis://h/3", --redis) must name no database, and neither must `redis_cluster_nodes` (["redis://:***@h"], --redis-cluster-nodes): a Redis Cluster has the first alone"#),
    ("--redis-cluster-nodes redis://h --redis redis://h --redis-prefix a{b}", "", "", r#"`redis_prefix` ("a{b}", --redis-prefix) must have no braces with `redis_cluster_nodes` (["redis://h"], --redis-cluster-nodes): what stands in braces says on which node a key is"#),
    ("--redis-cluster-nodes http://h --redis redis://h", "", "", r#"`redis_cluster_nodes` (--redis-cluster-nodes): expected a list of URLs such as "redis://user:password@host:6379", found something else (not shown, it may hold a password); it begins with redis:// or, for TLS, rediss://"#),
    // HTTP API.
    ("--api-keys hunter2", "", "", r#"`api_keys` (["***"], --api-keys) needs `internal_listen` (not set, default): what a key lets do is for back ends, and is never offered to clients"#),
    ("--api-error-mode both", "", "", r#"`api_error_mode` (--api-error-mode): expected "response" or "transport", found "both""#),
    ("--api-error-mode transport", "", "", r#"`api_error_mode` ("transport", --api-error-mode) needs `api_keys` ([], default): without a key there is no HTTP API"#),
    ("--api-body-limit 1MiB", "", "", r#"`api_body_limit` ("1MiB", --api-body-limit) needs `api_keys` ([], default): without a key there is no HTTP API"#),
    ("--api-body-limit 1 --api-keys hunter2 --internal-listen :9", "", "", r#"`api_body_limit` (--api-body-limit): expected between 1KiB and 1GiB, found 1"#),
    // Channels.
    ("", "", "channels = 3", "`channels` (fanfare.toml line 1): expected a table such as [channels], found 3"),
    ("", "", "[[channels]]", "`channels` (fanfare.toml line 1): expected a table such as [channels], found [a table]"),
    ("", "", "[namespaces]\nchat = true", "`namespaces.chat` (fanfare.toml line 2): expected a table such as [namespaces.NAME], found true"),
    ("", "", "[namespaces.\"a:b\"]", "`namespaces.a:b` (fanfare.toml line 1): expected a name of 1 to 64 ASCII letters, digits, `_`, `-` and `.`, as it stands before the `:` of a channel, found \"a:b\""),
    ("", "", "[namespaces.chat]\n\nhistroy_size = 3", "unknown key `namespaces.chat.histroy_size` in fanfare.toml line 3; did you mean `history_size`?"),
    ("", "", "[channels]\nhistory_size = 3\nlisten = \":80\"", "`channels.listen` in fanfare.toml line 3 is a key of the whole gateway: it belongs above the first table"),
    ("", "", "history_size = 3", "`history_size` in fanfare.toml line 1 is an option of channels: it belongs under [channels] or [namespaces.NAME]"),
    ("", "", "[channels]\nmay_publish = \"everybody\"", r#"`channels.may_publish` (fanfare.toml line 2): expected "nobody", "subscriber", "client" or "anonymous", found "everybody""#),
    ("", "", "[channels]\nmay_subscribe = \"subscriber\"", r#"`channels.may_subscribe` (fanfare.toml line 2): expected "token", "client" or "anonymous", found "subscriber""#),
    ("", "", "[namespaces.a]\nrecovery = true", r#"`namespaces.a.recovery` (fanfare.toml line 2): expected "off", "allow" or "force", found true"#),
    ("", "", "[namespaces.a]\nhistory_size = 1000001", "`namespaces.a.history_size` (fanfare.toml line 2): expected between 0 and 1000000, found 1000001"),
    ("", "", "[namespaces.a]\nhistory_ttl = 60", r#"`namespaces.a.history_ttl` (fanfare.toml line 2): expected a duration such as "250ms", "6s" or "1m30s", found 60; a duration names its unit: "60s" or "60ms""#),
    ("", "", "[namespaces.a]\nname_pattern = \"a)(b\"", r#"`namespaces.a.name_pattern` (fanfare.toml line 2): expected a regular expression such as "chat:[a-z0-9-]{1,40}", found "a)(b"; unopened group"#),
    // Their combinations. The first of them is out of the middle of a file, and names both places.
    ("", "", "[channels]\nmay_subscribe = \"anonymous\"\n[namespaces.a]\nhistory_size = 0\nrecovery = \"force\"", r#"`namespaces.a.recovery` ("force", fanfare.toml line 5) needs `namespaces.a.history_size` (0, fanfare.toml line 4): what is missed is read from the history"#),
    ("", "", "[channels]\npositioning = \"allow\"", r#"`channels.positioning` ("allow", fanfare.toml line 2) needs `channels.history_size` (0, default): a position is a place in the history"#),
    ("", "", "[channels]\ndelta = true", "`channels.delta` (true, fanfare.toml line 2) needs `channels.history_size` (0, default): a delta is to the publication before, which is kept there"),
    ("", "", "[channels]\nhistory_ttl = \"1h\"", r#"`channels.history_ttl` ("1h", fanfare.toml line 2) needs `channels.history_size` (0, default): without it nothing is kept"#),
    ("", "", "[channels]\nmay_read_history = \"client\"", r#"`channels.may_read_history` ("client", fanfare.toml line 2) needs `channels.history_size` (0, default): there is nothing to read"#),
    ("", "", "[channels]\nmay_subscribe = \"anonymous\"\npresence = true\njoin_leave = \"allow\"", r#"`channels.join_leave` ("allow", fanfare.toml line 4) needs `channels.may_read_presence` ("nobody", default): who asks is told only if it may see who is there"#),
    ("", "", "[namespaces.a]\nname_pattern = \"b:.*\"", r#"`namespaces.a.name_pattern` ("b:.*", fanfare.toml line 2) matches no name of its channels, which begin with `a:`"#),
    ("--personal-channel a:#", "FANFARE_TOKEN_SECRETS=a", "[namespaces.a]\nname_pattern = \"a:[a-z]+\"", r##"`namespaces.a.name_pattern` ("a:[a-z]+", fanfare.toml line 2) matches no channel that is made by `personal_channel` ("a:#", --personal-channel)"##),
    ("--personal-channel #", "FANFARE_TOKEN_SECRETS=a", "[channels]\nname_pattern = \"[a-z]+\"", r##"`channels.name_pattern` ("[a-z]+", fanfare.toml line 2) matches no channel that is made by `personal_channel` ("#", --personal-channel)"##),
    ("", "FANFARE_TOKEN_SECRETS=a", "[namespaces.a]\nuser_limited = true\nname_pattern = \"a:[a-z]+\"", r#"`namespaces.a.name_pattern` ("a:[a-z]+", fanfare.toml line 3) cannot go with `namespaces.a.user_limited` (true, fanfare.toml line 2): no name that matches has a `#`, behind which its users stand"#),
    ("", "", "[channels]\njoin_leave = \"allow\"", r#"`channels.join_leave` ("allow", fanfare.toml line 2) needs `channels.presence` (false, default): who comes and goes is known from who is there"#),
    ("", "", "[channels]\nmay_read_presence = \"client\"", r#"`channels.may_read_presence` ("client", fanfare.toml line 2) needs `channels.presence` (false, default): there is nothing to read"#),
    ("", "", "[channels]\nhistory_size = 9\npositioning = \"force\"\nslow_consumers = \"keep_latest\"", r#"`channels.slow_consumers` ("keep_latest", fanfare.toml line 4) cannot go with `channels.positioning` ("force", fanfare.toml line 3): a client that was not sent everything has no position"#),
    ("", "", "[channels]\nhistory_size = 9\nrecovery = \"allow\"\nslow_consumers = \"drop_oldest\"", r#"`channels.slow_consumers` ("drop_oldest", fanfare.toml line 4) cannot go with `channels.recovery` ("allow", fanfare.toml line 3): a client that was not sent everything has no position"#),
    ("", "", "[channels]\nhistory_size = 9\ndelta = true\nslow_consumers = \"drop_oldest\"", r#"`channels.slow_consumers` ("drop_oldest", fanfare.toml line 4) cannot go with `channels.delta` (true, fanfare.toml line 3): a delta to what was not sent is of no use"#),
    ("", "", "[channels]\nhistory_size = 9", r#"`channels.may_subscribe` ("token", default) needs one of `token_secrets`, `token_secrets_file`, `token_public_keys` and `token_jwks`: without keys no client has a token or a user"#),
    ("", "", "[namespaces.a]\nmay_subscribe = \"anonymous\"\nuser_limited = true", "`namespaces.a.user_limited` (true, fanfare.toml line 3) needs one of `token_secrets`, `token_secrets_file`, `token_public_keys` and `token_jwks`: without keys no client has a token or a user"),
    ("", "", "[namespaces.a]\nmay_subscribe = \"anonymous\"\nmay_publish = \"client\"", r#"`namespaces.a.may_publish` ("client", fanfare.toml line 3) needs one of `token_secrets`, `token_secrets_file`, `token_public_keys` and `token_jwks`: without keys no client has a token or a user"#),
];

#[test]
fn what_config_prints_is_a_file_for_the_same_configuration() {
    let arguments = "--listen [::]:9000 --internal-listen 127.0.0.1:9100 --workers 3 --page false \
        --redis rediss://cache.example:6380/2 --redis-prefix chat --redis-timeout 1500ms --redis-spool 0 \
        --ping-interval 90s --idle-timeout 2m --message-limit 1000 --message-rate 10 --message-burst 20 \
        --max-connections 1000 --max-connections-per-address 10 --allowed-origins https://*.example.com:*,self,null \
        --trusted-proxies 10.0.0.0/8,::1 --proxy-protocol --drain-window 1h --log-format json --log-level warn,fanfare=debug";
    for arguments in ["", "--allowed-origins *", arguments] {
        let (wanted, settings) = load(arguments, "", "").unwrap();
        let text = config::text(&wanted, &settings);
        let (again, _) = load("", "", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again, wanted, "{text}");
        for key in KEYS {
            assert!(
                text.contains(&format!("\n{} = ", key.name))
                    || text.contains(&format!("\n# {} is not set", key.name))
            );
        }
    }
}

#[test]
fn what_config_prints_of_channels_is_the_same_again() {
    let keys = "FANFARE_TOKEN_JWKS=https://h/keys FANFARE_TOKEN_AUDIENCE=a,b FANFARE_ALLOW_ANONYMOUS=true";
    let anybody = "[channels]\nmay_subscribe = \"anonymous\"\n";
    let chat = "[namespaces.chat]\nhistory_size = 10\nhistory_ttl = \"1h\"\nrecovery = \"force\"\ndelta = true\n\
        name_pattern = \"chat:\\\\d+\"\n[namespaces.news]\nslow_consumers = \"keep_latest\"\ndata_format = \"json_object\"\n";
    for (variables, file) in [(keys, ""), (keys, chat), ("", anybody), (keys, &format!("{chat}{anybody}"))] {
        let (wanted, settings) = load("", variables, file).unwrap();
        let text = config::text(&wanted, &settings);
        let (again, _) = load("", "", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again, wanted, "{text}");
        let closed = text.contains("[channels] is not set: names without a `:` are closed");
        assert_eq!(closed, file == chat, "{text}");
        assert_eq!(text.contains("every channel is open"), file.is_empty(), "{text}");
    }
}

#[test]
fn what_looks_odd_and_can_work_is_taken() {
    let keys = "FANFARE_TOKEN_SECRETS=a";
    let asks = "[channels]\nmay_subscribe = \"anonymous\"\npresence = true\njoin_leave = \"allow\"\n";
    for (flags, variables, file) in [
        // A token or the back end may say that its holder is told.
        ("", keys, asks.to_owned()),
        ("--api-keys k --internal-listen 127.0.0.1:9100", "", asks.to_owned()),
        ("", "", format!("{asks}may_read_presence = \"subscriber\"")),
        ("", keys, "[namespaces.a]\nname_pattern = \"a:.*\"\nuser_limited = true".to_owned()),
        ("--personal-channel a:#", keys, "[namespaces.a]\nname_pattern = \"a:#?[a-z]+\"".to_owned()),
        ("--personal-channel b:#", keys, "[namespaces.a]\nname_pattern = \"a:x\"\n[namespaces.b]".to_owned()),
    ] {
        let error = load(flags, variables, &file).err();
        assert_eq!(error, None, "{flags} {variables} {file}");
    }
}

#[test]
fn no_secret_is_passed_over_in_silence() {
    let secrets = |count: usize| vec!["secret until 2020-01-01"; count].join("\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets");
    for (listed, in_file, expected) in [
        (16, 0, None),
        (4, 12, None),
        (17, 0, Some("`token_secrets` (fanfare.toml line 1): expected at most 16 secrets in all, found 17")),
        (
            0,
            17,
            Some("`token_secrets_file` (fanfare.toml line 1): expected at most 16 secrets in all, found 17"),
        ),
        (
            4,
            13,
            Some(
                "`token_secrets` (fanfare.toml line 1) and `token_secrets_file` (fanfare.toml line 2): expected",
            ),
        ),
    ] {
        let mut file = String::new();
        if listed > 0 {
            file += &format!("token_secrets = {:?}\n", vec!["secret"; listed]);
        }
        if in_file > 0 {
            fs::write(&path, secrets(in_file)).unwrap();
            file += &format!("token_secrets_file = {:?}\n", path.display().to_string());
        }
        let error = load("", "", &file).err();
        assert_eq!(error.is_some(), expected.is_some(), "{listed} {in_file}: {error:?}");
        assert!(expected.is_none_or(|start| error.unwrap().starts_with(start)), "{listed} {in_file}");
    }
}

#[test]
fn a_subscription_token_names_a_channel() {
    for (name, is_good) in [("news", true), ("", false), (&*"a".repeat(256), false)] {
        let asked = command().try_get_matches_from(["fanfare", "token", "create", "--channel", name]);
        let line = asked.err().map(|error| usage_line(&error));
        assert_eq!(line.is_none(), is_good, "{name:?}: {line:?}");
        assert!(line.is_none_or(|line| line.contains("expected a channel's name")), "{name:?}");
    }
}

#[test]
fn tokens_are_asked_for_where_there_are_keys() {
    for (variables, asked) in [
        ("", false),
        ("FANFARE_TOKEN_SECRETS=a", true),
        ("FANFARE_TOKEN_JWKS=https://h/keys", true),
        ("FANFARE_TOKEN_SECRETS=a FANFARE_ALLOW_ANONYMOUS=true", false),
        ("FANFARE_TOKEN_SECRETS=a FANFARE_ALLOW_ANONYMOUS=", true),
        ("FANFARE_ALLOW_ANONYMOUS=true", false),
    ] {
        assert_eq!(!load("", variables, "").unwrap().0.allows_anonymous(), asked, "{variables}");
    }
}

#[test]
fn the_files_that_are_shipped_are_right() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
    let entries = fs::read_dir(deploy).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| [path.join("fanfare.toml"), path]);
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    let found = files.iter().filter(|path| path.is_file()).map(|path| {
        let read = load("", "FANFARE_REDIS=redis://127.0.0.1", &fs::read_to_string(path).unwrap());
        read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    });
    assert!(found.count() >= 1, "the example is one");
}

#[test]
fn config_says_where_values_came_from_and_masks_secrets() {
    let (config, settings) = load(
        "--workers 2",
        "FANFARE_REDIS=redis://app:hunter2@h/1 FANFARE_TOKEN_SECRETS=hunter2",
        "page = false",
    )
    .unwrap();
    let text = config::text(&config, &settings);
    assert!(!text.contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{text}");
    let squeezed: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "workers = 2 # --workers",
        "redis = \"redis://app:***@h/1\" # FANFARE_REDIS, masked",
        "token_secrets = [\"***\"] # FANFARE_TOKEN_SECRETS, masked",
        "idle_timeout = \"60s\" # default",
        "# internal_listen is not set (default)",
    ] {
        assert!(squeezed.iter().any(|printed| printed == line), "{line}\n{text}");
    }
}

#[test]
fn help_fits_a_terminal_and_names_everything() {
    command().debug_assert();
    narrow(&["fanfare"], &command());
    let help = command().render_help().to_string();
    for key in KEYS {
        assert!(help.contains(&format!("--{} ", key.flag())), "{}", key.name);
        assert!(help.contains(&format!("\n{}:\n", key.group)), "{}", key.group);
    }
    for command in command().get_subcommands() {
        assert!(help.contains(&format!("\n  {} ", command.get_name())), "{}", command.get_name());
    }
}

/// Holds the help of a command, and of all those below it, against the width of a terminal.
fn narrow(path: &[&str], command: &Command) {
    let asked = [path, &["--help"]].concat();
    let help = super::command().try_get_matches_from(asked).unwrap_err().to_string();
    // Clap breaks no usage line.
    for line in help.lines().filter(|line| !line.starts_with("Usage:")) {
        assert!(line.chars().count() <= 100, "{path:?}: {line}");
    }
    for command in command.get_subcommands() {
        narrow(&[path, &[command.get_name()]].concat(), command);
    }
}

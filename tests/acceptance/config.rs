//! The configuration from outside: layers, refusals and the commands around them.

use std::collections::BTreeSet;

use crate::harness::{Instance, eventually, refused_to_start, run_to_end};

#[tokio::test]
async fn what_is_wrong_is_one_line_that_names_it() {
    type Row<'a> = (Option<&'a str>, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    // (fanfare.toml, flags, variables, what the line must say)
    let rows: &[Row] = &[
        (Some("drain_windw = \"6s\""), &[], &[], &["drain_windw", "drain_window", "fanfare.toml"]),
        (Some("drain_window = true"), &[], &[], &["drain_window"]),
        (Some("drain_window = \"soon\""), &[], &[], &["drain_window", "soon"]),
        (Some("[limits]\nmessage_limit = 3"), &[], &[], &["limits", "flat"]),
        (
            Some("[channels]\nhistory_size = 9\nmay_publishh = \"client\""),
            &[],
            &[],
            &["may_publish", "line 3"],
        ),
        (Some("[namespaces.a]\nrecovery = \"force\""), &[], &[], &["namespaces.a.recovery", "history_size"]),
        (Some("[channels]\nmay_subscribe = \"client\""), &[], &[], &["may_subscribe", "token_secrets"]),
        (None, &["--token-public-keys", "/nonexistent"], &[], &["token_public_keys", "/nonexistent"]),
        (None, &[], &[("FANFARE_TOKEN_SECRETS", "hush until soon")], &["token_secrets", "until"]),
        (Some("workers = "), &[], &[], &["fanfare.toml", "line 1"]),
        (None, &[], &[("FANFARE_DRAIN_WINDO", "6s")], &["FANFARE_DRAIN_WINDO", "FANFARE_DRAIN_WINDOW"]),
        (None, &[], &[("FANFARE_WORKERS", "many")], &["workers", "many"]),
        (None, &["--ping-interval", "60s", "--idle-timeout", "30s"], &[], &["ping_interval", "idle_timeout"]),
        (None, &["--redis", "http://127.0.0.1"], &[], &["redis"]),
        (None, &["--proxy-protocol", "true"], &[], &["proxy_protocol", "trusted_proxies"]),
        (None, &["--config", "/nonexistent/fanfare.toml"], &[], &["/nonexistent/fanfare.toml"]),
    ];
    for (file, flags, variables, says) in rows {
        let (code, printed) = refused_to_start(*file, flags, variables).await;
        let row = format!("{file:?} {flags:?} {variables:?}: {printed}");
        assert_eq!(code, Some(2), "{row}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{row}");
        for word in *says {
            assert!(printed.contains(word), "{word:?} in {row}");
        }
    }
    let (code, printed) = refused_to_start(None, &["--drain-windw", "6s"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(printed.contains("--drain-window"), "{printed}");
}

/// To open a pipe is to wait for whoever writes into it, and a device may never end.
#[tokio::test]
async fn what_is_no_regular_file_is_said_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, directory) = (folder.path().join("pipe"), folder.path().display().to_string());
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.display().to_string();
    let rows = [(pipe.as_str(), "a pipe"), (&directory, "a directory"), ("/dev/zero", "a device")];
    for flag in ["--config", "--token-secrets-file", "--token-public-keys", "--tls-cert", "--tls-key"] {
        for (path, is) in rows {
            let other = match flag {
                "--tls-cert" => &["--tls-key", "/etc/hostname"][..],
                "--tls-key" => &["--tls-cert", "/etc/hostname"][..],
                _ => &[][..],
            };
            let (code, printed) = refused_to_start(None, &[&[flag, path], other].concat(), &[]).await;
            assert_eq!((code, printed.trim_end().lines().count()), (Some(2), 1), "{flag} {path}: {printed}");
            for word in [path, &format!("it is {is}; expected a regular file")] {
                assert!(printed.contains(word), "{flag} {path}: {printed}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_in_use_is_said() {
    let instance = Instance::start(&[]).await;
    let taken = instance.address().to_string();
    let (code, printed) = refused_to_start(None, &["--listen", &taken], &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains(&taken), "{printed}");
}

#[tokio::test]
async fn flags_win_over_variables_and_secrets_are_masked() {
    let variables = [
        ("FANFARE_TOKEN_SECRETS", "hush"),
        ("FANFARE_DRAIN_WINDOW", "7s"),
        ("FANFARE_REDIS", "redis://user:hush@127.0.0.1:6379/3"),
    ];
    let output =
        run_to_end(&["config", "--drain-window", "6s", "--message-limit", "512KiB"], &variables).await;
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("drain_window = \"6s\""), "{printed}");
    assert!(!printed.contains("hush") && printed.contains("127.0.0.1:6379"), "{printed}");
}

#[tokio::test]
async fn commands_for_people_and_containers() {
    let help = run_to_end(&["--help"], &[]).await;
    assert!(help.status.success());
    let printed = String::from_utf8(help.stdout).unwrap();
    for word in
        ["serve", "bench", "config", "healthcheck", "token", "--listen", "--redis", "[namespaces.NAME]"]
    {
        assert!(printed.contains(word), "{word} in {printed}");
    }
    let version = run_to_end(&["--version"], &[]).await;
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("fanfare "));

    let mut instance = Instance::start(&[]).await;
    let address = instance.address().to_string();
    let check = async || run_to_end(&["healthcheck"], &[("FANFARE_LISTEN", &address)]).await.status.success();
    assert!(check().await);
    instance.kill().await;
    assert!(!check().await);
}

#[tokio::test]
async fn each_worker_keeps_to_a_processor_where_there_is_one_for_each() {
    let mask = value(&std::fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed:");
    let allowed =
        mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum::<u32>() as usize;
    // Fewer, where CPU time is limited.
    let processors = std::thread::available_parallelism().unwrap().get();
    for (flags, pinned) in [
        (&[][..], processors == allowed && processors > 1),
        (&["--pin-workers", "false"], false),
        // One for all of them, and more of them than there are: the kernel knows better.
        (&["--workers", "1"], false),
        (&["--workers", "64"], allowed == 64),
    ] {
        let instance = Instance::start(flags).await;
        let kept_to = || -> BTreeSet<String> {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", instance.pid())).unwrap();
            let statuses =
                tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
            let workers = statuses.filter(|status| value(status, "Name:").starts_with("worker-"));
            workers.map(|status| value(&status, "Cpus_allowed_list:")).collect()
        };
        // A thread has its name, and its processor, a moment after it was started.
        let expected = if pinned { allowed } else { 1 };
        eventually(&format!("{flags:?}: {expected} places"), async || kept_to().len() == expected).await;
    }
}

#[tokio::test]
async fn there_is_room_for_many_open_files_before_anybody_comes() {
    let instance = Instance::start(&[]).await;
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", instance.pid())).unwrap();
    let limits = value(&of("limits"), "Max open files");
    let may: usize = limits.split_whitespace().next().unwrap().parse().unwrap();
    let room: usize = value(&of("status"), "FDSize:").parse().unwrap();
    // Who accepts the connection for which there is none would sleep for milliseconds, and its clients with it.
    assert!(room >= may.min(1 << 16), "{may} files may be opened, there is room for {room}");
}

/// What stands behind `name` in a file of `/proc`, or nothing.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

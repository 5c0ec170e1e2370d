//! Who a client is and what it may do: tokens by hand, tokens at the raw endpoints, and the rights of namespaces.

use std::path::PathBuf;
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Client, SECRET, Said, Setup, created, run_to_end, token};

/// A token that others have made: the example of <https://jwt.io>, and its secret.
const FOREIGN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.\
    SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
const FOREIGN_SECRET: &str = "your-256-bit-secret";

/// As well, by PyJWT with the key p521.pem.
const FOREIGN_ES512: &str = "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.\
    ATSxpYuC0yNjKm1gYQjlleZmgB0RfMUeTuYJODcLJeh9w4JS5_cddge_VSQzPoN-ggj5-faC24i3km8BDdvSTMANAU\
    3qvS4-OBSryKrM8J4natUx6b_S8l5txJL9RRNj_p2TN3H1e27r0NT93q-E6n0JmEWZTCV1VvDEJIfMtzIt5PJ1";

/// A file with a key that only the tests have.
pub fn key(name: &str) -> String {
    let file: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../crates/gateway/src/identity/testkeys", name].iter().collect();
    file.display().to_string()
}

fn printed(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_token_that_was_made_by_hand_is_valid_by_hand() {
    let secret = [("FANFARE_TOKEN_SECRETS", SECRET)];
    let strict =
        [("FANFARE_TOKEN_SECRETS", SECRET), ("FANFARE_TOKEN_AUDIENCE", "us"), ("FANFARE_TOKEN_ISSUER", "me")];
    let private = |file: &str| vec!["--private-key".to_owned(), key(file)];
    let public = |file: &str| key(file);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let [rsa, ec, long, ed] = ["rsa.pub.pem", "p384.pub.pem", "p521.pub.pem", "ed25519.pub.pem"].map(public);
    for (arguments, variables, says) in [
        (words(&["--user", "42"]), &secret[..], "a connection token of user \"42\""),
        (words(&[]), &secret, "of an anonymous client"),
        (words(&["--user", "42", "--expires-in", "0"]), &secret, "for ever"),
        (words(&["--user", "42", "--expires-in", "30m"]), &secret, "from now"),
        (
            words(&["--user", "42", "--claim", "expire_at=4102444800"]),
            &secret,
            "what it opens ends at 2100-01-01T00:00:00Z",
        ),
        (words(&["--user", "42", "--claim", "expire_at=0"]), &secret, "what it opens has no end"),
        (
            words(&["--channel", "$room", "--user", "42"]),
            &secret,
            "a subscription token for channel \"$room\"",
        ),
        (words(&["--user", "42", "--algorithm", "HS512"]), &secret, "\"HS512\""),
        (words(&["--info", r#"{"name":"Ann"}"#, "--claim", "channels=[\"news\"]"]), &secret, "\"news\""),
        (words(&["--user", "42"]), &strict, "\"aud\": \"us\""),
        (private("rsa.pem"), &[("FANFARE_TOKEN_PUBLIC_KEYS", rsa.as_str())], "\"RS256\""),
        (private("p384.pem"), &[("FANFARE_TOKEN_PUBLIC_KEYS", ec.as_str())], "\"ES384\""),
        (private("p521.pem"), &[("FANFARE_TOKEN_PUBLIC_KEYS", long.as_str())], "\"ES512\""),
        (
            [private("p521.sec1.pem"), words(&["--algorithm", "ES512"])].concat(),
            &[("FANFARE_TOKEN_PUBLIC_KEYS", long.as_str())],
            "\"ES512\"",
        ),
        (private("ed25519.pem"), &[("FANFARE_TOKEN_PUBLIC_KEYS", ed.as_str())], "\"EdDSA\""),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let token = created(&arguments, variables).await;
        let output = run_to_end(&["token", "check", &token], variables).await;
        let (said, complaint) = printed(&output);
        assert!(output.status.success() && complaint.is_empty(), "{arguments:?}: {said}{complaint}");
        assert!(said.contains("valid here: ") && said.contains(says), "{says:?} in {said}");
    }
    for (token, variable, says) in [
        (FOREIGN, ("FANFARE_TOKEN_SECRETS", FOREIGN_SECRET), "of user \"1234567890\", for ever"),
        (FOREIGN_ES512, ("FANFARE_TOKEN_PUBLIC_KEYS", long.as_str()), "of user \"42\", for ever"),
    ] {
        let output = run_to_end(&["token", "check", token], &[variable]).await;
        assert!(printed(&output).0.contains(says), "{output:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_valid_says_why() {
    let secret = [("FANFARE_TOKEN_SECRETS", SECRET)];
    let (public, other) = (key("rsa.pub.pem"), key("other.pem"));
    let keys = [("FANFARE_TOKEN_PUBLIC_KEYS", public.as_str())];
    let retired = format!("{SECRET} until 2020-01-01");
    let good = created(&["--user", "42"], &secret).await;
    let past = created(&["--claim", "exp=1000000000"], &secret).await;
    let future = created(&["--claim", "nbf=100000000000"], &secret).await;
    let room = created(&["--user", "42", "--channel", "$room"], &secret).await;
    let over = created(&["--user", "42", "--claim", "expire_at=1000000000"], &secret).await;
    let room_is_over = ["--user", "42", "--channel", "$room", "--claim", "expire_at=1000000000"];
    let room_is_over = created(&room_is_over, &secret).await;
    let negative = created(&["--claim", "exp=-5"], &secret).await;
    let null = created(&["--claim", "exp=null"], &secret).await;
    let foreign = created(&["--private-key", &other], &[]).await;
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    let strict = [secret[0], ("FANFARE_TOKEN_AUDIENCE", "us")];
    for (arguments, variables, code, reason) in [
        (&["nonsense"][..], &secret[..], 1, "malformed"),
        (&[&good[1..]], &secret, 1, "malformed"),
        (&[&unsigned], &secret, 1, "algorithm"),
        (&[&good], &keys, 1, "algorithm"),
        (&[&good], &[], 1, "no_keys"),
        (&[&good], &[("FANFARE_TOKEN_SECRETS", "another secret")], 1, "signature"),
        (&[&foreign], &keys, 1, "signature"),
        (&[&good], &[("FANFARE_TOKEN_SECRETS", retired.as_str())], 1, "retired_key"),
        (&[&past], &secret, 1, "expired"),
        (&[&future], &secret, 1, "not_yet_valid"),
        (&[&over], &secret, 1, "its `expire_at` has passed"),
        (&[&room_is_over], &secret, 1, "its `expire_at` has passed"),
        (&[&negative], &secret, 1, "(expired)"),
        (&[&null], &secret, 1, "`exp` and `nbf` are seconds since 1970, or are left out"),
        (&[&good], &strict, 1, "audience"),
        (&[&room, "--channel", "$other"], &secret, 1, "channel"),
        (&[&room, "--user", "7"], &secret, 1, "user"),
        (&[&good, "--channel", "$room"], &secret, 1, "kind"),
        (
            &[&good],
            &[("FANFARE_TOKEN_JWKS", "http://127.0.0.1:9/"), ("FANFARE_TOKEN_JWKS_TIMEOUT", "100ms")],
            1,
            "algorithm",
        ),
        (
            &[&foreign],
            &[("FANFARE_TOKEN_JWKS", "http://127.0.0.1:9/"), ("FANFARE_TOKEN_JWKS_TIMEOUT", "100ms")],
            1,
            "keys_unavailable",
        ),
        (&[&good], &[("FANFARE_TOKEN_SECRETS_FILE", "/nonexistent")], 2, "token_secrets_file"),
        (&[], &secret, 2, "TOKEN"),
    ] {
        let output = run_to_end(&[&["token", "check"], arguments].concat(), variables).await;
        let (_, complaint) = printed(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {variables:?}: {complaint}");
        let last = complaint.lines().last().unwrap_or_default();
        assert!(last.contains(reason), "{reason:?} in {complaint:?} of {arguments:?} {variables:?}");
        assert!(!complaint.contains(SECRET), "{complaint}");
    }
    for (arguments, says) in [
        (&["--user", "42"][..], "token_secrets"),
        (&["--private-key", "/nonexistent"], "/nonexistent"),
        (&["--private-key", &public], "private key"),
        (&["--private-key", &other, "--algorithm", "ES256"], "ES256"),
        (&["--private-key", &other, "--algorithm", "ES512"], "ES512"),
        (&["--algorithm", "ES512"], "--private-key"),
        (&["--algorithm", "none"], "none"),
        (&["--info", "{"], "JSON"),
        (&["--claim", "exp"], "name"),
        (&["--expires-in", "soon"], "duration"),
    ] {
        let output = run_to_end(&[&["token", "create"], arguments].concat(), &[]).await;
        let (_, complaint) = printed(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {complaint}");
        assert!(complaint.contains(says) && complaint.trim_end().lines().count() == 1, "{complaint}");
    }
}

/// Nor is another scheme than Bearer, as a proxy with a password of its own may hand it on.
#[tokio::test]
async fn without_keys_no_token_is_looked_at() {
    let instance = Setup::new("[channels]\nmay_subscribe = \"anonymous\"").start().await;
    for authorization in ["Basic YTpi", "Bearer nonsense", ""] {
        let url = format!("{}?token=nonsense", instance.url("lobby"));
        let outcome = Client::try_connect(&url, &[("Authorization", authorization)]).await;
        assert!(outcome.is_ok(), "{authorization}: {:?}", outcome.err());
    }
}

#[tokio::test]
async fn a_raw_endpoint_lets_in_whom_its_namespace_lets_in() {
    let instance = Setup::new(
        "
        allow_anonymous = true
        [channels]
        may_subscribe = \"client\"
        [namespaces.open]
        may_subscribe = \"anonymous\"
        name_pattern = \"open:[a-z]+\"
        [namespaces.closed]
        [namespaces.dialog]
        may_subscribe = \"token\"
        user_limited = true
        ",
    )
    .tokens()
    .start()
    .await;
    let user = token(&["--user", "42"]).await;
    let room = token(&["--user", "42", "--channel", "closed:a"]).await;
    let private = token(&["--channel", "$news"]).await;
    let given = token(&["--user", "7", "--claim", "channels=[\"closed:a\"]"]).await;
    let only = token(&["--channel", "closed:a", "--claim", "client=\"c1\""]).await;
    let past = token(&["--user", "42", "--claim", "exp=1000000000"]).await;
    for (channel, token, status) in [
        ("lobby", "", 403),
        ("lobby", &user, 101),
        ("lobby", &past, 401),
        ("lobby", "nonsense", 401),
        ("open:a", "", 101),
        ("open:a", "nonsense", 401),
        ("open:A", "", 400),
        ("unknown:a", "", 404),
        ("unknown:a", &user, 404),
        ("closed:a", "", 403),
        ("closed:a", &user, 403),
        ("closed:a", &room, 101),
        ("closed:a", &given, 101),
        ("closed:b", &given, 403),
        ("closed:a", &only, 401),
        ("closed:b", &room, 401),
        ("$news", &user, 403),
        ("$news", &private, 101),
        ("dialog:x%2342", &user, 101),
        ("dialog:x%237,42", &user, 101),
        ("dialog:x%237", &user, 403),
        ("dialog:x%2342", "", 403),
    ] {
        let url = instance.url(channel);
        // As browsers give it, and as programs do.
        let (query, header) = (format!("{url}?token={token}"), format!("Bearer {token}"));
        let tries = match token {
            "" => vec![Client::try_connect(&url, &[]).await],
            _ => vec![
                Client::try_connect(&query, &[]).await,
                Client::try_connect(&url, &[("Authorization", &header)]).await,
            ],
        };
        for outcome in tries {
            let (got, said) =
                outcome.map_or_else(|answer| (answer.status, answer.body), |_| (101, String::new()));
            assert_eq!(got, status, "{channel} {token}: {said}");
            assert!(!said.contains(SECRET), "{said}");
        }
    }
    for (reason, refused) in [("expired", 2.0), ("malformed", 4.0), ("channel", 2.0), ("client", 2.0)] {
        assert_eq!(
            instance.metric("fanfare_tokens_refused_total", &[("reason", reason)]).await,
            refused,
            "{reason}"
        );
    }
    for (reason, rejected) in [("token", 10.0), ("namespace", 3.0), ("channel_name", 1.0)] {
        assert_eq!(
            instance.metric("fanfare_handshakes_rejected_total", &[("reason", reason)]).await,
            rejected,
            "{reason}"
        );
    }
    let basic = Client::try_connect(&instance.url("open:a"), &[("Authorization", "Basic YTpi")]).await;
    assert_eq!(basic.err().map(|answer| answer.status), Some(401));
}

#[tokio::test]
async fn where_there_are_keys_a_token_is_a_must() {
    let instance = Setup::default().tokens().start().await;
    let answer = Client::try_connect(&instance.url("a:b"), &[]).await.err().expect("refused");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    let token = token(&[]).await;
    // Without a table every channel is open to whoever has one.
    let mut client = Client::connect(format!("{}?token={token}", instance.url("a:b"))).await;
    client.send("hello").await;
    assert_eq!(client.next().await, Said::from("hello"));
}

#[tokio::test]
async fn a_raw_connection_ends_with_its_token() {
    let instance = Setup::default().tokens().start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // Long enough to connect on a busy machine, and short enough to wait for.
    let brief = format!("expire_at={}", now + 10);
    let brief = token(&["--user", "42", "--claim", &brief]).await;
    let mut client = Client::connect(format!("{}?token={brief}", instance.url("a"))).await;
    client.send("hello").await;
    assert_eq!(client.next().await, Said::from("hello"));
    assert_eq!(client.closed().await, (1008, "token expired".to_owned()));
    assert_eq!(
        instance.metric("fanfare_connections_closed_total", &[("reason", "token_expired")]).await,
        1.0
    );
    let again = Client::try_connect(&format!("{}?token={brief}", instance.url("a")), &[]).await;
    assert_eq!(
        again.err().map(|answer| answer.status),
        Some(401),
        "what it opens is over, and so is the token"
    );
}

#[tokio::test]
async fn who_may_only_listen_is_closed_when_it_speaks() {
    let instance = Setup::new(
        "
        allow_anonymous = true
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"client\"
        [namespaces.silent]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        raw_publish = false
        [namespaces.json]
        may_subscribe = \"anonymous\"
        may_publish = \"subscriber\"
        data_format = \"json_object\"
        ",
    )
    .tokens()
    .start()
    .await;
    let token = token(&["--user", "42"]).await;
    for (channel, token, said, close) in [
        ("lobby", "", "hello", Some("not permitted")),
        ("lobby", &token, "hello", None),
        ("lobby", &token, "", None),
        ("silent:a", &token, "hello", Some("not permitted")),
        ("json:a", "", "{\"a\": 1}", None),
        ("json:a", "", "[1]", Some("wrong data format")),
        ("json:a", "", "hello", Some("wrong data format")),
        ("json:a", "", "", Some("wrong data format")),
    ] {
        let query = if token.is_empty() { String::new() } else { format!("?token={token}") };
        let mut listener = Client::connect(format!("{}{query}", instance.url(channel))).await;
        let mut speaker = Client::connect(format!("{}{query}", instance.url(channel))).await;
        speaker.send(said).await;
        match close {
            None => assert_eq!(listener.next().await, Said::from(said), "{channel} {said}"),
            Some(reason) => assert_eq!(speaker.closed().await, (1008, reason.to_owned()), "{channel} {said}"),
        }
    }
    for (reason, ended) in [("not_permitted", 2.0), ("wrong_format", 3.0)] {
        assert_eq!(
            instance.metric("fanfare_connections_closed_total", &[("reason", reason)]).await,
            ended,
            "{reason}"
        );
    }
}

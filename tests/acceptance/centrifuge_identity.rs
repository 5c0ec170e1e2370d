//! Who a client of the Centrifuge protocol is, and for how long: tokens of every wrong kind, what ends by itself, and
//! how it is told.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use crate::centrifuge::Fate::{Close, Error};
use crate::centrifuge::{fate, now, setup};
use crate::harness::{Caller, Client, Setup, created, eventually, request, token};
use crate::identity::key;

#[tokio::test]
async fn tokens_of_every_wrong_kind_are_refused_with_their_code() {
    let keys = "token_audience = [\"us\"]\ntoken_issuer = [\"our login\"]\nallow_anonymous_tokens = false";
    let instance = setup(keys).start().await;
    let (aud, iss) = (["--claim", "aud=\"us\""], ["--claim", "iss=\"our login\""]);
    // What is meant for others, and what others have made.
    let (other_aud, other_iss) = (["--claim", "aud=\"them\""], ["--claim", "iss=\"their login\""]);
    let misled = async |with: &[&'static str]| {
        let claims = [[iss, other_aud].concat(), [aud, other_iss].concat(), iss.to_vec(), aud.to_vec()];
        join_all(claims.map(async |claims| token(&[with, &claims].concat()).await)).await
    };
    let with = |more: &[&'static str]| {
        let mut arguments = [aud, iss].concat();
        arguments.extend(more);
        arguments
    };
    let (past, future) = (["--claim", "exp=1000000000"], ["--claim", "nbf=100000000000"]);
    let good = token(&with(&["--user", "42"])).await;
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none"}, and {"alg":"RS256"} with the signature of a secret.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let confused = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", parts[1], parts[2]);
    let foreign = created(&with(&["--user", "42"]), &[("FANFARE_TOKEN_SECRETS", "another secret")]).await;
    let room = token(&with(&["--user", "42", "--channel", "$room"])).await;
    let nowhere = token(&with(&["--user", "42", "--claim", "channels=[\"nowhere:a\"]"])).await;
    let over = token(&with(&["--user", "42", "--claim", "expire_at=1000000000"])).await;
    let mut rows = vec![
        ("".to_owned(), Close(3501)),
        ("nonsense".to_owned(), Close(3500)),
        (good[1..].to_owned(), Close(3500)),
        (format!("{good}x"), Close(3500)),
        (unsigned.clone(), Close(3500)),
        (confused.clone(), Close(3500)),
        (foreign.clone(), Close(3500)),
        (room.clone(), Close(3500)),
        (token(&with(&[])).await, Close(3507)),
        (token(&with(&[&["--user", "42"][..], &past].concat())).await, Error(109)),
        (token(&with(&[&["--user", "42"][..], &future].concat())).await, Error(109)),
        (over.clone(), Error(110)),
        (token(&with(&["--user", "42", "--claim", "exp=-5"])).await, Error(109)),
        (token(&with(&["--user", "42", "--claim", "exp=null"])).await, Close(3500)),
        (nowhere, Error(102)),
    ];
    rows.extend(misled(&["--user", "42"]).await.into_iter().map(|token| (token, Close(3500))));
    for (token, expected) in &rows {
        let mut caller = Caller::open(instance.address()).await;
        caller.ask("connect", json!({ "token": token })).await;
        assert_eq!(fate(&mut caller).await, *expected, "{token}");
        if let Error(_) = expected {
            // Whoever could not connect may do nothing else.
            caller.ask("connect", json!({ "token": good })).await;
            assert_eq!(fate(&mut caller).await, Close(3501));
        }
    }
    let connected = async || Caller::connect(instance.address(), json!({ "token": good })).await;
    let subscription = async |more: &[&'static str]| {
        token(&with(&[&["--user", "42", "--channel", "$room"][..], more].concat())).await
    };
    let other_user = token(&with(&["--user", "7", "--channel", "$room"])).await;
    let nobodys = token(&with(&["--channel", "$room"])).await;
    let other_channel = token(&with(&["--user", "42", "--channel", "$other"])).await;
    let only = subscription(&["--claim", "client=\"c1\""]).await;
    let misled = misled(&["--user", "42", "--channel", "$room"]).await;
    let rows = [
        ("", Error(103)),
        ("nonsense", Error(103)),
        (&unsigned, Error(103)),
        (&confused, Error(103)),
        (&good, Error(103)),
        (&subscription(&past).await, Error(109)),
        (&subscription(&future).await, Error(109)),
        (&subscription(&["--claim", "expire_at=1000000000"]).await, Error(110)),
        (&subscription(&["--claim", "exp=-5"]).await, Error(109)),
        (&subscription(&["--claim", "exp=null"]).await, Error(103)),
        (&other_user, Close(3500)),
        (&nobodys, Close(3500)),
        (&other_channel, Close(3500)),
        (&only, Close(3500)),
        (&misled[0], Error(103)),
        (&misled[1], Error(103)),
        (&misled[2], Error(103)),
        (&misled[3], Error(103)),
    ];
    for (token, expected) in &rows {
        let mut caller = connected().await;
        caller.ask("subscribe", json!({ "channel": "$room", "token": token })).await;
        assert_eq!(fate(&mut caller).await, *expected, "{token}");
    }
    let expired = token(&with(&[&["--user", "42"][..], &past].concat())).await;
    let other = token(&with(&["--user", "7"])).await;
    let more = token(&with(&["--user", "42", "--claim", "channels=[\"lobby\"]"])).await;
    for (token, code) in [
        ("", 3501),
        ("nonsense", 3500),
        (&unsigned, 3500),
        (&expired, 3005),
        (&over, 3005),
        (&other, 3500),
        (&more, 3010),
        (&room, 3500),
    ] {
        let mut caller = connected().await;
        let closed = caller.try_call("refresh", json!({ "token": token })).await.unwrap_err();
        assert_eq!(closed.0, code, "{token}");
    }
    let mut caller = connected().await;
    let refreshed = caller.result("refresh", json!({ "token": good })).await;
    assert_eq!((refreshed["client"].is_string(), &refreshed["expires"]), (true, &json!(true)));
    let expired = subscription(&past).await;
    let over = subscription(&["--claim", "expire_at=1000000000"]).await;
    for (token, code) in [
        ("nonsense", 3500),
        (&expired, 3006),
        (&over, 3006),
        (&other_user, 3500),
        (&other_channel, 3500),
        (&only, 3500),
        (&misled[0], 3500),
        (&misled[1], 3500),
        (&good, 3500),
    ] {
        let mut caller = connected().await;
        caller.result("subscribe", json!({ "channel": "$room", "token": room })).await;
        let refresh = json!({ "channel": "$room", "token": token });
        assert_eq!(caller.try_call("sub_refresh", refresh).await.unwrap_err().0, code, "{token}");
    }
    for (reason, refused) in [("expired", 6.0), ("expire_at", 4.0)] {
        let counted = instance.metric("fanfare_tokens_refused_total", &[("reason", reason)]).await;
        assert_eq!(counted, refused, "{reason}");
    }
    let mut caller = connected().await;
    caller.result("subscribe", json!({ "channel": "$room", "token": room })).await;
    let later = subscription(&["--expires-in", "1h"]).await;
    let refreshed = caller.result("sub_refresh", json!({ "channel": "$room", "token": later })).await;
    assert_eq!(refreshed["expires"], true);
    assert!((3590..=3600).contains(&refreshed["ttl"].as_u64().unwrap()), "{refreshed}");
}

#[tokio::test]
async fn who_does_not_say_who_it_is_or_does_not_answer_is_closed() {
    let instance = setup(
        "allow_anonymous = true\nhandshake_timeout = \"3s\"\nheader_timeout = \"3s\"\nclient_ping_interval = \"2s\"\nclient_pong_timeout = \"1900ms\"",
    ).start()
    .await;
    let mut silent = Caller::open(instance.address()).await;
    assert_eq!(silent.closed().await, (3502, "stale".to_owned()));
    let mut mute = Caller::open(instance.address()).await;
    mute.say(r#"{"id":1,"connect":{}}"#).await;
    let answer = mute.message().await.unwrap();
    assert_eq!(
        (answer["connect"]["ping"].as_u64(), answer["connect"]["pong"].as_bool()),
        (Some(2), Some(true))
    );
    assert_eq!(mute.socket().next().await.unwrap().payload, b"{}");
    assert_eq!(mute.closed().await, (3012, "no pong".to_owned()));
    // Who answers stays, and who answers twice has not listened.
    let mut caller = Caller::anonymous(instance.address()).await;
    for _ in 0..3 {
        assert_eq!(caller.socket().next().await.unwrap().payload, b"{}");
        caller.say("{}").await;
    }
    assert_eq!(caller.error("rpc", json!({})).await, 108);
    caller.say("{}").await;
    assert_eq!(caller.closed().await.0, 3501);
}

/// It waits for what was asked for behind it, whose token nobody can judge before the keys are there.
#[tokio::test]
async fn a_token_that_ends_before_its_subscription_is_made_is_to_be_renewed() {
    let keys = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let jwks =
        format!("token_jwks = \"http://{}/\"\ntoken_jwks_timeout = \"1m\"", keys.local_addr().unwrap());
    let instance = setup(&jwks).start().await;
    let (fetch, _) = keys.accept().await.unwrap();
    let mut caller =
        Caller::connect(instance.address(), json!({ "token": token(&["--user", "42"]).await })).await;
    let private = key("other.pem");
    let unknown = ["--user", "42", "--channel", "$b", "--private-key", &private, "--kid", "new"];
    let unknown = created(&unknown, &[]).await;
    let end = now() + 3;
    let brief = token(&["--user", "42", "--channel", "$a", "--claim", &format!("exp={end}")]).await;
    let ask = |id, channel, token| json!({ "id": id, "subscribe": { "channel": channel, "token": token } });
    caller.say(&format!("{}\n{}", ask(7, "$a", brief), ask(8, "$b", unknown))).await;
    eventually("the first one's time is over", async || now() >= end).await;
    drop((fetch, keys));
    for (id, code) in [(7, 109), (8, 100)] {
        let answer = caller.message().await.unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(code)), "{answer}");
    }
}

/// It may stay for as long as whoever says nothing, and is none of its user's connections meanwhile.
#[tokio::test]
async fn who_could_not_connect_takes_no_place_of_its_users() {
    let instance = setup("max_connections_per_user = 1").start().await;
    let token = token(&["--user", "42"]).await;
    let mut refused = Caller::open(instance.address()).await;
    let filter = json!({ "op": "unknown" });
    refused.ask("connect", json!({ "token": token, "subs": { "lobby": { "tf": filter } } })).await;
    assert_eq!(fate(&mut refused).await, Error(107));
    let mut one = Caller::open(instance.address()).await;
    one.result("connect", json!({ "token": token })).await;
    let mut more = Caller::open(instance.address()).await;
    more.ask("connect", json!({ "token": token })).await;
    assert_eq!(fate(&mut more).await, Close(3504));
}

/// A server of keys that hangs, also for longer than a client has to say who it is, turns nobody away for good.
#[tokio::test]
async fn who_waits_for_keys_is_told_to_come_again() {
    let keys = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let jwks =
        format!("token_jwks = \"http://{}/\"\ntoken_jwks_timeout = \"1m\"", keys.local_addr().unwrap());
    let instance = setup(&jwks).flags(&["--handshake-timeout", "3s", "--header-timeout", "3s"]).start().await;
    let _fetch = keys.accept().await.unwrap();
    let private = key("other.pem");
    let unknown = created(&["--user", "42", "--private-key", &private, "--kid", "new"], &[]).await;
    let mut waiting = Caller::open(instance.address()).await;
    waiting.ask("connect", json!({ "token": unknown })).await;
    let mut silent = Caller::open(instance.address()).await;
    assert_eq!(fate(&mut silent).await, Close(3502));
    assert_eq!(fate(&mut waiting).await, Error(100));
    assert_eq!(fate(&mut waiting).await, Close(3502), "it had its answer, and stays silent");
    let refused = [("reason", "keys_unavailable")];
    assert_eq!(instance.metric("fanfare_tokens_refused_total", &refused).await, 1.0);
}

#[tokio::test]
async fn what_is_not_refreshed_ends() {
    let instance = setup("allow_anonymous = true\nrefresh_grace = \"1s\"").api().start().await;
    let end = now() + 10;
    let (soon, user) = (format!("expire_at={end}"), ["--user", "42"]);
    let brief = token(&[&user[..], &["--claim", &soon]].concat()).await;
    let room = token(&[&user[..], &["--channel", "$room", "--claim", &soon]].concat()).await;
    let lasting = token(&user).await;
    let mut going = Caller::open(instance.address()).await;
    let connected = going.result("connect", json!({ "token": brief })).await;
    assert_eq!(connected["expires"], true);
    assert!((1..=10).contains(&connected["ttl"].as_u64().unwrap()), "{connected}");
    let mut staying = Caller::connect(instance.address(), json!({ "token": lasting })).await;
    let subscribed = staying.result("subscribe", json!({ "channel": "$room", "token": room })).await;
    assert_eq!(subscribed["expires"], true);
    // What the back end has made ends the connection: the client could not make it anew.
    let other = token(&["--user", "43"]).await;
    let mut led = Caller::connect(instance.address(), json!({ "token": other })).await;
    let wish = json!({ "user": "43", "channel": "$room", "expire_at": end });
    assert_eq!(instance.api("subscribe", &wish).await, json!({ "result": {} }));
    let (channel, kind, _) = led.push().await;
    assert_eq!((&*channel, &*kind), ("$room", "subscribe"));
    assert_eq!(going.closed().await, (3005, "connection expired".to_owned()));
    assert_eq!(led.closed().await, (3006, "subscription expired".to_owned()));
    let before = instance.cpu_time();
    let (channel, kind, event) = staying.push().await;
    assert_eq!((&*channel, &*kind, &event["code"]), ("$room", "unsubscribe", &json!(2501)));
    assert_eq!(staying.error("rpc", json!({})).await, 108, "the connection goes on");
    // It has not answered the close yet, and costs nothing until it is cut.
    going.socket().ended().await;
    let spent = instance.cpu_time().saturating_sub(before);
    assert!(spent < Duration::from_secs(2), "{spent:?}");
    assert_eq!(
        instance.metric("fanfare_connections_closed_total", &[("reason", "token_expired")]).await,
        1.0
    );
}

#[tokio::test]
async fn who_only_listens_says_who_it_is_and_nothing_else() {
    let instance = setup("").start().await;
    let path = "/connection/uni_websocket";
    // One user for each: who has been there lately is no news.
    type Encode = fn(&str) -> String;
    let escaped: Encode = |text| text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    // As a browser's URLSearchParams does it.
    let as_form: Encode = |text| text.replace('"', "%22").replace(' ', "+");
    for (by_query, user) in [(None, "42"), (Some(escaped), "43"), (Some(as_form), "44")] {
        let token = token(&["--user", user, "--claim", "channels=[\"lobby\",\"chat:a\"]"]).await;
        let greeting = format!(r#"{{ "token": "{token}" }}"#);
        let query = by_query.map_or_else(String::new, |encode| format!("?cf_connect={}", encode(&greeting)));
        let mut caller = Caller::open_at(instance.address(), &format!("{path}{query}"), &[]).await;
        if by_query.is_none() {
            caller.say(&greeting).await;
        }
        let connect = caller.message().await.unwrap();
        assert!(connect["connect"]["client"].is_string(), "{connect}");
        let subs: Vec<_> = connect["connect"]["subs"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(subs, ["chat:a", "lobby"]);
        // In `chat` it is told that it has come itself.
        let join = caller.message().await.unwrap();
        assert_eq!(join["join"]["info"]["user"], user, "{join}");
        let mut raw = Client::connect(format!("{}?token={token}", instance.url("lobby"))).await;
        for n in 0..3 {
            raw.send(format!("{n}").as_str()).await;
        }
        for n in 0..3 {
            let push = caller.message().await.unwrap();
            assert_eq!(push, json!({ "channel": "lobby", "pub": { "data": n } }));
        }
        caller.say(&greeting).await;
        assert_eq!(caller.closed().await.0, 3501);
    }
    // There is nobody to answer, so an error ends it.
    let expired = token(&["--claim", "exp=1000000000"]).await;
    let nowhere = token(&["--user", "42", "--claim", "channels=[\"nowhere:a\"]"]).await;
    for (greeting, code) in [
        (json!({ "token": expired }).to_string(), 3005),
        (json!({ "token": nowhere }).to_string(), 3004),
        (json!({ "token": "nonsense" }).to_string(), 3500),
        ("{}".to_owned(), 3501),
        ("[]".to_owned(), 3501),
        (String::new(), 3501),
    ] {
        let mut caller = Caller::open_at(instance.address(), path, &[]).await;
        caller.say(&greeting).await;
        assert_eq!(caller.closed().await.0, code, "{greeting}");
    }
}

#[tokio::test]
async fn every_end_is_said_in_the_protocols_own_codes() {
    let keys = "allow_anonymous = true\nmessage_rate = 20\nmessage_burst = 20\noutbox_limit = \"128KiB\"\n\
        drain_delay = \"0s\"\ndrain_window = \"0s\"\ninternal_listen = \"127.0.0.1:0\"";
    let mut instance = setup(keys).start().await;
    let mut hasty = Caller::anonymous(instance.address()).await;
    for _ in 0..60 {
        hasty.ask("rpc", json!({})).await;
    }
    assert_eq!(hasty.closed().await, (3013, "too many requests".to_owned()));
    let mut kicked = Caller::open(instance.address()).await;
    let connected = kicked.result("connect", json!({})).await;
    let path = format!("/connections/{}", connected["client"].as_str().unwrap());
    let answer = request(instance.internal_address(), "DELETE", &path, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(kicked.closed().await, (3503, "force disconnect".to_owned()));
    // Whoever does not read is cut at its bound; nobody waits for it.
    let mut slow = Caller::anonymous(instance.address()).await;
    slow.result("subscribe", json!({ "channel": "flood" })).await;
    let text = format!("\"{}\"", "x".repeat(60_000));
    let is_cut = async || {
        let mut flood = Client::connect(format!("{}?echo=false", instance.url("flood"))).await;
        for _ in 0..15 {
            flood.send(text.as_str()).await;
        }
        flood.close().await;
        instance.metric("fanfare_slow_consumers_total", &[]).await == 1.0
    };
    eventually("the slow one is cut", is_cut).await;
    assert_eq!(slow.closed().await, (3008, "slow".to_owned()));
    let mut staying = Caller::anonymous(instance.address()).await;
    instance.signal("TERM").await;
    assert_eq!(staying.closed().await, (3001, "shutdown".to_owned()));
    drop(staying);
    assert!(instance.ended().await.success());
}

#[tokio::test]
async fn a_users_own_channel_is_its_own_whatever_its_name() {
    let tables = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        user_limited = true
        [namespaces.chat]
    ";
    let instance = Setup::new(tables).tokens().keys("personal_channel = \"#\"").start().await;
    let bob = json!({ "token": token(&["--user", "bob"]).await });
    let mut bob = Caller::connect(instance.address(), bob).await;
    for owner in ["ann,bob", "x#bob", "urn:1", "jürgen", "ann"] {
        let channel = format!("#{owner}");
        let mut caller = Caller::open(instance.address()).await;
        let welcome = caller.result("connect", json!({ "token": token(&["--user", owner]).await })).await;
        let subs: Vec<&String> = welcome["subs"].as_object().unwrap().keys().collect();
        assert_eq!(subs, [&channel]);
        if channel.is_ascii() {
            assert_eq!(bob.error("subscribe", json!({ "channel": channel })).await, 103, "{channel}");
            assert_eq!(
                bob.error("publish", json!({ "channel": channel, "data": 1 })).await,
                103,
                "{channel}"
            );
            caller.result("publish", json!({ "channel": channel, "data": 1 })).await;
            assert_eq!(caller.publication().await, 1);
        }
        let url = instance.url(&channel.replace('#', "%23"));
        let listener =
            Client::try_connect(&format!("{url}?token={}", token(&["--user", "bob"]).await), &[]).await;
        assert_eq!(listener.err().map(|answer| answer.status), Some(403), "{channel}");
    }
    // Nothing can be called that; the user comes in all the same.
    let long = "u".repeat(300);
    let mut caller = Caller::open(instance.address()).await;
    let welcome = caller.result("connect", json!({ "token": token(&["--user", &long]).await })).await;
    assert!(welcome["subs"].is_null(), "{welcome}");
}

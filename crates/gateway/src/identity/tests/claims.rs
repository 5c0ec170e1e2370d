//! What a token claims, and what it opens.

use super::*;

#[tokio::test]
async fn a_connection_token_is_held_against_its_claims() {
    let plain: &[(&str, &str)] = &[];
    let strict: &[(&str, &str)] = &[("token_audience", "us,them"), ("token_issuer", "login")];
    let lenient: &[(&str, &str)] = &[("token_leeway", "1m")];
    let named: &[(&str, &str)] = &[("allow_anonymous_tokens", "false")];
    let now = now();
    for (flags, claims, expected) in [
        (plain, json!({}), "good"),
        (plain, json!({"sub": "42", "exp": now + 60, "nbf": now - 60, "iat": now}), "good"),
        (plain, json!({"sub": "42", "exp": now as f64 + 60.5}), "good"),
        (plain, json!({"sub": "42", "exp": now - 1}), "expired"),
        (plain, json!({"sub": "42", "exp": now}), "expired"),
        (plain, json!({"sub": "42", "exp": now, "expire_at": now + 60}), "expired"),
        (plain, json!({"sub": "42", "exp": now + 60, "expire_at": now}), "expire_at"),
        (plain, json!({"sub": "42", "expire_at": 0.5}), "expire_at"),
        (plain, json!({"sub": "42", "exp": now - 1, "expire_at": now - 1}), "expired"),
        (plain, json!({"sub": "42", "nbf": now + 60, "expire_at": now - 1}), "not_yet_valid"),
        (plain, json!({"sub": "42", "exp": 0}), "expired"),
        (plain, json!({"sub": "42", "exp": -5}), "expired"),
        (plain, json!({"sub": "42", "exp": -0.5}), "expired"),
        (plain, json!({"sub": "42", "exp": -1e300}), "expired"),
        (plain, json!({"sub": "42", "exp": 1e300}), "good"),
        (plain, json!({"sub": "42", "exp": null}), "malformed"),
        (plain, json!({"sub": "42", "exp": "tomorrow"}), "malformed"),
        (plain, json!({"sub": "42", "exp": true}), "malformed"),
        (plain, json!({"sub": "42", "exp": [now + 60]}), "malformed"),
        (plain, json!({"sub": "42", "nbf": -5}), "good"),
        (plain, json!({"sub": "42", "nbf": 1e300}), "not_yet_valid"),
        (plain, json!({"sub": "42", "nbf": null}), "malformed"),
        (plain, json!({"sub": "42", "nbf": now + 60}), "not_yet_valid"),
        (plain, json!({"sub": "42", "nbf": "x"}), "malformed"),
        (plain, json!({"sub": "42", "exp": now - 1, "nbf": now + 60}), "expired"),
        (lenient, json!({"sub": "42", "exp": now - 30}), "good"),
        (lenient, json!({"sub": "42", "exp": now - 90}), "expired"),
        (lenient, json!({"sub": "42", "exp": now - 60}), "expired"),
        (lenient, json!({"sub": "42", "nbf": now + 30}), "good"),
        (lenient, json!({"sub": "42", "nbf": now + 90}), "not_yet_valid"),
        (plain, json!({"aud": "whoever", "iss": "whoever"}), "good"),
        (strict, json!({"aud": "us", "iss": "login"}), "good"),
        (strict, json!({"aud": ["you", "them"], "iss": "login"}), "good"),
        (strict, json!({"aud": "you", "iss": "login"}), "audience"),
        (strict, json!({"aud": ["you"], "iss": "login"}), "audience"),
        (strict, json!({"aud": [], "iss": "login"}), "audience"),
        (strict, json!({"aud": 7, "iss": "login"}), "audience"),
        (strict, json!({"iss": "login"}), "audience"),
        (strict, json!({"aud": "us", "iss": "elsewhere"}), "issuer"),
        (strict, json!({"aud": "us"}), "issuer"),
        (named, json!({}), "anonymous"),
        (named, json!({"sub": ""}), "anonymous"),
        (named, json!({"sub": "42"}), "good"),
        (plain, json!({"sub": 42}), "malformed"),
        (plain, json!({"sub": null}), "good"),
        (plain, json!({"sub": "42", "channel": "news"}), "kind"),
        (plain, json!({"sub": "42", "channel": ""}), "good"),
        (plain, json!({"channels": "news"}), "malformed"),
        (plain, json!({"channels": [""]}), "malformed"),
        (plain, json!({"channels": ["x".repeat(256)]}), "malformed"),
        (plain, json!({"subs": {"": {}}}), "malformed"),
        (plain, json!({"subs": {"news": 1}}), "malformed"),
        (plain, json!({"subs": {"news": {"override": {"presence": true}}}}), "malformed"),
        (plain, json!({"b64info": "not base64"}), "malformed"),
        (plain, json!([]), "malformed"),
        (plain, json!("42"), "malformed"),
    ] {
        let verifier = verifier(&[&[("token_secrets", SECRET)], flags].concat());
        let outcome = verifier.connection(&ordinary(&claims)).await;
        assert_eq!(label(&outcome), expected, "{flags:?} {claims}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_subscription_token_opens_one_channel_to_one_user() {
    let (now, verifier) = (now(), verifier(&[("token_secrets", SECRET)]));
    for (claims, expected) in [
        (json!({"sub": "42", "channel": "$room"}), "good"),
        (json!({"sub": "42", "channel": "$room", "client": "c1", "exp": now + 60}), "good"),
        (json!({"sub": "42", "channel": "$room", "client": ""}), "good"),
        (json!({"sub": "42", "channel": "$other"}), "channel"),
        (json!({"sub": "42", "channel": "$room2"}), "channel"),
        (json!({"sub": "7", "channel": "$room"}), "user"),
        (json!({"channel": "$room"}), "user"),
        (json!({"sub": "", "channel": "$room"}), "user"),
        (json!({"sub": "42", "channel": "$room", "client": "c2"}), "client"),
        (json!({"sub": "42", "channel": "$room", "exp": now - 1}), "expired"),
        (json!({"sub": "42", "channel": "$room", "exp": -5}), "expired"),
        (json!({"sub": "42", "channel": "$room", "exp": null}), "malformed"),
        (json!({"sub": "42", "channel": "$room", "expire_at": now}), "expire_at"),
        (json!({"sub": "42"}), "kind"),
        (json!({"sub": "42", "channel": ""}), "kind"),
        (json!({"sub": "42", "channel": 7}), "malformed"),
        (json!({"sub": "42", "channel": "x".repeat(256)}), "malformed"),
    ] {
        let (room, user) = (Channel::new("$room").unwrap(), User::new("42"));
        let outcome = verifier.subscription(&ordinary(&claims), &room, &user, "c1").await;
        assert_eq!(label(&outcome), expected, "{claims}: {outcome:?}");
    }
    let (room, nobody) = (Channel::new("$room").unwrap(), User::anonymous());
    let open = ordinary(&json!({"channel": "$room"}));
    assert!(verifier.subscription(&open, &room, &nobody, "c1").await.is_ok(), "anonymous for anonymous");
}

#[tokio::test]
async fn whoever_joins_one_channel_with_a_token_is_its_user() {
    let open: &[(&str, &str)] = &[];
    let named: &[(&str, &str)] = &[("allow_anonymous_tokens", "false")];
    let either: &[(&str, &str)] = &[("allow_anonymous_tokens", "false"), ("allow_anonymous", "true")];
    for (flags, claims, expected) in [
        (open, json!({"channel": "$room"}), "good"),
        (open, json!({"sub": "42", "channel": "$room"}), "good"),
        (open, json!({"sub": "42", "channel": "$other"}), "channel"),
        (open, json!({"sub": "42", "channel": "$room", "client": "c1"}), "client"),
        (open, json!({"sub": "42", "channel": "$room", "expire_at": 1}), "expire_at"),
        (open, json!({"sub": "42", "channels": ["$room"]}), "good"),
        (named, json!({"channels": ["$room"]}), "anonymous"),
        (named, json!({"channel": "$room"}), "anonymous"),
        (named, json!({"sub": "42", "channel": "$room"}), "good"),
        // Who may come in without a token is nobody in particular, too.
        (either, json!({"channel": "$room"}), "good"),
    ] {
        let verifier = verifier(&[&[("token_secrets", SECRET)], flags].concat());
        let outcome = verifier.admission(&ordinary(&claims), &Channel::new("$room").unwrap()).await;
        assert_eq!(label(&outcome), expected, "{flags:?} {claims}: {outcome:?}");
        assert!(outcome.is_err() || outcome.unwrap().granted, "{claims}");
    }
}

#[tokio::test]
async fn a_refreshed_connection_stays_its_users() {
    let verifier = verifier(&[("token_secrets", SECRET)]);
    for (claims, expected) in [
        (json!({"sub": "42"}), "good"),
        (json!({"sub": "7"}), "user"),
        (json!({}), "user"),
        (json!({"sub": "42", "exp": 1}), "expired"),
        (json!({"sub": "42", "expire_at": 1}), "expire_at"),
    ] {
        let outcome = verifier.refreshed(&ordinary(&claims), &User::new("42")).await;
        assert_eq!(label(&outcome), expected, "{claims}");
    }
}

#[tokio::test]
async fn every_claim_arrives_where_it_belongs() {
    let verifier = verifier(&[("token_secrets", SECRET), ("token_leeway", "1m")]);
    let later = now() + 1000;
    let identity = verifier
        .connection(&ordinary(&json!({
            "sub": "42", "exp": later, "jti": "t1", "info": {"name": "Ann\nB", "n": [1, 2]}, "meta": {"k": 1},
            "channels": ["ignored"],
            "subs": {
                "news": {},
                "$room": {
                    "info": {"a": 1}, "b64info": "AAE=", "data": "hello", "override": {
                        "presence": {"value": false}, "force_recovery": {"value": true},
                    },
                },
            },
        })))
        .await
        .unwrap();
    let room = Grant {
        // Base64 wins.
        info: Some(Bytes::from_static(&[0, 1])),
        data: Some(Bytes::from_static(b"\"hello\"")),
        expiry: None,
        overrides: Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() },
    };
    let channel = |name| Channel::new(name).unwrap();
    let expected = Identity {
        user: User::new("42"),
        info: Some(Bytes::from_static(br#"{"n":[1,2],"name":"Ann\nB"}"#)),
        expiry: Some(Expiry(later + 60)),
        subs: BTreeMap::from([(channel("news"), Grant::default()), (channel("$room"), room)]),
        meta: Some(Bytes::from_static(br#"{"k":1}"#)),
        token: Some("t1".to_owned()),
    };
    assert_eq!(identity, expected);

    let only = verifier.connection(&ordinary(&json!({"channels": ["a", "b"], "subs": {}}))).await.unwrap();
    assert_eq!(only.subs.keys().map(Channel::as_str).collect::<Vec<_>>(), ["a", "b"]);
    let (room, user) = (channel("$room"), User::new("42"));
    let grant = verifier
        .subscription(
            &ordinary(&json!({
                "sub": "42", "channel": "$room", "info": {"x": 1}, "data": [1], "b64data": "AA==", "expire_at": later,
                "override": {"join_leave": {"value": true}, "force_push_join_leave": {"value": true},
                    "force_positioning": {"value": true}},
            })),
            &room,
            &user,
            "c1",
        )
        .await
        .unwrap();
    let overrides = Overrides {
        join_leave: Some(true),
        force_push_join_leave: Some(true),
        force_positioning: Some(true),
        ..Overrides::default()
    };
    let (info, data) = (Some(Bytes::from_static(br#"{"x":1}"#)), Some(Bytes::from_static(&[0])));
    assert_eq!(grant, Grant { info, data, expiry: Some(Expiry(later)), overrides });
}

#[tokio::test]
async fn when_to_refresh_is_said_by_one_claim_or_the_other() {
    let (verifier, now) = (verifier(&[("token_secrets", SECRET)]), now());
    for (claims, expected) in [
        (json!({}), None),
        (json!({"exp": now + 60}), Some(now + 60)),
        (json!({"exp": now + 60, "expire_at": now + 600}), Some(now + 600)),
        (json!({"exp": now + 60, "expire_at": 0}), None),
        (json!({"exp": now + 60, "expire_at": -1}), None),
        (json!({"expire_at": now + 600}), Some(now + 600)),
        (json!({"expire_at": 1e300}), Some(u64::MAX)),
    ] {
        let identity = verifier.connection(&ordinary(&claims)).await.unwrap();
        assert_eq!(identity.expiry, expected.map(Expiry), "{claims}");
    }
    assert_eq!(Expiry(now.saturating_sub(1)).seconds_left(), None);
    assert_eq!(Expiry(u64::MAX).seconds_left(), Some(365 * 86_400));
    assert!(Expiry(now + 100).seconds_left().is_some_and(|left| (99..=100).contains(&left)));
    assert_eq!(Expiry(1_798_675_200).to_string(), "2026-12-31T00:00:00Z");
}

#[test]
fn whoever_has_no_token_is_nobody_or_not_let_in() {
    for (flags, let_in) in [
        (&[] as &[(&str, &str)], true),
        (&[("token_secrets", SECRET)], false),
        (&[("token_secrets", SECRET), ("allow_anonymous", "true")], true),
    ] {
        let identity = verifier(flags).without_token();
        assert_eq!(identity.is_some(), let_in, "{flags:?}");
        assert!(identity.is_none_or(|identity| identity.user.is_anonymous()));
    }
}

//! Tokens of every wrong kind, and of every right one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_protocol::Channel;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::sign;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::config::tokens::PublicKeyFile;
use crate::config::value::Value;
use crate::config::{Config, Key, Sources};

const SECRET: &str = "only for tests and long enough to be one";

pub(super) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/identity/testkeys", name].iter().collect()
}

pub(super) fn pem(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// A verifier of a configuration whose flags these are, as `name value`.
pub(super) fn verifier(flags: &[(&str, &str)]) -> Verifier {
    let flags = flags.iter().map(|(name, value)| (Key::named(name).unwrap(), (*value).to_owned())).collect();
    // A directory without a file, so that none is read.
    let sources = Sources { flags, directory: path(""), ..Sources::default() };
    Verifier::new(&Config::load(sources).unwrap().0)
}

/// What makes the signature of a token, whatever its header says.
pub(super) enum By<'a> {
    Nothing,
    Hmac(Algorithm, &'a [u8]),
    Pem(Algorithm, &'a str),
}

pub(super) fn token(header: &Json, claims: &Json, by: &By) -> String {
    provider::install();
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = match by {
        By::Nothing => String::new(),
        By::Hmac(algorithm, secret) => {
            sign(message.as_bytes(), &EncodingKey::from_secret(secret), *algorithm).unwrap()
        }
        By::Pem(algorithm, file) => {
            let pem = pem(file);
            let key = match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
                Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
                _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
            };
            sign(message.as_bytes(), &key.unwrap(), *algorithm).unwrap()
        }
    };
    format!("{message}.{signature}")
}

/// An ordinary token, signed with the ordinary secret.
fn ordinary(claims: &Json) -> String {
    token(&json!({"alg": "HS256", "typ": "JWT"}), claims, &By::Hmac(Algorithm::HS256, SECRET.as_bytes()))
}

fn label<T>(outcome: &Result<T, TokenFault>) -> &'static str {
    outcome.as_ref().map_or_else(TokenFault::label, |_| "good")
}

#[tokio::test]
async fn a_token_is_believed_if_one_of_our_keys_made_it() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
    let files = ["rsa.pub.pem", "p256.pub.pem", "p384.pub.pem", "ed25519.pub.pem"];
    let all: Vec<_> = files.iter().map(|file| path(file).display().to_string()).collect();
    let (all, rsa) = (all.join(","), path("rsa.pub.pem").display().to_string());
    let (cert, ec_cert) =
        (path("rsa.crt.pem").display().to_string(), path("p256.crt.pem").display().to_string());
    let pkcs1 = path("rsa.pkcs1.pub.pem").display().to_string();
    let rotating = format!("{SECRET} until 2020-01-01,a new one that is long enough to be one");
    let both = format!("a new one that is long enough to be one,{SECRET} until 2100-01-01");
    let (secret, public, other) =
        (SECRET.as_bytes(), pem("rsa.pub.pem"), b"another secret that is long enough".as_slice());
    let der = path_der("rsa.pub.pem");
    let secrets = ("token_secrets", SECRET);
    let keys = ("token_public_keys", all.as_str());
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, By<'a>, &'a str);
    let rows: &[Row] = &[
        // Every algorithm, with the key that it is for.
        (&[secrets], "HS256", By::Hmac(HS256, secret), "good"),
        (&[secrets], "HS384", By::Hmac(HS384, secret), "good"),
        (&[secrets], "HS512", By::Hmac(HS512, secret), "good"),
        (&[keys], "RS256", By::Pem(RS256, "rsa.pem"), "good"),
        (&[keys], "RS384", By::Pem(RS384, "rsa.pem"), "good"),
        (&[keys], "RS512", By::Pem(RS512, "rsa.pem"), "good"),
        (&[keys], "ES256", By::Pem(ES256, "p256.pem"), "good"),
        (&[keys], "ES384", By::Pem(ES384, "p384.pem"), "good"),
        (&[keys], "EdDSA", By::Pem(EdDSA, "ed25519.pem"), "good"),
        (&[("token_public_keys", &cert)], "RS256", By::Pem(RS256, "rsa.pem"), "good"),
        (&[("token_public_keys", &ec_cert)], "ES256", By::Pem(ES256, "p256.pem"), "good"),
        (&[("token_public_keys", &pkcs1)], "RS256", By::Pem(RS256, "rsa.pem"), "good"),
        // None, and none that anybody has.
        (&[secrets], "none", By::Nothing, "algorithm"),
        (&[secrets], "None", By::Nothing, "algorithm"),
        (&[secrets], "none", By::Hmac(HS256, secret), "algorithm"),
        (&[secrets], "", By::Hmac(HS256, secret), "algorithm"),
        (&[secrets], "hs256", By::Hmac(HS256, secret), "algorithm"),
        (&[secrets], "HS256", By::Nothing, "signature"),
        (&[keys], "RS256", By::Nothing, "signature"),
        (&[keys], "ES256", By::Nothing, "signature"),
        (&[keys], "ES512", By::Nothing, "algorithm"),
        (&[keys], "PS256", By::Nothing, "algorithm"),
        // Another secret or key.
        (&[secrets], "HS256", By::Hmac(HS256, other), "signature"),
        (&[secrets], "HS256", By::Hmac(HS384, secret), "signature"),
        (&[keys], "RS256", By::Pem(RS256, "other.pem"), "signature"),
        (&[keys], "RS256", By::Pem(RS512, "rsa.pem"), "signature"),
        // Key confusion: what everybody can read is no secret, and what a token says of itself is no reason.
        (&[("token_public_keys", &rsa)], "HS256", By::Hmac(HS256, public.as_bytes()), "algorithm"),
        (&[("token_public_keys", &rsa)], "HS256", By::Hmac(HS256, public.trim_end().as_bytes()), "algorithm"),
        (&[("token_public_keys", &rsa)], "HS256", By::Hmac(HS256, &der), "algorithm"),
        (&[("token_public_keys", &rsa)], "RS256", By::Hmac(HS256, public.as_bytes()), "signature"),
        (&[secrets, keys], "HS256", By::Hmac(HS256, public.as_bytes()), "signature"),
        (&[("token_public_keys", &rsa)], "ES256", By::Pem(ES256, "p256.pem"), "algorithm"),
        (&[keys], "ES384", By::Pem(ES256, "p256.pem"), "signature"),
        (&[keys], "RS256", By::Pem(ES256, "p256.pem"), "signature"),
        (&[secrets], "RS256", By::Hmac(HS256, secret), "algorithm"),
        // Rotation.
        (&[("token_secrets", &rotating)], "HS256", By::Hmac(HS256, secret), "retired_key"),
        (&[("token_secrets", &both)], "HS256", By::Hmac(HS256, secret), "good"),
        (
            &[("token_secrets", &both)],
            "HS256",
            By::Hmac(HS256, b"a new one that is long enough to be one"),
            "good",
        ),
        (&[], "HS256", By::Hmac(HS256, secret), "no_keys"),
    ];
    for (flags, alg, by, expected) in rows {
        let made = token(&json!({"alg": alg, "typ": "JWT"}), &json!({"sub": "42"}), by);
        let verifier = verifier(flags);
        let outcome = verifier.connection(&made).await;
        assert_eq!(label(&outcome), *expected, "{flags:?} {alg}: {outcome:?}");
        let counted = verifier.refused().find(|(reason, _)| reason == expected);
        assert_eq!(counted.map(|(_, count)| count), (*expected != "good").then_some(1), "{expected}");
    }
}

/// The bytes between the lines of a PEM file.
fn path_der(name: &str) -> Vec<u8> {
    let body: String = pem(name).lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

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
        (plain, json!({"sub": "42", "exp": 0}), "expired"),
        (plain, json!({"sub": "42", "exp": -5}), "malformed"),
        (plain, json!({"sub": "42", "exp": "tomorrow"}), "malformed"),
        (plain, json!({"sub": "42", "nbf": now + 60}), "not_yet_valid"),
        (plain, json!({"sub": "42", "nbf": "x"}), "malformed"),
        (plain, json!({"sub": "42", "exp": now - 1, "nbf": now + 60}), "expired"),
        (lenient, json!({"sub": "42", "exp": now - 30}), "good"),
        (lenient, json!({"sub": "42", "exp": now - 90}), "expired"),
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
async fn a_header_says_nothing_that_is_not_understood() {
    let verifier = verifier(&[("token_secrets", SECRET)]);
    for (header, expected) in [
        (json!({"alg": "HS256"}), "good"),
        (json!({"alg": "HS256", "typ": "jwt", "kid": "any"}), "good"),
        (json!({"alg": "HS256", "typ": "at+jwt"}), "type"),
        (json!({"alg": "HS256", "typ": "JWE"}), "type"),
        (json!({"alg": "HS256", "typ": ""}), "type"),
        (json!({"alg": "HS256", "typ": 7}), "malformed"),
        (json!({"alg": "HS256", "crit": ["b64"], "b64": false}), "critical"),
        (json!({"alg": "HS256", "crit": []}), "critical"),
        (json!({"alg": 7}), "malformed"),
        (json!({"alg": ["HS256"]}), "malformed"),
        (json!({"typ": "JWT"}), "malformed"),
        (json!([]), "malformed"),
    ] {
        let made = token(&header, &json!({"sub": "42"}), &By::Hmac(Algorithm::HS256, SECRET.as_bytes()));
        assert_eq!(label(&verifier.connection(&made).await), expected, "{header}");
    }
    let good = ordinary(&json!({"sub": "42"}));
    let (header, rest) = good.split_once('.').unwrap();
    let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","alg":"none"}"#);
    for broken in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        format!("{good}.more"),
        format!(" {good}"),
        format!("{good}="),
        format!("é{good}"),
        format!("{twice}.{rest}"),
        good.replace('.', " "),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(label(&verifier.connection(&broken).await), "malformed", "{broken}");
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
async fn a_refreshed_connection_stays_its_users() {
    let verifier = verifier(&[("token_secrets", SECRET)]);
    for (claims, expected) in [
        (json!({"sub": "42"}), "good"),
        (json!({"sub": "7"}), "user"),
        (json!({}), "user"),
        (json!({"sub": "42", "exp": 1}), "expired"),
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
        (json!({"expire_at": now - 600}), Some(now - 600)),
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
fn every_fault_has_a_place_and_answers() {
    let faults = [
        TokenFault::Malformed(String::new()),
        TokenFault::Type,
        TokenFault::Critical,
        TokenFault::Algorithm(String::new()),
        TokenFault::NoKeys,
        TokenFault::UnknownKey,
        TokenFault::KeysUnavailable,
        TokenFault::RetiredKey,
        TokenFault::Signature,
        TokenFault::Expired,
        TokenFault::NotYetValid,
        TokenFault::Audience,
        TokenFault::Issuer,
        TokenFault::Kind(""),
        TokenFault::Anonymous,
        TokenFault::Channel,
        TokenFault::User,
        TokenFault::Client,
    ];
    assert!(faults.iter().map(TokenFault::index).eq(0..TokenFault::COUNT));
    let code = |answer| match answer {
        Consequence::Error(code) => code.code(),
        Consequence::Close(code) => code.code(),
    };
    // (connect, subscribe, refresh, sub_refresh)
    for fault in &faults {
        let expected = match fault {
            TokenFault::KeysUnavailable => [100, 100, 100, 100],
            TokenFault::Expired | TokenFault::NotYetValid => [109, 109, 3005, 3006],
            TokenFault::Anonymous => [3507, 103, 3500, 3500],
            TokenFault::Channel | TokenFault::User | TokenFault::Client => [3500, 3500, 3500, 3500],
            _ => [3500, 103, 3500, 3500],
        };
        let got = [fault.on_connect(), fault.on_subscribe(), fault.on_refresh(), fault.on_sub_refresh()];
        assert_eq!(got.map(code), expected, "{}", fault.label());
    }
}

#[test]
fn a_key_file_is_one_public_key_of_a_kind_that_is_supported() {
    let joined = pem("rsa.pub.pem") + &pem("p256.pub.pem");
    for (text, expected) in [
        (pem("rsa.pub.pem"), None),
        (pem("p256.pub.pem"), None),
        (pem("ed25519.pub.pem"), None),
        (pem("p521.pub.pem"), Some(KeyFault::Unsupported)),
        (pem("weak.pub.pem"), Some(KeyFault::Unsupported)),
        (pem("rsa.pem"), Some(KeyFault::Private)),
        (pem("p256.pem"), Some(KeyFault::Private)),
        (joined, Some(KeyFault::Several)),
        (pem("rsa.pub.pem").replace("MIIB", "AAAA"), Some(KeyFault::NoPem)),
        (String::new(), Some(KeyFault::NoPem)),
        ("-----BEGIN PUBLIC KEY-----\n".to_owned(), Some(KeyFault::NoPem)),
        ("-----BEGIN NONSENSE-----\nAAAA\n-----END NONSENSE-----\n".to_owned(), Some(KeyFault::NoPem)),
    ] {
        let file = PublicKeyFile { path: "key.pem".into(), until: None, pem: text };
        assert_eq!(TokenKey::from_pem(&file).err(), expected, "{}", file.pem);
    }
    let until = format!("{} until 2100-01-01", path("rsa.pub.pem").display());
    let file = Vec::<PublicKeyFile>::parse(&until).unwrap().remove(0);
    assert!(!TokenKey::from_pem(&file).unwrap().is_retired());
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

/// Whether a token is one that opens anything, without asking for what.
fn opened(verifier: &Verifier, token: &str) -> Result<(), TokenFault> {
    let claims = verifier.try_open(token)?.claims;
    match claims.are_for_a_subscription() {
        true => claims.into_subscription(0).map(|_| ()),
        false => claims.into_connection(0).map(|_| ()),
    }
}

proptest! {
    /// Whatever a client sends as a token is refused or read, and nothing else happens.
    #[test]
    fn no_bytes_are_more_than_a_fault(
        header in "\\PC*", claims in ".*", signature in any::<Vec<u8>>(), raw in "\\PC*", cut in 0_usize..200,
    ) {
        let verifier = verifier(&[("token_secrets", SECRET)]);
        let open = |token: &str| opened(&verifier, token);
        prop_assert!(open(&raw).is_err());
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        for header in [header.as_str(), r#"{"alg":"HS256"}"#] {
            let parts = [encode(header.as_bytes()), encode(claims.as_bytes()), encode(&signature)];
            prop_assert!(open(&parts.join(".")).is_err());
        }
        // Signed by us, whatever it says; and cut or changed somewhere.
        let good = ordinary(&json!({"sub": claims, "info": header, "channels": [raw]}));
        let mut broken = good.clone().into_bytes();
        let at = cut % broken.len();
        broken[at] ^= 1;
        let broken = String::from_utf8_lossy(&broken).into_owned();
        prop_assert!(open(&broken).is_err(), "{broken}");
        prop_assert!(open(&good[..at]).is_err());
    }

    /// So is whatever somebody signs who has a key.
    #[test]
    fn no_claims_are_more_than_a_fault(
        sub in any::<Option<String>>(), channel in any::<Option<String>>(), at in any::<f64>(), name in ".*",
    ) {
        let verifier = verifier(&[("token_secrets", SECRET)]);
        let claims = json!({"sub": sub, "channel": channel, "expire_at": at, "channels": [name], "b64info": name});
        let _read = opened(&verifier, &ordinary(&claims));
    }
}

#[test]
fn claims_that_nest_without_end_are_a_fault() {
    let verifier = verifier(&[("token_secrets", SECRET)]);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    for (claims, good) in [
        (format!(r#"{{"info":{}}}"#, nested(100)), true),
        (format!(r#"{{"info":{}}}"#, nested(10_000)), false),
        (format!(r#"{{"subs":{{"a":{{"data":{}}}}}}}"#, nested(10_000)), false),
        // What nobody asks for is passed over, not taken apart.
        (format!(r#"{{"other":{}}}"#, nested(10_000)), true),
        (nested(10_000), false),
    ] {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        assert_eq!(opened(&verifier, &format!("{message}.{signature}")).is_ok(), good);
    }
}

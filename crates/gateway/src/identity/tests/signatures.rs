//! Which key made a token, and what its header may say.

use super::*;
use crate::config::tokens::PublicKeyFile;
use crate::config::value::Value;

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

#[test]
fn a_key_file_is_one_public_key_of_a_kind_that_is_supported() {
    let joined = pem("rsa.pub.pem") + &pem("p256.pub.pem");
    for (text, expected) in [
        (pem("rsa.pub.pem"), None),
        (pem("p256.pub.pem"), None),
        (pem("ed25519.pub.pem"), None),
        (pem("p384.pub.pem"), None),
        (pem("p256.crt.pem"), None),
        (pem("p521.pub.pem"), Some(KeyFault::Unsupported)),
        // As long as a point of P-256, on another curve.
        (pem("k256.pub.pem"), Some(KeyFault::Unsupported)),
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
fn a_key_of_a_set_is_on_the_curve_that_it_names() {
    // Of P-256 (RFC 7515, appendix A.3), and of P-384.
    let short =
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let long = (
        "Hg-E35BsfcVl9XaTeFWXr_u9jrD9CUli9aOH8PtulwaNfodrcF4ovpmRdWUvawFC",
        "buU1jI7azm3YvNvb63GruqZoZrOkhPVzI1cwWKL60inUoSr7VjlSsOexNLctxwzu",
    );
    for (curve, (x, y), is_good) in
        [("P-256", short, true), ("P-384", long, true), ("P-256", long, false), ("P-384", short, false)]
    {
        let key = serde_json::json!({ "kty": "EC", "crv": curve, "x": x, "y": y });
        let made = TokenKey::from_jwk(&serde_json::from_value(key).unwrap());
        assert_eq!(made.is_ok(), is_good, "{curve} {x}");
    }
}

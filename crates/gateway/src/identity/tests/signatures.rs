//! Which key made a token, and what its header may say.

use super::*;
use crate::config::tokens::PublicKeyFile;
use crate::config::value::Value;

#[tokio::test]
async fn a_token_is_believed_if_one_of_our_keys_made_it() {
    use Algorithm::{ES256, ES384, ES512, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
    let files = ["rsa.pub.pem", "p256.pub.pem", "p384.pub.pem", "p521.pub.pem", "ed25519.pub.pem"];
    let all: Vec<_> = files.iter().map(|file| path(file).display().to_string()).collect();
    let (all, rsa) = (all.join(","), path("rsa.pub.pem").display().to_string());
    let [cert, ec_cert, long_cert, pkcs1, p256, p521] =
        ["rsa.crt.pem", "p256.crt.pem", "p521.crt.pem", "rsa.pkcs1.pub.pem", "p256.pub.pem", "p521.pub.pem"]
            .map(|file| path(file).display().to_string());
    let rotating = format!("{SECRET} until 2020-01-01,a new one that is long enough to be one");
    let both = format!("a new one that is long enough to be one,{SECRET} until 2100-01-01");
    let (secret, public, other) =
        (SECRET.as_bytes(), pem("rsa.pub.pem"), b"another secret that is long enough".as_slice());
    let (der, ec_public) = (path_der("rsa.pub.pem"), pem("p521.pub.pem"));
    let ec_der = path_der("p521.pub.pem");
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
        (&[keys], "ES512", By::Pem(ES512, "p521.pem"), "good"),
        (&[keys], "EdDSA", By::Pem(EdDSA, "ed25519.pem"), "good"),
        (&[("token_public_keys", &cert)], "RS256", By::Pem(RS256, "rsa.pem"), "good"),
        (&[("token_public_keys", &ec_cert)], "ES256", By::Pem(ES256, "p256.pem"), "good"),
        (&[("token_public_keys", &long_cert)], "ES512", By::Pem(ES512, "p521.pem"), "good"),
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
        (&[keys], "ES512", By::Nothing, "signature"),
        (&[keys], "es512", By::Pem(ES512, "p521.pem"), "algorithm"),
        (&[keys], "ES521", By::Pem(ES512, "p521.pem"), "algorithm"),
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
        (&[keys], "ES512", By::Pem(ES256, "p256.pem"), "signature"),
        (&[keys], "ES256", By::Pem(ES512, "p521.pem"), "signature"),
        (&[keys], "ES512", By::Pem(RS512, "rsa.pem"), "signature"),
        (&[keys], "EdDSA", By::Pem(ES512, "p521.pem"), "signature"),
        (&[("token_public_keys", &p256)], "ES512", By::Pem(ES256, "p256.pem"), "algorithm"),
        (&[("token_public_keys", &p521)], "ES256", By::Pem(ES512, "p521.pem"), "algorithm"),
        (&[("token_public_keys", &p521)], "HS512", By::Hmac(HS512, ec_public.as_bytes()), "algorithm"),
        (
            &[("token_public_keys", &p521)],
            "HS512",
            By::Hmac(HS512, ec_public.trim_end().as_bytes()),
            "algorithm",
        ),
        (&[("token_public_keys", &p521)], "HS512", By::Hmac(HS512, &ec_der), "algorithm"),
        (&[("token_public_keys", &p521)], "ES512", By::Hmac(HS512, ec_public.as_bytes()), "signature"),
        (
            &[secrets, ("token_public_keys", &p521)],
            "HS512",
            By::Hmac(HS512, ec_public.as_bytes()),
            "signature",
        ),
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
        (pem("p521.pub.pem"), None),
        (pem("p521.crt.pem"), None),
        // As long as a point of P-256, on another curve.
        (pem("k256.pub.pem"), Some(KeyFault::Unsupported)),
        (pem("weak.pub.pem"), Some(KeyFault::Unsupported)),
        (pem("rsa.pem"), Some(KeyFault::Private)),
        (pem("p256.pem"), Some(KeyFault::Private)),
        (pem("p521.sec1.pem"), Some(KeyFault::Private)),
        (pem("p256.sec1.pem"), Some(KeyFault::Private)),
        (joined, Some(KeyFault::Several)),
        (pem("rsa.pub.pem").replace("MIIB", "AAAA"), Some(KeyFault::NoPem)),
        (String::new(), Some(KeyFault::NoPem)),
        ("-----BEGIN PUBLIC KEY-----\n".to_owned(), Some(KeyFault::NoPem)),
        ("-----BEGIN NONSENSE-----\nAAAA\n-----END NONSENSE-----\n".to_owned(), Some(KeyFault::NoPem)),
    ] {
        assert_eq!(TokenKey::from_pem(&text, None, String::new()).err(), expected, "{text}");
    }
    let until = format!("{} until 2100-01-01", path("rsa.pub.pem").display());
    let file = Vec::<PublicKeyFile>::parse(&until).unwrap().remove(0);
    assert!(!file.key().unwrap().is_retired());
}

#[test]
fn a_key_of_a_set_is_on_the_curve_that_it_names() {
    // Of P-256 (RFC 7515, appendix A.3), of P-384, and of P-521 with zeros in front.
    let short =
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let middle = (
        "Hg-E35BsfcVl9XaTeFWXr_u9jrD9CUli9aOH8PtulwaNfodrcF4ovpmRdWUvawFC",
        "buU1jI7azm3YvNvb63GruqZoZrOkhPVzI1cwWKL60inUoSr7VjlSsOexNLctxwzu",
    );
    let long = ZEROS_IN_FRONT;
    // The same numbers, without their zeros, and with one's zero in front of the other.
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let cut = URL_SAFE_NO_PAD.encode(&bytes(long.0)[2..]);
    let (less, more) = (
        URL_SAFE_NO_PAD.encode(&bytes(long.0)[1..]),
        URL_SAFE_NO_PAD.encode([&[0], bytes(long.1).as_slice()].concat()),
    );
    for (curve, (x, y), is_good) in [
        ("P-256", short, true),
        ("P-384", middle, true),
        ("P-521", long, true),
        ("P-256", middle, false),
        ("P-256", long, false),
        ("P-384", short, false),
        ("P-384", long, false),
        ("P-521", short, false),
        ("P-521", middle, false),
        ("P-521", (&cut, long.1), false),
        ("P-521", (&less, &more), false),
        ("secp521r1", long, false),
    ] {
        let key = json!({ "kty": "EC", "crv": curve, "x": x, "y": y });
        let made = TokenKey::from_jwk(&serde_json::from_value(key).unwrap());
        assert_eq!(made.is_ok(), is_good, "{curve} {x}");
    }
}

#[test]
fn a_key_of_a_set_is_for_what_the_set_says_it_is_for() {
    let (x, y) = ZEROS_IN_FRONT;
    for (more, is_good) in [
        (json!({}), true),
        (json!({"alg": "ES512", "use": "sig", "key_ops": ["verify"]}), true),
        (json!({"alg": "ES256"}), false),
        (json!({"alg": "HS512"}), false),
        (json!({"alg": "ECDH-ES"}), false),
        (json!({"use": "enc"}), false),
        (json!({"key_ops": ["deriveKey"]}), false),
        (json!({"kty": "OKP"}), false),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), false),
        (json!({"y": null}), false),
    ] {
        let mut key = json!({ "kty": "EC", "crv": "P-521", "x": x, "y": y });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = TokenKey::from_jwk(&serde_json::from_value(key).unwrap());
        assert_eq!(
            made.as_ref().is_ok_and(|made| made.is_for(Algorithm::ES512)),
            is_good,
            "{more}: {made:?}"
        );
    }
}

/// The coordinates of a key of P-521 whose first has two zeros in front, made by OpenSSL.
const ZEROS_IN_FRONT: (&str, &str) = (
    "AAD50PmhLvliN5rdRa0rTn5nPcy5L6trBlCGlae136IJYVnNa7JKRLxs3PpJLe_Jn2jpyptuUl9rpgqtZ-x-7iMB",
    "AKKK0ZMr4Jrtnvpfv7nEf2p3SrhjvvZRJC4xNPhowGiWWXv0EKR8WQ_0MdLdnGi0bLpQyLqCAxxyRxfFRQqU-rEt",
);

/// PyJWT and OpenSSL have made these: with the key p521.pem, and the last with [`ZEROS_IN_FRONT`].
const ORDINARY: &str = "\
    eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.\
    ATSxpYuC0yNjKm1gYQjlleZmgB0RfMUeTuYJODcLJeh9w4JS5_cddge_VSQzPoN-ggj5-faC24i3km8BDdvSTMANAU\
    3qvS4-OBSryKrM8J4natUx6b_S8l5txJL9RRNj_p2TN3H1e27r0NT93q-E6n0JmEWZTCV1VvDEJIfMtzIt5PJ1";
const ZEROS_IN_R: &str = "\
    eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.\
    AAAK1DJ088ZrFAH8fIVQoMGKbssL8-jaiiv3Fhklcz_95hMJquCfMvZyfgb7_jTntOAtqwuWS7q-DzXcoaCIm34jAC\
    7f8EWHWo4REePcqaJcSBA_uF6JH1pB1QeCWV48_eYc5J8AsodMFTu8RNNAB72UG8P1GpDifOPH1oqdrjE972PR";
const ZEROS_IN_S: &str = "\
    eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.\
    AZgaaMW1x7RglC5V7tinETlJoyIeywgPnsg5sL9YvktoMNyvWolHhWqHQw-FXR3upX5SDGQcbPd3eW7fNuSCpIkrAA\
    BBNlNH84JuW2R3r2xiN0TTCuvOF22O4KJ38PkYbuQCX-1ZpOIaHCN_x5mlY_u9cSpQi22DR-rr1-Oee_22olpx";
const OF_ZEROS_IN_FRONT: &str = "\
    eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.\
    AeqG9XSb98N9U6WPfeSI45UH1OkBA-oJmEmovLdbTG4UpioSYHaO7Vv_TMLbBfEqQJtY6rVnWgpSDpp0lYY1T7DJAM\
    tXYhf4IDKg9KLplZ6rOIov9R89yrFpRWxb3_A-jQXMiwhl74cRqTsdaYRxarQOuYyrk7mpiaAVaETRfkxEBzrg";

#[tokio::test]
async fn tokens_that_others_have_signed_by_es512_are_believed() {
    let key = path("p521.pub.pem").display().to_string();
    let verifier = verifier(&[("token_public_keys", &key)]);
    for token in [ORDINARY, ZEROS_IN_R, ZEROS_IN_S] {
        assert_eq!(label(&verifier.connection(token).await), "good", "{token}");
    }
    assert_eq!(label(&verifier.connection(OF_ZEROS_IN_FRONT).await), "signature");
    let (x, y) = ZEROS_IN_FRONT;
    let jwk = serde_json::from_value(json!({ "kty": "EC", "crv": "P-521", "x": x, "y": y })).unwrap();
    let key = TokenKey::from_jwk(&jwk).unwrap();
    let has_signed = |token: &str| {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        key.has_signed(Algorithm::ES512, message.as_bytes(), &signature)
    };
    assert!(has_signed(OF_ZEROS_IN_FRONT) && !has_signed(ORDINARY));
}

#[tokio::test]
async fn a_signature_by_es512_is_two_numbers_and_nothing_else() {
    let key = path("p521.pub.pem").display().to_string();
    let verifier = verifier(&[("token_public_keys", &key)]);
    let (message, signature) = ZEROS_IN_R.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = signature.split_at(66);
    let der = p521::ecdsa::Signature::from_slice(&signature).unwrap().to_der();
    let mut altered = signature.clone();
    altered[131] ^= 1;
    // The order of the curve (SEC 2, section 2.6.1), whose multiples are no answer.
    let order = [
        [0x01_u8].as_slice(),
        &[0xff; 32],
        &[0xfa, 0x51, 0x86, 0x87, 0x83, 0xbf, 0x2f, 0x96, 0x6b, 0x7f, 0xcc, 0x01, 0x48, 0xf7, 0x09, 0xa5],
        &[0xd0, 0x3b, 0xb5, 0xc9, 0xb8, 0x89, 0x9c, 0x47, 0xae, 0xbb, 0x6f, 0xb7, 0x1e, 0x91, 0x38, 0x64],
        &[0x09],
    ]
    .concat();
    for (what, made) in [
        ("altered", altered),
        ("as DER", der.as_bytes().to_vec()),
        ("without the zeros of r", [&r[2..], s].concat()),
        ("without the zeros of r, but as long", [&r[2..], s, &[0, 0]].concat()),
        ("the wrong way round", [s, r].concat()),
        ("cut", signature[..131].to_vec()),
        ("longer", [&signature, [0].as_slice()].concat()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 132]),
        ("r of nothing", [&[0; 66], s].concat()),
        ("the order", [&order, s].concat()),
        ("ones", vec![0xff; 132]),
    ] {
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(made));
        assert_eq!(label(&verifier.connection(&token).await), "signature", "{what}");
    }
    let (header, claims) = message.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"43"}"#);
    let signature = URL_SAFE_NO_PAD.encode(signature);
    for (claims, expected) in [(other.as_str(), "signature"), (claims, "good")] {
        let token = format!("{header}.{claims}.{signature}");
        assert_eq!(label(&verifier.connection(&token).await), expected, "{claims}");
    }
}

#[test]
fn a_private_key_signs_in_whatever_way_openssl_has_written_it() {
    for (file, asked, expected) in [
        ("p521.pem", None, Ok("ES512")),
        ("p521.pem", Some(Algorithm::ES512), Ok("ES512")),
        ("p521.pem", Some(Algorithm::ES256), Err(SignerFault::Algorithm(Algorithm::ES256))),
        ("p521.pem", Some(Algorithm::HS512), Err(SignerFault::Algorithm(Algorithm::HS512))),
        // With its curve in front.
        ("p521.sec1.pem", None, Ok("ES512")),
        ("p256.sec1.pem", None, Ok("ES256")),
        ("p256.sec1.pem", Some(Algorithm::ES512), Err(SignerFault::Algorithm(Algorithm::ES512))),
        ("p256.pem", Some(Algorithm::ES512), Err(SignerFault::Algorithm(Algorithm::ES512))),
        ("rsa.pem", Some(Algorithm::ES512), Err(SignerFault::Algorithm(Algorithm::ES512))),
        ("p521.pub.pem", None, Err(SignerFault::NoKey)),
    ] {
        let made = Signer::from_pem(&pem(file), asked).map(|signer| {
            let claims = json!({"sub": "42"});
            let token = signer.sign(claims.as_object().unwrap(), None).unwrap();
            let key = file.replace(".sec1", "").replace(".pem", ".pub.pem");
            let key = path(&key).display().to_string();
            let opened = verifier(&[("token_public_keys", &key)]).try_open(&token);
            assert_eq!(label(&opened), "good", "{file}: {token}");
            let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
            serde_json::from_slice::<Json>(&header).unwrap()["alg"].as_str().unwrap().to_owned()
        });
        assert_eq!(made, expected.map(str::to_owned), "{file} {asked:?}");
    }
    let broken = pem("p521.sec1.pem").replace("MIHc", "AAAA");
    assert_eq!(Signer::from_pem(&broken, None).unwrap_err(), SignerFault::NoKey);
}

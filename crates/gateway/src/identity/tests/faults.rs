//! What is wrong with a token: each fault has its answers, and whatever comes is no more than a fault.

use proptest::prelude::*;

use super::*;

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
        TokenFault::Over,
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
            TokenFault::Over => [110, 110, 3005, 3006],
            TokenFault::Anonymous => [3507, 103, 3500, 3500],
            TokenFault::Channel | TokenFault::User | TokenFault::Client => [3500, 3500, 3500, 3500],
            _ => [3500, 103, 3500, 3500],
        };
        let got = [fault.on_connect(), fault.on_subscribe(), fault.on_refresh(), fault.on_sub_refresh()];
        assert_eq!(got.map(code), expected, "{}", fault.label());
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
        let signature = URL_SAFE_NO_PAD.encode(Algorithm::HS256.sign(&key, message.as_bytes()).unwrap());
        assert_eq!(opened(&verifier, &format!("{message}.{signature}")).is_ok(), good);
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

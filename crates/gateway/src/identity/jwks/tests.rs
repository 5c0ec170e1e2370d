//! Keys from a real server that behaves in every way that servers do.

use std::pin::pin;
use std::sync::Mutex;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::yield_now;

use super::super::tests::{By, pem, token, verifier};
use super::super::{TokenFault, Verifier};
use super::fetch::{MOST_BYTES, read};
use super::*;
use crate::config::value::Value;
use crate::signature::{Algorithm, MOST_KEYS};

/// How a server answers.
#[derive(Clone)]
enum Way {
    Status(u16, String),
    /// Takes the request and says nothing more.
    Silent,
    /// Closes before a word.
    HangUp,
    /// Says that it is so long, and sends for ever.
    Endless,
    /// Not even HTTP.
    Noise,
}

struct Server {
    url: JwksUrl,
    way: Arc<Mutex<Way>>,
    asked: watch::Receiver<u64>,
}

impl Server {
    async fn start(way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/.well-known/jwks.json", listener.local_addr().unwrap());
        let (way, (counter, asked)) = (Arc::new(Mutex::new(way)), watch::channel(0));
        let ways = way.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.send_modify(|count| *count += 1);
                let way = ways.lock().unwrap().clone();
                tokio::spawn(answer(stream, way));
            }
        });
        Self { url: JwksUrl::parse(&url).unwrap(), way, asked }
    }

    fn now(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn asked(&self) -> u64 {
        *self.asked.borrow()
    }
}

async fn answer(mut stream: TcpStream, way: Way) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    match way {
        Way::Status(status, body) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\nLocation: /elsewhere\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await
        }
        Way::Silent => std::future::pending().await,
        Way::HangUp => Ok(()),
        Way::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).as_bytes()).await?;
            }
        }
        Way::Noise => stream.write_all(&[0xff; 100]).await,
    }
}

/// The test's set, with those of its keys that have these ids.
fn set(kids: &[&str]) -> Way {
    let mut set: Json = serde_json::from_str(&pem("keys.jwks.json")).unwrap();
    set["keys"].as_array_mut().unwrap().retain(|key| kids.contains(&key["kid"].as_str().unwrap()));
    Way::Status(200, set.to_string())
}

/// The same, followed by so much that it has so many bytes.
fn padded(kids: &[&str], bytes: usize) -> Way {
    let Way::Status(status, body) = set(kids) else { unreachable!("a set is served") };
    let padding = " ".repeat(bytes - body.len());
    Way::Status(status, body + &padding)
}

fn signed(kid: Option<&str>, algorithm: Algorithm, key: &str) -> String {
    let header = json!({"alg": format!("{algorithm:?}"), "typ": "JWT", "kid": kid});
    token(&header, &json!({"sub": "42"}), &By::Pem(algorithm, key))
}

/// A verifier that has nothing but the keys of a server, kept by a task; no pause between fetches unless there is to
/// be one.
fn keeping(server: &Server, pause: Duration) -> Arc<Verifier> {
    let mut verifier = verifier(&[("token_jwks", server.url.as_str())]);
    verifier.jwks =
        Some(Jwks::of(server.url.clone(), Duration::from_secs(3600), Duration::from_secs(3), pause));
    let verifier = Arc::new(verifier);
    let kept = verifier.clone();
    tokio::spawn(async move { kept.keep_keys().await });
    verifier
}

async fn label(verifier: &Verifier, token: &str) -> &'static str {
    verifier.connection(token).await.as_ref().map_or_else(TokenFault::label, |_| "good")
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn keys_are_chosen_by_id_and_algorithm() {
    use Algorithm::{ES256, ES384, ES512, EdDSA, RS256, RS512};
    let server = Server::start(set(&["rsa", "other", "p256", "k256", "p384", "p521", "ed25519"])).await;
    let verifier = keeping(&server, LONG);
    for (kid, algorithm, key, expected) in [
        (Some("rsa"), RS256, "rsa.pem", "good"),
        (Some("other"), RS256, "other.pem", "good"),
        (Some("other"), RS512, "other.pem", "good"),
        (Some("p256"), ES256, "p256.pem", "good"),
        (Some("p384"), ES384, "p384.pem", "good"),
        (Some("p521"), ES512, "p521.pem", "good"),
        (Some("ed25519"), EdDSA, "ed25519.pem", "good"),
        // Without an id all are tried.
        (None, RS256, "other.pem", "good"),
        (None, ES512, "p521.pem", "good"),
        (None, EdDSA, "ed25519.pem", "good"),
        // The set says what this one is for.
        (Some("rsa"), RS512, "rsa.pem", "algorithm"),
        (Some("p256"), RS256, "rsa.pem", "algorithm"),
        (Some("other"), RS256, "rsa.pem", "signature"),
        (Some("p256"), ES512, "p521.pem", "algorithm"),
        (Some("p521"), ES256, "p256.pem", "algorithm"),
        // In the set, and of no use.
        (Some("k256"), ES256, "p256.pem", "keys_unavailable"),
    ] {
        let made = signed(kid, algorithm, key);
        assert_eq!(label(&verifier, &made).await, expected, "{kid:?} {algorithm:?} {key}");
    }
    assert_eq!(server.asked(), 1);
    assert_eq!(verifier.fetches(), (1, 0, 6));
}

#[tokio::test]
async fn the_key_that_a_token_names_is_tried_before_those_without_a_name() {
    let mut all: Json = serde_json::from_str(&pem("keys.jwks.json")).unwrap();
    let all = all["keys"].as_array_mut().unwrap();
    let mut of = |kid: &str| all.iter_mut().find(|key| key["kid"] == kid).unwrap().take();
    let (mut nameless, named) = (of("other"), of("rsa"));
    nameless["kid"] = Json::Null;
    let mut keys = vec![nameless; MOST_KEYS];
    keys.push(named);
    let server = Server::start(Way::Status(200, json!({ "keys": keys }).to_string())).await;
    let verifier = keeping(&server, LONG);
    for (kid, key, expected) in [
        (Some("rsa"), "rsa.pem", "good"),
        (Some("rsa"), "other.pem", "good"),
        (None, "other.pem", "good"),
        // Behind as many as are tried.
        (None, "rsa.pem", "signature"),
    ] {
        let made = signed(kid, Algorithm::RS256, key);
        assert_eq!(label(&verifier, &made).await, expected, "{kid:?} {key}");
    }
}

/// A key and a token that others have made: RFC 7515, appendix A.3. It is over since 2011, which is looked at last,
/// and no longer what was signed once a bit of it has changed.
#[tokio::test]
async fn the_example_of_the_standard_is_believed_and_over() {
    let keys = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let example = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let server = Server::start(Way::Status(200, keys.to_owned())).await;
    let verifier = keeping(&server, LONG);
    assert_eq!(label(&verifier, example).await, "expired");
    assert_eq!(label(&verifier, &example.replace("DtEh", "DtEi")).await, "signature");
}

/// As the one above, on the largest curve: RFC 7515, appendix A.4. What is signed is no claims, which is seen once the
/// signature is found to be good.
#[tokio::test]
async fn the_example_of_the_standard_for_es512_is_signed_and_no_token() {
    let keys = r#"{"keys":[{"kty":"EC","crv":"P-521",
        "x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}]}"#;
    let example = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.\
        AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7Xdt\
        AG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let server = Server::start(Way::Status(200, keys.to_owned())).await;
    let verifier = keeping(&server, LONG);
    assert_eq!(label(&verifier, example).await, "malformed");
    assert_eq!(label(&verifier, &example.replace("AdwM", "AdwN")).await, "signature");
}

#[tokio::test]
async fn a_rotated_key_is_found_by_one_fetch_and_a_made_up_one_costs_no_more() {
    let server = Server::start(set(&["rsa"])).await;
    let verifier = keeping(&server, Duration::ZERO);
    let (old, new) = (
        signed(Some("rsa"), Algorithm::RS256, "rsa.pem"),
        signed(Some("p256"), Algorithm::ES256, "p256.pem"),
    );
    assert_eq!(label(&verifier, &old).await, "good", "the first token waits for the first keys");
    assert_eq!(label(&verifier, &new).await, "unknown_key");
    server.now(set(&["p256"]));
    assert_eq!(label(&verifier, &new).await, "good");
    assert_eq!(label(&verifier, &old).await, "unknown_key", "what has left the set is no longer valid");
    let asked = server.asked();
    assert_eq!(label(&verifier, &new).await, "good");
    assert_eq!(label(&verifier, &signed(Some("p256"), Algorithm::RS256, "rsa.pem")).await, "algorithm");
    assert_eq!(server.asked(), asked, "a key that is known is not asked for");

    let guarded = keeping(&server, LONG);
    assert_eq!(label(&guarded, &new).await, "good");
    let asked = server.asked();
    for number in 0..50 {
        let made_up = signed(Some(&format!("made up {number}")), Algorithm::ES256, "p256.pem");
        assert_eq!(label(&guarded, &made_up).await, "keys_unavailable");
    }
    let hmac = token(&json!({"alg": "HS256", "kid": "x"}), &json!({}), &By::Hmac(Algorithm::HS256, b"x"));
    assert_eq!(label(&guarded, &hmac).await, "algorithm", "no set has secrets");
    assert_eq!(server.asked(), asked);
}

#[tokio::test]
async fn many_who_wait_cause_one_fetch() {
    let server = Server::start(set(&["rsa"])).await;
    let verifier = keeping(&server, LONG);
    let made = signed(Some("rsa"), Algorithm::RS256, "rsa.pem");
    let each = (0..100).map(|_| {
        let (verifier, made) = (verifier.clone(), made.clone());
        tokio::spawn(async move { label(&verifier, &made).await })
    });
    for one in each.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), "good");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn old_keys_stay_while_the_server_misbehaves() {
    let oct = r#"{"keys":[{"kty":"oct","kid":"rsa","k":"c2VjcmV0","alg":"HS256"}]}"#;
    let encrypting = match set(&["other"]) {
        Way::Status(_, body) => body.replace("\"kty\"", "\"use\":\"enc\",\"kty\""),
        _ => unreachable!("a set is served"),
    };
    let server = Server::start(set(&["rsa"])).await;
    let verifier = keeping(&server, Duration::ZERO);
    let (good, other) = (
        signed(Some("rsa"), Algorithm::RS256, "rsa.pem"),
        signed(Some("other"), Algorithm::RS256, "other.pem"),
    );
    assert_eq!(label(&verifier, &good).await, "good");
    for (what, way) in [
        ("500", Way::Status(500, "oops".to_owned())),
        ("a redirect", Way::Status(302, String::new())),
        ("404", Way::Status(404, String::new())),
        ("silence", Way::Silent),
        ("hanging up", Way::HangUp),
        ("no end", Way::Endless),
        ("too much", padded(&["rsa", "other"], MOST_BYTES + 1)),
        ("noise", Way::Noise),
        ("no JSON", Way::Status(200, "<html>".to_owned())),
        ("no set", Way::Status(200, "[]".to_owned())),
        ("no keys", Way::Status(200, r#"{"keys":[]}"#.to_owned())),
        (
            "keys that are none",
            Way::Status(200, r#"{"keys":[1,null,{},{"kty":"RSA"},{"kty":"new"}]}"#.to_owned()),
        ),
        ("a shared secret", Way::Status(200, oct.to_owned())),
        ("a key to encrypt with", Way::Status(200, encrypting)),
    ] {
        server.now(way);
        let failures = verifier.fetches().1;
        assert_eq!(label(&verifier, &other).await, "keys_unavailable", "{what}");
        assert_eq!(verifier.fetches().1, failures + 1, "{what}");
        assert_eq!(label(&verifier, &good).await, "good", "{what}");
    }
    server.now(padded(&["rsa", "other"], MOST_BYTES));
    assert_eq!(label(&verifier, &other).await, "good", "and it is well again");
}

/// The longest time that the others of a thread have to wait while one of them fetches from this server.
async fn longest_pause(server: &Server) -> Duration {
    let mut fetching = pin!(fetch(&server.url));
    let (mut longest, mut fetched) = (Duration::ZERO, None);
    while fetched.is_none() {
        let begun = Instant::now();
        tokio::select! {
            biased;
            keys = &mut fetching => fetched = Some(keys),
            () = yield_now() => {}
        }
        longest = longest.max(begun.elapsed());
    }
    assert!(fetched.is_some_and(|keys| keys.is_err()), "it is all junk");
    longest
}

#[tokio::test]
async fn nobody_is_held_up_by_a_set_of_junk() {
    const NONE: &str = "{},";
    let none = NONE.repeat((MOST_BYTES - 20) / NONE.len());
    let junk = format!(r#"{{"keys":[{none}{{}}]}}"#);
    let server = Server::start(Way::Status(200, junk.clone())).await;
    let span = |_| {
        let begun = Instant::now();
        let _ = read(junk.as_bytes());
        begun.elapsed()
    };
    let parsing = (0..5).map(span).min().unwrap();
    // A machine with much to do may hold it up by itself, but not each time.
    for _ in 0..20 {
        if longest_pause(&server).await < parsing / 2 {
            return;
        }
    }
    panic!("each time somebody waited for {:?} or longer", parsing / 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_again() {
    // Nobody else is given its port, and nobody listens there.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let url = JwksUrl::parse(&url).unwrap();
    let mut verifier = verifier(&[("token_jwks", url.as_str())]);
    verifier.jwks = Some(Jwks::of(url.clone(), LONG, Duration::from_secs(3), Duration::ZERO));
    let verifier = Arc::new(verifier);
    let kept = verifier.clone();
    tokio::spawn(async move { kept.keep_keys().await });
    let good = signed(Some("rsa"), Algorithm::RS256, "rsa.pem");
    assert_eq!(label(&verifier, &good).await, "keys_unavailable");

    let listener = socket.listen(16).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, set(&["rsa"])));
        }
    });
    // Nobody wants anything now: it is the keeper that comes back by itself, within two seconds.
    let jwks = verifier.jwks.as_ref().unwrap();
    let mut state = jwks.state.subscribe();
    let _ = timeout(Duration::from_secs(20), state.wait_for(|state| !state.keys.is_empty())).await.unwrap();
    assert_eq!(label(&verifier, &good).await, "good");
}

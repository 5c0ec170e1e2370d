//! The certificate is replaced under connections that go on, and a bad one is said to be bad.

use std::time::Duration;

use crate::harness::{
    Certificates, Frame, Instance, certificate, eventually, openssl, refused_to_start, throughout,
};
use crate::tls::speak;

async fn reloads(instance: &Instance, result: &str) -> f64 {
    instance.metric("fanfare_tls_reloads_total", &[("result", result)]).await
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_dropping_a_connection() {
    let certificates = Certificates::new();
    let names = ["first", "second", "third"];
    certificates.make("second");
    certificates.make("third");
    let copy = |name: &str| {
        for ending in ["crt", "key"] {
            std::fs::copy(
                certificates.path(&format!("{name}.{ending}")),
                certificates.path(&format!("used.{ending}")),
            )
            .unwrap();
        }
    };
    copy("first");
    let flags = certificates.flags("used");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let client = certificates.client(&names);
    let shown = async |name: &str| {
        let socket = client.connect(instance.address()).await;
        let seen = socket.tls().get_ref().1.peer_certificates().unwrap()[0].clone();
        seen == certificate(&certificates.path(&format!("{name}.crt")))
    };
    assert!(shown("first").await);
    let mut speaker = client.join(instance.address(), "reload?echo=false").await;
    let mut listener = client.join(instance.address(), "reload").await;
    for (count, (name, signal)) in [("second", Some("HUP")), ("third", None)].into_iter().enumerate() {
        copy(name);
        if let Some(signal) = signal {
            instance.signal(signal).await;
        }
        eventually(name, async || shown(name).await).await;
        assert_eq!(reloads(&instance, "loaded").await, (count + 1) as f64);
        speak(&mut speaker, &mut listener, name.as_bytes()).await;
        let mut fresh = client.join(instance.address(), "reload?echo=false").await;
        speak(&mut fresh, &mut listener, b"from one who saw the new one").await;
    }
    assert_eq!(reloads(&instance, "failed").await, 0.0);
    let expiry = instance.metric("fanfare_tls_certificate_expiry_timestamp_seconds", &[]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((expiry - now - 2.0 * 86_400.0).abs() < 3600.0, "expires in {} s", expiry - now);
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[("reason", "vanished")]).await, 2.0);
}

/// Nobody would find the files changed, for they are not: it is the signal that has them read.
#[tokio::test]
async fn a_hangup_has_the_files_read() {
    let certificates = Certificates::new();
    let flags = certificates.flags("first");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for count in 1..=3 {
        instance.signal("HUP").await;
        eventually("it is read again", async || reloads(&instance, "loaded").await == f64::from(count)).await;
    }
}

/// Kubernetes swaps a link above the files, which are new ones with old times.
#[tokio::test]
async fn a_link_above_the_files_may_be_swapped() {
    let certificates = Certificates::new();
    certificates.make("second");
    for (version, name) in [("v1", "first"), ("v2", "second")] {
        std::fs::create_dir(certificates.path(version)).unwrap();
        for ending in ["crt", "key"] {
            let place = certificates.path(&format!("{version}/tls.{ending}"));
            std::fs::copy(certificates.path(&format!("{name}.{ending}")), &place).unwrap();
            let old = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            std::fs::File::options().write(true).open(&place).unwrap().set_modified(old).unwrap();
        }
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, certificates.path(name)).unwrap();
    link("v1", "data");
    link("data/tls.crt", "used.crt");
    link("data/tls.key", "used.key");
    let flags = certificates.flags("used");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut stays = certificates.client(&["first"]).join(instance.address(), "swapped").await;
    link("v2", "next");
    std::fs::rename(certificates.path("next"), certificates.path("data")).unwrap();
    let second = certificates.client(&["second"]);
    eventually("the second is shown", async || second.try_connect(instance.address()).await.is_ok()).await;
    assert_eq!((reloads(&instance, "loaded").await, reloads(&instance, "failed").await), (1.0, 0.0));
    stays.send(Frame::TEXT, b"still here").await.unwrap();
    assert_eq!(stays.next_but_pings().await.unwrap().payload, b"still here");
}

/// To open one is to wait for whoever writes into it.
#[tokio::test]
async fn a_pipe_is_no_certificate() {
    let certificates = Certificates::new();
    let pipe = certificates.path("pipe.crt").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let key = certificates.path("first.key").display().to_string();
    let (code, printed) = refused_to_start(None, &["--tls-cert", &pipe, "--tls-key", &key], &[]).await;
    assert!(
        code == Some(2)
            && printed.contains("it is a pipe; expected a regular file")
            && printed.lines().count() == 1,
        "{printed}"
    );
}

/// Pairs that are no good: (name, what stands in the certificate's and in the key's file, which key is to blame, what
/// the line says).
type BadPair = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>, &'static str, &'static str);

fn bad_pairs(certificates: &Certificates) -> Vec<BadPair> {
    certificates.make("other");
    let read = |file: &str| std::fs::read(certificates.path(file)).unwrap();
    let (good, key, other) = (read("first.crt"), read("first.key"), read("other.key"));
    let (locked, old) = (certificates.path("locked.key"), certificates.path("old.key"));
    let plain = certificates.path("first.key").display().to_string();
    openssl(&["pkcs8", "-topk8", "-in", &plain, "-passout", "pass:x", "-out", &locked.display().to_string()]);
    openssl(&["ec", "-aes128", "-in", &plain, "-passout", "pass:x", "-out", &old.display().to_string()]);
    let curve = certificates.make_with("curve", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let broken = String::from_utf8(good.clone()).unwrap().replacen("MII", "M!I", 1);
    let none = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let chained = [good.as_slice(), none.as_bytes()].concat();
    let (crt, first) = (certificates.path("first.crt").display().to_string(), &plain);
    let (der, der_key) = (certificates.path("der.crt"), certificates.path("der.key"));
    openssl(&["x509", "-in", &crt, "-outform", "DER", "-out", &der.display().to_string()]);
    openssl(&["pkey", "-in", first, "-outform", "DER", "-out", &der_key.display().to_string()]);
    let cut = |pem: &[u8]| Some(pem[..pem.len() / 2].to_vec());
    let no_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let (good_pair, good_key) = (Some(good), Some(key));
    vec![
        ("no certificate file", None, good_key.clone(), "tls_cert", "cannot read"),
        ("no key file", good_pair.clone(), None, "tls_key", "cannot read"),
        ("text for a certificate", text("hello"), good_key.clone(), "tls_cert", "is not a PEM file"),
        ("text for a key", good_pair.clone(), text("hello"), "tls_key", "is not a PEM file"),
        ("nothing for a certificate", text(""), good_key.clone(), "tls_cert", "found nothing"),
        ("nothing for a key", good_pair.clone(), text(""), "tls_key", "found nothing"),
        (
            "DER for a certificate",
            Some(read("der.crt")),
            good_key.clone(),
            "tls_cert",
            "openssl x509 -inform DER",
        ),
        ("DER for a key", good_pair.clone(), Some(read("der.key")), "tls_key", "openssl pkey -inform DER"),
        (
            "a key for a certificate",
            good_key.clone(),
            good_key.clone(),
            "tls_cert",
            "has no certificate: expected -----BEGIN CERTIFICATE-----, found -----BEGIN PRIVATE KEY-----",
        ),
        (
            "a certificate for a key",
            good_pair.clone(),
            good_pair.clone(),
            "tls_key",
            "found -----BEGIN CERTIFICATE-----",
        ),
        ("broken PEM", text(&broken), good_key.clone(), "tls_cert", "broken PEM: expected base64"),
        (
            "half a certificate",
            cut(&read("first.crt")),
            good_key.clone(),
            "tls_cert",
            "broken PEM: expected -----END CERTIFICATE----- before its end",
        ),
        (
            "half a key",
            good_pair.clone(),
            cut(&read("first.key")),
            "tls_key",
            "expected -----END PRIVATE KEY-----",
        ),
        ("what is no key in PEM", good_pair.clone(), text(no_key), "tls_key", "what is no key"),
        ("what is none behind one", Some(chained), good_key.clone(), "tls_cert", "number 2"),
        ("PEM of something else", text(none), good_key, "tls_cert", "has a certificate that is none"),
        (
            "the key of another",
            good_pair.clone(),
            Some(other),
            "tls_key",
            "is not that of the first certificate",
        ),
        ("a locked key", good_pair.clone(), Some(read("locked.key")), "tls_key", "needs a password"),
        ("a locked key, old form", good_pair, Some(read("old.key")), "tls_key", "needs a password"),
        (
            "a curve that is not spoken",
            Some(std::fs::read(curve.0).unwrap()),
            Some(std::fs::read(curve.1).unwrap()),
            "tls_key",
            "cannot be used",
        ),
    ]
}

fn put(certificates: &Certificates, file: &str, text: Option<&[u8]>) {
    match text {
        Some(text) => drop(certificates.write(file, text)),
        // It may not be there.
        None => drop(std::fs::remove_file(certificates.path(file))),
    }
}

#[tokio::test]
async fn a_bad_pair_is_one_line_at_the_start() {
    let certificates = Certificates::new();
    let flags = certificates.flags("bad");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for (name, certificate, key, blamed, says) in bad_pairs(&certificates) {
        put(&certificates, "bad.crt", certificate.as_deref());
        put(&certificates, "bad.key", key.as_deref());
        let (code, printed) = refused_to_start(None, &flags, &[]).await;
        assert_eq!(code, Some(2), "{name}: {printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{name}: {printed}");
        let flag = blamed.replace('_', "-");
        for word in [&format!("`{blamed}` (--{flag})"), says, "bad."] {
            assert!(printed.contains(word), "{name}: {word:?} in {printed}");
        }
    }
    // Both or neither.
    for (given, missing) in [("--tls-cert", "tls_key"), ("--tls-key", "tls_cert")] {
        let (code, printed) = refused_to_start(None, &[given, "first.crt"], &[]).await;
        assert!(code == Some(2) && printed.contains(missing) && printed.lines().count() == 1, "{printed}");
    }
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_one_in_use() {
    let certificates = Certificates::new();
    let read = |file: &str| std::fs::read(certificates.path(file)).unwrap();
    let (good, key) = (read("first.crt"), read("first.key"));
    put(&certificates, "used.crt", Some(&good));
    put(&certificates, "used.key", Some(&key));
    let flags = certificates.flags("used");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let client = certificates.client(&["first"]);
    let mut stays = client.join(instance.address(), "bad").await;
    let pairs = bad_pairs(&certificates);
    for (done, (name, certificate, key, _, says)) in pairs.into_iter().enumerate() {
        put(&certificates, "used.crt", certificate.as_deref());
        put(&certificates, "used.key", key.as_deref());
        instance.signal("HUP").await;
        eventually(name, async || reloads(&instance, "failed").await > done as f64).await;
        let logged = |line: &serde_json::Value| line["level"] == "ERROR" && line.to_string().contains(says);
        instance.log().find(name, logged).await;
        client.join(instance.address(), "bad?echo=false").await;
    }
    // The last one is looked at every second, and is an error once.
    let failed = reloads(&instance, "failed").await;
    throughout(Duration::from_millis(2500), "an old error is no news", async || {
        reloads(&instance, "failed").await == failed
    })
    .await;
    put(&certificates, "used.crt", Some(&good));
    put(&certificates, "used.key", Some(&key));
    eventually("it is good again", async || reloads(&instance, "loaded").await == 1.0).await;
    stays.send(Frame::TEXT, b"still here").await.unwrap();
    assert_eq!(stays.next_but_pings().await.unwrap().payload, b"still here");
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning() {
    let certificates = Certificates::new();
    let (crt, key) = (certificates.path("first.crt"), certificates.path("first.key"));
    let old = certificates.path("old.crt");
    let (crt, key, old) = (crt.display().to_string(), key.display().to_string(), old.display().to_string());
    openssl(&["x509", "-in", &crt, "-signkey", &key, "-days", "0", "-out", &old]);
    std::fs::copy(certificates.path("first.key"), certificates.path("old.key")).unwrap();
    let flags = certificates.flags("old");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let warned =
        |line: &serde_json::Value| line["level"] == "WARN" && line.to_string().contains("has expired");
    instance.log().find("that it has expired", warned).await;
    let expiry = instance.metric("fanfare_tls_certificate_expiry_timestamp_seconds", &[]).await;
    assert!(expiry > 1e9, "{expiry}");

    // And one that comes while the instance lives.
    let flags = certificates.flags("first");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let is_warned = || instance.log().lines().iter().any(warned);
    std::fs::copy(&old, &crt).unwrap();
    assert!(!is_warned());
    instance.signal("HUP").await;
    eventually("it is read", async || reloads(&instance, "loaded").await == 1.0).await;
    instance.log().find("that the new one has expired", warned).await;
}

#[tokio::test]
async fn a_hangup_without_tls_ends_nothing() {
    let mut instance = Instance::start(&[]).await;
    instance.signal("HUP").await;
    instance.log().find("nothing to read", |line| line.to_string().contains("SIGHUP")).await;
    assert!(instance.is_running());
    assert_eq!(instance.page("/livez").await.status, 200);
}

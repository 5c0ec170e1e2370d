//! Redis behind TLS, with an authority of our own that the environment names, as an operator would do it.

use std::path::Path;
use std::process::Command;

use fanfare_broker::RedisConfig;

use crate::instance::{Instance, channel};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_whom_the_environment_trusts() {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let reserved = Server::reserve(&[]);
    let port = reserved.port.to_string();
    let server = Server::start(&[
        "--tls-port",
        &port,
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ])
    .await;
    let url = format!("rediss://localhost:{port}");
    let stranger = Instance::redis(&RedisConfig::new(&url));
    stranger.until_down("certificate").await;
    // The variable is read when a connection is made, and must not change under a process with threads.
    let friend = Command::new(std::env::current_exe().expect("this is it"))
        .args(["--exact", "tls::speaks_tls", "--ignored"])
        .env("SSL_CERT_FILE", file("ca.pem"))
        .env("FANFARE_TEST_URL", &url)
        .output()
        .expect("it runs");
    assert!(friend.status.success(), "{}", String::from_utf8_lossy(&friend.stdout));
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the half of the test above that runs with another environment"]
async fn speaks_tls() {
    let url = std::env::var("FANFARE_TEST_URL").expect("the test above says it");
    let (a, b) = (Instance::at(&url).await, Instance::at(&url).await);
    let news = channel("news");
    b.join(&news).await;
    a.publish(&news, "in private");
    b.relay.until_delivered(&news, &["in private"]).await;
}

/// An authority `ca.pem` and the certificate of a server called localhost.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("extensions"), "subjectAltName=DNS:localhost\n").expect("the directory is ours");
    let steps = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem",
    ];
    for step in steps {
        let done = Command::new("openssl").args(step.split(' ')).current_dir(dir).output();
        let done = done.expect("openssl is installed (apt-get install openssl)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

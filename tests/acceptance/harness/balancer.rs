//! A real HAProxy in front of instances: round robin, no stickiness, as a stranger would set it up.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::Process;
use super::{Instance, eventually, free_address};

/// A running HAProxy. Dropping it kills it.
pub struct LoadBalancer {
    address: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl LoadBalancer {
    /// Starts one in front of these instances. `server_options` is added to each `server` line.
    pub async fn start(instances: &[&Instance], server_options: &str) -> Self {
        let address = free_address();
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, configuration(address, instances, server_options)).unwrap();
        let mut command = Command::new(haproxy());
        command.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command);
        eventually("haproxy accepts", async || TcpStream::connect(address).await.is_ok()).await;
        Self { address, _process: process, _home: home }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, channel: &str) -> String {
        format!("ws://{}/ws/{channel}", self.address)
    }
}

fn configuration(address: SocketAddr, instances: &[&Instance], server_options: &str) -> String {
    let mut text = format!(
        "global
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
listen gateway
  bind {address}
  balance roundrobin
  option forwardfor
  option abortonclose
  option http-no-delay
"
    );
    for (number, instance) in instances.iter().enumerate() {
        writeln!(text, "  server gw{number} {} {server_options}", instance.address()).unwrap();
    }
    text
}

/// Debian keeps it where only root's path looks.
fn haproxy() -> &'static str {
    if std::path::Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" }
}

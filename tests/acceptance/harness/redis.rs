//! A real redis-server as a child: started, stopped, paused and brought back on the same port.

use std::net::SocketAddr;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::process::Process;
use super::{DEADLINE, eventually, free_address};

/// A Redis of the test's own. Dropping it kills it.
pub struct RedisServer {
    address: SocketAddr,
    process: Option<Process>,
    /// What it writes there, it has again after a restart if it is durable.
    home: Option<TempDir>,
    is_durable: bool,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        let mut server = Self::absent();
        server.restart().await;
        server
    }

    /// Starts one that has everything again after `kill` and `restart`: it answers when what it did is written.
    pub async fn start_durable() -> Self {
        let mut server = Self { is_durable: true, ..Self::absent() };
        server.restart().await;
        server
    }

    /// The address of one that does not run yet.
    pub fn absent() -> Self {
        Self { address: free_address(), process: None, home: None, is_durable: false }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// SIGKILL: the connections are reset, and the port is closed.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Three that are a Redis Cluster together, each with its part of the keys.
    pub async fn start_cluster() -> Vec<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let mut node = Self::absent();
            // The nodes speak to each other at a port of its own, which is else this one and 10,000.
            let bus = free_address().port().to_string();
            node.run(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
            nodes.push(node);
        }
        let addresses: Vec<_> = nodes.iter().map(|node| node.address.to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let created =
            nodes[0].cli(&[&["--cluster", "create"], &addresses[..], &["--cluster-yes"]].concat()).await;
        assert!(created.contains("All 16384 slots covered"), "{created}");
        nodes
    }

    /// Starts it again on the same port, empty if it is not durable.
    pub async fn restart(&mut self) {
        let durable = ["--appendonly", "yes", "--appendfsync", "always"];
        self.run(if self.is_durable { &durable } else { &[] }).await;
    }

    async fn run(&mut self, arguments: &[&str]) {
        self.kill().await;
        let port = self.address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        let kept = self.home.take().filter(|_| self.is_durable);
        let home = kept.unwrap_or_else(|| tempfile::tempdir().unwrap());
        command.args(arguments).current_dir(home.path());
        self.home = Some(home);
        self.process = Some(Process::start(command.stdout(Stdio::null())));
        let address = self.address;
        eventually("redis-server answers", async || answers(address).await).await;
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    pub async fn pause(&self) {
        self.running().signal("STOP").await;
    }

    pub async fn resume(&self) {
        self.running().signal("CONT").await;
    }

    /// Each command that it does from now on, as it tells it.
    pub async fn monitor(&self) -> Lines<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        lines
    }

    /// Runs `redis-cli ARGS` and gives what it printed.
    pub async fn cli(&self, args: &[&str]) -> String {
        self.cli_with_input(args, b"").await
    }

    /// Runs `redis-cli -x ARGS`: its last argument is `input`, which may be any bytes.
    pub async fn publish_bytes(&self, channel: &str, input: &[u8]) -> String {
        self.cli_with_input(&["-x", "PUBLISH", channel], input).await
    }

    async fn cli_with_input(&self, args: &[&str], input: &[u8]) -> String {
        let port = self.address.port().to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &port]).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let output = timeout(DEADLINE, child.wait_with_output()).await.expect("redis-cli ends").unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// How many instances are subscribed to this Redis channel.
    pub async fn subscribers(&self, channel: &str) -> u32 {
        let printed = self.cli(&["PUBSUB", "NUMSUB", channel]).await;
        printed.lines().last().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("redis-server was started")
    }
}

async fn answers(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(&answer == b"+PONG\r\n")
    };
    ask.await.unwrap_or(false)
}

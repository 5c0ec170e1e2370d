//! A real Redis for a test: its own process, its own port, gone with the test. `FANFARE_TEST_REDIS` names another
//! program than `redis-server`, such as `valkey-server`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use redis::{AsyncConnectionConfig, FromRedisValue, Value};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::instance::{PATIENCE, eventually};

/// A redis-server on loopback.
pub struct Server {
    pub port: u16,
    /// Its own, and that of a node's bus.
    ports: Vec<Port>,
    program: String,
    dir: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// One that has answered. `arguments` are added to its command line.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut server = Self::reserve(arguments);
        server.run().await;
        server
    }

    /// One that is a cluster by itself.
    pub async fn start_cluster() -> Self {
        // By default its bus has a port ten thousand above its own, which may be none.
        let bus = Port::reserve();
        let number = bus.number().to_string();
        let mut server = Self::start(&["--cluster-enabled", "yes", "--cluster-port", &number]).await;
        server.ports.push(bus);
        let _: String = server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        eventually("the cluster is ready", async || {
            let info: String = server.command(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok")
        })
        .await;
        server
    }

    /// So many that are a cluster together, each with its part of the slots and without replicas.
    pub async fn start_nodes(count: usize) -> Vec<Self> {
        let mut nodes = Vec::new();
        for number in 0..count {
            let port = Port::reserve();
            let bus = port.number().to_string();
            let mut node = Self::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-port",
                &bus,
            ])
            .await;
            node.ports.push(port);
            let slot = |part: usize| (16384 * part / count).to_string();
            let last = (16384 * (number + 1) / count - 1).to_string();
            let _: String = node.command(&["CLUSTER", "ADDSLOTSRANGE", &slot(number), &last]).await;
            if number > 0 {
                let first: &Self = &nodes[0];
                let (port, bus) = (first.port.to_string(), first.bus());
                let _: String = node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
            }
            nodes.push(node);
        }
        for node in &nodes {
            eventually("the nodes know each other", async || {
                let info: String = node.command(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
            .await;
        }
        nodes
    }

    fn bus(&self) -> String {
        let at = self.arguments.iter().position(|argument| argument == "--cluster-port");
        self.arguments[at.expect("it is a node") + 1].clone()
    }

    /// One that does not run yet, at a port that nobody else has.
    pub fn reserve(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let dir = tempfile::tempdir().expect("a directory for Redis");
        let program = std::env::var("FANFARE_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
        let port = Port::reserve();
        Self { port: port.number(), ports: vec![port], program, dir, arguments, child: None }
    }

    /// Starts it, and waits until it answers.
    pub async fn run(&mut self) {
        self.spawn();
        let answered = timeout(PATIENCE, async {
            while self.try_command::<Value>(&["PING"]).await.is_err() {
                let ended = self.child.as_mut().map(Child::try_wait);
                assert!(matches!(ended, Some(Ok(None))), "{} ends: {}", self.program, self.log());
                tokio::task::yield_now().await;
            }
        });
        answered.await.expect("Redis answers");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let child = Command::new(&self.program)
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--enable-debug-command",
                "yes",
            ])
            .args(["--port", &self.port.to_string()])
            .args(["--unixsocket", &self.socket(), "--dir"])
            .arg(self.dir.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        self.child = Some(child);
    }

    /// As if the machine had lost its power.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it may be killed");
            child.wait().expect("it ends");
        }
    }

    /// `STOP` makes it silent with all its connections open, `CONT` ends that.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id();
        let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> String {
        self.dir.path().join("socket").display().to_string()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// An answer to a command, over the socket, where no TLS is in the way.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub async fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        self.bytes_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()).await
    }

    pub async fn bytes_command<T: FromRedisValue>(&self, words: &[&[u8]]) -> redis::RedisResult<T> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        let url = match self.password() {
            Some(password) => format!("unix://{}?pass={password}", self.socket()),
            None => format!("unix://{}", self.socket()),
        };
        let client = redis::Client::open(url)?;
        // What a node writes to its disk may take longer than the library waits by itself.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        command.query_async(&mut client.get_multiplexed_async_connection_with_config(&patient).await?).await
    }

    fn password(&self) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == "--requirepass")?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    /// How often these commands have been called, by anybody.
    pub async fn calls(&self, commands: &[&str]) -> Vec<u64> {
        let stats: String = self.command(&["INFO", "commandstats"]).await;
        let of = |command: &&str| {
            let begin = format!("cmdstat_{command}:calls=");
            let line = stats.lines().find_map(|line| line.strip_prefix(&begin));
            line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
        };
        commands.iter().map(of).collect()
    }

    /// The Redis channels that somebody is subscribed to, but for those that one instance hears alone.
    pub async fn channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.command(&["PUBSUB", "CHANNELS"]).await;
        channels.retain(|name| !name.contains(":canary:") && !name.contains(":instance:"));
        channels.sort();
        channels
    }

    /// Waits for exactly these channels of instances with the default prefix, besides those that they always hear.
    pub async fn until_channels(&self, channels: &[&str]) {
        let mut expected: Vec<_> = channels.iter().map(|name| format!("fanfare:channel:{name}")).collect();
        expected.extend(["fanfare:channel:lobby".to_owned(), "fanfare:control".to_owned()]);
        expected.sort();
        expected.dedup();
        eventually(&format!("the bus has {expected:?}"), async || self.channels().await == expected).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that the kernel chose, and that nobody else gets while this lives, also while the server is down: the
/// kernel gives it to none who asks for any, and only a server that asks for this one can have it, since nobody
/// listens here.
struct Port(TcpSocket);

impl Port {
    fn reserve() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("it is shared with the server");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a port");
        Self(socket)
    }

    fn number(&self) -> u16 {
        self.0.local_addr().expect("it is bound").port()
    }
}

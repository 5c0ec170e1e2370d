//! One running gateway: the real binary, its log and its addresses.

use std::env;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::process::Process;
use super::{API_KEY, DEADLINE, Metrics, Response, Setup, post, request};

/// So many lines of an instance's log are shown where a test fails.
const TAIL: usize = 30;

/// A running instance. Dropping it kills it.
pub struct Instance {
    process: Process,
    address: SocketAddr,
    internal: Option<SocketAddr>,
    log: Log,
    /// The folder it runs in, with its own configuration file or none, so that none of the user's is found.
    _home: TempDir,
}

impl Instance {
    /// Starts `fanfare serve` with these flags on a port of the kernel's choice, and waits until it listens.
    pub async fn start(flags: &[&str]) -> Self {
        Setup::default().flags(flags).start().await
    }

    /// The most memory that it has ever had, in bytes (proc(5), `VmHWM`).
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// As `start`, with at most `files` open files.
    pub async fn start_with_open_files(files: u32, flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files}; exec \"$@\"");
        command.args(["-c", &script, "sh"]).arg(binary()).arg("serve").args(flags);
        Self::launch(command, home).await
    }

    /// Runs this in `home`, and waits until it listens.
    pub(super) async fn launch(mut command: Command, home: TempDir) -> Self {
        alone(&mut command, &home);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let log = Log::follow(process.child().stderr.take().unwrap());
        let listening = log.find("listening", |line| line["message"] == "listening").await;
        let address = |field: &str| listening[field].as_str().map(|text| text.parse().unwrap());
        Self {
            address: address("address").expect("the instance says where it listens"),
            internal: address("internal_address"),
            process,
            log,
            _home: home,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/metrics` and the health pages are.
    pub fn internal_address(&self) -> SocketAddr {
        self.internal.unwrap_or(self.address)
    }

    /// `ws://…/ws/{channel}`; `channel` goes in as it is, query and all.
    pub fn url(&self, channel: &str) -> String {
        format!("ws://{}/ws/{channel}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// A page for operators or visitors, on the address where this instance serves it.
    pub async fn page(&self, path: &str) -> Response {
        let operators = ["/metrics", "/livez", "/readyz", "/healthz"].contains(&path);
        let address = if operators { self.internal_address() } else { self.address };
        request(address, "GET", path, &[]).await.expect("the instance answers")
    }

    /// Calls a method of the HTTP API, which must answer with 200, and returns what it says, be it an error.
    pub async fn api(&self, method: &str, body: &Value) -> Value {
        let (path, headers) = (format!("/api/{method}"), [("X-API-Key", API_KEY)]);
        let answer = post(self.internal_address(), &path, &headers, body.to_string().as_bytes()).await;
        let answer = answer.expect("the instance answers");
        assert_eq!(answer.status, 200, "{method} {body}: {}", answer.body);
        answer.json()
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.page("/metrics").await.body)
    }

    /// The value of one metric now; see `Metrics::value`.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.value(name, labels)
    }

    pub async fn signal(&self, name: &str) {
        self.process.signal(name).await;
    }

    pub async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// User and system time that it has used so far (proc(5), fields 14 and 15 of `stat`).
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Instance {
    /// A test that fails says what its instances said last, and which of them were not there any more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (pid, is_running) = (self.pid(), self.is_running());
            eprintln!("instance {pid} at {}, running: {is_running}; it said last:", self.address);
            self.log.tail().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Runs the binary to its end: `fanfare ARGS` with these variables.
pub async fn run_to_end(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().unwrap();
    run_in(&home, args, variables).await
}

/// As `run_to_end`, for a start that must fail: gives the exit code and what it printed to standard error.
pub async fn refused_to_start(
    file: Option<&str>,
    args: &[&str],
    variables: &[(&str, &str)],
) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        std::fs::write(home.path().join("fanfare.toml"), text).unwrap();
    }
    let output = run_in(&home, args, variables).await;
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

async fn run_in(home: &TempDir, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    alone(command.args(args), home);
    let output = command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true).output();
    timeout(DEADLINE, output).await.expect("the command ends in time").unwrap()
}

/// Takes away whatever of the user's would configure it, and sets what every test wants.
fn alone(command: &mut Command, home: &TempDir) {
    for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("FANFARE_")) {
        command.env_remove(key);
    }
    command
        .current_dir(home.path())
        .env_remove("RUST_LOG")
        .env("FANFARE_LISTEN", "127.0.0.1:0")
        .env("FANFARE_LOG_FORMAT", "json")
        .env("FANFARE_LOG_LEVEL", "debug");
}

/// The binary under test.
pub(super) fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = env::var_os("FANFARE_BIN") {
            return std::path::absolute(named).unwrap();
        }
        let built = std::process::Command::new(env!("CARGO"))
            // As tests/run does, so that no dependency is built twice.
            .args(["build", "--quiet", "--workspace", "--bin", "fanfare", "--test", "acceptance"])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "fanfare is not built");
        // …/target/debug/deps/acceptance-… → …/target/debug/fanfare
        let here = env::current_exe().unwrap();
        here.ancestors().nth(2).unwrap().join("fanfare")
    })
}

/// The log of an instance, a JSON object a line.
pub struct Log {
    lines: Arc<Mutex<Vec<Value>>>,
    changed: watch::Receiver<()>,
    reader: AbortHandle,
    /// It reads until this is gone, and keeps what it would have read from.
    reads: Option<oneshot::Sender<()>>,
}

impl Log {
    fn follow(stderr: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (tell, changed) = watch::channel(());
        let kept = lines.clone();
        let (reads, stands_still) = oneshot::channel();
        let reader = tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            let read = async {
                while let Ok(Some(line)) = reader.next_line().await {
                    kept.lock().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
                    tell.send_replace(());
                }
            };
            tokio::select! {
                () = read => {}
                _ = stands_still => pending().await,
            }
        });
        Self { lines, changed, reader: reader.abort_handle(), reads: Some(reads) }
    }

    /// Nobody reads any more, and what is written to finds nobody there.
    pub fn leave(&mut self) {
        self.reader.abort();
    }

    /// Nobody reads any more, and what is written to fills up.
    pub fn stand_still(&mut self) {
        self.reads = None;
    }

    /// All lines until now.
    pub fn lines(&self) -> Vec<Value> {
        self.lines.lock().clone()
    }

    /// What was worth a line for an operator, at the end of it.
    fn tail(&self) -> impl Iterator<Item = Value> {
        let told = self.lines().into_iter().filter(|line| line["level"] != "DEBUG").collect::<Vec<_>>();
        let start = told.len().saturating_sub(TAIL);
        told.into_iter().skip(start)
    }

    /// Waits for a line; panics with the whole log if it does not come.
    pub async fn find(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let mut changed = self.changed.clone();
        let search = async {
            loop {
                changed.mark_unchanged();
                if let Some(line) = self.lines.lock().iter().find(|line| matches(line)) {
                    return Some(line.clone());
                }
                if changed.changed().await.is_err() {
                    return self.lines.lock().iter().find(|line| matches(line)).cloned();
                }
            }
        };
        if let Ok(Some(line)) = timeout(DEADLINE, search).await {
            return line;
        }
        let all: Vec<String> = self.lines().iter().map(Value::to_string).collect();
        panic!("the log never said {what}:\n{}", all.join("\n"));
    }
}

//! What an instance is started with: the text of its configuration file, and flags. It starts nothing but instances
//! that are to run; whoever wants to see one refuse to start uses `refused_to_start`.

use std::path::PathBuf;

use tokio::process::Command;

use super::instance::binary;
use super::{Cgroup, Instance};

/// The secret of `Setup::tokens`. No comma in it: it is given by a variable.
pub const SECRET: &str = "a secret that only the tests have";

/// The key of `Setup::api`.
pub const API_KEY: &str = "a key that only the tests have";

/// An instance to be; any number can be started of one.
#[derive(Clone, Default)]
pub struct Setup {
    /// Lines that stand before `rest`, which may hold tables.
    keys: String,
    rest: String,
    flags: Vec<String>,
    /// Where a process joins its cgroup.
    door: Option<PathBuf>,
}

impl Setup {
    /// With this configuration, which may end with tables.
    pub fn new(text: &str) -> Self {
        Self { rest: text.to_owned(), ..Self::default() }
    }

    /// With channels that anybody may subscribe to and publish in, and these options of theirs.
    pub fn open(options: &str) -> Self {
        Self::new(&format!(
            "[channels]\nmay_subscribe = \"anonymous\"\nmay_publish = \"anonymous\"\n{options}\n"
        ))
    }

    /// With these lines before it.
    pub fn keys(mut self, keys: &str) -> Self {
        self.keys += &format!("{keys}\n");
        self
    }

    /// With `SECRET` for tokens.
    pub fn tokens(self) -> Self {
        self.keys(&format!("token_secrets = [\"{SECRET}\"]"))
    }

    /// With an HTTP API for `API_KEY`, on an address of its own.
    pub fn api(self) -> Self {
        self.keys(&format!("api_keys = [\"{API_KEY}\"]")).flags(&["--internal-listen", "127.0.0.1:0"])
    }

    /// With this Redis, or what stands before it.
    pub fn redis(self, url: &str) -> Self {
        self.flags(&["--redis", url])
    }

    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().copied().map(str::to_owned));
        self
    }

    /// In this cgroup.
    pub fn within(self, cgroup: &Cgroup) -> Self {
        Self { door: Some(cgroup.door()), ..self }
    }

    /// Runs `fanfare serve` on ports of the kernel's choice, and waits until it listens.
    pub async fn start(&self) -> Instance {
        let home = tempfile::tempdir().unwrap();
        let text = format!("{}{}", self.keys, self.rest);
        if !text.is_empty() {
            // Where it is looked for, so that it is found without being named.
            std::fs::write(home.path().join("fanfare.toml"), text).unwrap();
        }
        let mut command = match &self.door {
            None => Command::new(binary()),
            Some(door) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ >\"$1\"; shift; exec \"$@\"", "sh"]).arg(door).arg(binary());
                command
            }
        };
        command.arg("serve").args(&self.flags);
        Instance::launch(command, home).await
    }
}

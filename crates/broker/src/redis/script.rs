//! Lua that Redis runs, by its hash, so that its text travels once. Whoever sends a script looks at the answer, and
//! sends it again in full where Redis did not know it; that is not done here.

use redis::{Arg, Cmd, Value};

/// A Lua script, which Redis is given when it says that it does not know it.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    /// Not known to Redis yet.
    pub fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// The beginning of a command; the arguments are to follow.
    pub fn command(&self, keys: &[&str]) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }

    /// The same with the text in place of the hash. It is always known, whoever has Redis forget scripts meanwhile.
    pub fn in_full(&self, command: &Cmd) -> Cmd {
        let mut full = Cmd::new();
        full.arg("EVAL").arg(self.code);
        for arg in command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                full.arg(bytes);
            }
        }
        full
    }

    /// Whether it is this one that a command runs by its hash.
    pub fn is_run_by(&self, command: &Cmd) -> bool {
        matches!(command.args_iter().nth(1), Some(Arg::Simple(hash)) if hash == self.hash.as_bytes())
    }

    /// What makes Redis know it.
    pub fn load(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("SCRIPT").arg("LOAD").arg(self.code);
        command
    }
}

/// Whether Redis says that it does not know the script.
pub(super) fn is_noscript(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

//! Lua that Redis runs, by its hash, so that its text travels once. Whoever sends a script looks at the answer, loads
//! what Redis did not know, and sends it again; that is not done here.

use redis::{Cmd, Value};

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

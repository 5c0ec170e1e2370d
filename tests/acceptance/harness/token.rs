//! Tokens as people make them: by `fanfare token create`. Those that it would not make are the tests' own.

use super::{SECRET, run_to_end};

/// The token that it makes of these arguments with the secret of `Setup::tokens`.
pub async fn token(arguments: &[&str]) -> String {
    created(arguments, &[("FANFARE_TOKEN_SECRETS", SECRET)]).await
}

/// The same with other variables.
pub async fn created(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run_to_end(&[&["token", "create"], arguments].concat(), variables).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

//! Values that must not be shown: a type that masks itself, the names that mark such values, and where they come from.
//!
//! Says nothing about how a secret is used. Invariant: neither `Debug` nor an error message of this crate contains one.

use std::fmt;
use std::path::Path;

/// A password or key. Its `Debug` is `***`; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes charge of a secret.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The secret itself, for the library that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether a key, or a dotted path of keys, names a secret value. Keys that say where a secret comes from are none.
pub(super) fn is_secret_name(path: &str) -> bool {
    // `jaas.config` is no property of librdkafka's, but what people copy from Java has a password in it.
    const MARKS: [&str; 7] = [
        "password",
        "secret",
        "ssl.key.pem",
        "jaas.config",
        "oauthbearer.config",
        "oauthbearer.client.assertion",
        "token",
    ];
    const SOURCES: [&str; 4] = ["env", "file", "location", "url"];
    let path = path.trim_matches([' ', '\t', '"', '\'']).to_ascii_lowercase();
    let last = path.rsplit(['.', '-']).next().unwrap_or_default();
    !SOURCES.contains(&last) && MARKS.iter().any(|mark| path.contains(mark))
}

/// Takes a secret from the environment. The error is a clause about the variable.
pub(super) fn from_environment(variable: &str) -> Result<Secret, String> {
    match std::env::var(variable) {
        Ok(value) => Ok(Secret(value)),
        Err(std::env::VarError::NotPresent) => Err(format!("the environment variable `{variable}` is not set")),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("the environment variable `{variable}` is not UTF-8 text"))
        }
    }
}

/// Takes a secret from a file, without the line end that editors put behind it.
pub(super) fn from_file(path: &Path) -> Result<Secret, String> {
    match std::fs::read_to_string(path) {
        Ok(value) => Ok(Secret(value.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "***");
    }

    #[test]
    fn names_of_secrets_are_told_from_names_of_their_sources() {
        for name in ["kafka.sasl.password", "ssl.keystore.password", "ssl.key.pem", "sasl.jaas.config"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["zookeeper.auth.password-env", "kafka.sasl.password.file", "sasl.username", "ssl.key.location"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}

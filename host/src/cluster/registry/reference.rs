//! How people name a plugin. Pure.

use std::fmt;
use std::str::FromStr;

use semver::Version;
use thiserror::Error;

use super::PluginEntry;
use crate::digest::{self, Digest};
use crate::manifest;

/// A plugin as a pipeline or a command names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryReference {
    /// `sha256:..`: these bytes.
    Digest(Digest),
    /// `name@1.2.3`, or `name@1.2` and `name@1` for the highest version that begins like that.
    Version {
        /// Name.
        name: String,
        /// Which versions.
        version: VersionPattern,
    },
}

/// Which versions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPattern {
    /// This one.
    Exactly(Version),
    /// Releases with this major version.
    Major(u64),
    /// Releases with this major and minor version.
    Minor(u64, u64),
}

/// Text that names no plugin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{text}` names no plugin of the registry: {problem}; write `name@1.2.3`, `name@1` for the highest 1.x, or `sha256:` and 64 digits"
)]
pub struct ReferenceError {
    text: String,
    problem: &'static str,
}

impl RegistryReference {
    /// One version.
    #[must_use]
    pub fn exactly(name: &str, version: Version) -> Self {
        Self::Version { name: name.into(), version: VersionPattern::Exactly(version) }
    }

    /// Whether `entry` is meant.
    #[must_use]
    pub fn matches(&self, entry: &PluginEntry) -> bool {
        match self {
            Self::Digest(digest) => entry.record.digest == *digest,
            Self::Version { name, version } => *name == entry.name && version.matches(&entry.version),
        }
    }
}

impl VersionPattern {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(version) = Version::parse(text) {
            return Some(Self::Exactly(version));
        }
        // As in a semantic version: no sign, no leading zero.
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        match text.split_once('.') {
            None => number(text).map(Self::Major),
            Some((major, minor)) => Some(Self::Minor(number(major)?, number(minor)?)),
        }
    }

    fn matches(&self, version: &Version) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == version,
            Self::Major(major) => version.major == *major && version.pre.is_empty(),
            Self::Minor(major, minor) => (version.major, version.minor) == (*major, *minor) && version.pre.is_empty(),
        }
    }
}

impl FromStr for RegistryReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |problem| Err(ReferenceError { text: text.into(), problem });
        if text.starts_with(digest::PREFIX) {
            return text.parse().map(Self::Digest).or_else(|_| refuse("it is no SHA-256 digest"));
        }
        match text.split_once('@') {
            None => refuse("it has no version"),
            Some((name, _)) if !manifest::is_name(name) => {
                refuse("a name has lower-case letters, digits and `-`, a letter first")
            }
            Some((name, version)) => match VersionPattern::parse(version) {
                Some(version) => Ok(Self::Version { name: name.into(), version }),
                None => refuse("its version is none"),
            },
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(formatter),
            Self::Version { name, version: VersionPattern::Exactly(version) } => write!(formatter, "{name}@{version}"),
            Self::Version { name, version: VersionPattern::Major(major) } => write!(formatter, "{name}@{major}"),
            Self::Version { name, version: VersionPattern::Minor(major, minor) } => {
                write!(formatter, "{name}@{major}.{minor}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_shown_as_they_were_written() {
        for text in ["a@1", "a@1.2", "value-length@1.2.3-rc.1", &Digest::of(b"x").to_string()] {
            assert_eq!(text.parse::<RegistryReference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_text_is_refused_with_what_to_write() {
        for text in ["", "a", "a@", "A@1", "a@x", "a@1.2.3.4", "a@01", "a@+1", "sha256:12", "a/b@1", "@1"] {
            let error = text.parse::<RegistryReference>().unwrap_err().to_string();
            assert!(error.contains("name@1.2.3") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_short_version_means_releases_only() {
        let matches = |pattern: &str, version: &str| {
            VersionPattern::parse(pattern).unwrap().matches(&Version::parse(version).unwrap())
        };
        assert!(matches("1", "1.9.0") && matches("1.9", "1.9.3") && matches("1.9.0-rc.1", "1.9.0-rc.1"));
        assert!(!matches("1", "2.0.0") && !matches("1", "1.9.0-rc.1") && !matches("1.9", "1.8.0"));
    }
}

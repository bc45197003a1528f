//! The configuration as it is in effect: one [`Setting`] for each value, with where it comes from.
//!
//! What the values are is not decided here: the validated types say that, this says how they are shown. Invariant: the
//! value of a secret is [`MASK`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::text::{Step, Text};

/// Shown in place of a secret.
const MASK: &str = "***";

/// One value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// The way to it in the file: `zookeeper.connect`, `source[0].topic`.
    pub key: String,
    /// As it would be written, without quotes; none where nothing is set and nothing has a default.
    pub value: Option<String>,
    /// Where it comes from.
    pub from: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Source {
    /// Nobody has said anything.
    Default,
    /// A configuration file.
    File {
        /// Which, as it was named.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The environment.
    Environment {
        /// Name of the variable.
        variable: String,
    },
    /// The command line.
    Flag {
        /// With its dashes.
        flag: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// Where values come from that go over a file's, by key.
pub type Overrides = BTreeMap<&'static str, Source>;

/// The settings of one file, in the order in which they are added.
pub(super) struct Listing<'a> {
    text: &'a Text,
    overrides: &'a Overrides,
    settings: Vec<Setting>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(text: &'a Text, overrides: &'a Overrides) -> Self {
        Self { text, overrides, settings: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Setting> {
        self.settings
    }

    /// A value that may be shown.
    pub(super) fn add(&mut self, key: impl Into<String>, value: impl fmt::Display) {
        self.add_optional(key, Some(value));
    }

    /// A value that may be shown, or may not be there.
    pub(super) fn add_optional(&mut self, key: impl Into<String>, value: Option<impl fmt::Display>) {
        let key = key.into();
        let from = self.source(&[&key]);
        self.settings.push(Setting { key, value: value.map(|value| value.to_string()), from });
    }

    /// A value that may be written in several places, of which the first that is there counts.
    pub(super) fn add_from(&mut self, key: impl Into<String>, value: impl fmt::Display, places: &[&str]) {
        let from = self.source(places);
        self.settings.push(Setting { key: key.into(), value: Some(value.to_string()), from });
    }

    /// A secret, written in one of several places.
    pub(super) fn add_secret(&mut self, key: impl Into<String>, places: &[&str]) {
        self.add_from(key, MASK, places);
    }

    /// A value as it stands in the file, if it does.
    pub(super) fn add_written(&mut self, key: &str) {
        if let Some(place) = self.text.find(&[Step::Path(key)]) {
            let written = self.text.as_str().get(place).unwrap_or_default().trim_matches(['"', '\'']);
            self.add(key, self.text.resolve(written).display());
        }
    }

    fn source(&self, places: &[&str]) -> Source {
        if let Some(source) = places.iter().find_map(|place| self.overrides.get(place)) {
            return source.clone();
        }
        let Some(place) = places.iter().find_map(|place| self.text.find(&[Step::Path(place)])) else {
            return Source::Default;
        };
        let before = self.text.as_str().bytes().take(place.start);
        let line = 1 + before.filter(|&byte| byte == b'\n').count();
        Source::File { file: self.text.origin().to_path_buf(), line }
    }
}

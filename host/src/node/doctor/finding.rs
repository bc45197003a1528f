//! What was found about one thing.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and something had better be otherwise.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about.
    pub subject: String,
    /// What was found.
    pub finding: String,
    /// What to do. None where nothing is to be done, or the finding says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.into(), finding: finding.into(), help: None }
    }

    pub(super) fn warning(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(subject, finding) }
    }

    pub(super) fn problem(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::ok(subject, finding) }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

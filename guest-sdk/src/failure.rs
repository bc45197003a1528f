//! How a plugin says that something went wrong: [`Outcome`], [`Failure`] and [`Unfit`].
//!
//! Nothing here retries: what follows from each failure is the host's decision. [`Failure`] is deliberately no
//! `std::error::Error`, so that `?` turns every other error into a rejection of the record.

use std::error::Error;
use std::fmt::{self, Display, Write};

/// What a transform returns for a record.
pub type Outcome = Result<(), Failure>;

/// Why a record was not processed. Made by `?` on any error (which rejects the record), by [`reject`], [`transient`] and
/// [`fatal`].
pub struct Failure(Box<(FailureKind, String)>);

/// What a [`Failure`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// This record goes to the dead letters with the reason; the others are processed. It emits nothing and leaves no state.
    Reject,
    /// Something outside is to blame: the host drops the instance, rolls back and tries the same records later.
    Transient,
    /// No record will work: the pipeline stops.
    Fatal,
}

/// Rejects the record: it goes to the dead letters with this reason.
#[cold]
pub fn reject(reason: impl Display) -> Failure {
    Failure::new(FailureKind::Reject, reason.to_string())
}

/// Something outside the plugin failed and may work later: the host rolls back and offers the same records again after a
/// pause, on a new instance.
#[cold]
pub fn transient(reason: impl Display) -> Failure {
    Failure::new(FailureKind::Transient, reason.to_string())
}

/// Stops the pipeline with this reason.
#[cold]
pub fn fatal(reason: impl Display) -> Failure {
    Failure::new(FailureKind::Fatal, reason.to_string())
}

impl Failure {
    fn new(kind: FailureKind, reason: String) -> Self {
        Self(Box::new((kind, reason)))
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.0.0
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind(), self.reason())
    }
}

impl<E: Error> From<E> for Failure {
    #[cold]
    fn from(error: E) -> Self {
        reject(chain(&error))
    }
}

/// The error and what caused it, separated by colons.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Why a plugin does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The configuration is wrong: shown to the user with the line of the pipeline file. Not retried.
    Config {
        /// Path of the field, like `paths[2]`; empty for the whole.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// Anything else. The host tries a few times.
    Failed(String),
}

impl Unfit {
    /// The field at `field` (like `paths[2]`) of the configuration is wrong.
    pub fn config(field: impl Into<String>, message: impl Display) -> Self {
        Self::Config { field: field.into(), message: message.to_string() }
    }
}

impl Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, message } if field.is_empty() => write!(f, "configuration: {message}"),
            Self::Config { field, message } => write!(f, "configuration: {field}: {message}"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl<E: Error> From<E> for Unfit {
    fn from(error: E) -> Self {
        Self::Failed(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn an_error_rejects_with_its_chain_of_causes() {
        let failure = Failure::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert_eq!(failure.reason(), "outer: invalid digit found in string");
    }

    #[test]
    fn a_failure_passes_through_a_question_mark_unchanged() {
        fn stop() -> Outcome {
            Err(fatal("no"))?;
            Ok(())
        }
        assert_eq!(stop().unwrap_err().kind(), FailureKind::Fatal);
    }
}

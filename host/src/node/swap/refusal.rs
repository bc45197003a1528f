//! Why the gate refuses a swap. Pure.

use thiserror::Error;

use super::gate::{Finding, Level};

/// Why a swap is not begun.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// Something that was looked at is not as it has to be.
    #[error("{0}")]
    Found(String),
    /// There would be no way back without loss, and nobody has said that there need be none; all else is as it has to
    /// be.
    #[error("{0}")]
    NoWayBack(String),
    /// More differs than one transform.
    #[error("more differs than a swap can change while records flow: deploy the changed pipeline file instead")]
    Beyond,
}

impl Refusal {
    /// The same, where `no_return` is all that is missing.
    pub(super) fn for_want_of_return(self) -> Self {
        match self {
            Self::Found(why) => Self::NoWayBack(why),
            other => other,
        }
    }
}

/// Whether nothing was found that stands in the way.
///
/// # Errors
/// The first thing that does.
pub(super) fn passes(findings: &[Finding]) -> Result<(), Refusal> {
    match findings.iter().find(|finding| finding.level == Level::Refused) {
        Some(Finding { subject, finding, .. }) => Err(Refusal::Found(format!("{subject}: {finding}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::finding;
    use super::*;

    #[test]
    fn the_first_thing_that_stands_in_the_way_is_named() {
        let found = [Level::Ok, Level::Warning].map(|level| finding(level, "outputs", "as they are"));
        assert_eq!(passes(&found), Ok(()));
        let more = ["first", "second"].map(|what| finding(Level::Refused, "store `counts`", what));
        let refused = passes(&[&found[..], &more].concat()).unwrap_err();
        assert_eq!(refused, Refusal::Found("store `counts`: first".to_owned()));
        assert_eq!(refused.clone().for_want_of_return().to_string(), refused.to_string());
        assert_eq!(Refusal::Beyond.for_want_of_return(), Refusal::Beyond);
    }
}

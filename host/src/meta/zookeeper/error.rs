//! What the client's errors mean. Pure.
//!
//! The rule for writes: only what the server has answered, or what can not have left this process, is certain. Everything
//! else may have been applied.

use zookeeper_client::Error;

use crate::meta::MetaError;

/// The error of a read.
pub(super) fn of_read(path: &str, error: &Error) -> MetaError {
    of_answer(path, error).unwrap_or_else(|| MetaError::Away { reason: error.to_string() })
}

/// The error of a write.
pub(super) fn of_write(path: &str, error: &Error) -> MetaError {
    of_answer(path, error).unwrap_or_else(|| MetaError::AnswerLost { reason: error.to_string() })
}

/// What a server or the client's own checks have refused; `None` when that is not certain.
fn of_answer(path: &str, error: &Error) -> Option<MetaError> {
    let path = || path.to_owned();
    Some(match error {
        Error::NoNode => MetaError::Missing { path: path() },
        Error::NodeExists => MetaError::Exists { path: path() },
        Error::BadVersion => MetaError::BadVersion { path: path() },
        Error::NotEmpty => MetaError::NotEmpty { path: path() },
        Error::NoAuth | Error::InvalidAcl | Error::AuthFailed => {
            MetaError::Denied { path: path(), reason: error.to_string() }
        }
        Error::SessionMoved | Error::NotReadOnly | Error::Throttled => MetaError::Away { reason: error.to_string() },
        Error::NoChildrenForEphemerals => {
            MetaError::Failed { path: path(), reason: "an ephemeral node cannot have children".into() }
        }
        Error::BadArguments(_)
        | Error::QuotaExceeded
        | Error::MarshallingError
        | Error::Unimplemented
        | Error::ReconfigDisabled
        | Error::NoWatcher
        | Error::UnexpectedErrorCode(_) => MetaError::Failed { path: path(), reason: error.to_string() },
        // `ConnectionLoss`, `Custom`, `UnexpectedError`, an expired or closed session, whatever a later version adds.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_without_an_answer_may_have_happened() {
        for error in [
            Error::ConnectionLoss,
            Error::SessionExpired,
            Error::ClientClosed,
            Error::Timeout,
            Error::UnexpectedError("no response".into()),
        ] {
            assert!(of_write("/a", &error).may_have_happened(), "{error}");
            assert!(of_read("/a", &error).is_outage(), "{error}");
            assert!(!of_read("/a", &error).may_have_happened(), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_certain() {
        for error in [Error::BadVersion, Error::NoAuth, Error::NoNode, Error::NodeExists, Error::QuotaExceeded] {
            assert!(!of_write("/a", &error).is_outage(), "{error}");
        }
    }
}

//! How long something is tried: so many records, or so long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a candidate stays in the shadow of the version that runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// Until it has seen so many records, in all tasks together.
    Records(u64),
    /// So long.
    Time(Duration),
}

/// Neither records nor a time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("write a number of records such as 10000, or a time such as 10m")]
pub struct ExtentError;

impl FromStr for Extent {
    type Err = ExtentError;

    fn from_str(text: &str) -> Result<Self, ExtentError> {
        match (text.parse(), humantime::parse_duration(text)) {
            (Ok(records @ 1..), _) => Ok(Self::Records(records)),
            (Err(_), Ok(time)) if !time.is_zero() => Ok(Self::Time(time)),
            _ => Err(ExtentError),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => write!(f, "{records}"),
            Self::Time(time) => write!(f, "{}", humantime::format_duration(*time)),
        }
    }
}

impl Serialize for Extent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_records_or_a_time() {
        for text in ["10000", "1m 30s", "250ms"] {
            assert_eq!(text.parse::<Extent>().unwrap().to_string(), text);
        }
        assert_eq!("5".parse(), Ok(Extent::Records(5)));
        for wrong in ["0", "0s", "-1", "10%", "soon", ""] {
            assert_eq!(wrong.parse::<Extent>(), Err(ExtentError), "{wrong}");
        }
    }
}

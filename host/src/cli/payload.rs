//! Bytes as people read them: text where they are text, else base64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// A key or a value. In JSON text, or `{"base64": ".."}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Text that shows what it is.
    fn readable(&self) -> Option<&str> {
        let is_shown = |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t');
        std::str::from_utf8(&self.0).ok().filter(|text| text.chars().all(is_shown))
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.readable() {
            Some(text) => f.write_str(text),
            None => write!(f, "base64:{}", BASE64.encode(&self.0)),
        }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.readable() {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &BASE64.encode(&self.0))?;
        map.end()
    }
}

//! Bytes as people read and write them: text where they are text, `{"base64": ".."}` otherwise. Text that is JSON may be written as it
//! is: `{"json": ..}`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// A key or a value.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, ToSchema)]
#[schema(value_type = serde_json::Value)]
pub struct Payload(pub Vec<u8>);

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// Text that shows what it is.
fn readable(bytes: &[u8]) -> Option<&str> {
    let is_shown = |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t');
    std::str::from_utf8(bytes).ok().filter(|text| text.chars().all(is_shown))
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match readable(&self.0) {
            Some(text) => f.write_str(text),
            None => write!(f, "base64:{}", BASE64.encode(&self.0)),
        }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = readable(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &BASE64.encode(&self.0))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PayloadVisitor)
    }
}

struct PayloadVisitor;

const FIELDS: [&str; 2] = ["base64", "json"];

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, {\"base64\": \"..\"}, {\"json\": ..} or null")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Payload, E> {
        Ok(Payload(text.as_bytes().to_vec()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
        let bytes = match map.next_key::<String>()?.as_deref() {
            Some("base64") => {
                let text: String = map.next_value()?;
                BASE64.decode(&text).map_err(|error| A::Error::custom(format!("`{text}` is no base64: {error}")))?
            }
            // Without spaces, keys sorted.
            Some("json") => map.next_value::<serde_json::Value>()?.to_string().into_bytes(),
            Some(other) => return Err(A::Error::unknown_field(other, &FIELDS)),
            None => return Err(A::Error::missing_field("base64")),
        };
        match map.next_key::<String>()? {
            Some(other) => Err(A::Error::unknown_field(&other, &FIELDS)),
            None => Ok(Payload(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_may_be_written_as_it_is() {
        let read = |text: &str| serde_json::from_str::<Payload>(text).map(|Payload(bytes)| bytes);
        assert_eq!(read(r#"{"json": {"b": [1, null], "a": "x"}}"#).unwrap(), br#"{"a":"x","b":[1,null]}"#);
        assert_eq!(read(r#"{"base64": "/wA="}"#).unwrap(), [255, 0]);
        assert_eq!(read(r#""text""#).unwrap(), b"text");
        for wrong in [r#"{"yaml": 1}"#, r#"{"json": 1, "base64": ""}"#, "{}", "[1]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

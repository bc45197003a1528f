//! How keys and values of state are shown and typed, by the formats that a plugin's manifest declares. Pure.
//!
//! `docs/manifest.schema.json` has the formats. What cannot be read by its format, or has none and is no text, is shown as
//! bytes in hexadecimal behind [`HEX`]. Invariant: what is shown of a key can be typed for it.

use serde::de::DeserializeOwned;

/// Stands before bytes in hexadecimal; a text that begins with it is shown as bytes too.
const HEX: &str = "0x";
/// Between the two keys of a map in a map.
const INNER: &str = " / ";

/// How something is encoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Format<'a>(pub(super) &'a str);

/// A number as text, and back.
type Number = (fn(&[u8]) -> Option<String>, fn(&str) -> Option<Vec<u8>>);

macro_rules! numbers {
    ($format:expr, $($name:literal => $type:ty, $flip:expr;)+) => {
        match $format {
            $($name => Some((
                (|bytes: &[u8]| Some((<$type>::from_be_bytes(bytes.try_into().ok()?) ^ $flip).to_string())) as _,
                (|text: &str| Some((text.parse::<$type>().ok()? ^ $flip).to_be_bytes().to_vec())) as _,
            )),)+
            _ => None,
        }
    };
}

impl Format<'_> {
    /// As people read it.
    pub(super) fn show(self, bytes: &[u8]) -> String {
        self.text(bytes).unwrap_or_else(|| format!("{HEX}{}", hex::encode(bytes)))
    }

    /// As text, if it is one or can be read by the format.
    pub(super) fn text(self, bytes: &[u8]) -> Option<String> {
        let (encoding, of) = self.0.split_once(':').unwrap_or((self.0, ""));
        match encoding {
            "" | "bytes" | "utf8" => plain(bytes),
            "json" => plain(bytes).filter(|text| serde_json::from_str::<serde_json::Value>(text).is_ok()),
            "bool" => match bytes {
                [0] => Some("false".to_owned()),
                [1] => Some("true".to_owned()),
                _ => None,
            },
            "postcard" => postcard_text(of, bytes),
            _ => match self.map() {
                Some((outer, inner)) => {
                    let (length, rest) = bytes.split_first_chunk()?;
                    let (first, second) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                    Some(format!("{}{INNER}{}", outer.show(first), inner.show(second)))
                }
                None => self.number().and_then(|(show, _)| show(bytes)),
            },
        }
    }

    /// The bytes of what somebody has typed. The error says what to type instead.
    pub(super) fn read(self, typed: &str) -> Result<Vec<u8>, String> {
        if let Some(digits) = typed.strip_prefix(HEX)
            && self.map().is_none()
        {
            return hex::decode(digits)
                .map_err(|_| format!("`{typed}` is not {HEX} and pairs of digits of 0-9 and a-f"));
        }
        let wrong = || format!("`{typed}` is no key of the format `{}`", self.0);
        match self.0 {
            "" | "bytes" | "utf8" | "json" => Ok(typed.as_bytes().to_vec()),
            "bool" => match typed {
                "false" => Ok(vec![0]),
                "true" => Ok(vec![1]),
                _ => Err(format!("{}: write true or false", wrong())),
            },
            _ => match (self.map(), self.number()) {
                (Some((outer, inner)), _) => {
                    let help = || format!("{}: write `OUTER{INNER}INNER`", wrong());
                    let (first, second) = typed.split_once(INNER).ok_or_else(help)?;
                    let (first, second) = (outer.read(first)?, inner.read(second)?);
                    let length = u32::try_from(first.len()).map_err(|_| wrong())?;
                    Ok([&length.to_be_bytes()[..], &first, &second].concat())
                }
                (None, Some((_, read))) => read(typed).ok_or_else(|| format!("{}: write a number", wrong())),
                (None, None) => Err(format!("{}: write its bytes as {HEX} and hexadecimal digits", wrong())),
            },
        }
    }

    /// The formats of both keys of a map in a map.
    fn map(&self) -> Option<(Format<'_>, Format<'_>)> {
        let (outer, inner) = self.0.strip_prefix("map(")?.strip_suffix(')')?.split_once(',')?;
        Some((Format(outer), Format(inner)))
    }

    fn number(self) -> Option<Number> {
        // Signed ones with the sign bit flipped, so that negative ones come first.
        numbers! { self.0,
            "u8" => u8, 0;
            "u16" => u16, 0;
            "u32" => u32, 0;
            "u64" => u64, 0;
            "u128" => u128, 0;
            "i8" => i8, i8::MIN;
            "i16" => i16, i16::MIN;
            "i32" => i32, i32::MIN;
            "i64" => i64, i64::MIN;
            "i128" => i128, i128::MIN;
        }
    }
}

/// A text without anything that a terminal would take for more than that.
fn plain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.starts_with(HEX) && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Postcard does not describe itself: only what the plugin calls by a name that everybody knows can be read.
fn postcard_text(of: &str, bytes: &[u8]) -> Option<String> {
    fn read<T: DeserializeOwned>(bytes: &[u8], show: impl FnOnce(T) -> Option<String>) -> Option<String> {
        let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
        if rest.is_empty() { show(value) } else { None }
    }
    match of {
        "bool" => read(bytes, |value: bool| Some(value.to_string())),
        "u16" | "u32" | "u64" | "usize" => read(bytes, |value: u64| Some(value.to_string())),
        "u8" => read(bytes, |value: u8| Some(value.to_string())),
        "u128" => read(bytes, |value: u128| Some(value.to_string())),
        "i8" => read(bytes, |value: i8| Some(value.to_string())),
        "i16" | "i32" | "i64" | "isize" => read(bytes, |value: i64| Some(value.to_string())),
        "i128" => read(bytes, |value: i128| Some(value.to_string())),
        "f32" => read(bytes, |value: f32| Some(value.to_string())),
        "f64" => read(bytes, |value: f64| Some(value.to_string())),
        "String" => read(bytes, |value: String| plain(value.as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_key_can_be_typed() {
        let keys: &[(&str, &[u8], &str)] = &[
            ("utf8", b"ada", "ada"),
            ("utf8", b"0xada", "0x3078616461"),
            ("", b"\x1b[2J", "0x1b5b324a"),
            ("bytes", b"ada", "ada"),
            ("bytes", &[0xff, 0], "0xff00"),
            ("bool", &[1], "true"),
            ("u32", &[0, 0, 1, 0], "256"),
            ("i16", &[0x7f, 0xfe], "-2"),
            ("i64", &[0x80, 0, 0, 0, 0, 0, 0, 5], "5"),
            ("postcard", &[3, 1], "0x0301"),
            ("map(utf8,u8)", &[0, 0, 0, 2, b'a', b'b', 7], "ab / 7"),
            ("map(bytes,utf8)", &[0, 0, 0, 1, 0xff, b'k'], "0xff / k"),
            ("of-the-future", b"ada", "0x616461"),
        ];
        for (format, bytes, shown) in keys {
            assert_eq!(Format(format).show(bytes), *shown, "{format}");
            assert_eq!(Format(format).read(shown).as_deref(), Ok(*bytes), "{format}");
        }
    }

    #[test]
    fn values_of_well_known_types_are_read_and_others_are_bytes() {
        let value = |of: &str, bytes: &[u8]| Format(&format!("postcard:{of}")).show(bytes);
        assert_eq!(value("u64", &postcard::to_stdvec(&300_u64).unwrap()), "300");
        assert_eq!(value("u8", &[200]), "200");
        assert_eq!(value("i32", &postcard::to_stdvec(&-5_i32).unwrap()), "-5");
        assert_eq!(value("String", &postcard::to_stdvec("hello").unwrap()), "hello");
        assert_eq!(value("f64", &postcard::to_stdvec(&0.5_f64).unwrap()), "0.5");
        assert_eq!(value("Order", &[1, 2]), "0x0102");
        assert_eq!(value("u64", &[1, 2]), "0x0102", "more than one value");
        assert_eq!(Format("json").show(br#"{"a":1}"#), r#"{"a":1}"#);
        assert_eq!(Format("json").show(b"{"), "0x7b");
    }

    #[test]
    fn a_key_that_cannot_be_one_is_refused_with_what_to_type() {
        for (format, typed, help) in [
            ("u8", "256", "write a number"),
            ("bool", "yes", "write true or false"),
            ("utf8", "0xf", "pairs of digits"),
            ("postcard", "ada", "write its bytes as 0x"),
            ("map(utf8,u8)", "ada", "write `OUTER / INNER`"),
        ] {
            let error = Format(format).read(typed).unwrap_err();
            assert!(error.contains(help), "{format}: {error}");
        }
    }
}

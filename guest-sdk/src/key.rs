//! How the keys of a store become bytes: [`Key`].
//!
//! The encodings are for ever, since state outlives plugins:
//!
//! | type | bytes | format in the manifest |
//! |---|---|---|
//! | `[u8]`, `Vec<u8>` | as they are | `bytes` |
//! | `str`, `String` | as they are | `utf8` |
//! | `u8` .. `u128` | big-endian | `u8` .. `u128` |
//! | `i8` .. `i128` | big-endian with the sign bit flipped, so that negative ones come first | `i8` .. `i128` |
//! | `bool` | one byte, 0 or 1 | `bool` |
//! | tuples, and types given to [`postcard_key!`](crate::postcard_key) | [postcard](https://postcard.jamesmunns.com/wire-format) | `postcard` |
//! | key of a [`Map`](crate::Map) | length of the outer key as 4 bytes big-endian, outer key, inner key | `map(OUTER,INNER)` |

use crate::failure::{Failure, fatal};
use std::borrow::Borrow;

/// A type that can be the key of a store. See the [module](self) for the encodings.
pub trait Key {
    /// What a key is read back as.
    type Owned: Borrow<Self>;
    /// The encoding's name in the manifest.
    const FORMAT: &'static str;
    /// Whether the key of the record, as it is, may be a key of the store: then it is fetched ahead.
    const IS_RECORD_KEY: bool = false;

    /// The encoded key, where that is the key itself.
    #[inline(always)]
    fn as_encoded(&self) -> Option<&[u8]> {
        None
    }

    /// Appends the encoded key.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads it back.
    ///
    /// # Errors
    /// Stops the pipeline: the store holds a key of another encoding.
    fn decode(bytes: &[u8]) -> Result<Self::Owned, Failure>;
}

#[cold]
fn undecodable(format: &str, bytes: &[u8]) -> Failure {
    fatal(format_args!("state: a key is not {format}: {}", bytes.escape_ascii()))
}

macro_rules! bytes_key {
    ($($type:ty, $this:ident => $bytes:expr, $found:ident => $owned:ty: $decoded:expr, $format:literal;)+) => {$(
        impl Key for $type {
            type Owned = $owned;
            const FORMAT: &'static str = $format;
            const IS_RECORD_KEY: bool = true;
            #[inline(always)]
            fn as_encoded(&self) -> Option<&[u8]> {
                let $this = self;
                Some($bytes)
            }
            fn encode(&self, out: &mut Vec<u8>) {
                let $this = self;
                out.extend_from_slice($bytes);
            }
            fn decode($found: &[u8]) -> Result<$owned, Failure> {
                $decoded
            }
        }
    )+};
}

bytes_key! {
    [u8], this => this, bytes => Vec<u8>: Ok(bytes.to_vec()), "bytes";
    Vec<u8>, this => this, bytes => Vec<u8>: Ok(bytes.to_vec()), "bytes";
    str, this => this.as_bytes(), bytes => String:
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| undecodable("utf8", bytes)), "utf8";
    String, this => this.as_bytes(), bytes => String:
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| undecodable("utf8", bytes)), "utf8";
}

macro_rules! integer_key {
    ($($type:ident flips $flip:expr;)+) => {$(
        impl Key for $type {
            type Owned = $type;
            const FORMAT: &'static str = stringify!($type);
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self ^ $flip).to_be_bytes());
            }
            fn decode(bytes: &[u8]) -> Result<$type, Failure> {
                let bytes = bytes.try_into().map_err(|_| undecodable(Self::FORMAT, bytes))?;
                Ok($type::from_be_bytes(bytes) ^ $flip)
            }
        }
    )+};
}

integer_key! {
    u8 flips 0;
    u16 flips 0;
    u32 flips 0;
    u64 flips 0;
    u128 flips 0;
    i8 flips i8::MIN;
    i16 flips i16::MIN;
    i32 flips i32::MIN;
    i64 flips i64::MIN;
    i128 flips i128::MIN;
}

impl Key for bool {
    type Owned = bool;
    const FORMAT: &'static str = "bool";
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(bytes: &[u8]) -> Result<bool, Failure> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(undecodable("bool", bytes)),
        }
    }
}

/// For [`postcard_key!`](crate::postcard_key).
#[doc(hidden)]
pub fn encode_postcard<T: serde::Serialize>(key: &T, out: &mut Vec<u8>) {
    crate::state::codec::encode(key, out).expect("a key of plain data can be serialised");
}

/// For [`postcard_key!`](crate::postcard_key).
#[doc(hidden)]
pub fn decode_postcard<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    crate::state::codec::decode(bytes).map_err(|_| undecodable("postcard", bytes))
}

/// Lets types that implement serde's traits be keys of stores, encoded by postcard: `postcard_key!(Session);`.
///
/// The encoding is that of the type's fields in their order: changing them makes other keys of them.
#[macro_export]
macro_rules! postcard_key {
    ($($type:ty),+ $(,)?) => {$(
        impl $crate::Key for $type {
            type Owned = $type;
            const FORMAT: &'static str = "postcard";
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                $crate::key::encode_postcard(self, out);
            }
            fn decode(bytes: &[u8]) -> ::std::result::Result<Self, $crate::Failure> {
                $crate::key::decode_postcard(bytes)
            }
        }
    )+};
}

macro_rules! tuple_key {
    ($($part:ident)+) => {
        impl<$($part: serde::Serialize + serde::de::DeserializeOwned),+> Key for ($($part,)+) {
            type Owned = ($($part,)+);
            const FORMAT: &'static str = "postcard";
            fn encode(&self, out: &mut Vec<u8>) {
                encode_postcard(self, out);
            }
            fn decode(bytes: &[u8]) -> Result<Self, Failure> {
                decode_postcard(bytes)
            }
        }
    };
}

tuple_key!(A B);
tuple_key!(A B C);
tuple_key!(A B C D);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded<K: Key + ?Sized>(key: &K) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    #[test]
    fn encodings_are_what_the_documentation_says() {
        assert_eq!(encoded("ab"), b"ab");
        assert_eq!(encoded(&0x0102_u16), [1, 2]);
        assert_eq!(encoded(&-1_i16), [0x7f, 0xff]);
        assert_eq!(encoded(&(1_u8, String::from("a"))), [1, 1, b'a']);
    }

    proptest! {
        #[test]
        fn integers_keep_their_order_and_come_back(a: i64, b: i64) {
            prop_assert_eq!(a.cmp(&b), encoded(&a).cmp(&encoded(&b)));
            prop_assert_eq!(i64::decode(&encoded(&a)).unwrap(), a);
        }
    }
}

//! What can become a key, a value or a header value: [`Payload`], written straight into the column that leaves the guest.
//!
//! No payload allocates. An error while writing leaves a partial entry behind, which the output cuts off.

use crate::failure::{Failure, reject};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

/// Contents of a key, a value or a header.
///
/// Byte strings and strings are copied as they are; integers are written in decimal; `format_args!(..)` is formatted in
/// place; a tuple is its parts one after the other, which is faster than formatting; [`Json`] serialises; `None` is null.
pub trait Payload {
    /// Appends the contents to `out`. Returns whether there are any: `false` is null.
    ///
    /// # Errors
    /// Rejects the record: only [`Json`] can fail.
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure>;
}

/// A value written as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

macro_rules! bytes_payload {
    ($($type:ty => |$this:ident| $bytes:expr;)+) => {$(
        impl Payload for $type {
            #[inline(always)]
            fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
                let $this = self;
                crate::bytes::append(out, $bytes);
                Ok(true)
            }
        }
    )+};
}

bytes_payload! {
    &[u8] => |this| this;
    &&[u8] => |this| this;
    Vec<u8> => |this| &this;
    &Vec<u8> => |this| this;
    Box<[u8]> => |this| &this;
    Cow<'_, [u8]> => |this| &this;
    &str => |this| this.as_bytes();
    &&str => |this| this.as_bytes();
    String => |this| this.as_bytes();
    &String => |this| this.as_bytes();
    Box<str> => |this| this.as_bytes();
    Cow<'_, str> => |this| this.as_bytes();
}

impl<const N: usize> Payload for [u8; N] {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        out.extend_from_slice(&self);
        Ok(true)
    }
}

impl<const N: usize> Payload for &[u8; N] {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        out.extend_from_slice(self);
        Ok(true)
    }
}

impl Payload for char {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        out.extend_from_slice(self.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(true)
    }
}

macro_rules! decimal_payload {
    ($($type:ty)+) => {$(
        impl Payload for $type {
            #[inline]
            fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
                crate::bytes::append(out, itoa::Buffer::new().format(self).as_bytes());
                Ok(true)
            }
        }
        impl Payload for &$type {
            #[inline]
            fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
                (*self).write(out)
            }
        }
    )+};
}

decimal_payload!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

struct Append<'a>(&'a mut Vec<u8>);

impl fmt::Write for Append<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Payload for fmt::Arguments<'_> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        fmt::write(&mut Append(out), self)?;
        Ok(true)
    }
}

impl<T: Serialize> Payload for Json<T> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        serde_json::to_writer(out, &self.0)
            .map_err(|error| reject(format_args!("cannot be written as JSON: {error}")))?;
        Ok(true)
    }
}

impl<T: Payload> Payload for Option<T> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        self.map_or(Ok(false), |payload| payload.write(out))
    }
}

macro_rules! tuple_payload {
    ($($part:ident)+) => {
        #[expect(non_snake_case, reason = "type parameters name the parts")]
        impl<$($part: Payload),+> Payload for ($($part,)+) {
            #[inline(always)]
            fn write(self, out: &mut Vec<u8>) -> Result<bool, Failure> {
                let ($($part,)+) = self;
                $($part.write(out)?;)+
                Ok(true)
            }
        }
    };
}

tuple_payload!(A);
tuple_payload!(A B);
tuple_payload!(A B C);
tuple_payload!(A B C D);
tuple_payload!(A B C D E);
tuple_payload!(A B C D E F);

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: impl Payload) -> Option<String> {
        let mut out = Vec::new();
        payload.write(&mut out).unwrap().then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn payloads_are_written_as_their_text() {
        assert_eq!(written("a").as_deref(), Some("a"));
        assert_eq!(written(18_446_744_073_709_551_615_u64).as_deref(), Some("18446744073709551615"));
        assert_eq!(written(format_args!("{}-{}", 1, "b")).as_deref(), Some("1-b"));
        assert_eq!(written(("a", ',', 7, String::from("!"))).as_deref(), Some("a,7!"));
        assert_eq!(written(Json(vec![1, 2])).as_deref(), Some("[1,2]"));
    }

    #[test]
    fn none_is_null() {
        assert_eq!(written(None::<&str>), None);
        assert_eq!(written(Some("")).as_deref(), Some(""));
    }
}

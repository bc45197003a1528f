//! [`Record`]: a view of one record of the batch, and [`Changed`]: the same record with some of its parts replaced.
//!
//! A view borrows from the batch and reads what it is asked for. What is not replaced is never copied: the host fills it in
//! from the record that caused the emission.

use crate::batch::BatchView;
use crate::failure::{Failure, reject};
use crate::host::{INHERIT, NULL};
use crate::output::HeaderColumns;
use crate::payload::Payload;

/// One record of the batch that is being processed. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(crate) batch: &'a BatchView<'a>,
    pub(crate) index: u32,
}

impl<'a> Record<'a> {
    /// The key; `None` where the record has none.
    #[inline]
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.keys().get(self.index as usize)
    }

    /// The value; `None` is a tombstone.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.batch.values().get(self.index as usize)
    }

    /// The value as text.
    ///
    /// # Errors
    /// Rejects the record: it has no value, or one that is not UTF-8.
    #[inline]
    pub fn text(&self) -> Result<&'a str, Failure> {
        let value = self.value().ok_or_else(|| reject("record has no value"))?;
        crate::bytes::text(value).map_err(|error| reject(format_args!("value is not UTF-8: {error}")))
    }

    /// The value read as JSON.
    ///
    /// # Errors
    /// Rejects the record: it has no value, or one that is not JSON of that shape; the reason names the field.
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, Failure> {
        let value = self.value().ok_or_else(|| reject("record has no value"))?;
        let mut json = serde_json::Deserializer::from_slice(value);
        let parsed = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| reject(format_args!("value is not the JSON expected: {error}")))?;
        json.end().map_err(|error| reject(format_args!("value is not JSON: {error}")))?;
        Ok(parsed)
    }

    /// All headers in order; names are not unique.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.batch.headers().of(self.index as usize)
    }

    /// The last header called `name`; `None` where there is none, or its value is null. Cheaper than [`Record::headers`]:
    /// only this header's column is fetched.
    #[inline]
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.batch.header(name).get(self.index as usize)
    }

    /// Milliseconds since 1970; -1 where there is none.
    #[inline]
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.batch.timestamps()[self.index as usize]
    }

    /// Offset in the source partition; behind another transform that of the source record that caused this one.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.batch.offsets()[self.index as usize]
    }

    /// Partition of the source topic.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.batch.origin(self.index).2
    }

    /// Name of the input it came in by; `main` unless the plugin declares inputs.
    #[must_use]
    pub fn input(&self) -> &'a str {
        self.batch.origin(self.index).1
    }

    /// The record with another value.
    #[inline(always)]
    pub fn with_value<V: Payload>(self, value: V) -> Changed<'a, Inherit, Set<V>, Inherit> {
        Changed::from(self).with_value(value)
    }

    /// The record as a tombstone: without a value.
    #[inline]
    pub fn without_value(self) -> Changed<'a, Inherit, Null, Inherit> {
        Changed::from(self).without_value()
    }

    /// The record with another key.
    #[inline(always)]
    pub fn with_key<K: Payload>(self, key: K) -> Changed<'a, Set<K>, Inherit, Inherit> {
        Changed::from(self).with_key(key)
    }

    /// The record without a key.
    #[inline]
    pub fn without_key(self) -> Changed<'a, Null, Inherit, Inherit> {
        Changed::from(self).without_key()
    }

    /// The record with these headers instead of its own.
    #[inline]
    pub fn with_headers<I, N, V>(self, headers: I) -> Changed<'a, Inherit, Inherit, SetHeaders<I>>
    where
        I: IntoIterator<Item = (N, V)>,
        N: AsRef<str>,
        V: Payload,
    {
        Changed::from(self).with_headers(headers)
    }

    /// The record with another timestamp, in milliseconds since 1970.
    #[inline]
    pub fn with_timestamp(self, timestamp: i64) -> Changed<'a, Inherit, Inherit, Inherit> {
        Changed::from(self).with_timestamp(timestamp)
    }
}

/// A record with some parts replaced, made by [`Record::with_value`] and its like.
#[must_use = "send it to an output"]
pub struct Changed<'a, K, V, H> {
    record: Record<'a>,
    key: K,
    value: V,
    headers: H,
    timestamp: Option<i64>,
}

impl<'a> From<Record<'a>> for Changed<'a, Inherit, Inherit, Inherit> {
    #[inline(always)]
    fn from(record: Record<'a>) -> Self {
        Self { record, key: Inherit, value: Inherit, headers: Inherit, timestamp: None }
    }
}

impl<'a, K, V, H> Changed<'a, K, V, H> {
    /// With another value.
    #[inline(always)]
    pub fn with_value<P: Payload>(self, value: P) -> Changed<'a, K, Set<P>, H> {
        let Self { record, key, headers, timestamp, .. } = self;
        Changed { record, key, value: Set(value), headers, timestamp }
    }

    /// Without a value: a tombstone.
    #[inline]
    pub fn without_value(self) -> Changed<'a, K, Null, H> {
        let Self { record, key, headers, timestamp, .. } = self;
        Changed { record, key, value: Null, headers, timestamp }
    }

    /// With another key.
    #[inline(always)]
    pub fn with_key<P: Payload>(self, key: P) -> Changed<'a, Set<P>, V, H> {
        let Self { record, value, headers, timestamp, .. } = self;
        Changed { record, key: Set(key), value, headers, timestamp }
    }

    /// Without a key.
    #[inline]
    pub fn without_key(self) -> Changed<'a, Null, V, H> {
        let Self { record, value, headers, timestamp, .. } = self;
        Changed { record, key: Null, value, headers, timestamp }
    }

    /// With these headers instead of the record's own.
    #[inline]
    pub fn with_headers<I, N, P>(self, headers: I) -> Changed<'a, K, V, SetHeaders<I>>
    where
        I: IntoIterator<Item = (N, P)>,
        N: AsRef<str>,
        P: Payload,
    {
        let Self { record, key, value, timestamp, .. } = self;
        Changed { record, key, value, headers: SetHeaders(headers), timestamp }
    }

    /// With another timestamp, in milliseconds since 1970.
    #[inline]
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// A part of a record that stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct Inherit;
/// A part of a record that is taken away.
#[derive(Clone, Copy, Debug)]
pub struct Null;
/// A key or value that is replaced.
#[derive(Clone, Copy, Debug)]
pub struct Set<P>(P);
/// Headers that are replaced.
#[derive(Clone, Copy, Debug)]
pub struct SetHeaders<I>(I);

/// A key or value of a record to be emitted.
pub trait Field {
    /// Whether it may differ from the cause's.
    const CHANGES: bool;
    /// Appends the contents and returns the length or its marker.
    #[doc(hidden)]
    fn write(self, out: &mut Vec<u8>) -> Result<i32, Failure>;
}

impl Field for Inherit {
    const CHANGES: bool = false;
    #[inline(always)]
    fn write(self, _out: &mut Vec<u8>) -> Result<i32, Failure> {
        Ok(INHERIT)
    }
}

impl Field for Null {
    const CHANGES: bool = true;
    #[inline(always)]
    fn write(self, _out: &mut Vec<u8>) -> Result<i32, Failure> {
        Ok(NULL)
    }
}

impl<P: Payload> Field for Set<P> {
    const CHANGES: bool = true;
    #[inline(always)]
    fn write(self, out: &mut Vec<u8>) -> Result<i32, Failure> {
        let before = out.len();
        if !self.0.write(out)? {
            return Ok(NULL);
        }
        i32::try_from(out.len() - before).map_err(|_| reject("a key or value of more than 2 GiB cannot be emitted"))
    }
}

/// Headers of a record to be emitted.
pub trait HeaderField {
    /// Whether they may differ from the cause's.
    const CHANGES: bool;
    #[doc(hidden)]
    fn write(self, out: &mut HeaderColumns) -> Result<i32, Failure>;
}

impl HeaderField for Inherit {
    const CHANGES: bool = false;
    #[inline(always)]
    fn write(self, _out: &mut HeaderColumns) -> Result<i32, Failure> {
        Ok(INHERIT)
    }
}

impl<I, N, P> HeaderField for SetHeaders<I>
where
    I: IntoIterator<Item = (N, P)>,
    N: AsRef<str>,
    P: Payload,
{
    const CHANGES: bool = true;
    fn write(self, out: &mut HeaderColumns) -> Result<i32, Failure> {
        let mut count = 0;
        for (name, value) in self.0 {
            out.push(name.as_ref(), Set(value))?;
            count += 1;
        }
        Ok(count)
    }
}

/// What an output takes: a [`Record`] as it is, or a [`Changed`] one.
pub trait Emit<'a> {
    #[doc(hidden)]
    type Key: Field;
    #[doc(hidden)]
    type Value: Field;
    #[doc(hidden)]
    type Headers: HeaderField;
    #[doc(hidden)]
    fn parts(self) -> Parts<'a, Self::Key, Self::Value, Self::Headers>;
}

/// A record taken apart for an output.
#[doc(hidden)]
pub struct Parts<'a, K, V, H> {
    pub(crate) record: Record<'a>,
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) headers: H,
    pub(crate) timestamp: Option<i64>,
}

impl<'a> Emit<'a> for Record<'a> {
    type Key = Inherit;
    type Value = Inherit;
    type Headers = Inherit;
    #[inline(always)]
    fn parts(self) -> Parts<'a, Inherit, Inherit, Inherit> {
        Changed::from(self).parts()
    }
}

impl<'a, K: Field, V: Field, H: HeaderField> Emit<'a> for Changed<'a, K, V, H> {
    type Key = K;
    type Value = V;
    type Headers = H;
    #[inline(always)]
    fn parts(self) -> Parts<'a, K, V, H> {
        let Self { record, key, value, headers, timestamp } = self;
        Parts { record, key, value, headers, timestamp }
    }
}

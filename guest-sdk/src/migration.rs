//! Converting state: for plugins whose stores have had another schema version.
//!
//! A plugin that changes the type of a store's values raises the store's `schema`, and says in [`Migrate`] how entries of the version
//! before become such of the new one, and back. The host converts beside the running version, keeps both while the new one
//! is watched, and goes back by the same steps.

use crate::failure::Failure;
use crate::state::codec;
use serde::{Serialize, de::DeserializeOwned};

/// Implemented by plugins that convert state; `#[transform(migrates)]` on the struct exports it.
///
/// ```
/// use sluicegate_sdk::prelude::*;
///
/// #[derive(Clone, Deserialize, Serialize)]
/// struct Tally { count: u64, last: i64 }
///
/// #[transform(migrates)]
/// struct KeyedTally {
///     #[store(schema = 2)]
///     counts: Value<[u8], Tally>,
///     #[output]
///     main: Output,
/// }
///
/// impl Migrate for KeyedTally {
///     fn step(store: &str, from: u32, to: u32) -> Option<Step> {
///         match (store, from, to) {
///             ("counts", 1, 2) => Some(Step::values(|count: u64| Tally { count, last: 0 })),
///             ("counts", 2, 1) => Some(Step::values(|tally: Tally| tally.count)),
///             _ => None,
///         }
///     }
/// }
/// # impl Transform for KeyedTally {
/// #     fn process(&mut self, record: Record) -> Outcome { self.main.send(record) }
/// # }
/// # fn main() {}
/// ```
pub trait Migrate {
    /// How entries of `store` get from schema version `from` to version `to`; `None`: not at all. The version to go back to is
    /// asked for too: without it the host does not begin.
    fn step(store: &str, from: u32, to: u32) -> Option<Step>;
}

type Convert = dyn Fn(&[u8], &[u8]) -> Result<Option<Vec<u8>>, Failure>;

/// Converts the entries of a store, each by itself. Keys stay as they are.
pub struct Step(Box<Convert>);

impl Step {
    /// By a function of the value.
    #[must_use]
    pub fn values<A: DeserializeOwned, B: Serialize>(convert: impl Fn(A) -> B + 'static) -> Self {
        Self::entries(move |_, value| Ok(Some(convert(value))))
    }

    /// By a function of the key, as it is stored, and the value: `None` drops the entry, an error calls the swap off.
    #[must_use]
    pub fn entries<A: DeserializeOwned, B: Serialize>(
        convert: impl Fn(&[u8], A) -> Result<Option<B>, Failure> + 'static,
    ) -> Self {
        Self(Box::new(move |key, value| {
            let Some(converted) = convert(key, codec::decode(value).map_err(reason)?)? else { return Ok(None) };
            let mut bytes = Vec::new();
            codec::encode(&converted, &mut bytes).map_err(reason)?;
            Ok(Some(bytes))
        }))
    }

    /// Converts one entry: what the host calls for each, and what a test can.
    ///
    /// # Errors
    /// The value is not of the type that the step takes, or the step refuses it.
    pub fn convert(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        (self.0)(key, value)
    }
}

fn reason(error: postcard::Error) -> Failure {
    crate::reject(format!("the value is not of the type that the step takes or makes: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_value_is_read_converted_and_written() {
        let step = Step::values(|count: u64| (count, "never".to_owned()));
        assert_eq!(step.convert(b"k", &bytes(&7u64)).unwrap(), Some(bytes(&(7u64, "never"))));
        assert!(step.convert(b"k", b"\xff").unwrap_err().reason().contains("not of the type"));
    }

    #[test]
    fn an_entry_may_be_dropped_or_refused() {
        let step = Step::entries(|key, count: u64| match key {
            b"bad" => Err(crate::reject("no such key")),
            _ => Ok((count > 0).then_some(count)),
        });
        assert_eq!(step.convert(b"k", &bytes(&0u64)).unwrap(), None);
        assert_eq!(step.convert(b"bad", &bytes(&0u64)).unwrap_err().reason(), "no such key");
    }
}

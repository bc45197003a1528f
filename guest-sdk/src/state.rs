//! Keyed state: [`Value`] and [`Map`], typed views of a store behind a write-back cache.
//!
//! The host owns the state. A batch's keys are fetched in one call before its records are processed; what changes is held
//! back until the host asks for it (`flush`), until too much is held back, or until a scan needs the host to see it. A
//! rejected record leaves no state behind: what it changed is taken back in the cache. Values are encoded by postcard.

mod cache;
pub(crate) mod codec;
mod map;
mod value;

pub use map::{Map, Scan};
pub use value::Value;

use serde::{Serialize, de::DeserializeOwned};

/// What a store can hold: anything serde can write and read, with a copy for taking a change back.
pub trait State: Clone + Serialize + DeserializeOwned {}

impl<T: Clone + Serialize + DeserializeOwned> State for T {}

/// How a store is opened: what its attribute says.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Name in the manifest.
    pub name: &'static str,
    /// Number of the store in the plugin.
    pub id: u32,
    /// Most entries kept in the guest.
    pub entries_max: usize,
    /// Most changed entries held back.
    pub dirty_max: usize,
    /// Whether records' keys are fetched ahead.
    pub prefetch: bool,
}

/// Names keys that a record is going to need, so that all of a batch's are fetched in one call: for keys that are not the
/// record's own. Handed to [`Transform::prefetch`](crate::Transform::prefetch).
#[derive(Default)]
pub struct Want {
    bytes: Vec<u8>,
    /// Store and end in `bytes` of each key.
    keys: Vec<(u32, usize)>,
}

impl Want {
    /// The record is going to need the value of `key`.
    pub fn value<K: crate::Key + ?Sized, V: State>(&mut self, store: &Value<K, V>, key: &K) {
        key.encode(&mut self.bytes);
        self.keys.push((store.id(), self.bytes.len()));
    }

    /// The record is going to need the entry of `inner` under `key`.
    pub fn entry<K: crate::Key + ?Sized, U: crate::Key + ?Sized, V: State>(
        &mut self,
        store: &Map<K, U, V>,
        key: &K,
        inner: &U,
    ) {
        map::encode(key, inner, &mut self.bytes);
        self.keys.push((store.id(), self.bytes.len()));
    }

    /// Keys named for `store`.
    fn of(&self, store: u32) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.keys.iter().filter_map(move |&(id, end)| {
            let key = &self.bytes[start..end];
            start = end;
            (id == store).then_some(key)
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.keys.clear();
    }
}

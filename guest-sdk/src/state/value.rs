//! [`Value`]: one value a key.

use super::cache::Cache;
use super::{State, StoreOptions, Want};
use crate::failure::Outcome;
use crate::key::Key;
use crate::record::Record;
use crate::runtime::Part;
use std::marker::PhantomData;

/// A store with one value a key, kept through restarts. Declared by a field with `#[store(schema = 1)]`.
///
/// With keys of bytes or text, the keys of a batch's records are fetched in one call before the first is processed; other
/// keys are named in [`Transform::prefetch`](crate::Transform::prefetch), or cost one call of the host each.
pub struct Value<K: Key + ?Sized, V> {
    cache: Cache<V>,
    encoded: Vec<u8>,
    key: PhantomData<fn(&K)>,
}

impl<K: Key + ?Sized, V: State> Value<K, V> {
    /// Opens a store of the manifest.
    #[doc(hidden)]
    #[must_use]
    pub fn open(options: StoreOptions) -> Self {
        Self { cache: Cache::open(options), encoded: Vec::new(), key: PhantomData }
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&mut self, key: &K) -> Option<&V> {
        match key.as_encoded() {
            Some(encoded) => self.cache.get(encoded),
            None => self.cache.get(encode(key, &mut self.encoded)),
        }
    }

    /// Sets the value of `key`. Taken back if the record is rejected.
    #[inline]
    pub fn set(&mut self, key: &K, value: V) {
        self.replace(key, Some(value));
    }

    /// Removes `key`. Taken back if the record is rejected.
    #[inline]
    pub fn remove(&mut self, key: &K) {
        self.replace(key, None);
    }

    /// Sets the value of `key` to what `change` makes of the present one, and returns it. Taken back if the record is
    /// rejected.
    #[inline]
    pub fn update(&mut self, key: &K, change: impl FnOnce(Option<V>) -> V) -> &V {
        match key.as_encoded() {
            Some(encoded) => self.cache.update(encoded, change),
            None => self.cache.update(encode(key, &mut self.encoded), change),
        }
    }

    /// How many keys had to be fetched one by one since this instance was made.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.cache.misses()
    }

    #[inline]
    fn replace(&mut self, key: &K, value: Option<V>) {
        match key.as_encoded() {
            Some(encoded) => self.cache.set(encoded, value),
            None => self.cache.set(encode(key, &mut self.encoded), value),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.cache.options().id
    }
}

#[inline]
fn encode<'a, K: Key + ?Sized>(key: &K, into: &'a mut Vec<u8>) -> &'a [u8] {
    into.clear();
    key.encode(into);
    into
}

impl<K: Key + ?Sized, V: State> Part for Value<K, V> {
    const PREFETCHES: bool = true;

    #[inline(always)]
    fn want(&mut self, record: Record<'_>, want: &Want) {
        self.cache.next_record_wants();
        if K::IS_RECORD_KEY
            && self.cache.options().prefetch
            && let Some(key) = record.key()
        {
            self.cache.want(key);
        }
        for key in want.of(self.id()) {
            self.cache.want(key);
        }
    }

    fn fetch(&mut self) -> Outcome {
        self.cache.fetch()
    }

    #[inline(always)]
    fn begin(&mut self, index: usize) {
        self.cache.begin(index);
    }

    #[inline(always)]
    fn settle(&mut self) -> Outcome {
        self.cache.settle()
    }

    fn undo(&mut self) -> Outcome {
        self.cache.undo()
    }

    fn finish(&mut self, _batch_count: u32) {
        self.cache.finish();
    }

    fn flush(&mut self) -> Outcome {
        self.cache.flush()
    }
}

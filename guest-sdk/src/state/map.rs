//! [`Map`]: any number of entries a key, which can be listed.

use super::cache::Cache;
use super::{State, StoreOptions, Want, codec};
use crate::failure::{Failure, Outcome, fatal};
use crate::host::Column;
use crate::key::Key;
use crate::record::Record;
use crate::runtime::Part;
use std::marker::PhantomData;

/// Entries of a page of a scan.
const PAGE_ENTRIES: u32 = 512;

/// A store with a map for each key, kept through restarts. Declared by a field with `#[store(schema = 1)]`.
///
/// Entries are fetched one by one unless [`Transform::prefetch`](crate::Transform::prefetch) names them.
pub struct Map<K: Key + ?Sized, U: Key + ?Sized, V> {
    cache: Cache<V>,
    encoded: Vec<u8>,
    keys: PhantomData<fn(&K, &U)>,
}

/// Appends the length of `key` as 4 bytes big-endian and `key`.
fn encode_prefix<K: Key + ?Sized>(key: &K, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    key.encode(out);
    let length = u32::try_from(out.len() - start - 4).expect("a key has less than 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends the key of an entry.
pub(super) fn encode<K: Key + ?Sized, U: Key + ?Sized>(key: &K, inner: &U, out: &mut Vec<u8>) {
    encode_prefix(key, out);
    inner.encode(out);
}

impl<K: Key + ?Sized, U: Key + ?Sized, V: State> Map<K, U, V> {
    /// Opens a store of the manifest.
    #[doc(hidden)]
    #[must_use]
    pub fn open(options: StoreOptions) -> Self {
        Self { cache: Cache::open(options), encoded: Vec::new(), keys: PhantomData }
    }

    /// The entry of `inner` in the map of `key`.
    pub fn get(&mut self, key: &K, inner: &U) -> Option<&V> {
        self.encode(key, inner);
        self.cache.get(&self.encoded)
    }

    /// Sets an entry. Taken back if the record is rejected.
    pub fn set(&mut self, key: &K, inner: &U, value: V) {
        self.encode(key, inner);
        self.cache.set(&self.encoded, Some(value));
    }

    /// Removes an entry. Taken back if the record is rejected.
    pub fn remove(&mut self, key: &K, inner: &U) {
        self.encode(key, inner);
        self.cache.set(&self.encoded, None);
    }

    /// Sets an entry to what `change` makes of the present one, and returns it. Taken back if the record is rejected.
    pub fn update(&mut self, key: &K, inner: &U, change: impl FnOnce(Option<V>) -> V) -> &V {
        self.encode(key, inner);
        self.cache.update(&self.encoded, change)
    }

    /// The entries in the map of `key`, in the order of the encoded inner keys. What is held back is put first; then entries
    /// are fetched a page at a time.
    pub fn scan(&mut self, key: &K) -> Scan<'_, U, V> {
        self.cache.put();
        let mut prefix = Vec::new();
        encode_prefix(key, &mut prefix);
        Scan { cache: &self.cache, prefix, last: None, page: Default::default(), more: true, inner: PhantomData }
    }

    /// How many entries had to be fetched one by one since this instance was made.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.cache.misses()
    }

    fn encode(&mut self, key: &K, inner: &U) {
        self.encoded.clear();
        encode(key, inner, &mut self.encoded);
    }

    pub(super) fn id(&self) -> u32 {
        self.cache.options().id
    }
}

/// Iterator over the entries of one key of a [`Map`]. An error in it stops the pipeline: pass it on with `?`.
pub struct Scan<'a, U: Key + ?Sized, V> {
    cache: &'a Cache<V>,
    prefix: Vec<u8>,
    last: Option<Vec<u8>>,
    page: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
    more: bool,
    inner: PhantomData<fn(&U)>,
}

impl<U: Key + ?Sized, V: State> Scan<'_, U, V> {
    fn next_page(&mut self) {
        let page = self.cache.scan(&self.prefix, self.last.as_deref(), PAGE_ENTRIES);
        let entries: Vec<_> = entries(&page.keys).zip(entries(&page.values)).collect();
        self.last = entries.last().map(|(key, _)| key.clone()).or(self.last.take());
        self.more = page.more;
        self.page = entries.into_iter();
    }

    fn decode(&self, key: &[u8], value: &[u8]) -> Result<(U::Owned, V), Failure> {
        let inner = U::decode(key.get(self.prefix.len()..).unwrap_or_default())?;
        let value = codec::decode(value).map_err(|error| {
            let (store, key) = (self.cache.options().name, key.escape_ascii());
            fatal(format_args!("state: store `{store}`, key {key}: {error}"))
        })?;
        Ok((inner, value))
    }
}

/// The entries of a column that has no nulls.
fn entries(column: &Column) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = column.bytes.as_slice();
    column.lengths.iter().map(move |&length| {
        let length = usize::try_from(length).unwrap_or(0).min(rest.len());
        let (entry, behind) = rest.split_at(length);
        rest = behind;
        entry.to_vec()
    })
}

impl<U: Key + ?Sized, V: State> Iterator for Scan<'_, U, V> {
    type Item = Result<(U::Owned, V), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.page.next() {
                return Some(self.decode(&key, &value));
            }
            if !self.more {
                return None;
            }
            self.next_page();
        }
    }
}

impl<K: Key + ?Sized, U: Key + ?Sized, V: State> Part for Map<K, U, V> {
    const PREFETCHES: bool = true;

    fn want(&mut self, _record: Record<'_>, want: &Want) {
        self.cache.next_record_wants();
        for key in want.of(self.id()) {
            self.cache.want(key);
        }
    }

    fn fetch(&mut self) -> Outcome {
        self.cache.fetch()
    }

    fn begin(&mut self, index: usize) {
        self.cache.begin(index);
    }

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

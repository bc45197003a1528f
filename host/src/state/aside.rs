//! What somebody sees in place of a store's entries, beside those who go on with them: what he has written himself, and what was
//! there before others overwrote it.

use std::collections::BTreeMap;

use super::ENTRY_OVERHEAD_BYTES;

/// By key; `None`: there is no such entry.
pub(super) type Entries = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

/// No entries beside.
pub(super) static NOTHING: Entries = Entries::new();

/// A view of a store.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// What differs from the store.
    pub(super) entries: Entries,
    /// Whether reading and writing the store is about the view.
    pub(super) is_in_front: bool,
    /// Entries that the view has, with those that it shares with the store.
    pub(super) len: usize,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// Bytes of the keys and values in `entries`.
    beside: u64,
}

impl Aside {
    /// A view of a store that has so many entries, of so many bytes.
    pub(super) fn new(len: usize, bytes: u64) -> Self {
        Self { len, bytes, ..Self::default() }
    }

    /// Keeps what the store is about to overwrite: the view goes on to have it.
    pub(super) fn keep(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.set(key, value);
    }

    /// Writes in the view, which had `before`.
    pub(super) fn put(&mut self, key: &[u8], before: Option<usize>, value: Option<&[u8]>) {
        if let Some(before) = before {
            self.len -= 1;
            self.bytes -= (key.len() + before) as u64;
        }
        if let Some(value) = value {
            self.len += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
        self.set(key, value);
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let size = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        if let Some(before) = self.entries.insert(Box::from(key), value.map(Box::from)) {
            self.beside -= size(before.as_deref());
        }
        self.beside += size(value);
    }

    /// What it takes beside the store, with what each entry takes beyond its bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.beside + ENTRY_OVERHEAD_BYTES * self.entries.len() as u64
    }
}

/// Both in the order of their keys; of two with the same key the first one's.
pub(super) fn in_front<'a, V>(
    first: impl Iterator<Item = (&'a Box<[u8]>, V)>,
    second: impl Iterator<Item = (&'a Box<[u8]>, V)>,
) -> impl Iterator<Item = (&'a Box<[u8]>, V)> {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    std::iter::from_fn(move || match (first.peek(), second.peek()) {
        (Some((one, _)), Some((other, _))) if one == other => {
            second.next();
            first.next()
        }
        (Some((one, _)), Some((other, _))) if one < other => first.next(),
        (Some(_), None) => first.next(),
        _ => second.next(),
    })
}

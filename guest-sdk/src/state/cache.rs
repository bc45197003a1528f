//! The write-back cache of one store.
//!
//! Bounded in entries and in changed entries. Entries stand in slots; a table finds the slot of a key, and the slots that a
//! prefetch found are kept as hints, so that a record finds its own key without searching again. The clock algorithm
//! evicts. Invariants:
//! - the host's entry equals the slot's unless the slot is `DIRTY`;
//! - a slot that the current record changed (`CHANGED`) stands in the journal with its former value and is not evicted.
//!
//! What cannot be decoded or encoded is remembered as a failure that the next `settle` returns: the values that plugins
//! read are plain options.

use super::{State, StoreOptions, codec};
use crate::bytes::same;
use crate::failure::{Failure, Outcome, fatal};
use crate::host::{Column, NULL, Page, Store};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// Changed, and not put yet.
const DIRTY: u8 = 1;
/// Read or changed since the clock's hand last passed.
const USED: u8 = 2;
/// Asked for, not fetched yet.
const LOADING: u8 = 4;
/// Changed by the current record: in the journal.
const CHANGED: u8 = 8;
/// Holds no entry.
const FREE: u8 = 16;

/// Looking for a clean slot, the hand goes this far before the changed ones are put.
const CLEAN_SEARCH_MAX: usize = 128;
/// While a record is being processed nothing is put for the sake of room; then the cache may grow past its bound, until
/// the record is settled.
const MID_RECORD_SEARCH_MAX: usize = 1024;
/// One put carries about this many bytes at most.
const PUT_BYTES_MAX: usize = 1 << 20;

/// Keys of up to this many bytes need no allocation.
const SHORT_MAX: usize = 22;

enum KeyBytes {
    Short(u8, [u8; SHORT_MAX]),
    Long(Box<[u8]>),
}

impl KeyBytes {
    #[inline]
    fn new(key: &[u8]) -> Self {
        if key.len() > SHORT_MAX {
            return Self::Long(key.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..key.len()].copy_from_slice(key);
        #[expect(clippy::cast_possible_truncation, reason = "at most SHORT_MAX")]
        Self::Short(key.len() as u8, bytes)
    }

    #[inline(always)]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length).min(SHORT_MAX)],
            Self::Long(bytes) => bytes,
        }
    }
}

struct Slot<V> {
    key: KeyBytes,
    hash: u32,
    flags: u8,
    value: Option<V>,
}

/// The state of a slot before the current record changed it.
struct Change<V> {
    slot: u32,
    was_dirty: bool,
    value: Option<V>,
}

#[derive(Clone, Copy)]
struct Indexed {
    hash: u32,
    slot: u32,
}

pub(super) struct Cache<V> {
    store: Store,
    options: StoreOptions,
    index: HashTable<Indexed>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    hand: usize,
    /// Slots that were made dirty since the last put; may name one twice or one that is clean again.
    dirty: Vec<u32>,
    journal: Vec<Change<V>>,
    put_in_record: bool,
    /// Slots that are `LOADING`, and their keys.
    wanted: Vec<u32>,
    wanted_keys: Column,
    /// Slots in the order in which keys were wanted.
    hints: Vec<u32>,
    /// Where each record's hints begin.
    hint_starts: Vec<u32>,
    next_hint: usize,
    keys: Column,
    values: Column,
    misses: u64,
    poison: Option<Failure>,
}

#[inline(always)]
fn hash(key: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(0x51_07_1c_e6_a7_e0).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// The half of a hash that is kept: the table takes its place from the low bits and its tag from the top ones.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the other half is dropped")]
fn kept(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// Spreads the kept half over all bits, for the table.
#[inline(always)]
fn spread(kept: u32) -> u64 {
    u64::from(kept) << 32 | u64::from(kept)
}

impl<V: State> Cache<V> {
    pub(super) fn open(options: StoreOptions) -> Self {
        Self {
            store: Store::new(options.name),
            options,
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            dirty: Vec::new(),
            journal: Vec::new(),
            put_in_record: false,
            wanted: Vec::new(),
            wanted_keys: Column::default(),
            hints: Vec::new(),
            hint_starts: Vec::new(),
            next_hint: 0,
            keys: Column::default(),
            values: Column::default(),
            misses: 0,
            poison: None,
        }
    }

    pub(super) fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(super) fn misses(&self) -> u64 {
        self.misses
    }

    /// The keys wanted from here on are the next record's.
    #[inline(always)]
    pub(super) fn next_record_wants(&mut self) {
        #[expect(clippy::cast_possible_truncation, reason = "at most one hint for each key of a batch")]
        self.hint_starts.push(self.hints.len() as u32);
    }

    /// A record is going to need this key.
    #[inline]
    pub(super) fn want(&mut self, key: &[u8]) {
        let hash = kept(hash(key));
        let slot = match self.find(hash, key) {
            Some(slot) => slot,
            // More than fits: the rest is fetched one by one.
            None if self.wanted.len() >= self.options.entries_max => return,
            None => {
                let slot = self.insert(hash, key, LOADING, None);
                self.wanted.push(slot);
                push(&mut self.wanted_keys, key);
                slot
            }
        };
        self.slots[slot as usize].flags |= USED;
        self.hints.push(slot);
    }

    /// Fetches what was wanted and is not here, in one call.
    pub(super) fn fetch(&mut self) -> Outcome {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let values = self.store.get(&self.wanted_keys);
        clear(&mut self.wanted_keys);
        let mut at = 0;
        for (&slot, &length) in self.wanted.iter().zip(&values.lengths) {
            let slot = &mut self.slots[slot as usize];
            slot.flags &= !LOADING;
            if let Ok(length) = usize::try_from(length) {
                let bytes = values.bytes.get(at..at + length).unwrap_or_default();
                at += length;
                slot.value = Some(
                    codec::decode(bytes)
                        .map_err(|error| undecodable(self.options.name, slot.key.as_slice(), &error))?,
                );
            }
        }
        self.wanted.clear();
        Ok(())
    }

    /// The record at `index` of the batch is next.
    #[inline(always)]
    pub(super) fn begin(&mut self, index: usize) {
        self.next_hint = self.hint_starts.get(index).map_or(usize::MAX, |&start| start as usize);
    }

    #[inline]
    pub(super) fn get(&mut self, key: &[u8]) -> Option<&V> {
        let slot = self.locate(key);
        self.slots[slot].value.as_ref()
    }

    #[inline]
    pub(super) fn set(&mut self, key: &[u8], value: Option<V>) {
        let at = self.locate(key);
        let slot = &mut self.slots[at];
        if value.is_none() && slot.value.is_none() {
            return;
        }
        let old = std::mem::replace(&mut slot.value, value);
        self.changed(at, |_| old);
    }

    #[inline]
    pub(super) fn update(&mut self, key: &[u8], change: impl FnOnce(Option<V>) -> V) -> &V {
        let at = self.locate(key);
        self.changed(at, Option::clone);
        let value = &mut self.slots[at].value;
        let old = value.take();
        value.insert(change(old))
    }

    /// The record that changed these entries was processed.
    #[inline(always)]
    pub(super) fn settle(&mut self) -> Outcome {
        if !self.journal.is_empty() {
            for change in &self.journal {
                self.slots[change.slot as usize].flags &= !CHANGED;
            }
            self.journal.clear();
            self.put_in_record = false;
        }
        if self.dirty.len() >= self.options.dirty_max || self.excess() > 0 || self.poison.is_some() {
            self.settle_bounds();
        }
        self.poison.take().map_or(Ok(()), Err)
    }

    #[cold]
    fn settle_bounds(&mut self) {
        self.put();
        for _ in 0..self.excess() {
            if !self.evict() {
                break;
            }
        }
    }

    /// The record that changed these entries was rejected.
    pub(super) fn undo(&mut self) -> Outcome {
        for change in self.journal.drain(..) {
            let slot = &mut self.slots[change.slot as usize];
            slot.value = change.value;
            slot.flags &= !CHANGED;
            if !change.was_dirty && !self.put_in_record {
                slot.flags &= !DIRTY;
            } else if slot.flags & DIRTY == 0 {
                // The host has seen the change.
                slot.flags |= DIRTY;
                self.dirty.push(change.slot);
            }
        }
        self.put_in_record = false;
        self.settle()
    }

    /// The batch is done.
    pub(super) fn finish(&mut self) {
        self.hints.clear();
        self.hint_starts.clear();
        self.next_hint = usize::MAX;
    }

    /// Hands every change to the host.
    pub(super) fn put(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        self.put_in_record = !self.journal.is_empty();
        for at in std::mem::take(&mut self.dirty) {
            let slot = &mut self.slots[at as usize];
            if slot.flags & DIRTY == 0 {
                continue;
            }
            slot.flags &= !DIRTY;
            push(&mut self.keys, slot.key.as_slice());
            let before = self.values.bytes.len();
            match &slot.value {
                None => self.values.lengths.push(NULL),
                Some(value) => {
                    if let Err(error) = codec::encode(value, &mut self.values.bytes) {
                        let key = slot.key.as_slice().escape_ascii();
                        self.poison =
                            Some(fatal(format_args!("state: store `{}`, key {key}: {error}", self.options.name)));
                    }
                    self.values.lengths.push(length(self.values.bytes.len() - before));
                }
            }
            if self.keys.bytes.len() + self.values.bytes.len() > PUT_BYTES_MAX {
                self.put_columns();
            }
        }
        self.put_columns();
    }

    /// Puts everything and returns what went wrong so far.
    pub(super) fn flush(&mut self) -> Outcome {
        self.put();
        self.poison.take().map_or(Ok(()), Err)
    }

    /// A page of the host's entries.
    pub(super) fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Page {
        self.store.scan(prefix, after, limit)
    }

    fn put_columns(&mut self) {
        if !self.keys.lengths.is_empty() {
            self.store.put(&self.keys, &self.values);
            clear(&mut self.keys);
            clear(&mut self.values);
        }
    }

    #[inline(always)]
    fn find(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let matches =
            |indexed: &Indexed| indexed.hash == hash && same(self.slots[indexed.slot as usize].key.as_slice(), key);
        self.index.find(spread(hash), matches).map(|indexed| indexed.slot)
    }

    /// The slot of a key: by hint, by searching, or by a call of the host.
    #[inline(always)]
    fn locate(&mut self, key: &[u8]) -> usize {
        if let Some(&hint) = self.hints.get(self.next_hint) {
            let slot = &self.slots[hint as usize];
            if slot.flags & (FREE | LOADING) == 0 && same(slot.key.as_slice(), key) {
                return hint as usize;
            }
        }
        self.search(key)
    }

    #[inline(never)]
    fn search(&mut self, key: &[u8]) -> usize {
        let hash = kept(hash(key));
        let slot = self.find(hash, key).unwrap_or_else(|| self.miss(hash, key));
        self.slots[slot as usize].flags |= USED;
        // The next key that was wanted for this record may be the next one to be asked for.
        if self.hints.get(self.next_hint + 1) == Some(&slot) {
            self.next_hint += 1;
        }
        slot as usize
    }

    #[cold]
    fn miss(&mut self, hash: u32, key: &[u8]) -> u32 {
        self.misses += 1;
        // The buffer is empty between calls of the host.
        push(&mut self.keys, key);
        let found = self.store.get(&self.keys);
        clear(&mut self.keys);
        let mut value = None;
        if found.lengths.first().is_some_and(|&length| length >= 0) {
            match codec::decode(&found.bytes) {
                Ok(decoded) => value = Some(decoded),
                Err(error) => self.poison = Some(undecodable(self.options.name, key, &error)),
            }
        }
        self.insert(hash, key, USED, value)
    }

    fn insert(&mut self, hash: u32, key: &[u8], flags: u8, value: Option<V>) -> u32 {
        if self.index.len() >= self.options.entries_max {
            self.evict();
        }
        let entry = Slot { key: KeyBytes::new(key), hash, flags, value };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                u32::try_from(self.slots.len() - 1).expect("a guest's memory holds fewer than 2^32 slots")
            }
        };
        self.index.insert_unique(spread(hash), Indexed { hash, slot }, |indexed| spread(indexed.hash));
        slot
    }

    fn excess(&self) -> usize {
        self.index.len().saturating_sub(self.options.entries_max)
    }

    /// Frees one slot that is not needed. Whether one was found.
    fn evict(&mut self) -> bool {
        let may_put = self.journal.is_empty();
        let steps_max = if may_put { 2 * self.slots.len() } else { MID_RECORD_SEARCH_MAX };
        for step in 0..=steps_max {
            if step == CLEAN_SEARCH_MAX && may_put {
                self.put();
            }
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let slot = &mut self.slots[self.hand];
            if slot.flags & (FREE | LOADING | CHANGED | DIRTY) != 0 {
                continue;
            }
            if slot.flags & USED != 0 {
                slot.flags &= !USED;
                continue;
            }
            let (hash, hand) = (slot.hash, self.hand);
            *slot = Slot { key: KeyBytes::new(&[]), hash: 0, flags: FREE, value: None };
            #[expect(clippy::cast_possible_truncation, reason = "slots are counted in 32 bits")]
            self.free.push(hand as u32);
            if let Ok(entry) = self.index.find_entry(spread(hash), |indexed| indexed.slot as usize == hand) {
                entry.remove();
            }
            return true;
        }
        false
    }

    /// Notes that a slot's value is not what it was: `old` is given the slot's value.
    #[inline(always)]
    fn changed(&mut self, at: usize, old: impl FnOnce(&Option<V>) -> Option<V>) {
        let slot = &mut self.slots[at];
        #[expect(clippy::cast_possible_truncation, reason = "slots are counted in 32 bits")]
        let number = at as u32;
        if slot.flags & CHANGED == 0 {
            let was_dirty = slot.flags & DIRTY != 0;
            self.journal.push(Change { slot: number, was_dirty, value: old(&slot.value) });
        }
        if slot.flags & DIRTY == 0 {
            self.dirty.push(number);
        }
        slot.flags |= CHANGED | DIRTY | USED;
    }
}

#[inline]
fn push(column: &mut Column, entry: &[u8]) {
    column.bytes.extend_from_slice(entry);
    column.lengths.push(length(entry.len()));
}

#[inline]
fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("an entry of a store has less than 2 GiB")
}

fn clear(column: &mut Column) {
    column.bytes.clear();
    column.lengths.clear();
}

#[cold]
fn undecodable(store: &str, key: &[u8], error: &postcard::Error) -> Failure {
    let key = key.escape_ascii();
    fatal(format_args!(
        "state: store `{store}` holds for the key {key} no value of the declared type ({error}): was the type changed without \
         another schema version?"
    ))
}

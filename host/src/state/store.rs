//! One store: a map from key bytes to value bytes that knows what changed.
//!
//! Entries live in slots of a slab; a hash table finds the slot of a key. The order of keys is made when the first scan asks
//! for it and kept from then on, so that stores which are never scanned do not pay for it. A deleted entry keeps its slot
//! until the checkpoint says that no older copy of it is left ([`Store::forget`]).

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;

use hashbrown::HashTable;
use hashbrown::hash_table;

use super::aside::{Aside, NOTHING, in_front};

use crate::record::Column;

/// Index of an entry in its store. Stays the same while the entry lives.
pub type Slot = u32;

/// Where the durable copy of an entry is, as the checkpoint numbers it; 0: nowhere.
pub type Home = u32;

/// What [`Store::scan`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in the order of their bytes.
    pub keys: Column,
    /// As many values; none is null.
    pub values: Column,
    /// There is more after the last key.
    pub more: bool,
}

#[derive(Debug)]
struct Stored {
    key: Box<[u8]>,
    /// `None`: deleted, or a free slot.
    value: Option<Box<[u8]>>,
    home: Home,
    /// Its former value is in `undo`.
    changed: bool,
}

#[derive(Debug)]
struct Undo {
    slot: Slot,
    former: Option<Box<[u8]>>,
}

/// A store of keyed state.
#[derive(Debug, Default)]
pub struct Store {
    hasher: foldhash::fast::RandomState,
    table: HashTable<Slot>,
    slots: Vec<Stored>,
    free: Vec<Slot>,
    ordered: Option<BTreeMap<Box<[u8]>, Slot>>,
    undo: Vec<Undo>,
    /// Of changes before the [mark](Store::mark), if there is one.
    before_mark: Option<Vec<Undo>>,
    /// Of changes that are being made durable, and may still be taken back.
    sealed: Vec<Undo>,
    live_entries: usize,
    live_bytes: u64,
    aside: Option<Box<Aside>>,
}

impl Store {
    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.in_front().and_then(|aside| aside.entries.get(key)) {
            Some(value) => value.as_deref(),
            None => self.live(key),
        }
    }

    fn live(&self, key: &[u8]) -> Option<&[u8]> {
        let slot = *self.table.find(self.hasher.hash_one(key), |&slot| *self.slots[slot as usize].key == *key)?;
        self.slots[slot as usize].value.as_deref()
    }

    /// Sets or, with `None`, deletes.
    #[inline]
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.aside.is_some() && self.put_aside(key, value) {
            return;
        }
        let slot = match self.slot_of(key) {
            Some(slot) => slot,
            None if value.is_none() => return,
            None => self.occupy(key),
        };
        let stored = &mut self.slots[slot as usize];
        let before = stored.value.as_ref().map(|value| value.len());
        if !stored.changed {
            stored.changed = true;
            self.undo.push(Undo { slot, former: stored.value.take() });
        }
        match (&mut stored.value, value) {
            (Some(old), Some(new)) if old.len() == new.len() => old.copy_from_slice(new),
            (old, new) => *old = new.map(Box::from),
        }
        self.account(key.len(), before, value.map(<[u8]>::len));
        if before.is_some() != value.is_some() {
            self.order(slot, value.is_some());
        }
    }

    /// Entries whose key begins with `prefix` and comes after `after`, in the order of the key bytes: at most `entries_max`,
    /// and no more after `bytes_max` bytes of keys and values are reached.
    pub fn scan(&mut self, prefix: &[u8], after: Option<&[u8]>, entries_max: usize, bytes_max: usize) -> Page {
        let slots = &self.slots;
        let ordered = self.ordered.get_or_insert_with(|| {
            let live = slots.iter().zip(0..).filter(|(stored, _)| stored.value.is_some());
            live.map(|(stored, slot)| (stored.key.clone(), slot)).collect()
        });
        let aside = self.aside.as_deref().filter(|aside| aside.is_in_front).map_or(&NOTHING, |aside| &aside.entries);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = Page::default();
        let live = ordered.range::<[u8], _>((from, Bound::Unbounded));
        let live = live.map(|(key, &slot)| (key, slots[slot as usize].value.as_deref()));
        let aside = aside.range::<[u8], _>((from, Bound::Unbounded)).map(|(key, value)| (key, value.as_deref()));
        for (key, value) in in_front(aside, live).filter(|(_, value)| value.is_some()) {
            if !key.starts_with(prefix) {
                break;
            }
            let full = page.keys.bytes.len() + page.values.bytes.len() >= bytes_max;
            if page.keys.len() == entries_max || (full && !page.keys.is_empty()) {
                page.more = true;
                break;
            }
            page.keys.push(Some(key));
            page.values.push(value);
        }
        page
    }

    /// From here on, what there is can be seen as it is now, and changed, beside what becomes of it: by whoever turns the store round
    /// for it, with [`Store::turn`]. What is changed beside is never durable.
    pub fn split(&mut self) {
        self.aside = Some(Box::new(Aside::new(self.live_entries, self.live_bytes)));
    }

    /// Forgets what was kept and changed beside.
    pub fn join(&mut self) {
        self.aside = None;
    }

    /// Whether reading and writing is about what is beside from now on, in a store that was [split](Store::split).
    pub fn turn(&mut self, beside: bool) {
        if let Some(aside) = &mut self.aside {
            aside.is_in_front = beside;
        }
    }

    /// What is kept and changed beside takes, in bytes of memory.
    #[must_use]
    pub fn bytes_beside(&self) -> u64 {
        self.aside.as_ref().map_or(0, |aside| aside.memory_bytes())
    }

    fn in_front(&self) -> Option<&Aside> {
        self.aside.as_deref().filter(|aside| aside.is_in_front)
    }

    /// Of a split store: writes beside, or keeps beside what is about to be overwritten. Whether that was all.
    #[cold]
    fn put_aside(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let in_view = self.get(key).map(<[u8]>::len);
        let Some(mut aside) = self.aside.take() else { return false };
        let is_in_front = aside.is_in_front;
        if is_in_front {
            aside.put(key, in_view, value);
        } else if !aside.entries.contains_key(key) {
            aside.keep(key, self.live(key));
        }
        self.aside = Some(aside);
        is_in_front
    }

    /// Number of entries that are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_front().map_or(self.live_entries, |aside| aside.len)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the keys and values that are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.in_front().map_or(self.live_bytes, |aside| aside.bytes)
    }

    /// All entries in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.slots.iter().filter_map(|stored| Some((&*stored.key, stored.value.as_deref()?)))
    }

    /// Slots of the entries that changed since [`Store::seal`], each once, in the order of their first change.
    pub fn changed(&self) -> impl ExactSizeIterator<Item = Slot> {
        self.undo.iter().map(|undo| undo.slot)
    }

    /// Whether anything changed since [`Store::seal`].
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Slots of the entries whose changes [`Store::roll_back`] would take back; some more than once.
    pub fn unsettled(&self) -> impl Iterator<Item = Slot> {
        let marked = self.before_mark.iter().flatten();
        self.sealed.iter().chain(marked).chain(&self.undo).map(|undo| undo.slot)
    }

    /// Every slot is below this.
    #[must_use]
    pub fn slots(&self) -> Slot {
        Slot::try_from(self.slots.len()).unwrap_or(Slot::MAX)
    }

    /// Whether this entry changed since [`Store::seal`].
    #[must_use]
    pub fn is_changed(&self, slot: Slot) -> bool {
        self.slots[slot as usize].changed
    }

    /// Key and value of a slot; a value of `None` is a deletion.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> (&[u8], Option<&[u8]>) {
        let stored = &self.slots[slot as usize];
        (&stored.key, stored.value.as_deref())
    }

    /// Where the durable copy of an entry is.
    #[must_use]
    pub fn home(&self, slot: Slot) -> Home {
        self.slots[slot as usize].home
    }

    /// Notes where the durable copy of an entry is.
    pub fn set_home(&mut self, slot: Slot, home: Home) {
        self.slots[slot as usize].home = home;
    }

    /// What changed is being made durable: later changes belong to the next time.
    pub fn seal(&mut self) {
        self.keep_marked();
        for undo in &self.undo {
            self.slots[undo.slot as usize].changed = false;
        }
        self.sealed.append(&mut self.undo);
    }

    /// What was sealed is durable now: forgets what was before.
    pub fn mark_durable(&mut self) {
        self.sealed.clear();
    }

    /// Takes back every change that is not durable, the latest first.
    pub fn roll_back(&mut self) {
        let mut undone = std::mem::take(&mut self.sealed);
        undone.append(&mut self.before_mark.take().unwrap_or_default());
        undone.append(&mut self.undo);
        for slot in self.revert(undone) {
            if self.slots[slot as usize].home == 0 {
                self.forget(slot);
            }
        }
    }

    /// From here on, what changes can be taken back by itself, until it is [kept](Store::keep_marked). Costs time for each entry
    /// that has changed since [`Store::seal`].
    pub fn mark(&mut self) {
        self.keep_marked();
        for undo in &self.undo {
            self.slots[undo.slot as usize].changed = false;
        }
        self.before_mark = Some(std::mem::take(&mut self.undo));
    }

    /// Makes one of the changes before and after the mark.
    pub fn keep_marked(&mut self) {
        let Some(before) = self.before_mark.take() else { return };
        let later = std::mem::replace(&mut self.undo, before);
        later.iter().for_each(|undo| self.slots[undo.slot as usize].changed = false);
        self.undo.iter().for_each(|undo| self.slots[undo.slot as usize].changed = true);
        for undo in later {
            let stored = &mut self.slots[undo.slot as usize];
            if !std::mem::replace(&mut stored.changed, true) {
                self.undo.push(undo);
            }
        }
    }

    /// Takes back what changed since the mark.
    pub fn undo_marked(&mut self) {
        let Some(before) = self.before_mark.take() else { return };
        let later = std::mem::replace(&mut self.undo, before);
        let slots = self.revert(later);
        self.undo.iter().for_each(|undo| self.slots[undo.slot as usize].changed = true);
        for slot in slots {
            let stored = &mut self.slots[slot as usize];
            // Without a copy anywhere: the next commit frees it, as it does an entry that came and went since the last one.
            if stored.value.is_none() && stored.home == 0 && !std::mem::replace(&mut stored.changed, true) {
                self.undo.push(Undo { slot, former: None });
            }
        }
    }

    /// Puts former values back, the latest first; returns the slots.
    fn revert(&mut self, undone: Vec<Undo>) -> Vec<Slot> {
        let slots = undone.iter().map(|undo| undo.slot).collect();
        for Undo { slot, former } in undone.into_iter().rev() {
            let stored = &mut self.slots[slot as usize];
            stored.changed = false;
            let key_len = stored.key.len();
            let before = stored.value.as_ref().map(|value| value.len());
            let after = former.as_ref().map(|value| value.len());
            stored.value = former;
            self.account(key_len, before, after);
            if before.is_some() != after.is_some() {
                self.order(slot, after.is_some());
            }
        }
        slots
    }

    /// Sets an entry as it was read from where `home` is: it counts as unchanged. Returns its slot.
    pub fn restore(&mut self, key: &[u8], value: Option<&[u8]>, home: Home) -> Slot {
        let slot = self.slot_of(key).unwrap_or_else(|| self.occupy(key));
        let stored = &mut self.slots[slot as usize];
        let before = stored.value.as_ref().map(|value| value.len());
        stored.value = value.map(Box::from);
        stored.home = home;
        self.account(key.len(), before, value.map(<[u8]>::len));
        if before.is_some() != value.is_some() {
            self.order(slot, value.is_some());
        }
        slot
    }

    /// Frees the slot of a deleted entry of which no older copy is left. Does nothing when the entry is there again, or
    /// changed and not yet durable.
    pub fn forget(&mut self, slot: Slot) {
        let stored = &mut self.slots[slot as usize];
        if stored.value.is_some() || stored.changed {
            return;
        }
        let key = std::mem::take(&mut stored.key);
        stored.home = 0;
        let found = self.table.find_entry(self.hasher.hash_one(&*key), |&other| other == slot);
        if let Ok(found) = found {
            found.remove();
            self.free.push(slot);
        }
    }

    #[inline]
    fn slot_of(&self, key: &[u8]) -> Option<Slot> {
        self.table.find(self.hasher.hash_one(key), |&slot| *self.slots[slot as usize].key == *key).copied()
    }

    fn occupy(&mut self, key: &[u8]) -> Slot {
        let stored = Stored { key: Box::from(key), value: None, home: 0, changed: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stored;
                slot
            }
            None => {
                let slot = Slot::try_from(self.slots.len()).expect("memory ends before four billion entries");
                self.slots.push(stored);
                slot
            }
        };
        let (hasher, slots) = (&self.hasher, &self.slots);
        let entry = self.table.entry(
            hasher.hash_one(key),
            |&other| other == slot,
            |&other| hasher.hash_one(&*slots[other as usize].key),
        );
        if let hash_table::Entry::Vacant(vacant) = entry {
            vacant.insert(slot);
        }
        slot
    }

    #[inline]
    fn account(&mut self, key: usize, before: Option<usize>, after: Option<usize>) {
        if let Some(value) = before {
            self.live_entries -= 1;
            self.live_bytes -= (key + value) as u64;
        }
        if let Some(value) = after {
            self.live_entries += 1;
            self.live_bytes += (key + value) as u64;
        }
    }

    fn order(&mut self, slot: Slot, present: bool) {
        if let Some(ordered) = &mut self.ordered {
            let key = &self.slots[slot as usize].key;
            if present {
                ordered.insert(key.clone(), slot);
            } else {
                ordered.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests;

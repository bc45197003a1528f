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

/// What somebody sees in place of a store's entries: what he has written himself, and what was there before others overwrote it.
#[derive(Debug, Default)]
struct Aside {
    /// `None`: there is no such entry.
    entries: Entries,
    bytes: u64,
    is_in_front: bool,
}

type Entries = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

static NOTHING: Entries = Entries::new();

impl Aside {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let size = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        if let Some(before) = self.entries.insert(Box::from(key), value.map(Box::from)) {
            self.bytes -= size(before.as_deref());
        }
        self.bytes += size(value);
    }
}

/// Both in the order of their keys; of two with the same key the first one's.
fn in_front<'a, V>(
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
        if let Some(aside) = &self.aside
            && aside.is_in_front
            && let Some(value) = aside.entries.get(key)
        {
            return value.as_deref();
        }
        self.live(key)
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
        self.aside = Some(Box::default());
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

    /// Bytes of what is kept and changed beside.
    #[must_use]
    pub fn bytes_beside(&self) -> u64 {
        self.aside.as_ref().map_or(0, |aside| aside.bytes)
    }

    /// Of a split store: writes beside, or keeps beside what is about to be overwritten. Whether that was all.
    #[cold]
    fn put_aside(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let Some(mut aside) = self.aside.take() else { return false };
        let is_in_front = aside.is_in_front;
        if is_in_front {
            aside.set(key, value);
        } else if !aside.entries.contains_key(key) {
            aside.set(key, self.live(key));
        }
        self.aside = Some(aside);
        is_in_front
    }

    /// Number of entries that are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live_entries
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live_entries == 0
    }

    /// Bytes of the keys and values that are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.live_bytes
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn contents(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
        store.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    #[test]
    fn roll_back_restores_what_was_durable() {
        let mut store = Store::default();
        store.put(b"kept", Some(b"1"));
        store.put(b"gone", Some(b"2"));
        store.seal();
        store.mark_durable();
        store.put(b"kept", Some(b"other length"));
        store.put(b"kept", None);
        store.put(b"gone", None);
        store.put(b"new", Some(b"3"));
        store.roll_back();
        let expected = [(b"kept".to_vec(), b"1".to_vec()), (b"gone".to_vec(), b"2".to_vec())];
        assert_eq!(contents(&store), expected.into());
        assert!(!store.has_changed());
    }

    #[test]
    fn a_deleted_entry_stays_listed_as_a_change_until_it_is_durable() {
        let mut store = Store::default();
        store.put(b"k", Some(b"v"));
        store.seal();
        store.mark_durable();
        store.put(b"k", None);
        let changed: Vec<_> = store.changed().map(|slot| store.entry(slot)).collect();
        assert_eq!(changed, [(b"k".as_slice(), None)]);
        assert_eq!(store.get(b"k"), None);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn deleting_what_is_not_there_changes_nothing() {
        let mut store = Store::default();
        store.put(b"k", None);
        assert!(!store.has_changed());
    }

    #[test]
    fn a_forgotten_slot_is_used_again() {
        let mut store = Store::default();
        store.put(b"a", Some(b"1"));
        store.seal();
        store.mark_durable();
        store.put(b"a", None);
        let slot = store.changed().next().unwrap();
        store.seal();
        store.mark_durable();
        store.forget(slot);
        store.put(b"b", Some(b"2"));
        assert_eq!(store.changed().next(), Some(slot));
        assert_eq!(store.get(b"a"), None);
    }

    #[test]
    fn scans_page_through_a_prefix_in_key_order() {
        let mut store = Store::default();
        for key in ["a1", "b3", "b1", "b2", "c1"] {
            store.put(key.as_bytes(), Some(b"v"));
        }
        let first = store.scan(b"b", None, 2, usize::MAX);
        assert_eq!(first.keys.bytes, b"b1b2");
        assert!(first.more);
        store.put(b"b25", Some(b"v"));
        store.put(b"b3", None);
        let second = store.scan(b"b", Some(b"b2"), 2, usize::MAX);
        assert_eq!(second.keys.bytes, b"b25");
        assert!(!second.more);
    }

    #[test]
    fn a_page_that_reaches_its_bytes_ends_but_holds_at_least_one_entry() {
        let mut store = Store::default();
        store.put(b"a", Some(&[0; 100]));
        store.put(b"b", Some(&[0; 100]));
        let page = store.scan(b"", None, 10, 1);
        assert_eq!((page.keys.len(), page.more), (1, true));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Option<Vec<u8>>),
        Seal,
        Durable,
        RollBack,
        Mark,
        KeepMarked,
        UndoMarked,
        Scan,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..20u8, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..4))).prop_map(|(key, value)| Step::Put(key, value)),
            1 => Just(Step::Seal),
            1 => Just(Step::Durable),
            1 => Just(Step::RollBack),
            2 => Just(Step::Mark),
            1 => Just(Step::KeepMarked),
            1 => Just(Step::UndoMarked),
            1 => Just(Step::Scan),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_an_ordered_map_with_a_copy_to_go_back_to(steps in proptest::collection::vec(step(), 0..200)) {
            let mut store = Store::default();
            let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
            let (mut sealed, mut durable, mut marked) = (None, model.clone(), None);
            // What the next commit writes goes on from here.
            let mut written = model.clone();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        store.put(&[key], value.as_deref());
                        match value {
                            Some(value) => { model.insert(vec![key], value); }
                            None => { model.remove(&vec![key]); }
                        }
                    }
                    Step::Seal => {
                        store.seal();
                        (sealed, written, marked) = (Some(model.clone()), model.clone(), None);
                    }
                    Step::Durable => { store.mark_durable(); durable = sealed.take().unwrap_or(durable); }
                    Step::RollBack => {
                        store.roll_back();
                        (model, written, sealed, marked) = (durable.clone(), durable.clone(), None, None);
                    }
                    Step::Mark => { store.mark(); marked = Some(model.clone()); }
                    Step::KeepMarked => { store.keep_marked(); marked = None; }
                    Step::UndoMarked => { store.undo_marked(); model = marked.take().unwrap_or(model); }
                    Step::Scan => {
                        let page = store.scan(b"", None, usize::MAX, usize::MAX);
                        let keys: Vec<_> = page.keys.values().flatten().map(<[u8]>::to_vec).collect();
                        prop_assert_eq!(keys, model.keys().cloned().collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(contents(&store), model.clone());
                if marked.is_none() {
                    let slots: Vec<_> = store.changed().collect();
                    let changed: BTreeMap<_, _> = slots.iter().map(|&slot| store.entry(slot)).collect();
                    prop_assert_eq!(slots.len(), changed.len());
                    let differs = |key: &&Vec<u8>| model.get(*key) != written.get(*key);
                    for key in model.keys().chain(written.keys()).filter(differs) {
                        prop_assert_eq!(changed.get(key.as_slice()), Some(&model.get(key).map(Vec::as_slice)));
                    }
                }
                prop_assert_eq!(store.len(), model.len());
                prop_assert_eq!(store.bytes(), model.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>());
            }
        }
    }

    /// What a split store shows: of one side a map that goes its own way from the split on, of the other one that knows nothing of it.
    fn both_sides(steps: Vec<(bool, u8, Option<u8>)>, splits_at: usize) {
        let (mut store, mut live, mut beside) = (Store::default(), BTreeMap::new(), None::<BTreeMap<_, _>>);
        for (at, (is_beside, key, value)) in steps.into_iter().enumerate() {
            if at == splits_at {
                store.split();
                beside = Some(live.clone());
            }
            let (key, value) = (vec![key], value.map(|value| vec![value; usize::from(value)]));
            store.turn(is_beside);
            store.put(&key, value.as_deref());
            let map = match &mut beside {
                Some(beside) if is_beside => beside,
                _ => &mut live,
            };
            match value {
                Some(value) => drop(map.insert(key.clone(), value)),
                None => drop(map.remove(&key)),
            }
            if at % 3 == 0 {
                store.seal();
                store.mark_durable();
            }
            for (is_beside, map) in [(false, Some(&live)), (true, beside.as_ref())] {
                let Some(map) = map else { continue };
                store.turn(is_beside);
                assert_eq!(store.get(&key), map.get(&key).map(Vec::as_slice));
                let page = store.scan(b"", None, 1000, usize::MAX);
                let entries = page.keys.values().flatten().zip(page.values.values().flatten());
                let seen: BTreeMap<_, _> = entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                assert_eq!(&seen, map);
            }
        }
        store.turn(false);
        assert_eq!(contents(&store), live);
        store.join();
        assert_eq!((contents(&store), store.bytes_beside()), (live, 0));
    }

    proptest! {
        #[test]
        fn each_side_of_a_split_store_goes_its_own_way(
            steps in prop::collection::vec((any::<bool>(), 0..6_u8, prop::option::of(0..5_u8)), 1..60),
            splits_at in 0..30_usize,
        ) {
            both_sides(steps, splits_at);
        }
    }
}

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
            let bytes = map.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
            assert_eq!((store.len(), store.bytes(), store.is_empty()), (map.len(), bytes, map.is_empty()));
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

use super::*;

/// A store of schema 1 that is copied to one of schema 2, with these entries in both; what is said to be converted stays as it is.
fn copying(source: &[String], target: &[String]) -> (TaskState, Copying) {
    let route = Route::of("count", "counts", 1, 2);
    let mut state = TaskState::new([vec![route.source.clone()]]);
    for (name, keys) in [(&route.source, source), (&route.target, target)] {
        let number = state.number(name);
        keys.iter().for_each(|key| state.store_mut(number).put(key.as_bytes(), Some(b"1")));
    }
    settle(&mut state);
    let mut copying = Copying::new([route].into(), &mut state);
    copying.converter = Some(Converter { before: None, next: None });
    (state, copying)
}

fn settle(state: &mut TaskState) {
    state.seal();
    state.stores_mut().for_each(crate::state::Store::mark_durable);
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number:06}")).collect()
}

/// Copies until nothing is left, with commits in between. How many entries that took.
fn copy_all(state: &mut TaskState, copying: &mut Copying) -> usize {
    let mut copied = 0;
    while !copying.is_ready(state) || copying.ways.iter().any(|way| !way.changed.is_empty()) {
        match copying.next_page(state) {
            Some((page, converter)) => {
                copied += page.keys.len();
                let values = page.values.clone();
                copying.take(page, converter.unwrap(), values, state);
            }
            None => {
                copying.note_changes(state);
                copying.note_seal();
                settle(state);
                assert!(!copying.is_outrun(), "nothing changes");
            }
        }
    }
    copied
}

#[test]
fn the_switch_copies_every_deletion() {
    let (mut state, mut copying) = copying(&[], &keys(FEW));
    copying.finish(&mut state, 0).unwrap();
    assert!(state.store(copying.ways[0].target).is_empty());
}

#[test]
fn a_conversion_is_given_up_between_two_pages() {
    let (mut state, mut copying) = copying(&keys(2 * PAGE_ENTRIES), &[]);
    assert!(matches!(copying.finish_while(&mut state, 0, &mut || false), Ok(false)));
    assert!(state.store(copying.ways[0].target).is_empty(), "nothing was asked of the plugin");
}

#[test]
fn what_a_roll_back_brings_back_is_copied_though_nothing_was_put_for_it() {
    let (mut state, mut copying) = copying(&keys(1), &[]);
    let source = copying.ways[0].source;
    state.store_mut(source).put(keys(1)[0].as_bytes(), None);
    assert!(copying.next_page(&mut state).is_none(), "there is nothing to copy");
    copying.note_roll_back(&state);
    state.stores_mut().for_each(crate::state::Store::roll_back);
    let (page, _) = copying.next_page(&mut state).unwrap();
    assert_eq!(page.keys.values().flatten().collect::<Vec<_>>(), [keys(1)[0].as_bytes()]);
}

#[test]
fn a_roll_back_makes_room_for_what_is_copied_next() {
    let (mut state, mut copying) = copying(&keys(1), &[]);
    copying.bytes_since_commit = COMMIT_BYTES;
    assert!(copying.next_page(&mut state).is_none());
    copying.note_roll_back(&state);
    assert!(copying.next_page(&mut state).is_some());
}

#[test]
fn what_an_earlier_attempt_has_left_is_copied_once_and_no_reason_to_give_up() {
    let all = keys(200_000);
    let (mut state, mut copying) = copying(&all[..100_000], &all);
    assert_eq!(copy_all(&mut state, &mut copying), 100_000);
    assert_eq!(state.store(copying.ways[0].target).len(), 100_000);
}

#[test]
fn a_state_that_changes_faster_than_it_is_copied_is_given_up() {
    let (mut state, mut copying) = copying(&[], &[]);
    let source = copying.ways[0].source;
    for round in 0..=COMMITS_MAX + 1 {
        assert!(!copying.is_outrun(), "{round}");
        while let Some((page, converter)) = copying.next_page(&mut state) {
            let values = page.values.clone();
            copying.take(page, converter.unwrap(), values, &mut state);
        }
        for key in keys(FEW + 1) {
            state.store_mut(source).put(key.as_bytes(), Some(round.to_string().as_bytes()));
        }
        copying.note_changes(&state);
        settle(&mut state);
    }
    copying.note_changes(&state);
    assert!(copying.is_outrun());
}

#[test]
fn a_page_that_fails_matters_unless_its_entries_were_taken_back() {
    for taken_back in [false, true] {
        let (mut state, mut copying) = copying(&keys(1), &[]);
        let (page, _) = copying.next_page(&mut state).unwrap();
        if taken_back {
            copying.note_roll_back(&state);
        }
        assert_eq!(copying.failed(&page), !taken_back);
    }
}

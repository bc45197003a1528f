//! Which entries of a task's state live in which chunk.
//!
//! The ledger knows the row of chunks of the last durable manifest, and for each chunk the slots that were written into it. An
//! entry's home (see [`crate::state::Store`]) says which chunk holds its latest durable copy, so that "what is still alive in
//! this chunk" is a walk over the chunk's slots and no read from the metadata store.
//!
//! [`Ledger::encode`] makes the chunks of a commit and changes nothing; [`Ledger::apply`] is called when they are durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::chunk::{ChunkEntry, ChunkError, ChunkWriter, Decoded, entry_bytes};
use super::compaction::{self, CHUNK_BYTES};
use super::head::{ChunkDigest, ChunkFacts};
use crate::ids::ChunkName;
use crate::state::{Home, Slot, TaskState};

/// The chunks of a task.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Oldest first.
    row: Vec<Held>,
    last_home: Home,
}

#[derive(Debug)]
struct Held {
    name: ChunkName,
    home: Home,
    raw_bytes: u64,
    members: Vec<Member>,
}

/// Store and slot of an entry.
type Member = (u16, Slot);

/// A chunk that is to be written.
#[derive(Debug)]
pub struct NewChunk {
    /// Under which name.
    pub name: ChunkName,
    /// What to store.
    pub stored: Bytes,
    held: Held,
}

/// What a commit writes of one task, and what becomes true when it is durable.
#[derive(Debug, Default)]
pub struct Delta {
    /// Chunks to write.
    pub new: Vec<NewChunk>,
    /// The row of the new manifest, oldest first.
    pub row: Vec<ChunkName>,
    oldest_taken: usize,
    newest_taken: usize,
    forget: Vec<Member>,
}

impl Delta {
    /// What the head notes of the new chunks.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<ChunkName, ChunkFacts> {
        let facts = |chunk: &NewChunk| ChunkFacts {
            digest: ChunkDigest::of(&chunk.stored),
            bytes: u32::try_from(chunk.stored.len()).expect("chunks are cut far below 4 GiB"),
        };
        self.new.iter().map(|chunk| (chunk.name, facts(chunk))).collect()
    }

    /// Bytes that have to be stored.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.new.iter().map(|chunk| chunk.stored.len() as u64).sum()
    }
}

impl Ledger {
    /// Makes the chunks for everything that changed in `state` since it was last durable, together with what compaction takes
    /// up. `names` gives names that were never used.
    pub fn encode(&self, state: &TaskState, mut names: impl FnMut() -> ChunkName) -> Delta {
        let mut forget = Vec::new();
        let mut write: Vec<Member> = Vec::new();
        let mut delta_bytes = 0;
        let mut live_bytes = 0;
        for (number, store) in (0u16..).zip(state.stores()) {
            live_bytes += store.bytes() + 5 * store.len() as u64;
            for slot in store.changed() {
                let (key, value) = store.entry(slot);
                if value.is_none() && store.home(slot) == 0 {
                    forget.push((number, slot));
                } else {
                    delta_bytes += entry_bytes(key, value);
                    write.push((number, slot));
                }
            }
        }
        let sizes: Vec<u64> = self.row.iter().map(|held| held.raw_bytes).collect();
        let plan = compaction::plan(&sizes, delta_bytes, live_bytes);
        let newest_from = self.row.len() - plan.newest;
        for (index, held) in self.row.iter().enumerate() {
            if index >= plan.oldest && index < newest_from {
                continue;
            }
            // Nothing older is left of what the old end held, so its deletions have nothing to hide any more.
            let drop_deleted = index < plan.oldest;
            for &(number, slot) in &held.members {
                let store = state.store(usize::from(number));
                if store.home(slot) != held.home || store.is_changed(slot) {
                    continue;
                }
                let deleted = store.entry(slot).1.is_none();
                if deleted && drop_deleted { forget.push((number, slot)) } else { write.push((number, slot)) }
            }
        }
        let kept = &self.row[plan.oldest.min(newest_from)..newest_from];
        let new = self.cut(state, &write, &mut names);
        let row = kept.iter().map(|held| held.name).chain(new.iter().map(|chunk| chunk.name)).collect();
        Delta { new, row, oldest_taken: plan.oldest, newest_taken: plan.newest, forget }
    }

    fn cut(&self, state: &TaskState, write: &[Member], names: &mut impl FnMut() -> ChunkName) -> Vec<NewChunk> {
        let mut new = Vec::new();
        let mut rest = write;
        while !rest.is_empty() {
            let mut writer = ChunkWriter::new(state.names());
            let mut count = 0;
            for &(number, slot) in rest {
                let (key, value) = state.store(usize::from(number)).entry(slot);
                if count > 0 && writer.raw_bytes() + entry_bytes(key, value) > CHUNK_BYTES {
                    break;
                }
                writer.push(ChunkEntry { store: usize::from(number), key, value });
                count += 1;
            }
            let (members, others) = rest.split_at(count);
            rest = others;
            let home = self.last_home + 1 + Home::try_from(new.len()).expect("a commit has few chunks");
            let name = names();
            let held = Held { name, home, raw_bytes: writer.raw_bytes(), members: members.to_vec() };
            new.push(NewChunk { name, stored: Bytes::from(writer.finish()), held });
        }
        new
    }

    /// The delta is durable: moves the homes of what it wrote and forgets what was before. `state` has been sealed after
    /// [`Ledger::encode`].
    pub fn apply(&mut self, state: &mut TaskState, delta: Delta) {
        state.stores_mut().for_each(|store| store.mark_durable());
        let newest_from = self.row.len() - delta.newest_taken;
        self.row.truncate(newest_from);
        self.row.drain(..delta.oldest_taken);
        for chunk in delta.new {
            for &(number, slot) in &chunk.held.members {
                state.store_mut(usize::from(number)).set_home(slot, chunk.held.home);
            }
            self.last_home = chunk.held.home;
            self.row.push(chunk.held);
        }
        for (number, slot) in delta.forget {
            let store = state.store_mut(usize::from(number));
            // Also if it is there again: no copy of it is left.
            store.set_home(slot, 0);
            store.forget(slot);
        }
    }

    /// Takes in a chunk that was read: chunks come oldest first, so that a later one overrides an earlier one.
    ///
    /// # Errors
    /// When the chunk is damaged; `state` is then of no use.
    pub fn restore(&mut self, state: &mut TaskState, name: ChunkName, decoded: &Decoded) -> Result<(), ChunkError> {
        let numbers: Vec<usize> = decoded.stores.iter().map(|store| state.number(store)).collect();
        self.last_home += 1;
        let mut members = Vec::new();
        for entry in decoded.entries() {
            let entry = entry?;
            let number = numbers[entry.store];
            let slot = state.store_mut(number).restore(entry.key, entry.value, self.last_home);
            members.push((u16::try_from(number).map_err(|_| ChunkError::Damaged("it names too many stores"))?, slot));
        }
        self.row.push(Held { name, home: self.last_home, raw_bytes: decoded.raw_bytes(), members });
        Ok(())
    }

    /// Chunks in the row.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.row.len()
    }

    /// Bytes of the row before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.row.iter().map(|held| held.raw_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::chunk;
    use crate::ids::ClaimGeneration;
    use crate::state::StoreName;

    fn task_state() -> TaskState {
        TaskState::new([vec![StoreName::of("count", "counts", 1)], vec![StoreName::of("join", "left", 1)]])
    }

    /// Chunks as the metadata store would hold them.
    #[derive(Default)]
    struct Disk {
        chunks: BTreeMap<ChunkName, Bytes>,
        row: Vec<ChunkName>,
        counter: u64,
    }

    impl Disk {
        fn commit(&mut self, ledger: &mut Ledger, state: &mut TaskState) {
            let counter = &mut self.counter;
            let delta = ledger.encode(state, || {
                *counter += 1;
                ChunkName { generation: ClaimGeneration(1), counter: *counter }
            });
            self.chunks.extend(delta.new.iter().map(|chunk| (chunk.name, chunk.stored.clone())));
            self.row.clone_from(&delta.row);
            let row = &self.row;
            self.chunks.retain(|name, _| row.contains(name));
            state.seal();
            ledger.apply(state, delta);
        }

        fn restore(&self) -> (Ledger, TaskState) {
            let (mut ledger, mut state) = (Ledger::default(), task_state());
            for name in &self.row {
                ledger.restore(&mut state, *name, &chunk::decode(&self.chunks[name]).unwrap()).unwrap();
            }
            (ledger, state)
        }
    }

    type Contents = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

    fn contents(state: &TaskState) -> Contents {
        let entries = |(number, store): (usize, &crate::state::Store)| {
            store.iter().map(|(key, value)| ((number, key.to_vec()), value.to_vec())).collect::<Vec<_>>()
        };
        state.stores().enumerate().flat_map(entries).collect()
    }

    #[test]
    fn a_commit_without_changes_writes_nothing() {
        let (mut disk, mut ledger, mut state) = (Disk::default(), Ledger::default(), task_state());
        state.store_mut(0).put(b"k", Some(b"v"));
        disk.commit(&mut ledger, &mut state);
        let delta = ledger.encode(&state, || unreachable!("no chunk is needed"));
        assert!(delta.new.is_empty());
        assert_eq!(delta.row, disk.row);
    }

    #[test]
    fn an_entry_made_and_deleted_between_two_commits_is_never_written() {
        let (mut disk, mut ledger, mut state) = (Disk::default(), Ledger::default(), task_state());
        state.store_mut(0).put(b"k", Some(b"v"));
        state.store_mut(0).put(b"k", None);
        disk.commit(&mut ledger, &mut state);
        assert!(disk.chunks.is_empty());
    }

    #[test]
    fn the_state_of_a_transform_that_is_gone_is_kept_through_commits() {
        let (mut disk, mut ledger, mut state) = (Disk::default(), Ledger::default(), task_state());
        state.store_mut(1).put(b"k", Some(b"kept"));
        disk.commit(&mut ledger, &mut state);
        let (mut ledger, mut fewer) = (Ledger::default(), TaskState::new([vec![StoreName::of("count", "counts", 1)]]));
        for name in &disk.row {
            ledger.restore(&mut fewer, *name, &chunk::decode(&disk.chunks[name]).unwrap()).unwrap();
        }
        for round in 0..40u8 {
            fewer.store_mut(0).put(&[round], Some(b"v"));
            disk.commit(&mut ledger, &mut fewer);
        }
        let (_, state) = disk.restore();
        assert_eq!(state.store(1).get(b"k"), Some(b"kept".as_slice()));
        assert_eq!(state.store(0).len(), 40);
    }

    #[test]
    fn deletions_stay_deleted_when_the_chunk_that_says_so_is_merged() {
        let (mut disk, mut ledger, mut state) = (Disk::default(), Ledger::default(), task_state());
        for key in 0..2_000u32 {
            state.store_mut(0).put(&key.to_be_bytes(), Some(&[7; 100]));
        }
        disk.commit(&mut ledger, &mut state);
        for key in 0..100u32 {
            state.store_mut(0).put(&key.to_be_bytes(), None);
            disk.commit(&mut ledger, &mut state);
            let (_, restored) = disk.restore();
            assert_eq!(contents(&restored), contents(&state), "after deleting {key}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_restored_is_what_was_committed(
            commits in proptest::collection::vec(
                proptest::collection::vec((0..2usize, 0..300u16, proptest::option::of(0..5_000usize)), 0..60), 1..40),
            restart in 0..40usize,
        ) {
            let (mut disk, mut ledger, mut state) = (Disk::default(), Ledger::default(), task_state());
            for (index, changes) in commits.iter().enumerate() {
                for (store, key, value) in changes {
                    // Values that do not compress, so that chunks become as large as they can.
                    let value = value.map(|len| (0..len).map(|at| (at * 31 + index * 7 + usize::from(*key)) as u8).collect::<Vec<_>>());
                    state.store_mut(*store).put(&key.to_be_bytes(), value.as_deref());
                }
                disk.commit(&mut ledger, &mut state);
                if index == restart {
                    (ledger, state) = disk.restore();
                }
                let (_, restored) = disk.restore();
                prop_assert_eq!(contents(&restored), contents(&state));
            }
        }
    }
}

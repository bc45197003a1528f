//! Which chunks the next commit rewrites. Pure.
//!
//! A task's state is a row of chunks, oldest first; each commit that changed something appends what changed. Without more, the
//! row would grow for ever, and rewriting all of it at once would make some commits as large as the state. So each commit also
//! takes up a few chunks, and what is still alive in them moves into what it appends:
//!
//! - from the new end, small chunks, as a log-structured merge tree does with its tiers: once [`FAN_OUT`] chunks of one size
//!   class stand at the end they become one. That bounds the number of chunks.
//! - from the old end, as a log-structured file system cleans its log, when the chunks hold more than twice what is alive. Each
//!   commit cleans one chunk, or [`CLEANING_FACTOR`] bytes for each byte it appends; a full turn of the row frees everything
//!   that is dead, so that the row stays near twice the live state.
//!
//! Sizes are those of encoded entries before compression.

/// Size that chunks are cut at, in bytes: requests of about 256 KiB are the fastest for ZooKeeper.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// A chunk from this size on is full: it is not merged at the new end any more.
pub const FULL_BYTES: u64 = CHUNK_BYTES / 2;

/// Chunks of a size class that become one.
pub const FAN_OUT: usize = 8;

/// Bytes cleaned at the old end for each byte appended.
pub const CLEANING_FACTOR: u64 = 2;

/// Bytes that the row may hold beyond twice the live state: below this, cleaning would only make work.
pub const SLACK_BYTES: u64 = 2 * CHUNK_BYTES;

/// How many chunks to take up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// From the old end.
    pub oldest: usize,
    /// From the new end.
    pub newest: usize,
}

/// Decides for a row of `chunks` (bytes of each, oldest first), a commit of `delta` bytes and a state of `live` bytes.
/// A commit that changed nothing takes nothing up.
#[must_use]
pub fn plan(chunks: &[u64], delta: u64, live: u64) -> Plan {
    if delta == 0 {
        return Plan::default();
    }
    let newest = small_at_the_end(chunks, delta);
    let rest = &chunks[..chunks.len() - newest];
    let mut total = chunks.iter().sum::<u64>() + delta;
    let bound = 2 * live + SLACK_BYTES;
    let mut budget = (delta * CLEANING_FACTOR).max(CHUNK_BYTES);
    let mut oldest = 0;
    for &bytes in rest {
        let affordable = oldest == 0 || bytes <= budget;
        if total <= bound || !affordable {
            break;
        }
        budget = budget.saturating_sub(bytes);
        // Counted as if all of it were dead: the budget, not this, decides how much is rewritten.
        total -= bytes;
        oldest += 1;
    }
    Plan { oldest, newest }
}

fn small_at_the_end(chunks: &[u64], delta: u64) -> usize {
    let (mut taken, mut bytes) = (0, delta);
    loop {
        let rest = &chunks[..chunks.len() - taken];
        let run = rest.iter().rev().take_while(|&&chunk| chunk < FULL_BYTES && class(chunk) <= class(bytes));
        let (count, sum) = run.fold((0, 0), |(count, sum), chunk| (count + 1, sum + chunk));
        // Small chunks before a large delta would be shut in for good: they cost less than it does.
        let cheap = bytes >= FULL_BYTES && sum <= bytes;
        if count == 0 || (count + 1 < FAN_OUT && !cheap) {
            return taken;
        }
        taken += count;
        bytes += sum;
    }
}

/// Below 4 KiB, 16 KiB, 64 KiB, 128 KiB, and full.
fn class(bytes: u64) -> u32 {
    [4 * 1024, 16 * 1024, 64 * 1024, FULL_BYTES].iter().take_while(|&&limit| bytes >= limit).count() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_changed_means_nothing_is_rewritten() {
        assert_eq!(plan(&[100; 50], 0, 10), Plan::default());
    }

    #[test]
    fn eight_small_chunks_become_one() {
        assert_eq!(plan(&[100; 6], 100, 1_000_000), Plan::default());
        assert_eq!(plan(&[100; 7], 100, 1_000_000), Plan { oldest: 0, newest: 7 });
        assert_eq!(plan(&[CHUNK_BYTES, 100, 100, 100, 100, 100, 100, 100], 100, 1_000_000).newest, 7);
    }

    #[test]
    fn merging_goes_on_into_the_next_class() {
        let mut chunks = vec![5_000; 7];
        chunks.extend([600; 7]);
        assert_eq!(plan(&chunks, 600, 1_000_000).newest, 14);
    }

    #[test]
    fn full_chunks_are_not_merged() {
        assert_eq!(plan(&[CHUNK_BYTES; 20], CHUNK_BYTES, 20 * CHUNK_BYTES).newest, 0);
    }

    #[test]
    fn more_than_twice_the_live_state_is_cleaned_from_the_old_end() {
        let chunks = [CHUNK_BYTES; 10];
        assert_eq!(plan(&chunks, 1_000, 10 * CHUNK_BYTES).oldest, 0);
        assert_eq!(plan(&chunks, 1_000, 3 * CHUNK_BYTES).oldest, 1);
    }

    /// A row of chunks in which each entry is one number, to see the plan at work over many commits.
    #[derive(Default)]
    struct Row {
        chunks: Vec<Vec<u32>>,
        home: std::collections::BTreeMap<u32, usize>,
        next: usize,
        ids: Vec<usize>,
    }

    const ENTRY: u64 = 1_000;

    impl Row {
        /// Commits; returns the entries that were rewritten beyond those that changed.
        fn commit(&mut self, changed: &std::collections::BTreeSet<u32>) -> u64 {
            let sizes: Vec<u64> = self.chunks.iter().map(|chunk| chunk.len() as u64 * ENTRY).collect();
            let live = self.home.keys().chain(changed).collect::<std::collections::BTreeSet<_>>().len() as u64 * ENTRY;
            let plan = plan(&sizes, changed.len() as u64 * ENTRY, live);
            let newest = self.chunks.len() - plan.newest;
            let taken: Vec<usize> = (0..plan.oldest).chain(newest..self.chunks.len()).collect();
            let mut entries: Vec<u32> = changed.iter().copied().collect();
            for &index in &taken {
                let alive = |entry: &&u32| self.home.get(entry) == Some(&self.ids[index]) && !changed.contains(entry);
                entries.extend(self.chunks[index].iter().filter(alive));
            }
            let rewritten = (entries.len() - changed.len()) as u64;
            for &index in taken.iter().rev() {
                self.chunks.remove(index);
                self.ids.remove(index);
            }
            for part in entries.chunks((CHUNK_BYTES / ENTRY) as usize) {
                self.next += 1;
                self.home.extend(part.iter().map(|&entry| (entry, self.next)));
                self.chunks.push(part.to_vec());
                self.ids.push(self.next);
            }
            rewritten
        }

        fn total(&self) -> u64 {
            self.chunks.iter().map(|chunk| chunk.len() as u64 * ENTRY).sum()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn rows_stay_bounded_in_bytes_and_chunks_and_commits_stay_small(
            keys in 1u32..6_000, commit in 1u32..400, skew in 0u32..3, seed in any::<u64>(),
        ) {
            use rand::{Rng, SeedableRng};
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let mut row = Row::default();
            let mut written = 0;
            let mut rewritten = 0;
            for _ in 0..300 {
                // Skewed: most commits touch few keys again and again, the rest is cold.
                let range = if skew > 0 && random.random_ratio(skew, 3) { keys.div_ceil(10) } else { keys };
                let changed: std::collections::BTreeSet<u32> = (0..commit).map(|_| random.random_range(0..range)).collect();
                let again = row.commit(&changed);
                let most = (changed.len() as u64 * ENTRY * CLEANING_FACTOR).max(CHUNK_BYTES) + FAN_OUT as u64 * 4 * CHUNK_BYTES;
                prop_assert!(again * ENTRY <= most, "one commit rewrote {} bytes", again * ENTRY);
                rewritten += again;
                written += changed.len() as u64;
            }
            let live = row.home.len() as u64 * ENTRY;
            prop_assert!(row.total() <= 2 * live + live / 2 + 2 * SLACK_BYTES, "{} bytes for {live} alive", row.total());
            prop_assert!(row.chunks.len() as u64 <= 4 * FAN_OUT as u64 + 12 * (live / CHUNK_BYTES), "{} chunks", row.chunks.len());
            prop_assert!(rewritten <= 6 * written + 2_000, "{rewritten} entries rewritten for {written} written");
        }
    }
}

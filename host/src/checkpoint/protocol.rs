//! How a head may change. Pure: takes a head and what is to happen, returns the head to write.
//!
//! Every write of a head is made under the version that was read; that is what makes these transitions safe. The rules:
//!
//! - a claim raises the generation and changes nothing else: what another owner has prepared stays, because Kafka may still
//!   decide for it;
//! - a commit under at-least-once makes the head the decider and drops what was prepared: the claim that preceded it fenced
//!   whoever prepared it, and recovery has already believed Kafka where Kafka decided;
//! - epochs only grow, over everything the head names;
//! - the last [`RETAINED_MANIFESTS`] committed manifests stay, and chunks stay while any manifest names them.

use std::collections::{BTreeMap, BTreeSet};

use super::head::{ChunkFacts, Decider, FORMAT, Head, Manifest, TransformIdentity};
use crate::ids::{ChunkName, ClaimGeneration, Epoch, ManifestId};

/// Former manifests that a head keeps, for replays and to look back.
pub const RETAINED_MANIFESTS: usize = 3;

/// The first head of a task, with the offsets at which it starts.
#[must_use]
pub fn genesis(
    nonce: u64,
    offsets: BTreeMap<String, i64>,
    partitions: BTreeMap<String, u32>,
    transforms: Vec<TransformIdentity>,
) -> Head {
    let id = ManifestId { epoch: Epoch(0), nonce };
    Head {
        format: FORMAT,
        generation: ClaimGeneration(0),
        owner: String::new(),
        decider: Decider::Head,
        committed: Manifest { id, chunks: Vec::new(), offsets, watermark: None, transforms },
        prepared: Vec::new(),
        retained: Vec::new(),
        partitions,
        chunks: BTreeMap::new(),
    }
}

/// Takes the task over for `owner`.
#[must_use]
pub fn claim(head: &Head, owner: &str) -> Head {
    Head { generation: head.generation.next(), owner: owner.to_owned(), ..head.clone() }
}

/// The epoch of the next manifest: above every one that the head names.
#[must_use]
pub fn next_epoch(head: &Head) -> Epoch {
    head.manifests().map(|manifest| manifest.id.epoch).max().unwrap_or_default().next()
}

/// Commits under at-least-once: writing this head is the commit. `new_chunks` are the chunks of `manifest` that no former
/// manifest has.
#[must_use]
pub fn commit_at_least_once(head: &Head, manifest: Manifest, new_chunks: BTreeMap<ChunkName, ChunkFacts>) -> Head {
    let mut retained = vec![head.committed.clone()];
    retained.extend(head.retained.iter().take(RETAINED_MANIFESTS - 1).cloned());
    let mut chunks = head.chunks.clone();
    chunks.extend(new_chunks);
    let mut next =
        Head { decider: Decider::Head, committed: manifest, prepared: Vec::new(), retained, chunks, ..head.clone() };
    let named: BTreeSet<ChunkName> = next.manifests().flat_map(|manifest| &manifest.chunks).copied().collect();
    next.chunks.retain(|chunk, _| named.contains(chunk));
    next
}

/// Chunks that `before` names and `after` does not: to be deleted when, and only when, `after` is written.
#[must_use]
pub fn dropped_chunks(before: &Head, after: &Head) -> Vec<ChunkName> {
    before.chunks.keys().filter(|chunk| !after.chunks.contains_key(chunk)).copied().collect()
}

/// Of the chunks that exist, those that the owner of `head` may delete: left over from writes of earlier claims. Chunks of the
/// present claim that the head does not name belong to a commit under way.
#[must_use]
pub fn left_over_chunks(head: &Head, existing: &[ChunkName]) -> Vec<ChunkName> {
    let left_over = |chunk: &&ChunkName| chunk.generation < head.generation && !head.chunks.contains_key(chunk);
    existing.iter().filter(left_over).copied().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::head::ChunkDigest;

    pub(crate) fn genesis() -> Head {
        super::genesis(7, [("orders".to_owned(), 100)].into(), [("orders".to_owned(), 4)].into(), Vec::new())
    }

    pub(crate) fn manifest(epoch: u64, nonce: u64, chunks: &[&str], offset: i64) -> Manifest {
        Manifest {
            id: ManifestId { epoch: Epoch(epoch), nonce },
            chunks: chunks.iter().map(|chunk| chunk.parse().unwrap()).collect(),
            offsets: [("orders".to_owned(), offset)].into(),
            watermark: None,
            transforms: Vec::new(),
        }
    }

    fn facts(chunk: &str) -> BTreeMap<ChunkName, ChunkFacts> {
        [(chunk.parse().unwrap(), ChunkFacts { digest: ChunkDigest([0; 16]), bytes: 1 })].into()
    }

    fn names(chunks: &[ChunkName]) -> Vec<String> {
        chunks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn genesis_lets_the_head_decide() {
        let head = genesis();
        assert_eq!(
            (head.decider, head.generation, head.committed.id.epoch),
            (Decider::Head, ClaimGeneration(0), Epoch(0))
        );
    }

    #[test]
    fn a_claim_raises_the_generation_and_keeps_what_others_prepared() {
        let mut head = genesis();
        head.prepared.push(manifest(1, 1, &[], 110));
        let claimed = claim(&head, "node-1/0");
        assert_eq!(claimed.generation, ClaimGeneration(1));
        assert_eq!(claimed.owner, "node-1/0");
        assert_eq!(claimed.prepared, head.prepared);
        assert_eq!(claimed.committed, head.committed);
    }

    #[test]
    fn the_next_epoch_is_above_foreign_prepared_manifests_too() {
        let mut head = genesis();
        head.prepared.push(manifest(5, 1, &[], 110));
        assert_eq!(next_epoch(&head), Epoch(6));
    }

    #[test]
    fn a_commit_under_at_least_once_makes_the_head_decide_and_drops_what_was_prepared() {
        let mut head = genesis();
        head.decider = Decider::Kafka;
        head.prepared.push(manifest(1, 1, &[], 110));
        let next = commit_at_least_once(&head, manifest(2, 2, &[], 120), BTreeMap::new());
        assert_eq!(next.decider, Decider::Head);
        assert!(next.prepared.is_empty());
        assert_eq!(next.committed.id.epoch, Epoch(2));
        assert_eq!(next.retained, [head.committed]);
    }

    #[test]
    fn chunks_stay_while_a_retained_manifest_names_them_and_are_dropped_after() {
        let mut head = claim(&genesis(), "a");
        head = commit_at_least_once(&head, manifest(1, 1, &["1.1"], 1), facts("1.1"));
        head = commit_at_least_once(&head, manifest(2, 2, &["1.2"], 2), facts("1.2"));
        for epoch in 3..=4 {
            let next = commit_at_least_once(&head, manifest(epoch, epoch, &["1.2"], 3), BTreeMap::new());
            assert!(dropped_chunks(&head, &next).is_empty(), "epoch {epoch}");
            head = next;
        }
        let next = commit_at_least_once(&head, manifest(5, 5, &["1.2"], 5), BTreeMap::new());
        assert_eq!(next.retained.len(), RETAINED_MANIFESTS);
        assert_eq!(names(&dropped_chunks(&head, &next)), ["1.1"]);
    }

    #[test]
    fn only_unnamed_chunks_of_older_claims_are_left_over() {
        let head = commit_at_least_once(&claim(&genesis(), "a"), manifest(1, 1, &["1.1"], 1), facts("1.1"));
        let head = claim(&head, "b");
        let existing: Vec<_> = ["1.1", "1.2", "2.1"].iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(names(&left_over_chunks(&head, &existing)), ["1.2"]);
    }
}

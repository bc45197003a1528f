//! How a head may change. Pure: takes a head and what is to happen, returns the head to write.
//!
//! Every write of a head is made under the version that was read; that is what makes these transitions safe. The rules:
//!
//! - a claim raises the generation and changes nothing else: what another owner has prepared stays, because Kafka may still
//!   decide for it;
//! - a commit under at-least-once makes the head the decider and drops what was prepared: the claim that preceded it fenced
//!   whoever prepared it, and recovery has already believed Kafka where Kafka decided;
//! - a prepare under exactly-once adds a manifest about which Kafka decides. What others have prepared stays until Kafka has
//!   committed a manifest of this claim: an owner that Kafka has already replaced may claim too, and must not take away what
//!   the true owner's transaction is about to name. From that commit on Kafka is the decider;
//! - a clean stop, after the last commit in Kafka, makes the head the decider again: Kafka forgets offsets, a head stays;
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
    let next =
        Head { decider: Decider::Head, committed: manifest, prepared: Vec::new(), retained, chunks, ..head.clone() };
    drop_unnamed_chunks(next)
}

/// What an owner knows of the manifests in its head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lineage {
    /// What the state goes on from: the manifest it was restored from, or the last one that Kafka has committed for this claim.
    pub base: ManifestId,
    /// Kafka has committed `base`, prepared under this claim.
    pub confirmed: bool,
    /// Prepared under this claim, and not committed: the transaction was aborted, and Kafka has acknowledged that.
    pub aborted: BTreeSet<ManifestId>,
}

impl Lineage {
    /// Of an owner that has restored `base`.
    #[must_use]
    pub fn restored(base: ManifestId) -> Self {
        Self { base, confirmed: false, aborted: BTreeSet::new() }
    }

    /// Kafka has committed what was prepared.
    pub fn committed(&mut self, prepared: ManifestId) {
        *self = Self { base: prepared, confirmed: true, aborted: BTreeSet::new() };
    }
}

/// Adds a manifest about which Kafka's transaction will decide. `new_chunks` are the chunks of `manifest` that no former
/// manifest has.
#[must_use]
pub fn prepare(
    head: &Head,
    lineage: &Lineage,
    manifest: Manifest,
    new_chunks: BTreeMap<ChunkName, ChunkFacts>,
) -> Head {
    let mut next = promote(head, lineage);
    next.prepared.push(manifest);
    next.chunks.extend(new_chunks);
    drop_unnamed_chunks(next)
}

/// When the owner stops with nothing undecided: the head holds everything that Kafka has committed, whether under this claim or
/// before. `None` when it does already.
#[must_use]
pub fn clean_stop(head: &Head, lineage: &Lineage) -> Option<Head> {
    let next = drop_unnamed_chunks(Head { decider: Decider::Head, ..promote(head, lineage) });
    (next != *head).then_some(next)
}

/// Makes the base the committed manifest, and lets go what it has outlived.
fn promote(head: &Head, lineage: &Lineage) -> Head {
    let mut next = head.clone();
    let outlived = |id: ManifestId| lineage.confirmed || id == lineage.base || lineage.aborted.contains(&id);
    next.prepared.retain(|manifest| !outlived(manifest.id));
    if let Some(base) = head.prepared.iter().find(|manifest| manifest.id == lineage.base) {
        next.committed = base.clone();
        next.retained.insert(0, head.committed.clone());
        next.retained.truncate(RETAINED_MANIFESTS);
    }
    if lineage.confirmed {
        next.decider = Decider::Kafka;
    }
    next
}

fn drop_unnamed_chunks(mut head: Head) -> Head {
    let named: BTreeSet<ChunkName> = head.manifests().flat_map(|manifest| &manifest.chunks).copied().collect();
    head.chunks.retain(|chunk, _| named.contains(chunk));
    head
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

    fn id(epoch: u64, nonce: u64) -> ManifestId {
        ManifestId { epoch: Epoch(epoch), nonce }
    }

    fn prepared(head: &Head) -> Vec<ManifestId> {
        head.prepared.iter().map(|manifest| manifest.id).collect()
    }

    #[test]
    fn the_first_prepare_leaves_the_committed_manifest_and_the_decider_alone() {
        let head = claim(&genesis(), "a");
        let next = prepare(&head, &Lineage::restored(head.committed.id), manifest(1, 1, &["1.1"], 110), facts("1.1"));
        assert_eq!(next.committed, head.committed);
        assert_eq!(next.decider, Decider::Head);
        assert_eq!(prepared(&next), [id(1, 1)]);
        assert!(next.chunks.contains_key(&"1.1".parse().unwrap()));
    }

    #[test]
    fn the_prepare_after_a_commit_in_kafka_promotes_what_was_committed_and_lets_kafka_decide() {
        let head = claim(&genesis(), "a");
        let mut lineage = Lineage::restored(head.committed.id);
        let first = prepare(&head, &lineage, manifest(1, 1, &[], 110), BTreeMap::new());
        lineage.committed(id(1, 1));
        let second = prepare(&first, &lineage, manifest(2, 2, &[], 120), BTreeMap::new());
        assert_eq!(second.committed.id, id(1, 1));
        assert_eq!(second.retained, [head.committed]);
        assert_eq!(prepared(&second), [id(2, 2)]);
        assert_eq!(second.decider, Decider::Kafka);
    }

    #[test]
    fn what_others_have_prepared_stays_until_a_manifest_of_this_claim_is_committed() {
        let mut head = genesis();
        head.prepared.push(manifest(1, 9, &[], 105));
        let head = claim(&head, "b");
        let mut lineage = Lineage::restored(head.committed.id);
        let first = prepare(&head, &lineage, manifest(2, 1, &[], 110), BTreeMap::new());
        assert_eq!(prepared(&first), [id(1, 9), id(2, 1)]);
        lineage.committed(id(2, 1));
        let second = prepare(&first, &lineage, manifest(3, 1, &[], 120), BTreeMap::new());
        assert_eq!(prepared(&second), [id(3, 1)]);
    }

    #[test]
    fn a_restored_foreign_manifest_is_promoted_and_other_foreign_ones_stay() {
        let mut head = genesis();
        head.decider = Decider::Kafka;
        head.prepared = vec![manifest(1, 9, &[], 105), manifest(1, 8, &[], 106)];
        let head = claim(&head, "b");
        let next = prepare(&head, &Lineage::restored(id(1, 9)), manifest(2, 1, &[], 110), BTreeMap::new());
        assert_eq!(next.committed.id, id(1, 9));
        assert_eq!(prepared(&next), [id(1, 8), id(2, 1)]);
    }

    #[test]
    fn an_aborted_prepare_goes_with_the_next_and_so_do_its_chunks() {
        let head = claim(&genesis(), "a");
        let mut lineage = Lineage::restored(head.committed.id);
        let first = prepare(&head, &lineage, manifest(1, 1, &["1.1"], 110), facts("1.1"));
        lineage.aborted.insert(id(1, 1));
        let second = prepare(&first, &lineage, manifest(2, 2, &["1.2"], 110), facts("1.2"));
        assert_eq!(prepared(&second), [id(2, 2)]);
        assert_eq!(second.committed, head.committed);
        assert_eq!(second.decider, Decider::Head);
        assert_eq!(names(&dropped_chunks(&first, &second)), ["1.1"]);
    }

    #[test]
    fn a_clean_stop_makes_the_head_decide_about_what_kafka_has_committed() {
        let head = claim(&genesis(), "a");
        let mut lineage = Lineage::restored(head.committed.id);
        assert_eq!(clean_stop(&head, &lineage), None, "nothing was ever committed in Kafka");
        let first = prepare(&head, &lineage, manifest(1, 1, &[], 110), BTreeMap::new());
        lineage.committed(id(1, 1));
        let stopped = clean_stop(&first, &lineage).unwrap();
        assert_eq!((stopped.decider, stopped.committed.id, stopped.prepared.len()), (Decider::Head, id(1, 1), 0));
    }

    #[test]
    fn a_clean_stop_of_an_owner_that_had_nothing_to_do_notes_what_kafka_had_committed_before() {
        let mut head = genesis();
        head.decider = Decider::Kafka;
        head.prepared = vec![manifest(1, 9, &[], 105), manifest(1, 8, &[], 106)];
        let head = claim(&head, "b");
        let stopped = clean_stop(&head, &Lineage::restored(id(1, 9))).unwrap();
        assert_eq!((stopped.decider, stopped.committed.id), (Decider::Head, id(1, 9)));
        assert_eq!(prepared(&stopped), [id(1, 8)], "the true owner's transaction may be about to name it");
        assert_eq!(clean_stop(&stopped, &Lineage::restored(id(1, 9))), None);
    }

    #[test]
    fn a_clean_stop_after_an_abort_leaves_the_last_commit() {
        let head = claim(&genesis(), "a");
        let mut lineage = Lineage::restored(head.committed.id);
        let first = prepare(&head, &lineage, manifest(1, 1, &[], 110), BTreeMap::new());
        lineage.committed(id(1, 1));
        let second = prepare(&first, &lineage, manifest(2, 2, &[], 120), BTreeMap::new());
        lineage.aborted.insert(id(2, 2));
        let stopped = clean_stop(&second, &lineage).unwrap();
        assert_eq!((stopped.committed.id, stopped.prepared.len()), (id(1, 1), 0));
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

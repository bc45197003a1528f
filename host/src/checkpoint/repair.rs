//! Heads that a person decides about: where Kafka and a head disagree, where a task is to begin again, where it goes on from a
//! savepoint. Pure.
//!
//! Each is a new manifest, with an epoch above every one that the head or Kafka names, of which the head is the decider: so it is
//! what recovery finds, whatever Kafka still says. Each raises the claim generation, so that nobody who had the task before writes
//! over it, and what nothing names any more is swept by the next owner.

use std::collections::{BTreeMap, BTreeSet};

use super::head::{Decider, Head, Manifest};
use super::protocol;
use super::resolve::{GroupOffset, GroupOffsets};
use crate::ids::{ChunkName, ManifestId};

/// What Kafka has committed is not enough to go on from.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("kafka has no offset for {topics}: accept the head's side, or reset the task")]
pub struct NoOffset {
    /// Topics, separated by commas.
    topics: String,
}

/// The head is right: its committed state and offsets.
#[must_use]
pub fn accept_head(head: &Head, kafka: &GroupOffsets, nonce: u64) -> Head {
    decided(head, kafka, nonce, head.committed.clone())
}

/// Kafka is right: its offsets, with the state of the manifest that it names if the head still has that, and with the committed
/// state otherwise.
///
/// # Errors
/// Kafka has no offset for one of the inputs.
pub fn accept_kafka(head: &Head, kafka: &GroupOffsets, nonce: u64) -> Result<Head, NoOffset> {
    let offset = |topic: &String| kafka.get(topic).and_then(|group| group.offset);
    let asked = || head.committed.offsets.keys().filter(|topic| kafka.contains_key(*topic));
    let missing: Vec<&str> = asked().filter(|topic| offset(topic).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(NoOffset { topics: missing.join(", ") });
    }
    let offsets = asked().filter_map(|topic| Some((topic.clone(), offset(topic)?))).collect();
    let state = named_by(head, kafka).unwrap_or(&head.committed).clone();
    Ok(decided(head, kafka, nonce, Manifest { offsets, ..state }))
}

/// The manifest of the head that Kafka names, the same for all inputs.
#[must_use]
pub fn named_by<'a>(head: &'a Head, kafka: &GroupOffsets) -> Option<&'a Manifest> {
    let named: BTreeSet<Option<ManifestId>> =
        head.committed.offsets.keys().filter_map(|topic| kafka.get(topic)).map(GroupOffset::manifest).collect();
    let id = named.first().copied().flatten().filter(|_| named.len() == 1)?;
    head.manifests().find(|manifest| manifest.id == id)
}

/// The task begins again, without state, at `offsets`.
#[must_use]
pub fn reset(head: &Head, kafka: &GroupOffsets, nonce: u64, offsets: BTreeMap<String, i64>) -> Head {
    let mut empty = Manifest { chunks: Vec::new(), offsets, watermark: None, ..head.committed.clone() };
    empty.transforms.iter_mut().for_each(|transform| transform.former.clear());
    let fresh = decided(head, kafka, nonce, empty);
    Head { retained: Vec::new(), chunks: BTreeMap::new(), ..fresh }
}

/// The task keeps its committed state, and goes on at `offsets`.
#[must_use]
pub fn moved(head: &Head, kafka: &GroupOffsets, nonce: u64, offsets: BTreeMap<String, i64>) -> Head {
    decided(head, kafka, nonce, Manifest { offsets, ..head.committed.clone() })
}

/// A head that holds one of the manifests of `head` and nothing else: a savepoint's, or, with another nonce, the first head of a
/// task that goes on from one.
#[must_use]
pub fn alone(head: &Head, manifest: &Manifest) -> Head {
    let chunks: BTreeSet<ChunkName> = manifest.chunks.iter().copied().collect();
    Head {
        owner: String::new(),
        decider: Decider::Head,
        committed: manifest.clone(),
        prepared: Vec::new(),
        retained: Vec::new(),
        chunks: head.chunks.iter().filter(|(name, _)| chunks.contains(name)).map(|(name, it)| (*name, *it)).collect(),
        ..head.clone()
    }
}

fn decided(head: &Head, kafka: &GroupOffsets, nonce: u64, manifest: Manifest) -> Head {
    let of_kafka = kafka.values().filter_map(GroupOffset::manifest).map(|id| id.epoch.next()).max();
    let epoch = protocol::next_epoch(head).max(of_kafka.unwrap_or_default());
    let manifest = Manifest { id: ManifestId { epoch, nonce }, ..manifest };
    Head { generation: head.generation.next(), ..alone(head, &manifest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::head::{ChunkDigest, ChunkFacts};
    use crate::checkpoint::protocol::tests::{genesis, manifest};
    use crate::checkpoint::resolve::resolve;

    fn head() -> Head {
        let facts = ChunkFacts { digest: ChunkDigest([0; 16]), bytes: 1 };
        Head {
            decider: Decider::Kafka,
            committed: manifest(5, 50, &["1.1"], 105),
            prepared: vec![manifest(6, 60, &["1.2"], 106)],
            retained: vec![manifest(4, 40, &["1.3"], 104)],
            chunks: ["1.1", "1.2", "1.3"].map(|name| (name.parse().unwrap(), facts)).into(),
            ..genesis()
        }
    }

    fn kafka(metadata: &str, offset: Option<i64>) -> GroupOffsets {
        [("orders".to_owned(), GroupOffset { offset, metadata: metadata.to_owned() })].into()
    }

    /// What recovery makes of it, whatever Kafka says.
    fn resumes(repaired: &Head, kafka: &GroupOffsets) -> Manifest {
        Head::decode(&repaired.encode()).unwrap();
        resolve(repaired, kafka).unwrap().clone()
    }

    #[test]
    fn whatever_kafka_says_what_was_accepted_is_what_recovery_finds() {
        let everything = [
            kafka("", None),
            kafka("", Some(3)),
            kafka("9-00000000000000aa", Some(999)),
            kafka(&head().prepared[0].id.to_string(), Some(1)),
        ];
        for says in everything {
            assert!(resolve(&head(), &says).is_err(), "{says:?}");
            let found = resumes(&accept_head(&head(), &says, 1), &says);
            assert_eq!((found.offsets["orders"], found.chunks.len()), (105, 1));
            let found = resumes(&reset(&head(), &says, 1, [("orders".to_owned(), 7)].into()), &says);
            assert_eq!((found.offsets["orders"], found.chunks.len()), (7, 0));
            let found = resumes(&moved(&head(), &says, 1, [("orders".to_owned(), 7)].into()), &says);
            assert_eq!((found.offsets["orders"], found.chunks.len()), (7, 1));
        }
    }

    #[test]
    fn kafkas_side_has_its_offsets_and_the_state_it_names() {
        let of_former = kafka(&head().retained[0].id.to_string(), Some(104));
        let accepted = accept_kafka(&head(), &of_former, 1).unwrap();
        let found = resumes(&accepted, &of_former);
        assert_eq!((found.offsets["orders"], found.chunks[0].to_string().as_str()), (104, "1.3"));
        assert_eq!(accepted.chunks.len(), 1, "what nothing names is not in the head any more");
        let unknown = kafka("9-00000000000000aa", Some(999));
        let found = resumes(&accept_kafka(&head(), &unknown, 1).unwrap(), &unknown);
        assert_eq!((found.offsets["orders"], found.chunks[0].to_string().as_str()), (999, "1.1"));
        assert_eq!(found.id.epoch.0, 10, "above the one that kafka names");
        assert!(accept_kafka(&head(), &kafka("", None), 1).unwrap_err().to_string().contains("orders"));
    }

    #[test]
    fn who_had_the_task_before_cannot_write_over_it() {
        let says = kafka("", None);
        assert!(accept_head(&head(), &says, 1).generation > head().generation);
        assert!(reset(&head(), &says, 1, BTreeMap::new()).generation > head().generation);
    }
}

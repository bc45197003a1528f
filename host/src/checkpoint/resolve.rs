//! What a task resumes from. Pure: decides from what Kafka has committed for the task's inputs and from its head.
//!
//! The head must have been claimed before Kafka was asked: then whatever Kafka answers can no longer change under an earlier
//! owner. The table, in this order:
//!
//! | Kafka's manifest id | decider | outcome |
//! |---|---|---|
//! | is prepared | | that manifest |
//! | is the committed one | | the committed manifest |
//! | none, or of an epoch at or below the committed one | head | the committed manifest |
//! | anything else, also a known id with other offsets | | stop: an operator decides |
//!
//! *Kafka's manifest id* is the one that it names for every input of the head that is still read.

use std::collections::BTreeMap;

use thiserror::Error;

use super::head::{Decider, Head, Manifest};
use crate::ids::ManifestId;

/// What Kafka has committed for one input of a task.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GroupOffset {
    /// The next offset to read; `None` when the group has none.
    pub offset: Option<i64>,
    /// The metadata that was committed with it.
    pub metadata: String,
}

impl GroupOffset {
    /// The manifest it was committed with. `None`: no offset, or one that somebody else wrote.
    #[must_use]
    pub fn manifest(&self) -> Option<ManifestId> {
        self.offset.and_then(|_| self.metadata.parse().ok())
    }
}

/// What Kafka has committed, by source topic.
pub type GroupOffsets = BTreeMap<String, GroupOffset>;

/// Kafka and the head contradict each other, and nobody but an operator can know who is right.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "kafka and the task's head disagree about what was committed last.\n  kafka's consumer group: {kafka}\n  head:                   {head}\n{reason}"
)]
pub struct Disagreement {
    /// What Kafka says.
    pub kafka: String,
    /// What the head says.
    pub head: String,
    /// Which rule they break.
    pub reason: &'static str,
}

/// Decides what the task resumes from: one of the head's manifests.
///
/// # Errors
/// When the answer would be a guess.
pub fn resolve<'a>(head: &'a Head, kafka: &GroupOffsets) -> Result<&'a Manifest, Disagreement> {
    let stop = |reason| Err(Disagreement { kafka: show_offsets(kafka), head: show_head(head), reason });
    // Topics that are not read any more are not asked about: one transaction commits the offsets of all.
    let named: Vec<Option<ManifestId>> =
        head.committed.offsets.keys().filter_map(|topic| kafka.get(topic)).map(GroupOffset::manifest).collect();
    let agreed = named.first().copied().flatten().filter(|id| named.iter().all(|other| *other == Some(*id)));

    if let Some(id) = agreed {
        let known = head.prepared.iter().chain([&head.committed]).find(|manifest| manifest.id == id);
        if let Some(manifest) = known {
            let mut asked = manifest.offsets.iter().filter_map(|(topic, offset)| Some((kafka.get(topic)?, offset)));
            let same = asked.all(|(group, offset)| group.offset == Some(*offset));
            return if same { Ok(manifest) } else { stop("the manifest is known, but its offsets are others") };
        }
    }
    let behind = named.iter().flatten().all(|id| id.epoch <= head.committed.id.epoch);
    match head.decider {
        Decider::Head if behind => Ok(&head.committed),
        Decider::Head => stop("kafka names a manifest that the head does not know and that is newer than the head's"),
        Decider::Kafka if agreed.is_some() => stop("kafka decides, and names a manifest that the head does not know"),
        Decider::Kafka => stop("kafka decides, but its offsets have expired, were reset, or differ between the inputs"),
    }
}

/// Whether Kafka names this manifest, and no other, for every input.
#[must_use]
pub fn names(kafka: &GroupOffsets, manifest: &Manifest) -> bool {
    let mut asked = manifest.offsets.keys().filter_map(|topic| kafka.get(topic));
    asked.all(|group| group.manifest() == Some(manifest.id))
}

/// What a task without state starts from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StatelessStart {
    /// The offsets that Kafka has.
    Resume(BTreeMap<String, i64>),
    /// The first start: `start` of the pipeline decides for these topics, the others resume.
    Genesis {
        /// Topics without an offset.
        missing: Vec<String>,
    },
}

/// A task without state that has run before finds no offset: applying `start` again would lose or repeat records silently.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("the consumer group has no offset any more for {topics}: they have expired or were deleted")]
pub struct OffsetsGone {
    /// Topics, separated by commas.
    pub topics: String,
}

/// Decides where a task without state starts. `started`: whether it has been noted that the task has started once. `late`: a topic
/// that it may have got since.
///
/// # Errors
/// When it has started, and offsets of other topics are missing.
pub fn resolve_stateless(
    kafka: &GroupOffsets,
    late: Option<&str>,
    started: bool,
) -> Result<StatelessStart, OffsetsGone> {
    let missing: Vec<String> =
        kafka.iter().filter(|(_, group)| group.offset.is_none()).map(|(topic, _)| topic.clone()).collect();
    if missing.is_empty() {
        let offsets = kafka.iter().filter_map(|(topic, group)| Some((topic.clone(), group.offset?)));
        return Ok(StatelessStart::Resume(offsets.collect()));
    }
    let gone: Vec<&str> = missing.iter().map(String::as_str).filter(|topic| Some(*topic) != late).collect();
    if started && !gone.is_empty() {
        return Err(OffsetsGone { topics: gone.join(", ") });
    }
    Ok(StatelessStart::Genesis { missing })
}

fn show_offsets(kafka: &GroupOffsets) -> String {
    let show = |(topic, group): (&String, &GroupOffset)| match (group.offset, group.manifest()) {
        (Some(offset), Some(id)) => format!("{topic} at offset {offset} of manifest {id}"),
        (Some(offset), None) => {
            format!("{topic} at offset {offset} without a manifest (metadata `{}`)", group.metadata)
        }
        (None, _) => format!("{topic} without an offset"),
    };
    kafka.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn show_head(head: &Head) -> String {
    let show = |manifest: &Manifest| {
        let offsets: Vec<_> =
            manifest.offsets.iter().map(|(topic, offset)| format!("{topic} at offset {offset}")).collect();
        format!("manifest {} ({})", manifest.id, offsets.join(", "))
    };
    let mut text = format!("committed {}", show(&head.committed));
    for prepared in &head.prepared {
        text += &format!(", prepared {}", show(prepared));
    }
    text += match head.decider {
        Decider::Head => "; the head decides",
        Decider::Kafka => "; kafka decides",
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::protocol::tests::{genesis, manifest};
    use crate::ids::Epoch;

    /// Committed: epoch 4 at 140; prepared: epoch 5 at 150.
    fn head(decider: Decider) -> Head {
        let mut head = genesis();
        head.decider = decider;
        head.committed = manifest(4, 40, &[], 140);
        head.prepared = vec![manifest(5, 50, &[], 150)];
        head.retained = vec![manifest(3, 30, &[], 130)];
        head
    }

    fn says(epoch: u64, nonce: u64, offset: i64) -> GroupOffsets {
        let id = ManifestId { epoch: Epoch(epoch), nonce };
        [("orders".to_owned(), GroupOffset { offset: Some(offset), metadata: id.to_string() })].into()
    }

    fn nothing() -> GroupOffsets {
        [("orders".to_owned(), GroupOffset::default())].into()
    }

    fn by_operator(offset: i64) -> GroupOffsets {
        [("orders".to_owned(), GroupOffset { offset: Some(offset), metadata: String::new() })].into()
    }

    fn epoch(head: &Head, kafka: &GroupOffsets) -> Result<u64, &'static str> {
        resolve(head, kafka).map(|manifest| manifest.id.epoch.0).map_err(|disagreement| disagreement.reason)
    }

    #[test]
    fn a_crash_before_the_prepare_resumes_from_the_committed_manifest() {
        for decider in [Decider::Head, Decider::Kafka] {
            assert_eq!(epoch(&Head { prepared: Vec::new(), ..head(decider) }, &says(4, 40, 140)), Ok(4));
        }
    }

    #[test]
    fn a_crash_between_prepare_and_kafkas_commit_resumes_from_the_committed_manifest() {
        assert_eq!(epoch(&head(Decider::Kafka), &says(4, 40, 140)), Ok(4));
    }

    #[test]
    fn a_crash_after_kafkas_commit_resumes_from_the_prepared_manifest() {
        for decider in [Decider::Head, Decider::Kafka] {
            assert_eq!(epoch(&head(decider), &says(5, 50, 150)), Ok(5));
        }
    }

    #[test]
    fn when_the_head_decides_nothing_or_something_older_in_kafka_means_the_head() {
        let head = head(Decider::Head);
        for kafka in [nothing(), by_operator(7), says(3, 30, 130), says(2, 99, 120), says(4, 99, 1)] {
            assert_eq!(epoch(&head, &kafka), Ok(4), "{kafka:?}");
        }
    }

    #[test]
    fn when_kafka_decides_nothing_in_kafka_stops_the_task() {
        let head = head(Decider::Kafka);
        for kafka in [nothing(), by_operator(140)] {
            assert!(epoch(&head, &kafka).is_err_and(|reason| reason.contains("expired")), "{kafka:?}");
        }
    }

    #[test]
    fn an_unknown_manifest_stops_the_task() {
        assert!(epoch(&head(Decider::Head), &says(9, 90, 190)).is_err_and(|reason| reason.contains("newer")));
        for kafka in [says(9, 90, 190), says(4, 41, 140), says(5, 51, 150), says(3, 30, 130)] {
            assert!(
                epoch(&head(Decider::Kafka), &kafka).is_err_and(|reason| reason.contains("does not know")),
                "{kafka:?}"
            );
        }
    }

    #[test]
    fn a_known_manifest_with_another_offset_stops_the_task() {
        for decider in [Decider::Head, Decider::Kafka] {
            for kafka in [says(4, 40, 141), says(5, 50, 149)] {
                assert!(
                    epoch(&head(decider), &kafka).is_err_and(|reason| reason.contains("offsets are others")),
                    "{kafka:?}"
                );
            }
        }
    }

    #[test]
    fn inputs_that_name_different_manifests_are_not_believed() {
        let mut head = head(Decider::Kafka);
        for manifest in [&mut head.committed, &mut head.prepared[0]] {
            manifest.offsets.insert("payments".to_owned(), 7);
        }
        let mut kafka = says(5, 50, 150);
        kafka.insert("payments".to_owned(), GroupOffset { offset: Some(7), metadata: head.committed.id.to_string() });
        assert!(epoch(&head, &kafka).is_err());
        head.decider = Decider::Head;
        assert!(epoch(&head, &kafka).is_err(), "one input is ahead of the head");
        head.prepared.clear();
        kafka.insert("orders".to_owned(), says(3, 30, 130)["orders"].clone());
        assert_eq!(epoch(&head, &kafka), Ok(4), "both are at or below the head");
    }

    #[test]
    fn an_input_that_is_not_read_any_more_is_not_asked_for() {
        let mut head = head(Decider::Kafka);
        for manifest in [&mut head.committed, &mut head.prepared[0]] {
            manifest.offsets.insert("payments".to_owned(), 7);
        }
        // One transaction commits the offsets of all: what it names for one holds for the others.
        assert_eq!(epoch(&head, &says(5, 50, 150)), Ok(5));
        assert_eq!(epoch(&head, &says(4, 40, 140)), Ok(4));
        let mut both = says(5, 50, 150);
        both.insert("payments".to_owned(), GroupOffset::default());
        assert!(epoch(&head, &both).is_err(), "it is read, and was left out");
    }

    #[test]
    fn a_disagreement_names_both_sides() {
        let text = resolve(&head(Decider::Kafka), &says(9, 90, 190)).unwrap_err().to_string();
        assert!(text.contains("orders at offset 190 of manifest 9-000000000000005a"), "{text}");
        assert!(text.contains("committed manifest 4-0000000000000028 (orders at offset 140)"), "{text}");
        assert!(text.contains("kafka decides"), "{text}");
    }

    #[test]
    fn a_task_without_state_never_applies_start_twice() {
        assert_eq!(
            resolve_stateless(&nothing(), None, false),
            Ok(StatelessStart::Genesis { missing: vec!["orders".into()] })
        );
        assert!(resolve_stateless(&nothing(), None, true).is_err());
        let resumed = StatelessStart::Resume([("orders".to_owned(), 7)].into());
        assert_eq!(resolve_stateless(&by_operator(7), None, true), Ok(resumed.clone()));
        assert_eq!(resolve_stateless(&by_operator(7), None, false), Ok(resumed));
    }

    #[test]
    fn only_a_topic_that_came_later_begins_where_the_pipeline_says() {
        let unread = || GroupOffset { offset: None, metadata: String::new() };
        let mut kafka = by_operator(7);
        kafka.insert("letters".into(), unread());
        let begins = Ok(StatelessStart::Genesis { missing: vec!["letters".into()] });
        assert_eq!(resolve_stateless(&kafka, Some("letters"), true), begins);
        assert!(resolve_stateless(&kafka, None, true).is_err());
        kafka.insert("orders".into(), unread());
        let gone = resolve_stateless(&kafka, Some("letters"), true);
        assert_eq!(gone, Err(OffsetsGone { topics: "orders".into() }));
    }
}

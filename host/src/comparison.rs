//! How two versions differ in what came of the same records, and in the state that they left. Pure.
//!
//! What is sent of one record to one sink is compared as a set: which of two outputs of a record comes first is not. A record that
//! only one of the two puts aside is counted as that, and its outputs are not compared.

pub mod outcome;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::outcome::{Cause, Outcomes, RecordOutcome, Refusal, Sent};
use crate::payload::Payload;
use crate::state::{StoreName, TaskState};

/// Examples that are kept of each kind of difference, and of each store.
const EXAMPLES_EACH: usize = 2;
/// Bytes of a key, a value or a reason that an example shows.
const SHOWN_BYTES: usize = 500;

/// How many records and outputs, of each kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Source records that were compared.
    pub records: u64,
    /// Outputs that are the same.
    pub same: u64,
    /// Outputs of which the other has another one instead; records that both put aside, in another way.
    pub different: u64,
    /// Outputs that only the first has.
    pub missing: u64,
    /// Outputs that only the second has.
    pub additional: u64,
    /// Outputs that the first has more than once, as may be under at-least-once.
    pub repeated: u64,
    /// Source records that only the first rejects.
    pub rejected_by_first_only: u64,
    /// Source records that only the second rejects.
    pub rejected_by_second_only: u64,
    /// Source records on which only the first fails.
    pub failed_by_first_only: u64,
    /// Source records on which only the second fails.
    pub failed_by_second_only: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            same: self.same + other.same,
            different: self.different + other.different,
            missing: self.missing + other.missing,
            additional: self.additional + other.additional,
            repeated: self.repeated + other.repeated,
            rejected_by_first_only: self.rejected_by_first_only + other.rejected_by_first_only,
            rejected_by_second_only: self.rejected_by_second_only + other.rejected_by_second_only,
            failed_by_first_only: self.failed_by_first_only + other.failed_by_first_only,
            failed_by_second_only: self.failed_by_second_only + other.failed_by_second_only,
        }
    }

    /// Differences of all kinds. What repeats is none.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.different
            + self.missing
            + self.additional
            + self.rejected_by_first_only
            + self.rejected_by_second_only
            + self.failed_by_first_only
            + self.failed_by_second_only
    }

    /// In a line, for people; `first` and `second` are what the two are called.
    #[must_use]
    pub fn in_words(&self, first: &str, second: &str) -> String {
        let each = [
            (self.different, "different".to_owned()),
            (self.missing, format!("of {first} only")),
            (self.additional, format!("of {second} only")),
            (self.repeated, "repeated".to_owned()),
            (self.rejected_by_first_only, format!("rejected by {first} only")),
            (self.rejected_by_second_only, format!("rejected by {second} only")),
            (self.failed_by_first_only, format!("failing with {first} only")),
            (self.failed_by_second_only, format!("failing with {second} only")),
        ];
        let others = each.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
        format!("{} the same{}", self.same, others.collect::<String>())
    }
}

/// What kind of difference an example is of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The second fails on the record, and the first does not.
    FailedBySecondOnly,
    /// The first fails on the record, and the second does not.
    FailedByFirstOnly,
    /// The second rejects it, and the first does not.
    RejectedBySecondOnly,
    /// The first rejects it, and the second does not.
    RejectedByFirstOnly,
    /// Both put something out, or put it aside, and it is not the same.
    Different,
    /// Only the first puts it out.
    Missing,
    /// Only the second puts it out.
    Additional,
}

/// One side of an example.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// A record that was sent.
    Sent {
        /// Key.
        key: Option<Payload>,
        /// Value.
        value: Option<Payload>,
        /// Headers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schema(value_type = Vec<Vec<Payload>>)]
        headers: Vec<(String, Option<Payload>)>,
        /// Milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<i64>,
    },
    /// It was put aside.
    PutAside {
        /// By which transform.
        transform: String,
        /// How.
        kind: String,
        /// Why.
        reason: String,
    },
    /// So many records were sent of it.
    Outputs(usize),
}

impl Side {
    /// The same, whenever it was.
    #[must_use]
    pub fn without_timestamp(&self) -> Self {
        let mut plain = self.clone();
        if let Self::Sent { timestamp, .. } = &mut plain {
            *timestamp = None;
        }
        plain
    }
}

/// A source record of which something else came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Example {
    /// How it differs.
    pub kind: Kind,
    /// Source topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The topic that the output is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// What the first made of it; nothing where there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Side>,
    /// What the second made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<Side>,
}

/// Names for what outcomes number, and what is known of the first side.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// Source topics, by input.
    pub sources: Vec<String>,
    /// Topics of the sinks.
    pub sinks: Vec<String>,
    /// Nothing is known of what the first puts aside: it is not compared.
    pub without_refusals: bool,
    /// Outputs of the first may repeat.
    pub may_repeat: bool,
}

/// How two versions compare, over all batches that were given.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    naming: Naming,
    /// How many of each kind.
    pub counts: Counts,
    examples: BTreeMap<Kind, Vec<Example>>,
}

impl Comparison {
    /// Of nothing yet.
    #[must_use]
    pub fn new(naming: Naming) -> Self {
        Self { naming, counts: Counts::default(), examples: BTreeMap::new() }
    }

    /// A few examples, those that matter most first.
    #[must_use]
    pub fn examples(&self) -> Vec<Example> {
        self.examples.values().flatten().cloned().collect()
    }

    /// Compares what came of the records of one batch. Those that only one of them has are compared with nothing.
    pub fn add(&mut self, first: &Outcomes, second: &Outcomes) {
        let nothing = RecordOutcome::default();
        let causes: BTreeSet<Cause> = first.keys().chain(second.keys()).copied().collect();
        for cause in causes {
            self.counts.records += 1;
            let of = |outcomes: &'_ Outcomes| outcomes.get(&cause).cloned();
            let (one, other) = (of(first), of(second));
            self.record(cause, one.as_ref().unwrap_or(&nothing), other.as_ref().unwrap_or(&nothing));
        }
    }

    /// Notes that so many records have come to so many outputs, which are the same.
    pub fn are_same(&mut self, records: u64, outputs: u64) {
        self.counts.records += records;
        self.counts.same += outputs;
    }

    fn record(&mut self, cause: Cause, first: &RecordOutcome, second: &RecordOutcome) {
        if !self.naming.without_refusals {
            match (first.refusals.as_slice(), second.refusals.as_slice()) {
                ([], []) => {}
                ([], [refusal, ..]) => {
                    let kind = match refusal.is_reject() {
                        true => Kind::RejectedBySecondOnly,
                        false => Kind::FailedBySecondOnly,
                    };
                    return self.note(kind, cause, None, Some(outputs(first)), Some(put_aside(refusal)));
                }
                ([refusal, ..], []) => {
                    let kind = match refusal.is_reject() {
                        true => Kind::RejectedByFirstOnly,
                        false => Kind::FailedByFirstOnly,
                    };
                    return self.note(kind, cause, None, Some(put_aside(refusal)), Some(outputs(second)));
                }
                (one, other) => match one.iter().zip(other).find(|(one, other)| !are_alike(one, other)) {
                    Some((one, other)) => {
                        self.note(Kind::Different, cause, None, Some(put_aside(one)), Some(put_aside(other)));
                    }
                    None if one.len() == other.len() => {}
                    None => {
                        self.note(Kind::Different, cause, None, one.last().map(put_aside), other.last().map(put_aside))
                    }
                },
            }
        }
        let sinks: BTreeSet<usize> = first.sent.iter().chain(&second.sent).map(|sent| sent.sink).collect();
        for sink in sinks {
            let of = |outcome: &'_ RecordOutcome| {
                outcome.sent.iter().filter(|sent| sent.sink == sink).cloned().collect::<Vec<_>>()
            };
            self.outputs(cause, sink, of(first), of(second));
        }
    }

    fn outputs(&mut self, cause: Cause, sink: usize, first: Vec<Sent>, mut second: Vec<Sent>) {
        let (mut matched, mut left): (Vec<Sent>, Vec<Sent>) = (Vec::new(), Vec::new());
        for sent in first {
            match second.iter().position(|other| sent.is_same(other)) {
                Some(at) => {
                    second.remove(at);
                    self.counts.same += 1;
                    matched.push(sent);
                }
                None if self.naming.may_repeat && matched.iter().any(|other| sent.is_same(other)) => {
                    self.counts.repeated += 1;
                }
                None => left.push(sent),
            }
        }
        let pairs = left.len().max(second.len());
        for at in 0..pairs {
            let (one, other) = (left.get(at).map(record), second.get(at).map(record));
            let kind = match (&one, &other) {
                (Some(_), Some(_)) => Kind::Different,
                (Some(_), None) => Kind::Missing,
                _ => Kind::Additional,
            };
            self.note(kind, cause, Some(sink), one, other);
        }
    }

    fn note(&mut self, kind: Kind, cause: Cause, sink: Option<usize>, first: Option<Side>, second: Option<Side>) {
        let count = match kind {
            Kind::FailedBySecondOnly => &mut self.counts.failed_by_second_only,
            Kind::FailedByFirstOnly => &mut self.counts.failed_by_first_only,
            Kind::RejectedBySecondOnly => &mut self.counts.rejected_by_second_only,
            Kind::RejectedByFirstOnly => &mut self.counts.rejected_by_first_only,
            Kind::Different => &mut self.counts.different,
            Kind::Missing => &mut self.counts.missing,
            Kind::Additional => &mut self.counts.additional,
        };
        *count += 1;
        let examples = self.examples.entry(kind).or_default();
        if examples.len() < EXAMPLES_EACH {
            let topic = self.naming.sources.get(cause.input as usize).cloned().unwrap_or_default();
            let sink = sink.and_then(|sink| self.naming.sinks.get(sink).cloned());
            let Cause { partition, offset, .. } = cause;
            examples.push(Example { kind, topic, partition, offset, sink, first, second });
        }
    }
}

/// Takes examples in, as far as there are not enough of their kind.
pub fn join_examples(known: &mut Vec<Example>, others: &[Example]) {
    for example in others {
        if known.iter().filter(|known| known.kind == example.kind).count() < EXAMPLES_EACH {
            known.push(example.clone());
        }
    }
    known.sort_by_key(|example| example.kind);
}

/// Put aside by the same transform, in the same way. What a plugin says counts, what a backtrace says does not.
fn are_alike(one: &Refusal, other: &Refusal) -> bool {
    (&one.transform, &one.kind) == (&other.transform, &other.kind) && (!one.is_reject() || one.reason == other.reason)
}

/// A side of what was put aside.
#[must_use]
pub fn put_aside(Refusal { transform, kind, reason }: &Refusal) -> Side {
    let reason = reason[..reason.floor_char_boundary(SHOWN_BYTES)].to_owned();
    Side::PutAside { transform: transform.clone(), kind: kind.clone(), reason }
}

fn outputs(outcome: &RecordOutcome) -> Side {
    match outcome.sent.as_slice() {
        [only] => record(only),
        several => Side::Outputs(several.len()),
    }
}

/// A side of a record that was sent.
#[must_use]
pub fn record(sent: &Sent) -> Side {
    let header = |(name, value): &(Vec<u8>, Option<Vec<u8>>)| {
        (String::from_utf8_lossy(name).into_owned(), value.as_deref().map(shown))
    };
    Side::Sent {
        key: sent.key.as_deref().map(shown),
        value: sent.value.as_deref().map(shown),
        headers: sent.headers.iter().map(header).collect(),
        timestamp: sent.timestamp,
    }
}

/// The beginning of what is long.
fn shown(bytes: &[u8]) -> Payload {
    if bytes.len() <= SHOWN_BYTES {
        return bytes.into();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{}..", &text[..text.floor_char_boundary(SHOWN_BYTES)]).as_bytes().into(),
        Err(_) => bytes[..SHOWN_BYTES].into(),
    }
}

/// An entry that is not the same in both states.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EntryExample {
    /// The task.
    pub task: u32,
    /// Key.
    pub key: Payload,
    /// What the first has under it; nothing if it has not got the key.
    pub first: Option<Payload>,
    /// What the second has.
    pub second: Option<Payload>,
}

/// How a store differs at the end.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StoreDifference {
    /// Transform and store.
    pub store: String,
    /// Entries that are the same.
    pub same: u64,
    /// Entries with another value.
    pub different: u64,
    /// Entries that only the first has.
    pub missing: u64,
    /// Entries that only the second has.
    pub additional: u64,
    /// A few of those that are not the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<EntryExample>,
}

impl StoreDifference {
    /// Entries that are not the same.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.different + self.missing + self.additional
    }
}

/// Compares these stores of two states of a task, and adds to what is known of the stores from other tasks.
pub fn states(
    known: &mut Vec<StoreDifference>,
    task: u32,
    names: &BTreeSet<StoreName>,
    [first, second]: [&TaskState; 2],
) {
    for name in names {
        let of = |state: &'_ TaskState| -> BTreeMap<Vec<u8>, Vec<u8>> {
            let found = state.names().iter().zip(state.stores()).find(|(other, _)| *other == name);
            let entries = found.into_iter().flat_map(|(_, store)| store.iter());
            entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
        };
        let (one, mut other) = (of(first), of(second));
        let store = name.to_string();
        let at = known.iter().position(|known| known.store == store).unwrap_or_else(|| {
            known.push(StoreDifference { store, ..StoreDifference::default() });
            known.len() - 1
        });
        let difference = &mut known[at];
        for (key, value) in one {
            let second = other.remove(&key);
            match &second {
                Some(same) if *same == value => difference.same += 1,
                Some(_) => difference.different += 1,
                None => difference.missing += 1,
            }
            if second.as_ref() != Some(&value) {
                difference.example(task, &key, Some(&value), second.as_deref());
            }
        }
        difference.additional += other.len() as u64;
        for (key, value) in &other {
            difference.example(task, key, None, Some(value));
        }
    }
}

impl StoreDifference {
    fn example(&mut self, task: u32, key: &[u8], first: Option<&[u8]>, second: Option<&[u8]>) {
        if self.examples.len() < EXAMPLES_EACH {
            let (first, second) = (first.map(shown), second.map(shown));
            self.examples.push(EntryExample { task, key: shown(key), first, second });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::outcome::REJECTED;
    use super::*;

    fn sent(sink: usize, value: &str) -> Sent {
        Sent { sink, key: None, value: Some(value.into()), headers: Vec::new(), timestamp: Some(7) }
    }

    fn refused(kind: &str, reason: &str) -> Refusal {
        Refusal { transform: "t".into(), kind: kind.into(), reason: reason.into() }
    }

    fn outcome(sent: Vec<Sent>, refusals: Vec<Refusal>) -> RecordOutcome {
        RecordOutcome { sent, refusals }
    }

    fn naming() -> Naming {
        Naming { sources: vec!["in".into()], sinks: vec!["a".into(), "b".into()], ..Naming::default() }
    }

    fn compared(naming: Naming, pairs: Vec<(RecordOutcome, RecordOutcome)>) -> Comparison {
        let cause = |offset| Cause { input: 0, partition: 3, offset };
        let (mut first, mut second) = (Outcomes::new(), Outcomes::new());
        for (offset, (one, other)) in (0..).zip(pairs) {
            first.insert(cause(offset), one);
            second.insert(cause(offset), other);
        }
        let mut comparison = Comparison::new(naming);
        comparison.add(&first, &second);
        comparison
    }

    #[test]
    fn each_kind_of_difference_is_counted_once_where_it_is() {
        let comparison = compared(
            naming(),
            vec![
                (outcome(vec![sent(0, "x"), sent(1, "y")], vec![]), outcome(vec![sent(1, "y"), sent(0, "x")], vec![])),
                (outcome(vec![sent(0, "x")], vec![]), outcome(vec![sent(0, "z")], vec![])),
                (outcome(vec![sent(0, "x")], vec![]), outcome(vec![], vec![])),
                (outcome(vec![], vec![]), outcome(vec![sent(1, "x")], vec![])),
                (outcome(vec![sent(0, "x")], vec![]), outcome(vec![], vec![refused(REJECTED, "no")])),
                (outcome(vec![sent(0, "x")], vec![]), outcome(vec![], vec![refused("trap", "boom")])),
                (
                    outcome(vec![], vec![refused("trap", "boom")]),
                    outcome(vec![], vec![refused("trap", "another stack")]),
                ),
                (outcome(vec![], vec![refused(REJECTED, "no")]), outcome(vec![], vec![refused(REJECTED, "never")])),
            ],
        );
        let expected = Counts {
            records: 8,
            same: 2,
            different: 2,
            missing: 1,
            additional: 1,
            rejected_by_second_only: 1,
            failed_by_second_only: 1,
            ..Counts::default()
        };
        assert_eq!(comparison.counts, expected);
        assert_eq!(comparison.counts.differences(), 6);
        let examples = comparison.examples();
        assert_eq!(examples[0].kind, Kind::FailedBySecondOnly, "what matters most comes first");
        let different = examples.iter().find(|example| example.kind == Kind::Different).unwrap();
        assert_eq!((different.topic.as_str(), different.partition, different.offset), ("in", 3, 1));
        assert_eq!(different.sink.as_deref(), Some("a"));
        let side = |value: &str| {
            Some(Side::Sent { key: None, value: Some(value.as_bytes().into()), headers: vec![], timestamp: Some(7) })
        };
        assert_eq!((&different.first, &different.second), (&side("x"), &side("z")));
    }

    #[test]
    fn which_output_of_a_record_comes_first_is_no_difference_and_how_often_it_comes_is() {
        let both = |values: [&str; 2]| outcome(values.map(|value| sent(0, value)).into(), vec![]);
        assert_eq!(compared(naming(), vec![(both(["x", "y"]), both(["y", "x"]))]).counts.same, 2);
        let counts = compared(naming(), vec![(both(["x", "x"]), both(["x", "y"]))]).counts;
        assert_eq!((counts.same, counts.different), (1, 1));
        let repeats = Naming { may_repeat: true, ..naming() };
        let counts = compared(repeats, vec![(both(["x", "x"]), outcome(vec![sent(0, "x")], vec![]))]).counts;
        assert_eq!((counts.same, counts.repeated, counts.differences()), (1, 1, 0));
    }

    #[test]
    fn a_timestamp_that_only_one_side_knows_is_not_compared() {
        let without = Sent { timestamp: None, ..sent(0, "x") };
        let other = Sent { timestamp: Some(8), ..sent(0, "x") };
        let pair =
            |one: &Sent, other: &Sent| (outcome(vec![one.clone()], vec![]), outcome(vec![other.clone()], vec![]));
        assert_eq!(compared(naming(), vec![pair(&without, &other), pair(&other, &without)]).counts.differences(), 0);
        assert_eq!(compared(naming(), vec![pair(&sent(0, "x"), &other)]).counts.different, 1);
    }

    #[test]
    fn what_is_put_aside_is_not_compared_where_nothing_is_known_of_it() {
        let unknown = Naming { without_refusals: true, ..naming() };
        let pairs = vec![(outcome(vec![], vec![]), outcome(vec![], vec![refused(REJECTED, "no")]))];
        assert_eq!(compared(unknown, pairs).counts.differences(), 0);
    }

    #[test]
    fn examples_are_few_and_short() {
        let long = "x".repeat(SHOWN_BYTES * 2);
        let pair = || (outcome(vec![sent(0, &long)], vec![]), outcome(vec![], vec![]));
        let comparison = compared(naming(), (0..100).map(|_| pair()).collect());
        assert_eq!((comparison.counts.missing, comparison.examples().len()), (100, EXAMPLES_EACH));
        let Some(Side::Sent { value: Some(Payload(value)), .. }) = &comparison.examples()[0].first else { panic!() };
        assert_eq!(value.len(), SHOWN_BYTES + 2);
    }

    #[test]
    fn entries_of_states_are_compared_by_store_and_key() {
        let name = StoreName::of("count", "counts", 1);
        let names = BTreeSet::from([name.clone()]);
        let state = |entries: &[(&str, &str)]| {
            let mut state = TaskState::new([vec![name.clone(), StoreName::of("count", "counts", 2)]]);
            entries.iter().for_each(|(key, value)| state.store_mut(0).put(key.as_bytes(), Some(value.as_bytes())));
            state
        };
        let mut known = Vec::new();
        states(
            &mut known,
            0,
            &names,
            [&state(&[("a", "1"), ("b", "2"), ("c", "3")]), &state(&[("a", "1"), ("b", "9"), ("d", "4")])],
        );
        states(&mut known, 1, &names, [&state(&[("a", "1")]), &state(&[("a", "1")])]);
        assert_eq!(known.len(), 1);
        let StoreDifference { store, same, different, missing, additional, examples } = &known[0];
        assert_eq!((store.as_str(), *same, *different, *missing, *additional), ("count/counts", 2, 1, 1, 1));
        assert_eq!((examples.len(), &examples[0].key), (EXAMPLES_EACH, &b"b"[..].into()));
    }
}

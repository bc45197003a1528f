//! What comes of source records: what is sent of each to which sink, and what is put aside. Pure.

use std::collections::BTreeMap;

use crate::lineage;
use crate::record::{Batch, Emission, HeaderList, RecordView};

/// A source record, by where it lies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Cause {
    /// Index of the input.
    pub input: u32,
    /// Partition number.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

impl From<(u32, i32, i64)> for Cause {
    fn from((input, partition, offset): (u32, i32, i64)) -> Self {
        Self { input, partition, offset }
    }
}

/// Headers in their order.
pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A record on its way to a sink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Index of the sink.
    pub sink: usize,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers, without those that say where a record comes from.
    pub headers: Headers,
    /// Milliseconds since 1970. `None` where whoever stores the record gives it one: nothing to compare.
    pub timestamp: Option<i64>,
}

impl Sent {
    /// A record for a sink.
    #[must_use]
    pub fn of(sink: usize, record: &RecordView<'_>) -> Self {
        Self {
            sink,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers(record.headers),
            timestamp: Some(record.timestamp).filter(|&timestamp| timestamp > 0),
        }
    }

    /// Whether they are the same record, as far as both say what it is.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let timestamps = match (self.timestamp, other.timestamp) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        timestamps
            && (self.sink, &self.key, &self.value, &self.headers)
                == (other.sink, &other.key, &other.value, &other.headers)
    }

    /// Bytes of key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + of(value)).sum();
        of(&self.key) + of(&self.value) + headers
    }
}

fn headers(headers: HeaderList<'_>) -> Headers {
    let theirs = headers.filter(|(name, _)| !lineage::is_ours(name));
    theirs.map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect()
}

/// A record that a transform rejected, or failed on by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Name of the transform.
    pub transform: String,
    /// `rejected`, or what the failure is called in dead letters: `trap`, `deadline`, ..
    pub kind: String,
    /// The plugin's words, or what happened.
    pub reason: String,
}

/// The kind of a record that was rejected.
pub const REJECTED: &str = "rejected";

impl Refusal {
    /// Whether the plugin said so itself, and did not fail.
    #[must_use]
    pub fn is_reject(&self) -> bool {
        self.kind == REJECTED
    }
}

/// What came of one source record.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecordOutcome {
    /// What was sent, for each sink in the order in which it was.
    pub sent: Vec<Sent>,
    /// What was put aside.
    pub refusals: Vec<Refusal>,
}

/// What came of each record; of one that was processed and left nothing, an empty outcome.
pub type Outcomes = BTreeMap<Cause, RecordOutcome>;

/// No outcome yet, for each record of a batch.
#[must_use]
pub fn blank(batch: &Batch) -> Outcomes {
    batch.origins().map(|origin| (origin.into(), RecordOutcome::default())).collect()
}

/// Notes what was emitted for `batch` to a sink.
pub fn note_sent(outcomes: &mut Outcomes, sink: usize, batch: &Batch, emission: &Emission) {
    let origins: Vec<_> = batch.origins().collect();
    for record in emission.records(batch) {
        if let Some(&origin) = origins.get(record.cause as usize) {
            outcomes.entry(origin.into()).or_default().sent.push(Sent::of(sink, &record));
        }
    }
}

/// Bytes of what was sent.
#[must_use]
pub fn bytes(outcomes: &Outcomes) -> usize {
    outcomes.values().flat_map(|outcome| &outcome.sent).map(Sent::bytes).sum()
}

//! What a dead letter is: a record as the transform saw it that could not process it, with where it comes from and why in headers.
//! And an order to process one again, which is a copy of it with another header, in the partition of its task. Pure.

use super::careful::Trouble;
use super::plan::{Plan, TransformPlan};
use crate::record::{Batch, RecordView};

/// Headers that begin so are ours; a record's own of that name are replaced.
pub const PREFIX: &str = "sluicegate.";
/// Of an order: the partition and the offset of the dead letter that is to be processed again, as `2/17`.
pub const REPLAY_OF: &str = "sluicegate.replay-of";
/// Of a note: the partition and the offset of the dead letter that is not needed any more.
pub const DISCARD_OF: &str = "sluicegate.discard-of";
/// Whose the letter, the order or the note is.
pub const PIPELINE: &str = "sluicegate.pipeline";
/// The transform that could not process the record.
pub const TRANSFORM: &str = "sluicegate.transform";
/// The name of its plugin.
pub const PLUGIN: &str = "sluicegate.plugin";
/// The version of its plugin.
pub const PLUGIN_VERSION: &str = "sluicegate.plugin-version";
/// The digest of its plugin.
pub const PLUGIN_DIGEST: &str = "sluicegate.plugin-digest";
/// The topic of the source record.
pub const TOPIC: &str = "sluicegate.topic";
/// The partition of the source record.
pub const PARTITION: &str = "sluicegate.partition";
/// The offset of the source record.
pub const OFFSET: &str = "sluicegate.offset";
/// The record's own timestamp.
pub const TIMESTAMP: &str = "sluicegate.timestamp";
/// The kind of trouble.
pub const ERROR: &str = "sluicegate.error";
/// The trouble in words.
pub const REASON: &str = "sluicegate.reason";
/// How many times the record was tried.
pub const ATTEMPT: &str = "sluicegate.attempt";
/// The longest reason that is kept.
const REASON_BYTES_MAX: usize = 8192;

/// The dead letters of those records of `batch`, by index, that transform `transform` has trouble with, in attempt `attempt`. Their
/// timestamp is `now_ms`, so that the topic keeps them as long as its retention says, however old the records are.
#[must_use]
pub fn letters(
    plan: &Plan,
    transform: usize,
    batch: &Batch,
    troubles: &[(u32, &Trouble)],
    attempt: u32,
    now_ms: i64,
) -> Batch {
    let TransformPlan { name, plugin, .. } = &plan.transforms[transform];
    let manifest = plugin.manifest();
    let mut letters = Batch::default();
    let mut records = batch.origins().zip(batch.records());
    let mut at = 0;
    for (index, trouble) in troubles {
        let Some((origin, record)) = records.nth((index - at) as usize) else { break };
        at = index + 1;
        let (input, partition, offset) = origin;
        let reason = &trouble.reason[..trouble.reason.floor_char_boundary(REASON_BYTES_MAX)];
        let ours = [
            (PIPELINE, plan.pipeline.as_str()),
            (TRANSFORM, name),
            (PLUGIN, &manifest.name),
            (PLUGIN_VERSION, &manifest.version),
            (PLUGIN_DIGEST, plugin.digest()),
            (TOPIC, plan.sources.get(input as usize).map_or("", |source| &source.topic)),
            (PARTITION, &partition.to_string()),
            (OFFSET, &offset.to_string()),
            (TIMESTAMP, &record.timestamp.to_string()),
            (ERROR, trouble.kind),
            (REASON, reason),
            (ATTEMPT, &attempt.to_string()),
        ];
        let ours = ours.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        let theirs = record.headers.filter(|(name, _)| !is_ours(name));
        letters.push(origin, now_ms, record.key, record.value, theirs.chain(ours));
    }
    letters
}

/// Whether a header is one of those that dead letters add.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// The value of a header of ours, as text.
#[must_use]
pub fn header<'a>(record: &RecordView<'a>, name: &str) -> Option<&'a str> {
    let found = record.headers.filter(|(other, _)| *other == name.as_bytes()).last()?;
    std::str::from_utf8(found.1?).ok()
}

/// A dead letter that is to be processed again.
pub struct Order {
    /// The transform that could not process it.
    pub transform: usize,
    /// The record as that transform saw it, of the source record it was made of.
    pub batch: Batch,
    /// How many times it was tried.
    pub attempt: u32,
}

/// What a record of the dead-letter topic asks for. `None` for what is no order for this pipeline, or one that it cannot follow:
/// whoever gives orders checks that transform and source are there.
#[must_use]
pub fn order(plan: &Plan, record: &RecordView<'_>) -> Option<Order> {
    header(record, REPLAY_OF)?;
    if header(record, PIPELINE)? != plan.pipeline {
        return None;
    }
    let name = header(record, TRANSFORM)?;
    let transform = plan.transforms.iter().position(|transform| transform.name == name)?;
    let topic = header(record, TOPIC)?;
    let input = plan.sources.iter().take(plan.inputs).position(|source| source.topic == topic)?;
    let number = |name| header(record, name).and_then(|text| text.parse::<i64>().ok());
    let partition = number(PARTITION).and_then(|number| i32::try_from(number).ok())?;
    let origin = (u32::try_from(input).ok()?, partition, number(OFFSET)?);
    let mut batch = Batch::default();
    let theirs = record.headers.filter(|(name, _)| !is_ours(name));
    batch.push(origin, number(TIMESTAMP)?, record.key, record.value, theirs);
    let attempt = header(record, ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(1);
    Some(Order { transform, batch, attempt })
}

//! What a dead letter is: a record as the transform saw it that could not process it, with where it comes from and why in headers.

use super::careful::Trouble;
use super::plan::{Plan, TransformPlan};
use crate::record::Batch;

/// Headers that begin so are ours; a record's own of that name are replaced.
pub const PREFIX: &str = "sluicegate.";
/// The longest reason that is kept.
const REASON_BYTES_MAX: usize = 8192;

/// The dead letters of those records of `batch`, by index, that transform `transform` has trouble with. Their timestamp is `now_ms`,
/// so that the topic keeps them as long as its retention says, however old the records are.
#[must_use]
pub fn letters(plan: &Plan, transform: usize, batch: &Batch, troubles: &[(u32, &Trouble)], now_ms: i64) -> Batch {
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
        let own = [
            ("pipeline", plan.pipeline.as_str()),
            ("transform", name),
            ("plugin", &manifest.name),
            ("plugin-version", &manifest.version),
            ("plugin-digest", plugin.digest()),
            ("topic", plan.sources.get(input as usize).map_or("", |source| &source.topic)),
            ("partition", &partition.to_string()),
            ("offset", &offset.to_string()),
            ("timestamp", &record.timestamp.to_string()),
            ("error", trouble.kind),
            ("reason", reason),
            ("attempt", "1"),
        ];
        let own = own.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
        let ours = own.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        let theirs = record.headers.filter(|(name, _)| !name.starts_with(PREFIX.as_bytes()));
        letters.push(origin, now_ms, record.key, record.value, theirs.chain(ours));
    }
    letters
}

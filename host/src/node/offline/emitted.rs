//! What a pipeline has really sent and put aside, by source record: read from its sinks, whose records say where they come from.
//! Everything blocks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::comparison::{Cause, Outcomes, Refusal, Sent};
use crate::config::Guarantee;
use crate::kafka::HeaderIter;
use crate::kafka::log::{Archive, Found, LogError};
use crate::kafka::settings::KafkaSettings;
use crate::lineage;
use crate::worker::dead_letter as letter;
use crate::worker::plan::Plan;

/// What was found in the sinks.
#[derive(Debug, Default)]
pub struct Emitted {
    /// What came of each source record that was asked about.
    pub outcomes: Outcomes,
    /// Records that were of one of them.
    pub matched: u64,
    /// Records of the sinks that do not say where they come from.
    pub unattributed: u64,
}

/// Reads what came of source records, those that `wanted` has. The sinks are read from the first record on that is not older than
/// `since`, in milliseconds since 1970; from their beginnings if there is none.
///
/// # Errors
/// See [`LogError`].
pub fn read(kafka: &KafkaSettings, plan: &Plan, wanted: &Outcomes, since: Option<i64>) -> Result<Emitted, LogError> {
    let outcomes = wanted.keys().map(|cause| (*cause, Default::default())).collect();
    let mut emitted = Emitted { outcomes, ..Emitted::default() };
    for (at, sink) in plan.sinks.iter().enumerate() {
        each_record(kafka, &sink.topic, since, |found| match plan.is_dead_letters(at) {
            true => emitted.take_letter(plan, found),
            false => emitted.take(plan, at, found),
        })?;
    }
    Ok(emitted)
}

fn each_record(
    kafka: &KafkaSettings,
    topic: &str,
    since: Option<i64>,
    mut take: impl FnMut(&Found<'_>),
) -> Result<(), LogError> {
    let archive = Archive::open(kafka, topic)?;
    for partition in 0..archive.partitions()? {
        let bounds = archive.bounds(partition)?;
        let from = match since {
            None => bounds.start,
            Some(since) => match archive.at(partition, since)? {
                Some(offset) => offset,
                None => continue,
            },
        };
        archive.read(partition, from..bounds.end, None, |found| {
            take(&found);
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}

/// The last value of each header whose name is asked about.
fn texts<'a>(headers: &HeaderIter<'a>, is_it: impl Fn(&[u8]) -> bool) -> BTreeMap<&'a str, &'a str> {
    let text = |(name, value): (&'a [u8], Option<&'a [u8]>)| {
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value?).ok()?))
    };
    headers.clone().filter(|(name, _)| is_it(name)).filter_map(text).collect()
}

fn cause(plan: &Plan, (topic, partition, offset): (&str, i32, i64)) -> Option<Cause> {
    let input = plan.sources.iter().take(plan.inputs).position(|source| source.topic == topic)?;
    Some(Cause { input: u32::try_from(input).ok()?, partition, offset })
}

impl Emitted {
    fn take(&mut self, plan: &Plan, sink: usize, found: &Found<'_>) {
        let ours = texts(&found.headers, lineage::is_ours);
        let (Some(source), Some(made_by)) = (ours.get(lineage::SOURCE), ours.get(lineage::PLUGIN)) else {
            self.unattributed += 1;
            return;
        };
        let cause = lineage::source(source).and_then(|source| cause(plan, source));
        if lineage::pipeline(made_by) != Some(&plan.pipeline) {
            return;
        }
        let Some(outcome) = cause.and_then(|cause| self.outcomes.get_mut(&cause)) else { return };
        let theirs = found.headers.clone().filter(|(name, _)| !lineage::is_ours(name));
        self.matched += 1;
        outcome.sent.push(Sent {
            sink,
            key: found.key.map(<[u8]>::to_vec),
            value: found.value.map(<[u8]>::to_vec),
            headers: theirs.map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect(),
            timestamp: Some(found.timestamp).filter(|&timestamp| timestamp > 0 && !found.is_append_time),
        });
    }

    fn take_letter(&mut self, plan: &Plan, found: &Found<'_>) {
        let ours = texts(&found.headers, letter::is_ours);
        let of = |name: &str| ours.get(name).copied();
        let is_order = of(letter::REPLAY_OF).is_some() || of(letter::DISCARD_OF).is_some();
        // What was tried again was tried at another time.
        if is_order || of(letter::PIPELINE) != Some(&plan.pipeline) || of(letter::ATTEMPT) != Some("1") {
            return;
        }
        let number = |name: &str| of(name).and_then(|text| text.parse::<i64>().ok());
        let source = || {
            let partition = i32::try_from(number(letter::PARTITION)?).ok()?;
            cause(plan, (of(letter::TOPIC)?, partition, number(letter::OFFSET)?))
        };
        let Some(outcome) = source().and_then(|cause| self.outcomes.get_mut(&cause)) else { return };
        let text = |name: &str| of(name).unwrap_or_default().to_owned();
        let (transform, kind, reason) = (text(letter::TRANSFORM), text(letter::ERROR), text(letter::REASON));
        let refusal = Refusal { transform, kind, reason };
        let repeats = plan.guarantee == Guarantee::AtLeastOnce && outcome.refusals.contains(&refusal);
        if !repeats {
            outcome.refusals.push(refusal);
        }
    }
}

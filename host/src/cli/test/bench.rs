//! How long a plugin takes for a record: the whole input again and again, by one instance.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::Serialize;

use super::trial::durable;
use crate::cli::table;
use crate::engine::{CallError, Instance};
use crate::record::Batch;
use crate::state::TransformState;

/// How long is measured at least.
const TIME_MIN: Duration = Duration::from_secs(1);
/// How often at least: less has no median.
const PASSES_MIN: usize = 10;
/// How often at most, for an input of a few records.
const PASSES_MAX: usize = 100_000;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Figures {
    /// How often the input was processed.
    passes: usize,
    /// Records of the input.
    records: usize,
    /// Median over the passes.
    ns_per_record: f64,
    /// Of the fastest pass.
    ns_per_record_fastest: f64,
    /// At the median.
    records_per_second: f64,
    /// Linear memory after the last pass.
    guest_memory_bytes: u64,
}

/// Measures. A pass is every batch and a commit at its end; the first one is not counted.
///
/// # Errors
/// The plugin fails.
pub(super) fn measure(
    instance: &mut Instance,
    batches: &mut [Batch],
    state: &mut TransformState,
) -> Result<Figures, CallError> {
    pass(instance, batches, state)?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < PASSES_MAX && (times.len() < PASSES_MIN || begin.elapsed() < TIME_MIN) {
        times.push(pass(instance, batches, state)?);
    }
    times.sort();
    let records = batches.iter().map(Batch::len).sum();
    let each = |time: Duration| time.as_nanos() as f64 / records as f64;
    let median = each(times[times.len() / 2]);
    Ok(Figures {
        passes: times.len(),
        records,
        ns_per_record: median,
        ns_per_record_fastest: each(times[0]),
        records_per_second: 1e9 / median,
        guest_memory_bytes: instance.memory_bytes(),
    })
}

fn pass(instance: &mut Instance, batches: &mut [Batch], state: &mut TransformState) -> Result<Duration, CallError> {
    let begin = Instant::now();
    let mut now_ms = 0;
    for batch in batches {
        now_ms = batch.timestamps.iter().copied().max().unwrap_or(0).max(now_ms);
        let output = instance.process(batch, state, now_ms)?;
        instance.recycle(output);
    }
    instance.flush(state, now_ms)?;
    let took = begin.elapsed();
    durable(state);
    Ok(took)
}

impl Figures {
    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let nanoseconds = |value: f64| format!("{value:.0} ns");
        let headings = ["A RECORD", "FASTEST", "RECORDS/S", "PASSES", "RECORDS", "GUEST MEMORY"];
        let row = [
            nanoseconds(self.ns_per_record),
            nanoseconds(self.ns_per_record_fastest),
            format!("{:.0}", self.records_per_second),
            self.passes.to_string(),
            self.records.to_string(),
            ByteSize(self.guest_memory_bytes).to_string(),
        ];
        table::print(out, headings, &[row])
    }
}

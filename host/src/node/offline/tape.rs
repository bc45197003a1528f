//! The records of a task as they stand in the source topics, cut into batches as a worker cuts them. Everything blocks.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use crate::kafka::log::{Archive, Found, LogError, Reached};
use crate::kafka::settings::KafkaSettings;
use crate::record::Batch;
use crate::worker::plan::Plan;

/// The source topics of a pipeline.
pub struct Tape {
    inputs: Vec<Archive>,
    batch_records: usize,
    batch_bytes: usize,
}

/// What was read of a task.
#[derive(Debug, Default)]
pub struct Recording {
    /// In processing order.
    pub batches: Vec<Batch>,
    /// There was more than may be read, or the time was over.
    pub is_cut: bool,
}

impl Recording {
    /// How many records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.batches.iter().map(Batch::len).sum()
    }

    /// The timestamp of the first record, in milliseconds since 1970; what its plugins see while they open.
    #[must_use]
    pub fn begins_ms(&self) -> i64 {
        self.batches.first().and_then(|batch| batch.timestamps.first()).copied().unwrap_or(0).max(0)
    }
}

impl Tape {
    /// Those of a plan's inputs.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(kafka: &KafkaSettings, plan: &Plan) -> Result<Self, LogError> {
        let inputs = plan.sources.iter().take(plan.inputs).map(|source| Archive::open(kafka, &source.topic));
        let inputs = inputs.collect::<Result<_, LogError>>()?;
        Ok(Self { inputs, batch_records: plan.batch_records, batch_bytes: plan.batch_bytes })
    }

    /// The topics, by input.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.inputs.iter().map(|input| input.topic().to_owned()).collect()
    }

    /// The source topics, by input.
    #[must_use]
    pub fn inputs(&self) -> &[Archive] {
        &self.inputs
    }

    /// Reads a task's records: of each input those of a range, `bytes_max` bytes of each at most, until `until`. Several inputs are
    /// merged by their timestamps.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn read(
        &self,
        task: u32,
        ranges: &[Range<i64>],
        bytes_max: usize,
        until: Option<Instant>,
    ) -> Result<Recording, LogError> {
        let partition = i32::try_from(task).unwrap_or(i32::MAX);
        let mut is_cut = false;
        let mut read = Vec::with_capacity(self.inputs.len());
        for ((number, input), range) in (0..).zip(&self.inputs).zip(ranges) {
            let (mut batches, mut bytes) = (vec![Batch::default()], 0);
            let each = |found: Found<'_>| {
                let Found { offset, timestamp, key, value, headers, .. } = found;
                let Some(mut batch) = batches.last_mut() else { return ControlFlow::Break(()) };
                let is_full = batch.len() >= self.batch_records || batch.bytes() >= self.batch_bytes;
                if is_full && self.inputs.len() == 1 {
                    bytes += batch.bytes();
                    batches.push(Batch::default());
                    batch = batches.last_mut().expect("one was pushed");
                }
                batch.push((number, partition, offset), timestamp, key, value, headers);
                if bytes + batch.bytes() > bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            is_cut |= input.read(partition, range.clone(), until, each)? == Reached::Cut;
            read.push(batches);
        }
        let mut batches = match <[_; 1]>::try_from(read) {
            Ok([only]) => only,
            Err(several) => {
                let inputs: Vec<Batch> = several.into_iter().flatten().collect();
                self.cut(&Batch::merge(&inputs))
            }
        };
        batches.retain(|batch| !batch.is_empty());
        Ok(Recording { batches, is_cut })
    }

    fn cut(&self, whole: &Batch) -> Vec<Batch> {
        let mut batches = vec![Batch::default()];
        for (origin, record) in whole.origins().zip(whole.records()) {
            if batches.last().is_some_and(|it| it.len() >= self.batch_records || it.bytes() >= self.batch_bytes) {
                batches.push(Batch::default());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(origin, record.timestamp, record.key, record.value, record.headers);
            }
        }
        batches
    }
}

//! The way of a batch through the transforms of a task to the sinks.

use crate::engine::{CallError, Instance};
use crate::record::{Batch, Emission, Reject};
use crate::state::TaskState;
use crate::worker::plan::{OutletPlan, Plan};

/// Where a chain puts what comes out of it.
pub trait Destination {
    /// Why it cannot take it.
    type Error;

    /// Takes what was emitted for `batch` to the sink of this index.
    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Self::Error>;

    /// Takes what transform `transform` rejected of `batch`.
    fn reject(&mut self, transform: usize, batch: &Batch, rejects: &[Reject]) -> Result<(), Self::Error>;

    /// Transform `transform` has processed a batch of `records`.
    fn processed(&mut self, transform: usize, records: usize, time: std::time::Duration);
}

/// Why a batch did not get through.
pub enum ChainError<E> {
    /// A transform failed; the batch that it had is given back.
    Call {
        /// Index of the transform.
        transform: usize,
        /// What it was processing.
        batch: Box<Batch>,
        /// How it failed.
        error: Box<CallError>,
    },
    /// The destination.
    Destination(E),
}

impl<E> From<E> for ChainError<E> {
    fn from(error: E) -> Self {
        Self::Destination(error)
    }
}

/// Runs `batch` through `instances`, one for each transform of `plan`, and leaves it empty.
///
/// # Errors
/// Part of the batch may have reached the sinks; the task has to go back to its last commit.
pub fn run<D: Destination>(
    plan: &Plan,
    instances: &mut [Instance],
    state: &mut TaskState,
    batch: &mut Batch,
    now_ms: i64,
    destination: &mut D,
) -> Result<(), ChainError<D::Error>> {
    let mut later: Option<Batch> = None;
    for (at, instance) in instances.iter_mut().enumerate() {
        let input = later.as_mut().unwrap_or(batch);
        if input.is_empty() {
            break;
        }
        let begin = std::time::Instant::now();
        let output = match instance.process(input, &mut state.transforms[at], now_ms) {
            Ok(output) => output,
            Err(error) => {
                return Err(ChainError::Call {
                    transform: at,
                    batch: Box::new(std::mem::take(input)),
                    error: Box::new(error),
                });
            }
        };
        destination.processed(at, input.len(), begin.elapsed());
        if !output.rejects.is_empty() {
            destination.reject(at, input, &output.rejects)?;
        }
        let outlets = &plan.transforms[at].outlets;
        let outlet = |emission: &Emission| -> Option<&OutletPlan> { outlets.get(emission.outlet as usize) };
        let mut next = Batch { watermark: input.watermark, ..Batch::default() };
        for emission in &output.emissions {
            let Some(outlet) = outlet(emission) else { continue };
            for &sink in &outlet.sinks {
                destination.send(sink, input, emission)?;
            }
            if outlet.next {
                next.append_emitted(input, emission);
            }
        }
        instance.recycle(output);
        input.clear();
        later = Some(next);
    }
    Ok(())
}

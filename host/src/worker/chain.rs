//! The way of a batch through the transforms of a task to the sinks.

use super::careful::Trouble;
use super::plan::Plan;
use super::shadow::Shadow;
use crate::engine::{CallError, Instance};
use crate::record::{Batch, Emission, Output, Reject};
use crate::state::TaskState;

/// Where a chain puts what comes out of it.
pub trait Destination {
    /// Why it cannot take it.
    type Error;

    /// Takes what was emitted for `batch` to the sink of this index.
    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Unsent<Self::Error>>;

    /// Takes what transform `transform` rejected of `batch`.
    fn reject(&mut self, transform: usize, batch: &Batch, rejects: &[Reject]) -> Result<(), Self::Error>;

    /// Takes the only record of `batch`, on which transform `transform` fails.
    fn failed(&mut self, transform: usize, batch: &Batch, trouble: &Trouble) -> Result<(), Self::Error>;

    /// Waits until Kafka has taken everything. What it refuses because of what it is, if anything.
    fn acknowledged(&mut self) -> Result<Option<String>, Self::Error>;

    /// Transform `transform` has processed a batch of `records`.
    fn processed(&mut self, transform: usize, records: usize, time: std::time::Duration);

    /// A call of transform `transform` has failed.
    fn call_failed(&mut self, transform: usize);
}

/// Why outputs were not sent.
#[derive(Debug)]
pub enum Unsent<E> {
    /// Some are refused because of what they are: their causes in the batch, and why.
    Refused(Vec<(u32, String)>),
    /// Something else.
    Failed(E),
}

impl<E> From<E> for Unsent<E> {
    fn from(error: E) -> Self {
        Self::Failed(error)
    }
}

/// Why a batch did not get through.
#[derive(Debug)]
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
    /// Outputs are refused because of what they are.
    Refused {
        /// Index of the transform.
        transform: usize,
        /// What it was processing.
        batch: Box<Batch>,
        /// Records of it whose outputs are refused, and why.
        refused: Vec<(u32, String)>,
    },
    /// The destination.
    Destination(E),
}

impl<E> From<E> for ChainError<E> {
    fn from(error: E) -> Self {
        Self::Destination(error)
    }
}

/// Runs `batch` through `instances`, one for each transform of `plan`, and leaves it empty. A shadow sees what its transform does.
///
/// # Errors
/// Part of the batch may have reached the sinks; the task has to go back to its last commit.
pub fn run<D: Destination>(
    plan: &Plan,
    instances: &mut [Instance],
    state: &mut TaskState,
    mut shadow: Option<&mut Shadow>,
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
                let (batch, error) = (Box::new(std::mem::take(input)), Box::new(error));
                return Err(ChainError::Call { transform: at, batch, error });
            }
        };
        let took = begin.elapsed();
        destination.processed(at, input.len(), took);
        let mut next = Batch { watermark: input.watermark, ..Batch::default() };
        match pass_on(plan, at, input, &output, &mut next, destination) {
            Ok(()) => {}
            Err(Unsent::Failed(error)) => return Err(error.into()),
            Err(Unsent::Refused(refused)) => {
                return Err(ChainError::Refused { transform: at, batch: Box::new(std::mem::take(input)), refused });
            }
        }
        // Behind the outputs: they do not wait for it.
        if let Some(shadow) = shadow.as_deref_mut().filter(|shadow| shadow.transform() == at) {
            shadow.see(input, (&output, instance.outlets()), state, now_ms, took);
        }
        instance.recycle(output);
        input.clear();
        later = Some(next);
    }
    Ok(())
}

/// Takes what transform `at` made of `input` to its sinks, and what goes on down the chain to `next`.
///
/// # Errors
/// Part of it may have reached the sinks.
pub fn pass_on<D: Destination>(
    plan: &Plan,
    at: usize,
    input: &Batch,
    output: &Output,
    next: &mut Batch,
    destination: &mut D,
) -> Result<(), Unsent<D::Error>> {
    if !output.rejects.is_empty() {
        destination.reject(at, input, &output.rejects)?;
    }
    for emission in &output.emissions {
        let Some(outlet) = plan.transforms[at].outlets.get(emission.outlet as usize) else { continue };
        for &sink in &outlet.sinks {
            destination.send(sink, input, emission)?;
        }
        if outlet.next {
            next.append_emitted(input, emission);
        }
    }
    Ok(())
}

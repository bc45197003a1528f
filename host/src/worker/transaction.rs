//! The commit of a thread under exactly-once: one Kafka transaction with the outputs and offsets of all its tasks.
//!
//! State first: each task's head gets the new manifest while the producer is flushed. Only then, with a [`CommitPermit`], do the
//! offsets go into the transaction, each with its manifest's id, and Kafka commits; that decides. Whatever fails before the
//! commit is asked for is aborted, and every task goes back to its last commit in memory. Afterwards nothing is assumed:
//! recovery asks Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use super::commit::Tasks;
use super::failure::Failure;
use super::outbox::{OffsetsSent, Outbox};
use super::permit::{CommitPermit, Prepared};
use super::runtime::Runtime;
use super::settling::Settling;
use super::task::{Durable, Task};
use super::trace::CommitTrace;
use crate::checkpoint::store::Settled;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::consumer::CommitOffset;
use crate::kafka::producer::{FlushError, Flushed};
use crate::kafka::transaction::TransactionError;

/// How long the metadata store may be away before the transaction is aborted: an open one keeps readers of the sinks waiting.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// Pause between two looks at a store that says at once that it is away.
const AWAY_PAUSE: Duration = Duration::from_millis(50);

/// A transaction on its way to its end.
pub struct Transaction {
    runtime: Arc<dyn Runtime>,
    stage: Stage,
    bytes: u64,
}

enum Stage {
    Prepare { settling: Option<Settling>, prepared: Option<Prepared>, flushed: Option<Flushed>, away: Option<Instant> },
    Offsets(CommitPermit),
    Commit(OffsetsSent),
    Abort { lost: Vec<u32>, reason: String },
}

impl Stage {
    /// For traces.
    fn name(&self) -> &'static str {
        match self {
            // Heads are written meanwhile.
            Self::Prepare { flushed: None, .. } => "flush outputs",
            Self::Prepare { .. } => "write heads",
            Self::Offsets(_) => "send offsets",
            Self::Commit(_) => "commit transaction",
            Self::Abort { .. } => "abort transaction",
        }
    }
}

/// How far [`Transaction::advance`] got.
#[derive(Debug)]
pub enum Outcome {
    /// It has to wait: for what.
    Waiting(&'static str),
    /// Outputs, offsets and state are committed.
    Committed,
    /// Nothing of it counts, and Kafka has acknowledged that.
    Aborted {
        /// Tasks whose heads are not what this thread knows: to be claimed again.
        lost: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Whether it was committed is not known, or the producer is of no use any more.
    Unknown {
        /// In librdkafka's words.
        reason: String,
    },
}

impl Transaction {
    /// With the heads that have to be written first.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, settling: Option<Settling>) -> Self {
        let prepared = if settling.is_none() { Prepared::of([]) } else { None };
        Self { runtime, stage: Stage::Prepare { settling, prepared, flushed: None, away: None }, bytes: 0 }
    }

    /// One that is only aborted.
    #[must_use]
    pub fn to_abort(runtime: Arc<dyn Runtime>, reason: &str) -> Self {
        Self { runtime, stage: abort(reason), bytes: 0 }
    }

    /// Bytes written to the metadata store so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it up, unless Kafka has been asked to commit it: then the answer has to be awaited. Whether it is given up.
    pub fn abort(&mut self, tasks: &Tasks, reason: &str) -> bool {
        if matches!(self.stage, Stage::Prepare { .. } | Stage::Offsets(_)) {
            self.stage = Stage::Abort { lost: self.uncertain(tasks), reason: reason.to_owned() };
        }
        self.is_aborting()
    }

    /// Whether it will not be committed.
    #[must_use]
    pub fn is_aborting(&self) -> bool {
        matches!(self.stage, Stage::Abort { .. })
    }

    /// Tasks whose heads may or may not have been written.
    fn uncertain(&self, tasks: &Tasks) -> Vec<u32> {
        match &self.stage {
            Stage::Prepare { settling: Some(_), .. } => {
                tasks.iter().flatten().filter(|task| task.sealed.is_some()).map(|task| task.partition).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Goes on for about `wait` at most.
    ///
    /// # Errors
    /// Neither waiting nor doing it again helps.
    pub fn advance<K: Kafka>(
        &mut self,
        tasks: &mut Tasks,
        outbox: &mut Outbox<K>,
        consumer: &K::Consumer,
        trace: &mut CommitTrace,
        wait: Duration,
    ) -> Result<Outcome, Failure> {
        loop {
            trace.stage(self.stage.name());
            let stage = std::mem::replace(&mut self.stage, abort(""));
            let next = match stage {
                Stage::Prepare { .. } => {
                    self.stage = stage;
                    match self.prepare(tasks, outbox, wait)? {
                        Some(outcome) => return Ok(outcome),
                        None => continue,
                    }
                }
                Stage::Offsets(permit) => {
                    let asked = outbox.is_asking() || {
                        let membership = consumer.membership();
                        membership.map(|member| outbox.ask_offsets(&permit, offsets(tasks), member)).is_some()
                    };
                    match asked.then(|| outbox.offsets_sent(permit, wait)) {
                        None => Ok(abort("this member has left its group for the moment")),
                        Some(Ok(sent)) => Ok(Stage::Commit(sent)),
                        Some(Err((permit, error))) => Err((Stage::Offsets(permit), "kafka to take the offsets", error)),
                    }
                }
                Stage::Commit(sent) => match outbox.commit(&sent, wait) {
                    Ok(()) => {
                        tasks
                            .iter_mut()
                            .flatten()
                            .filter(|task| task.sealed.is_some())
                            .for_each(|task| committed(task));
                        return Ok(Outcome::Committed);
                    }
                    Err(error) => Err((Stage::Commit(sent), "kafka to commit the transaction", error)),
                },
                Stage::Abort { lost, reason } => match outbox.abort(wait) {
                    Ok(()) => {
                        tasks.iter_mut().flatten().for_each(|task| aborted(task));
                        return Ok(Outcome::Aborted { lost, reason });
                    }
                    // It has to be aborted: that is what is being done.
                    Err(TransactionError::Abort { text }) => {
                        self.stage = Stage::Abort { lost, reason };
                        debug!("abort: {text}");
                        return Ok(Outcome::Waiting("kafka to abort the transaction"));
                    }
                    Err(error) => Err((Stage::Abort { lost, reason }, "kafka to abort the transaction", error)),
                },
            };
            self.stage = match next {
                Ok(stage) => stage,
                Err((stage, waiting, TransactionError::Again { text })) => {
                    if !outbox.is_asking() {
                        debug!("transaction: {text}");
                    }
                    self.stage = stage;
                    return Ok(Outcome::Waiting(waiting));
                }
                Err((_, _, TransactionError::Abort { text })) => abort(text),
                Err((_, _, TransactionError::Rebuild { text })) => return Ok(Outcome::Unknown { reason: text }),
                Err((_, _, error @ TransactionError::Refused { .. })) => return Err(error.into()),
            };
        }
    }

    /// Writes heads and flushes outputs, both at the same time. `None`: the stage is another one now.
    fn prepare<K: Kafka>(
        &mut self,
        tasks: &mut Tasks,
        outbox: &Outbox<K>,
        wait: Duration,
    ) -> Result<Option<Outcome>, Failure> {
        let Stage::Prepare { flushed, .. } = &self.stage else { return Ok(None) };
        let Some(flushed) = *flushed else {
            // The heads are set going; they are looked at when the outputs are through.
            self.heads(tasks, Duration::ZERO)?;
            return Ok(self.flush(tasks, outbox, wait)?.map(Outcome::Waiting));
        };
        self.heads(tasks, wait)?;
        let Stage::Prepare { prepared, .. } = &mut self.stage else { return Ok(None) };
        let Some(prepared) = prepared.take() else { return Ok(Some(Outcome::Waiting("the metadata store"))) };
        self.stage = Stage::Offsets(CommitPermit::new(prepared, flushed));
        Ok(None)
    }

    fn flush<K: Kafka>(
        &mut self,
        tasks: &Tasks,
        outbox: &Outbox<K>,
        wait: Duration,
    ) -> Result<Option<&'static str>, Failure> {
        let failed = match outbox.flush(wait) {
            Ok(done) => {
                if let Stage::Prepare { flushed, .. } = &mut self.stage {
                    *flushed = Some(done);
                }
                return Ok(None);
            }
            Err(FlushError::TimedOut { .. }) => return Ok(Some("kafka to acknowledge the output")),
            Err(FlushError::Refused { first, .. }) if !first.is_final() => {
                format!("output was not acknowledged: {first}")
            }
            // Aborting finds out what kind of failure it is.
            Err(FlushError::Fatal { text }) => text,
            Err(error) => return Err(error.into()),
        };
        self.stage = Stage::Abort { lost: self.uncertain(tasks), reason: failed };
        Ok(None)
    }

    fn heads(&mut self, tasks: &mut Tasks, wait: Duration) -> Result<(), Failure> {
        let Stage::Prepare { settling: Some(settling), away, .. } = &mut self.stage else { return Ok(()) };
        let commits = match settling.wait(wait) {
            Ok(Some(commits)) => commits,
            Ok(None) => {
                *away = None;
                return Ok(());
            }
            Err(error) if error.is_outage() => {
                let since = *away.get_or_insert_with(|| self.runtime.now());
                if self.runtime.since(since) >= AWAY_MAX {
                    self.stage = Stage::Abort { lost: self.uncertain(tasks), reason: error.to_string() };
                } else {
                    self.runtime.sleep(wait.min(AWAY_PAUSE));
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (mut outcomes, mut lost) = (Vec::new(), Vec::new());
        for commit in commits {
            let partition = commit.partition();
            self.bytes += commit.bytes();
            let Some(task) = tasks.get_mut(partition as usize).and_then(Option::as_mut) else { continue };
            let Task { durable: Some(Durable { claim, ledger }), state, .. } = &mut **task else { continue };
            outcomes.push(claim.settled(commit, ledger, state));
            if outcomes.last() == Some(&Settled::Lost) {
                lost.push(partition);
            }
        }
        match (Prepared::of(outcomes), &mut self.stage) {
            (Some(proof), Stage::Prepare { settling, prepared, .. }) => {
                *settling = None;
                *prepared = Some(proof);
            }
            _ => self.stage = Stage::Abort { lost, reason: "somebody else has claimed a task".to_owned() },
        }
        Ok(())
    }
}

fn abort(reason: impl Into<String>) -> Stage {
    Stage::Abort { lost: Vec::new(), reason: reason.into() }
}

/// What the transaction says of the tasks that take part: every input, also those that had no record, with the manifest's id.
fn offsets(tasks: &Tasks) -> Vec<CommitOffset> {
    let of = |task: &Task| {
        let manifest = task.durable.as_ref().and_then(|durable| durable.claim.undecided());
        let metadata = manifest.map_or_else(String::new, |manifest| manifest.to_string());
        let sealed = task.sealed.as_ref().map_or_else(Vec::new, |sealed| sealed.next.clone());
        task.partitions().zip(sealed).map(move |(partition, offset)| {
            let metadata = metadata.clone();
            CommitOffset { partition, offset, metadata }
        })
    };
    tasks.iter().flatten().flat_map(|task| of(task)).collect()
}

fn committed(task: &mut Task) {
    if let Task { durable: Some(Durable { claim, ledger }), state, .. } = task {
        claim.committed(ledger, state);
    }
    task.committed();
}

fn aborted(task: &mut Task) {
    if let Some(Durable { claim, .. }) = &mut task.durable {
        claim.aborted();
    }
}

//! Making what a thread did durable.
//!
//! Under at-least-once, every output is acknowledged by Kafka first, then the tasks' heads are written with state and offsets
//! together: that is the commit. The group's offsets follow, for monitoring. Without state the group's offsets are the commit.
//! Under exactly-once a [`Transaction`] does it.
//!
//! A commit is made in steps that never block for long, because the thread has to go on answering its group while a broker or
//! the metadata store is away. State and offsets are sealed when it begins. Under exactly-once records are processed meanwhile:
//! their outputs are held back, and what they change is for the next commit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::budget::Budget;
use super::failure::Failure;
use super::outbox::Outbox;
use super::plan::Plan;
use super::runtime::Runtime;
use super::settling::Settling;
use super::task::{Durable, Task};
use super::trace::CommitTrace;
use super::transaction::{Outcome, Transaction};
use crate::checkpoint::head::{Decider, Manifest};
use crate::checkpoint::store::{PendingCommit, Settled};
use crate::config::Guarantee;
use crate::ids::ManifestId;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::consumer::{CommitError, CommitOffset};
use crate::kafka::producer::FlushError;
use crate::meta::MetaStore;
use crate::metrics::{Metrics, PipelineLabels};

/// Records are processed during a commit for so long.
const OVERLAP_MAX: Duration = Duration::from_secs(1);
/// A commit that waits this long is worth a message, and another one each time it has waited as long again.
const WAIT_MESSAGE: Duration = Duration::from_secs(5);

/// The tasks of a thread, by partition number.
pub type Tasks = Vec<Option<Box<Task>>>;

/// What a commit has still to do.
enum Phase {
    /// Wait until the outputs are acknowledged.
    Flush,
    /// Write heads.
    Heads(Settling),
    /// Commit the group's offsets; without state only.
    Offsets,
    /// Everything, under exactly-once.
    Transaction(Transaction),
}

impl Phase {
    /// For traces; a transaction names its own.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Flush => Some("flush outputs"),
            Self::Heads(_) => Some("write heads"),
            Self::Offsets => Some("commit offsets"),
            Self::Transaction(_) => None,
        }
    }
}

/// A commit under way.
struct UnderWay {
    phase: Phase,
    began: Instant,
    said: Instant,
    /// What was processed meanwhile has to be taken back, and why.
    spoiled: Option<String>,
    trace: CommitTrace,
}

/// How far [`Committer::advance`] got.
#[derive(Debug)]
pub enum Advanced {
    /// It has to wait: for what.
    Waiting(&'static str),
    /// It ended. These tasks belong to somebody else now, or did for a moment: they have to be claimed again.
    Ended {
        /// Partition numbers.
        lost: Vec<u32>,
    },
    /// It ended, but what was processed meanwhile is of no use: the tasks have to go back to this commit.
    Spoiled {
        /// Why.
        reason: String,
    },
    /// The transaction was aborted: what was done since the last commit counts nowhere, and the tasks have to go back to it.
    /// Those that are lost have to be claimed again.
    Aborted {
        /// Partition numbers.
        lost: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Whether the transaction was committed is not known: nothing that the thread holds can be believed.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Makes the commits of one thread.
pub struct Committer {
    plan: Arc<Plan>,
    meta: Arc<dyn MetaStore>,
    runtime: Arc<dyn Runtime>,
    budget: Arc<Mutex<Budget>>,
    metrics: Arc<Metrics>,
    under_way: Option<UnderWay>,
    last_took: Option<Duration>,
}

impl Committer {
    /// For the tasks of one thread; `budget` is the node's.
    #[must_use]
    pub fn new(
        plan: Arc<Plan>,
        meta: Arc<dyn MetaStore>,
        runtime: Arc<dyn Runtime>,
        budget: Arc<Mutex<Budget>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { plan, meta, runtime, budget, metrics, under_way: None, last_took: None }
    }

    /// Goes on by another plan.
    pub fn change(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// Whether a commit has begun and not ended.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// How long the last commit took, from its beginning; `None` before the first.
    #[must_use]
    pub fn last_took(&self) -> Option<Duration> {
        self.last_took
    }

    /// How long the byte budget asks the next commit to wait beyond the interval.
    #[must_use]
    pub fn budget_delay(&self) -> Duration {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).debt(self.runtime.now())
    }

    /// Begins a commit of everything that was done: takes what the guests hold back. Does nothing when one is under way.
    ///
    /// # Errors
    /// A plugin failed.
    pub fn begin(&mut self, tasks: &mut Tasks) -> Result<(), Failure> {
        if self.under_way.is_none() {
            for task in tasks.iter_mut().flatten().filter(|task| task.dirty) {
                task.flush(self.runtime.now_ms())?;
            }
            let phase = match self.plan.guarantee {
                Guarantee::AtLeastOnce => Phase::Flush,
                Guarantee::ExactlyOnce => {
                    let settling = self.plan.is_stateful().then(|| self.settling(tasks));
                    // With state they are sealed already.
                    tasks.iter_mut().flatten().filter(|task| task.dirty).for_each(|task| task.seal());
                    Phase::Transaction(Transaction::new(Arc::clone(&self.runtime), settling))
                }
            };
            self.go(phase);
        }
        Ok(())
    }

    fn go(&mut self, phase: Phase) {
        let now = self.runtime.now();
        let trace = CommitTrace::new(&self.plan.pipeline, self.plan.revision);
        self.under_way = Some(UnderWay { phase, began: now, said: now, spoiled: None, trace });
    }

    /// Whether what is processed now counts.
    #[must_use]
    pub fn may_process(&self) -> bool {
        match &self.under_way {
            Some(UnderWay { phase: Phase::Transaction(transaction), spoiled: None, .. }) => !transaction.is_aborting(),
            Some(_) => false,
            None => true,
        }
    }

    /// Whether records are to be processed during the commit under way. Not when it takes long: its transaction is open meanwhile.
    #[must_use]
    pub fn may_overlap(&self) -> bool {
        let is_young = |under_way: &UnderWay| self.runtime.since(under_way.began) < OVERLAP_MAX;
        self.may_process() && self.under_way.as_ref().is_none_or(is_young)
    }

    /// Under exactly-once: what was processed since the transaction was begun, or since its commit was, is to be taken back.
    pub fn take_back(&mut self, tasks: &Tasks, reason: &str) {
        match &mut self.under_way {
            Some(UnderWay { phase: Phase::Transaction(transaction), spoiled, .. }) if !transaction.is_aborting() => {
                spoiled.get_or_insert_with(|| reason.to_owned());
            }
            _ => self.abort(tasks, reason),
        }
    }

    /// Under exactly-once: [`Committer::advance`] is to abort the transaction. When Kafka has been asked to commit it, only what was
    /// processed meanwhile is taken back.
    pub fn abort(&mut self, tasks: &Tasks, reason: &str) {
        match &mut self.under_way {
            Some(UnderWay { phase: Phase::Transaction(transaction), spoiled, .. }) => {
                if !transaction.abort(tasks, reason) {
                    spoiled.get_or_insert_with(|| reason.to_owned());
                }
            }
            _ => self.go(Phase::Transaction(Transaction::to_abort(Arc::clone(&self.runtime), reason))),
        }
    }

    /// Gives up the commit under way without an end.
    pub fn drop_under_way(&mut self) {
        self.under_way = None;
    }

    /// A task has gone: its part of the commit under way is given up.
    pub fn forget(&mut self, partition: u32) {
        if let Some(UnderWay { phase: Phase::Heads(settling), .. }) = &mut self.under_way {
            settling.forget(partition);
        }
    }

    /// Goes on with the commit under way, for about `wait` at most.
    ///
    /// # Errors
    /// It cannot be made, and waiting does not help.
    pub fn advance<K: Kafka>(
        &mut self,
        tasks: &mut Tasks,
        outbox: &mut Outbox<K>,
        consumer: &mut K::Consumer,
        wait: Duration,
    ) -> Result<Advanced, Failure> {
        let Some(mut under_way) = self.under_way.take() else { return Ok(Advanced::Ended { lost: Vec::new() }) };
        let trace = &mut under_way.trace;
        loop {
            if let Some(stage) = under_way.phase.name() {
                trace.stage(stage);
            }
            let waiting = match &mut under_way.phase {
                Phase::Flush => match outbox.flush(wait) {
                    Ok(_) => {
                        under_way.phase = match self.plan.is_stateful() {
                            true => Phase::Heads(self.settling(tasks)),
                            false => Phase::Offsets,
                        };
                        continue;
                    }
                    Err(FlushError::TimedOut { .. }) => "kafka to acknowledge the output",
                    Err(error) => return Err(error.into()),
                },
                Phase::Heads(settling) => match settling.wait(wait) {
                    Ok(Some(commits)) => {
                        let bytes = commits.iter().map(PendingCommit::bytes).sum();
                        let lost = self.settled(commits, tasks, consumer);
                        trace.committed(bytes);
                        return Ok(self.ended(lost, under_way.began));
                    }
                    Ok(None) => "the metadata store",
                    Err(error) if error.is_outage() => {
                        debug!("commit: {error}");
                        // The store answers at once that it is away; the group has to be looked after meanwhile.
                        self.runtime.sleep(wait.min(Duration::from_millis(50)));
                        "the metadata store"
                    }
                    Err(error) => return Err(error.into()),
                },
                Phase::Offsets => match commit_offsets(tasks, consumer, wait) {
                    Ok(()) => {
                        tasks.iter_mut().flatten().filter(|task| task.dirty).for_each(|task| {
                            task.seal();
                            task.committed();
                        });
                        trace.committed(0);
                        return Ok(self.ended(Vec::new(), under_way.began));
                    }
                    Err(CommitError::NotOwner(reason)) => {
                        // The group has moved on and will say so: the work stays uncommitted until then.
                        info!("offsets are not committed, the group is rebalancing: {reason}");
                        trace.failed("not-owner", &reason.to_string());
                        return Ok(self.ended(Vec::new(), under_way.began));
                    }
                    Err(error) if error.is_retriable() => {
                        debug!("commit: {error}");
                        "kafka to take the offsets"
                    }
                    Err(error) => return Err(error.into()),
                },
                Phase::Transaction(transaction) => match transaction.advance(tasks, outbox, consumer, trace, wait)? {
                    Outcome::Waiting(waiting) => waiting,
                    Outcome::Committed => {
                        self.wrote(transaction.bytes());
                        trace.committed(transaction.bytes());
                        let ended = self.ended(Vec::new(), under_way.began);
                        return Ok(match under_way.spoiled {
                            None => ended,
                            Some(reason) => Advanced::Spoiled { reason },
                        });
                    }
                    Outcome::Aborted { lost, reason } => {
                        self.wrote(transaction.bytes());
                        trace.failed("aborted", &reason);
                        return Ok(Advanced::Aborted { lost, reason });
                    }
                    Outcome::Unknown { reason } => {
                        trace.failed("unknown", &reason);
                        return Ok(Advanced::Unknown { reason });
                    }
                },
            };
            if self.runtime.since(under_way.said) >= WAIT_MESSAGE {
                let waited_s = self.runtime.since(under_way.began).as_secs();
                warn!(
                    pipeline = self.plan.pipeline,
                    waited_s, "waiting for {waiting} to commit; no records are processed meanwhile"
                );
                under_way.said = self.runtime.now();
                self.metrics.commit_waits.get_or_create(&self.labels()).inc();
            }
            self.under_way = Some(under_way);
            return Ok(Advanced::Waiting(waiting));
        }
    }

    fn labels(&self) -> PipelineLabels {
        PipelineLabels { pipeline: self.plan.pipeline.clone() }
    }

    /// The heads of all tasks that did something.
    fn settling(&self, tasks: &mut Tasks) -> Settling {
        let plan = &self.plan;
        let commit = |task: &mut Box<Task>| {
            let (offsets, transforms) = (task.offsets(), task.identities());
            let Task { durable: Some(Durable { claim, ledger }), state, .. } = &mut **task else { return None };
            let make = |epoch, chunks| Manifest {
                id: ManifestId { epoch, nonce: self.runtime.nonce() },
                chunks,
                offsets,
                watermark: None,
                transforms,
            };
            let decider = match plan.guarantee {
                Guarantee::AtLeastOnce => Decider::Head,
                Guarantee::ExactlyOnce => Decider::Kafka,
            };
            let commit = claim.commit(decider, ledger, state, make);
            task.seal();
            Some(commit)
        };
        let commits = tasks.iter_mut().flatten().filter(|task| task.dirty).filter_map(commit).collect();
        Settling::new(Arc::clone(&self.meta), Arc::clone(&self.runtime), commits)
    }

    /// After the last commit of tasks that leave, under exactly-once: lets the heads say what Kafka says, so that the pipeline goes
    /// on also when Kafka has forgotten its offsets, and nobody looks for an open transaction. Best effort: without it, Kafka
    /// decides.
    pub fn clean_stop(&self, tasks: &mut Tasks, leaving: impl Fn(u32) -> bool, wait: Duration) {
        let stop = |task: &mut Box<Task>| task.durable.as_mut().and_then(|durable| durable.claim.clean_stop());
        let tasks = tasks.iter_mut().flatten().filter(|task| !task.is_ahead() && leaving(task.partition));
        let commits: Vec<_> = tasks.filter_map(stop).collect();
        if commits.is_empty() {
            return;
        }
        match Settling::new(Arc::clone(&self.meta), Arc::clone(&self.runtime), commits).wait(wait) {
            Ok(Some(_)) => {}
            Ok(None) => debug!("the metadata store takes too long to note the end; kafka knows it"),
            Err(error) => debug!("the metadata store does not note the end, kafka knows it: {error}"),
        }
    }

    /// Takes settled commits in; returns the tasks that were lost.
    fn settled(&self, commits: Vec<PendingCommit>, tasks: &mut Tasks, consumer: &mut impl ConsumerClient) -> Vec<u32> {
        let mut lost = Vec::new();
        let mut offsets = Vec::new();
        let mut bytes = 0;
        for commit in commits {
            let partition = commit.partition();
            let Some(task) = tasks.get_mut(partition as usize).and_then(Option::as_mut) else { continue };
            bytes += commit.bytes();
            let Task { durable: Some(Durable { claim, ledger }), state, .. } = &mut **task else { continue };
            match claim.settled(commit, ledger, state) {
                Settled::Durable => {
                    task.committed();
                    offsets.extend(task.group_offsets());
                }
                Settled::Lost => lost.push(partition),
            }
        }
        // The heads decide; the group's offsets are for monitoring and follow with the next commit.
        if !offsets.is_empty()
            && let Err(error) = consumer.commit_later(&offsets)
        {
            debug!("group offsets: {error}");
        }
        self.wrote(bytes);
        lost
    }

    fn wrote(&self, bytes: u64) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).spend(bytes, self.runtime.now());
        self.metrics.checkpoint_bytes.get_or_create(&self.labels()).inc_by(bytes);
    }

    fn ended(&mut self, lost: Vec<u32>, began: Instant) -> Advanced {
        let (labels, took) = (self.labels(), self.runtime.since(began));
        self.metrics.commit_duration.get_or_create(&labels).observe(took.as_secs_f64());
        self.metrics.last_commit.get_or_create(&labels).set(self.runtime.now_ms() as f64 / 1000.0);
        self.last_took = Some(took);
        Advanced::Ended { lost }
    }
}

fn commit_offsets(tasks: &Tasks, consumer: &mut impl ConsumerClient, wait: Duration) -> Result<(), CommitError> {
    let dirty = tasks.iter().flatten().filter(|task| task.dirty);
    let positions = dirty.flat_map(|task| task.positions());
    let commit = |(partition, offset)| CommitOffset { partition, offset, metadata: String::new() };
    let offsets: Vec<CommitOffset> = positions.map(commit).collect();
    if offsets.is_empty() { Ok(()) } else { consumer.commit(&offsets, wait) }
}

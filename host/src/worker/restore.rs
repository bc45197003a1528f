//! From an assigned partition to a task that can go on: claim, read Kafka, resolve, restore.
//!
//! The order is the protocol's: the head is claimed before Kafka is asked. What waits for the metadata store runs on the
//! runtime and reports back; what asks Kafka is done by the worker thread between two polls. An attempt whose partition was
//! revoked meanwhile is dropped: its number is no longer the slot's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::AbortHandle;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::compatible;
use super::failure::Failure;
use super::orphans::Orphans;
use super::plan::Plan;
use super::runtime::Runtime;
use super::task::{self, Durable, Task};
use crate::checkpoint::head::Head;
use crate::checkpoint::protocol;
use crate::checkpoint::resolve::{self, GroupOffset, GroupOffsets, StatelessStart};
use crate::checkpoint::store::{Claim, StateError, TaskStore};
use crate::config::{Guarantee, Start};
use crate::kafka::TopicPartition;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::consumer::{self, CommitOffset};
use crate::meta::layout;
use crate::meta::{MetaError, MetaStore, Write};

/// How long one request to Kafka may hold the thread up.
const KAFKA_WAIT: Duration = Duration::from_secs(1);
/// Pause before Kafka is asked again what it did not answer.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two attempts while the metadata store is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(250);
/// Attempts to open a plugin that says it failed.
const OPEN_ATTEMPTS: u32 = 5;

/// What a step that ran beside the thread came to.
pub enum Progress {
    /// There is no head yet.
    Unborn,
    /// The head is claimed.
    Claimed(Box<Claim>),
    /// Somebody else claimed the head while it was being restored: it has to be claimed again.
    Superseded,
    /// Without state: whether the task has started once.
    Started(bool),
    /// It can go on.
    Ready(Box<Task>),
    /// It cannot.
    Failed(Failure),
}

/// Progress of an attempt.
pub struct Report {
    /// Which task.
    pub partition: u32,
    /// Which attempt.
    pub attempt: u64,
    /// What happened.
    pub progress: Progress,
}

/// Where an attempt stands, as far as the thread has to do something.
enum Stage {
    /// Beside the thread.
    Away,
    /// Kafka has to be asked where to start; then genesis.
    Genesis,
    /// Kafka has to be asked what is committed.
    Claimed(Box<Claim>),
    /// Without state: Kafka has to be asked what is committed; whether it has started once is not known yet.
    Stateless { started: Option<bool> },
}

/// One attempt to bring a task up.
pub struct Attempt {
    number: u64,
    began: Instant,
    stage: Stage,
    running: Option<AbortHandle>,
    /// Kafka did not answer: not asked again before.
    not_before: Option<Instant>,
}

/// Whether Kafka answered what an attempt had to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It did, or nothing had to be asked.
    Answered,
    /// It did not: the attempt asks again after a while.
    InVain,
}

impl Attempt {
    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Stays at `stage` and asks again after a pause.
    fn wait(&mut self, partition: u32, stage: Stage, now: Instant, error: &dyn std::fmt::Display) -> Asked {
        warn!(partition, "waiting: {error}");
        self.stage = stage;
        self.not_before = Some(now + ASK_PAUSE);
        Asked::InVain
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// Brings tasks up.
pub struct Restorer<K> {
    plan: Arc<Plan>,
    meta: Arc<dyn MetaStore>,
    runtime: Arc<dyn Runtime>,
    owner: String,
    orphans: Arc<Orphans<K>>,
    last_attempt: u64,
    reports: mpsc::UnboundedSender<Report>,
    inbox: mpsc::UnboundedReceiver<Report>,
}

impl<K: Kafka> Restorer<K> {
    /// For the tasks of one thread, which claims as `owner`.
    #[must_use]
    pub fn new(
        plan: Arc<Plan>,
        meta: Arc<dyn MetaStore>,
        runtime: Arc<dyn Runtime>,
        orphans: Arc<Orphans<K>>,
        owner: String,
    ) -> Self {
        let (reports, inbox) = mpsc::unbounded_channel();
        Self { plan, meta, runtime, owner, orphans, last_attempt: 0, reports, inbox }
    }

    /// Goes on by another plan.
    pub fn change(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// Begins to bring a task up.
    pub fn begin(&mut self, partition: u32) -> Attempt {
        self.last_attempt += 1;
        let mut attempt = Attempt {
            number: self.last_attempt,
            began: self.runtime.now(),
            stage: Stage::Away,
            running: None,
            not_before: None,
        };
        if self.plan.is_stateful() {
            self.claim(partition, &mut attempt, None);
        } else {
            attempt.stage = Stage::Stateless { started: None };
        }
        attempt
    }

    /// The next report, if there is one.
    pub fn next_report(&mut self) -> Option<Report> {
        self.inbox.try_recv().ok()
    }

    /// Takes a report of this attempt in. Returns the task when it is up.
    ///
    /// # Errors
    /// It cannot come up.
    pub fn report(&mut self, attempt: &mut Attempt, report: Report) -> Result<Option<Task>, Failure> {
        if report.attempt != attempt.number {
            return Ok(None);
        }
        attempt.running = None;
        match report.progress {
            Progress::Unborn => attempt.stage = Stage::Genesis,
            Progress::Claimed(claim) => {
                if let Some(owner) = claim.may_have_left_open() {
                    self.orphans.watch(owner);
                }
                attempt.stage = Stage::Claimed(claim);
            }
            Progress::Superseded => self.claim(report.partition, attempt, None),
            Progress::Started(started) => attempt.stage = Stage::Stateless { started: Some(started) },
            Progress::Ready(task) => return Ok(Some(*task)),
            Progress::Failed(failure) => return Err(failure),
        }
        Ok(None)
    }

    /// Does what the thread has to do for an attempt: asks Kafka. A Kafka that does not answer is asked again later.
    ///
    /// # Errors
    /// It cannot come up.
    pub fn advance(
        &mut self,
        partition: u32,
        attempt: &mut Attempt,
        consumer: &mut K::Consumer,
    ) -> Result<Asked, Failure> {
        if attempt.not_before.is_some_and(|not_before| self.runtime.now() < not_before) {
            return Ok(Asked::Answered);
        }
        attempt.not_before = None;
        let asked = match std::mem::replace(&mut attempt.stage, Stage::Away) {
            Stage::Away => return Ok(Asked::Answered),
            Stage::Genesis => match self.genesis_offsets(partition, consumer) {
                Ok(offsets) => {
                    let partitions = self.plan.source_partitions();
                    let head = protocol::genesis(self.runtime.nonce(), offsets, partitions, self.plan.identities());
                    self.claim(partition, attempt, Some(head));
                    return Ok(Asked::Answered);
                }
                Err(error) => (Stage::Genesis, error),
            },
            Stage::Claimed(claim) => match self.committed(partition, consumer) {
                Ok(kafka) => return self.restore(partition, attempt, claim, &kafka).map(|()| Asked::Answered),
                Err(error) => (Stage::Claimed(claim), error),
            },
            Stage::Stateless { started } => match self.committed(partition, consumer) {
                Ok(kafka) => return self.start_stateless(partition, attempt, consumer, started, &kafka),
                Err(error) => (Stage::Stateless { started }, error),
            },
        };
        let (stage, error) = asked;
        if error.is_retriable() {
            Ok(attempt.wait(partition, stage, self.runtime.now(), &error))
        } else {
            Err(error.into())
        }
    }

    fn spawn(&self, partition: u32, attempt: &mut Attempt, work: impl Future<Output = Progress> + Send + 'static) {
        let (reports, number) = (self.reports.clone(), attempt.number);
        attempt.running = Some(self.runtime.spawn_abortable(async move {
            let progress = work.await;
            // The thread is gone: nobody waits for the task any more.
            let _ = reports.send(Report { partition, attempt: number, progress });
        }));
    }

    /// Claims the task, after genesis if that is given.
    fn claim(&self, partition: u32, attempt: &mut Attempt, genesis: Option<Head>) {
        let store = TaskStore::new(Arc::clone(&self.meta), self.plan.task(partition));
        let (owner, runtime) = (self.owner.clone(), Arc::clone(&self.runtime));
        self.spawn(partition, attempt, async move {
            let claimed = async {
                if let Some(head) = genesis {
                    through_outages(&*runtime, || store.genesis(&head)).await?;
                }
                store.claim(&owner, |pause| runtime.pause(pause)).await
            };
            match claimed.await {
                Ok(claim) => Progress::Claimed(Box::new(claim)),
                Err(StateError::NoHead { .. }) => Progress::Unborn,
                Err(error) => Progress::Failed(error.into()),
            }
        });
    }

    fn restore(
        &self,
        partition: u32,
        attempt: &mut Attempt,
        claim: Box<Claim>,
        kafka: &GroupOffsets,
    ) -> Result<(), Failure> {
        let id = self.plan.task(partition);
        let store = TaskStore::new(Arc::clone(&self.meta), id.clone());
        let (plan, runtime) = (Arc::clone(&self.plan), Arc::clone(&self.runtime));
        let manifest = match resolve::resolve(claim.head(), kafka) {
            Ok(manifest) => manifest.clone(),
            Err(disagreement) => {
                self.spawn(partition, attempt, async move {
                    // Who has lost the task and does not know it is answered what the next owner has committed.
                    match is_superseded(&*runtime, &claim).await {
                        true => Progress::Superseded,
                        false => Progress::Failed(Failure::Disagreement { task: id, disagreement }),
                    }
                });
                return Ok(());
            }
        };
        let offsets = compatible::offsets(&self.plan, &id, claim.head(), &manifest)?;
        // Under exactly-once Kafka gets to know what the task goes on from, even if no record comes.
        let dirty = self.plan.guarantee == Guarantee::ExactlyOnce && !resolve::names(kafka, &manifest);
        self.spawn(partition, attempt, async move {
            let begin = runtime.now();
            let restored = through_outages(&*runtime, || async {
                let mut state = plan.empty_state();
                let ledger = store.restore(claim.head(), &manifest, &mut state).await?;
                Ok((state, ledger))
            });
            let (state, ledger) = match restored.await {
                Ok(restored) => restored,
                Err(error) => {
                    // Chunks go when a later owner has no use for them any more.
                    if is_superseded(&*runtime, &claim).await {
                        return Progress::Superseded;
                    }
                    return Progress::Failed(error.into());
                }
            };
            if let Err(error) = claim.sweep().await {
                debug!(task = %id, "chunks left behind stay until the next claim: {error}");
            }
            let (keys, bytes, took) = (state.len(), state.bytes(), runtime.since(begin));
            info!(task = %id, epoch = %manifest.id.epoch, keys, bytes, ?offsets, ?took, "restored");
            let mut claim = *claim;
            claim.restored(manifest.id);
            let durable = Durable { claim, ledger };
            let mut progress = open(runtime, plan, partition, state, Some(durable), offsets).await;
            if let Progress::Ready(task) = &mut progress {
                task.dirty = dirty;
            }
            progress
        });
        Ok(())
    }

    fn start_stateless(
        &self,
        partition: u32,
        attempt: &mut Attempt,
        consumer: &mut K::Consumer,
        started: Option<bool>,
        kafka: &GroupOffsets,
    ) -> Result<Asked, Failure> {
        let id = self.plan.task(partition);
        let start = resolve::resolve_stateless(kafka, started.unwrap_or(false));
        let start = start.map_err(|gone| Failure::OffsetsGone { task: id.clone(), gone })?;
        let (meta, plan, runtime) = (Arc::clone(&self.meta), Arc::clone(&self.plan), Arc::clone(&self.runtime));
        match (start, started) {
            (StatelessStart::Resume(offsets), _) => {
                if started != Some(true) {
                    // The process may have ended, or the answer been lost, between the first offsets and the mark. Beside the
                    // task, which does not wait for the metadata store.
                    let noting = Arc::clone(&runtime);
                    let note = async move {
                        if let Err(error) = through_outages(&*noting, || note_started(&*meta, &id)).await {
                            warn!(task = %id, "it is not noted that the task has started: {error}");
                        }
                    };
                    runtime.spawn(note.boxed());
                }
                let offsets = plan.sources.iter().map(|source| offsets[&source.topic]).collect();
                let state = plan.empty_state();
                self.spawn(partition, attempt, open(runtime, plan, partition, state, None, offsets));
            }
            (StatelessStart::Genesis { .. }, None) => self.spawn(partition, attempt, async move {
                match through_outages(&*runtime, || started_once(&*meta, &id)).await {
                    Ok(started) => Progress::Started(started),
                    Err(error) => Progress::Failed(error.into()),
                }
            }),
            (StatelessStart::Genesis { missing }, Some(_)) => {
                let chosen = self.start_offsets(partition, consumer, |topic| missing.iter().any(|name| name == topic));
                let commits = match chosen {
                    Ok(chosen) => chosen,
                    Err(error) if error.is_retriable() => {
                        return Ok(attempt.wait(partition, Stage::Stateless { started }, runtime.now(), &error));
                    }
                    Err(error) => return Err(error.into()),
                };
                let commit = |(partition, offset)| CommitOffset { partition, offset, metadata: String::new() };
                let commits: Vec<CommitOffset> = commits.into_iter().map(commit).collect();
                if let Err(error) = consumer.commit(&commits, KAFKA_WAIT) {
                    // Not its owner any more, or no answer: the group says what comes next.
                    return Ok(attempt.wait(partition, Stage::Stateless { started }, runtime.now(), &error));
                }
                self.spawn(partition, attempt, async move {
                    match through_outages(&*runtime, || note_started(&*meta, &id)).await {
                        Ok(()) => Progress::Started(true),
                        Err(error) => Progress::Failed(error.into()),
                    }
                });
            }
        }
        Ok(Asked::Answered)
    }

    /// What the group has committed for the inputs of a task, in one request.
    fn committed(&self, partition: u32, consumer: &K::Consumer) -> Result<GroupOffsets, consumer::RequestError> {
        let partitions: Vec<TopicPartition> = task::partitions(partition, self.plan.sources.len()).collect();
        let committed = consumer.committed(&partitions, KAFKA_WAIT)?;
        let by_topic = self.plan.sources.iter().zip(committed);
        Ok(by_topic
            .map(|(source, found)| {
                (source.topic.clone(), GroupOffset { offset: found.offset, metadata: found.metadata })
            })
            .collect())
    }

    /// Where the pipeline says to start, for the topics that `wanted` names.
    fn start_offsets(
        &self,
        partition: u32,
        consumer: &K::Consumer,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(TopicPartition, i64)>, consumer::RequestError> {
        let inputs = task::partitions(partition, self.plan.sources.len()).zip(&self.plan.sources);
        inputs
            .filter(|(_, source)| wanted(&source.topic))
            .map(|(at, source)| {
                let start = match source.start {
                    Start::Earliest => consumer::Start::Earliest,
                    Start::Latest => consumer::Start::Latest,
                    Start::Timestamp(timestamp) => consumer::Start::Timestamp(timestamp),
                };
                Ok((at, consumer.start_offset(at, start, KAFKA_WAIT)?))
            })
            .collect()
    }

    /// Where a task without head starts: where the group stands, for a pipeline that had no state before, and where the
    /// pipeline says only for topics without an offset.
    fn genesis_offsets(
        &self,
        partition: u32,
        consumer: &K::Consumer,
    ) -> Result<BTreeMap<String, i64>, consumer::RequestError> {
        let kafka = self.committed(partition, consumer)?;
        let known: BTreeMap<String, i64> =
            kafka.into_iter().filter_map(|(topic, group)| Some((topic, group.offset?))).collect();
        let chosen = self.start_offsets(partition, consumer, |topic| !known.contains_key(topic))?;
        let chosen = chosen
            .into_iter()
            .filter_map(|(at, offset)| Some((self.plan.sources.get(at.input as usize)?.topic.clone(), offset)));
        Ok(chosen.chain(known).collect())
    }
}

/// Opens the instances; the last step. A plugin that says it failed is opened again a few times.
async fn open(
    runtime: Arc<dyn Runtime>,
    plan: Arc<Plan>,
    partition: u32,
    state: crate::state::TaskState,
    durable: Option<Durable>,
    offsets: Vec<i64>,
) -> Progress {
    let mut pause = Duration::from_millis(100);
    for attempt in 1.. {
        let (opening, now_ms) = (Arc::clone(&plan), runtime.now_ms());
        // Guests run on a thread that may block.
        let opened = runtime.blocking(Box::new(move || task::instantiate(&opening, partition, now_ms))).await;
        match opened {
            Some(Ok(instances)) => {
                return Progress::Ready(Box::new(Task::new(partition, instances, state, durable, offsets)));
            }
            Some(Err((at, error))) => {
                let transform = plan.transforms[at].name.clone();
                if !error.is_transient() || attempt == OPEN_ATTEMPTS {
                    return Progress::Failed(Failure::Open { transform, error });
                }
                warn!(partition, transform, attempt, "a plugin does not start, trying again: {error}");
            }
            // The runtime is being shut down.
            None => break,
        }
        runtime.pause(pause).await;
        pause *= 2;
    }
    std::future::pending().await
}

/// Repeats what is safe to repeat while the metadata store is away.
async fn through_outages<T, F: Future<Output = Result<T, StateError>>>(
    runtime: &dyn Runtime,
    mut work: impl FnMut() -> F,
) -> Result<T, StateError> {
    let mut said = false;
    loop {
        match work().await {
            Err(error) if error.is_outage() => {
                if !std::mem::replace(&mut said, true) {
                    warn!("waiting: {error}");
                }
                runtime.pause(OUTAGE_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Whether somebody else has claimed the task since: then what was read for this claim stands for nothing.
async fn is_superseded(runtime: &dyn Runtime, claim: &Claim) -> bool {
    let superseded = matches!(through_outages(runtime, || claim.holds()).await, Ok(false));
    if superseded {
        warn!(owner = claim.head().owner, "somebody else claimed the task while it came up: claiming it again");
    }
    superseded
}

async fn started_once(meta: &dyn MetaStore, task: &crate::ids::TaskId) -> Result<bool, StateError> {
    let failed = |source| StateError::Meta { task: task.clone(), source };
    Ok(meta.get(&layout::TaskPath::new(task).started()).await.map_err(failed)?.is_some())
}

async fn note_started(meta: &dyn MetaStore, task: &crate::ids::TaskId) -> Result<(), StateError> {
    let failed = |source| StateError::Meta { task: task.clone(), source };
    let path = layout::TaskPath::new(task);
    meta.ensure(&path.root()).await.map_err(failed)?;
    let create = Write::Create { path: path.started(), data: bytes::Bytes::new(), ephemeral: false };
    match meta.multi(vec![create]).await {
        Ok(_) | Err(MetaError::Exists { .. }) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

//! From an assigned partition to a task that can go on: claim, read Kafka, resolve, restore.
//!
//! The order is the protocol's: the head is claimed before Kafka is asked. All of it runs beside the worker thread, each task by
//! itself, and the end of it is reported back. Only the first offsets of a task without state are committed by the thread, which
//! alone knows that the partition is its own at that moment. An attempt whose partition was revoked meanwhile is dropped: its
//! number is no longer the slot's.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::AbortHandle;
use tokio::sync::mpsc;
use tracing::{Instrument, debug, info, info_span, warn};

use super::candidate::Candidate;
use super::compatible;
use super::failure::Failure;
use super::migration::{self, Migration, Mirror, OneWay, Route};
use super::orphans::Orphans;
use super::plan::Plan;
use super::runtime::Runtime;
use super::task::{self, Durable, Task};
use crate::checkpoint::head::Manifest;
use crate::checkpoint::ledger::Ledger;
use crate::checkpoint::protocol;
use crate::checkpoint::resolve::{self, GroupOffset, GroupOffsets, StatelessStart};
use crate::checkpoint::store::{Claim, StateError, TaskStore};
use crate::config::{Guarantee, Start};
use crate::engine::OpenError;
use crate::ids::TaskId;
use crate::kafka::TopicPartition;
use crate::kafka::clients::{ConsumerClient, Kafka, OffsetsClient};
use crate::kafka::consumer::CommitOffset;
use crate::kafka::offsets::{self, RequestError};
use crate::meta::layout;
use crate::meta::{MetaError, MetaStore, Write};
use crate::state::TaskState;

/// How long Kafka may take to answer, before it is asked again.
const KAFKA_WAIT: Duration = Duration::from_secs(1);
/// How long the thread waits for the group to take the first offsets of tasks.
const FIRST_OFFSETS_WAIT: Duration = Duration::from_secs(1);
/// Pause before what could not be had is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// Attempts to open a plugin that says it failed.
const OPEN_ATTEMPTS: u32 = 5;

/// What an attempt came to.
pub enum Progress {
    /// It can go on.
    Up(Box<Task>),
    /// Without state, at the very first start: the group has to have these offsets before it can go on.
    First(Vec<CommitOffset>),
}

/// Progress of an attempt.
pub struct Report {
    /// Which task.
    pub partition: u32,
    attempt: u64,
    outcome: Result<Progress, Failure>,
}

/// One attempt to bring a task up.
pub struct Attempt {
    number: u64,
    began: Instant,
    running: AbortHandle,
}

impl Attempt {
    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.running.abort();
    }
}

type OffsetsOf<K> = <<K as Kafka>::Consumer as ConsumerClient>::Offsets;

/// What it takes to bring up the tasks of one thread.
#[derive(Clone)]
pub struct Means<K: Kafka> {
    /// The pipeline.
    pub plan: Arc<Plan>,
    /// What it was before, in this process.
    pub former: Option<Arc<Plan>>,
    /// The candidate of a rollout.
    pub candidate: Option<Arc<Candidate>>,
    /// Where heads and chunks are.
    pub meta: Arc<dyn MetaStore>,
    /// What the work runs on.
    pub runtime: Arc<dyn Runtime>,
    /// What the group has committed.
    pub offsets: OffsetsOf<K>,
    /// As whom the thread claims.
    pub owner: String,
    /// Transactions of threads that have died.
    pub orphans: Arc<Orphans<K>>,
}

/// Brings tasks up.
pub struct Restorer<K: Kafka> {
    means: Means<K>,
    last_attempt: u64,
    reports: mpsc::UnboundedSender<Report>,
    inbox: mpsc::UnboundedReceiver<Report>,
}

impl<K: Kafka> Restorer<K> {
    /// For the tasks of one thread.
    #[must_use]
    pub fn new(means: Means<K>) -> Self {
        let (reports, inbox) = mpsc::unbounded_channel();
        Self { means, last_attempt: 0, reports, inbox }
    }

    /// Goes on by another plan.
    pub fn change(&mut self, plan: Arc<Plan>) {
        self.means.former = Some(std::mem::replace(&mut self.means.plan, plan));
    }

    /// Another candidate, or none.
    pub fn try_out(&mut self, candidate: Option<Arc<Candidate>>) {
        self.means.candidate = candidate;
    }

    /// Begins to bring a task up.
    pub fn begin(&mut self, partition: u32) -> Attempt {
        self.begin_after(partition, Duration::ZERO)
    }

    fn begin_after(&mut self, partition: u32, pause: Duration) -> Attempt {
        self.last_attempt += 1;
        let (reports, number) = (self.reports.clone(), self.last_attempt);
        let bringing = Bringing { id: self.means.plan.task(partition), partition, means: self.means.clone() };
        let running = self.means.runtime.spawn_abortable(async move {
            if !pause.is_zero() {
                bringing.means.runtime.pause(pause).await;
            }
            let span = info_span!(target: "sluicegate", parent: None, "bring up", task = %bringing.id);
            let bring_up = async {
                match bringing.means.plan.is_stateful() {
                    true => bringing.stateful().await.map(|task| Progress::Up(Box::new(task))),
                    false => bringing.stateless().await,
                }
            };
            let outcome = bring_up.instrument(span).await;
            // The thread is gone: nobody waits for the task any more.
            let _ = reports.send(Report { partition, attempt: number, outcome });
        });
        Attempt { number, began: self.means.runtime.now(), running }
    }

    /// The next report, if there is one.
    pub fn next_report(&mut self) -> Option<Report> {
        self.inbox.try_recv().ok()
    }

    /// What this attempt came to; `None` when the report is of an earlier one.
    ///
    /// # Errors
    /// The task cannot come up.
    pub fn report(&self, attempt: &Attempt, report: Report) -> Result<Option<Progress>, Failure> {
        if report.attempt == attempt.number { report.outcome.map(Some) } else { Ok(None) }
    }

    /// Commits the first offsets of tasks without state. Returns the attempts that go on from there.
    pub fn commit_first(
        &mut self,
        first: &[(u32, Vec<CommitOffset>)],
        consumer: &mut K::Consumer,
    ) -> Vec<(u32, Attempt)> {
        let offsets: Vec<CommitOffset> = first.iter().flat_map(|(_, offsets)| offsets.iter().cloned()).collect();
        let pause = match consumer.commit(&offsets, FIRST_OFFSETS_WAIT) {
            Ok(()) => Duration::ZERO,
            // Not their owner any more, or no answer: the group says what comes next.
            Err(error) => {
                warn!("waiting: {error}");
                PAUSE
            }
        };
        first.iter().map(|(partition, _)| (*partition, self.begin_after(*partition, pause))).collect()
    }
}

/// A task that is being brought up.
struct Bringing<K: Kafka> {
    partition: u32,
    id: TaskId,
    means: Means<K>,
}

impl<K: Kafka> Bringing<K> {
    async fn stateful(&self) -> Result<Task, Failure> {
        let store = TaskStore::new(Arc::clone(&self.means.meta), self.id.clone());
        loop {
            let claimed = store.claim(&self.means.owner, |pause| self.means.runtime.pause(pause));
            let claim = match claimed.instrument(info_span!(target: "sluicegate", "claim")).await {
                Ok(claim) => claim,
                Err(StateError::NoHead { .. }) => {
                    let (nonce, offsets) = (self.means.runtime.nonce(), self.genesis_offsets().await?);
                    let head = protocol::genesis(
                        nonce,
                        offsets,
                        self.means.plan.source_partitions(),
                        self.means.plan.identities(),
                    );
                    self.through_outages(|| store.genesis(&head)).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(owner) = claim.may_have_left_open() {
                self.means.orphans.watch(owner);
            }
            let kafka = self.committed().instrument(info_span!(target: "sluicegate", "ask kafka")).await?;
            let restored =
                self.restore(&store, &claim, &kafka).instrument(info_span!(target: "sluicegate", "read state"));
            match restored.await {
                Ok(restored) => {
                    let resumed = self.resume(claim, restored, &kafka);
                    return resumed.instrument(info_span!(target: "sluicegate", "open plugins")).await;
                }
                // Who has lost the task and does not know it is answered what the next owner has committed, and misses chunks
                // that have gone since.
                Err(_) if self.is_superseded(&claim).await => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The state of the manifest that is to be believed.
    async fn restore(&self, store: &TaskStore, claim: &Claim, kafka: &GroupOffsets) -> Result<Restored, Failure> {
        let began = self.means.runtime.now();
        let manifest = resolve::resolve(claim.head(), kafka)
            .map_err(|disagreement| Failure::Disagreement { task: self.id.clone(), disagreement })?;
        let plan = self.plan_of(manifest);
        let known = compatible::offsets(&plan, claim.head(), manifest)?;
        let is_new = known.contains(&None);
        let conversions = compatible::conversions((&plan, &self.formers()), &self.id, manifest)?;
        let offsets = self.offsets(known).await?;
        let (state, ledger) = self
            .through_outages(|| async {
                let mut state = plan.empty_state();
                let ledger = store.restore(claim.head(), manifest, &mut state).await?;
                Ok((state, ledger))
            })
            .await?;
        let converted = !conversions.is_empty();
        let state = if converted { self.convert(&plan, conversions, state).await? } else { state };
        let (keys, bytes, took) = (state.len(), state.bytes(), self.means.runtime.since(began));
        info!(task = %self.id, epoch = %manifest.id.epoch, keys, bytes, ?offsets, ?took, "restored");
        Ok(Restored { manifest: manifest.clone(), plan, offsets, is_new, converted, state, ledger })
    }

    /// Makes state that the plan's plugins read of what an earlier version has left.
    async fn convert(
        &self,
        plan: &Arc<Plan>,
        conversions: Vec<(usize, Vec<Route>)>,
        mut state: TaskState,
    ) -> Result<TaskState, Failure> {
        let (plan, id, now_ms) = (Arc::clone(plan), self.id.clone(), self.means.runtime.now_ms());
        let formers = self.formers();
        let convert = move || {
            migration::convert_all((&plan, &formers), &id, conversions, &mut state, now_ms)?;
            info!(task = %id, "converted the state of an earlier version");
            Ok(state)
        };
        match self.means.runtime.blocking(Box::new(convert)).await {
            Some(converted) => converted,
            // The runtime is being shut down.
            None => std::future::pending().await,
        }
    }

    /// Plans that may have made a state which the plan does not read.
    fn formers(&self) -> Vec<Arc<Plan>> {
        let candidate = self.means.candidate.iter().map(|candidate| &candidate.plan);
        candidate.chain(&self.means.former).cloned().collect()
    }

    /// What made the state: in a rollout some tasks run the candidate and some do not.
    fn plan_of(&self, manifest: &Manifest) -> Arc<Plan> {
        let made_it = |plan: &Plan, at: usize| {
            let identity = &plan.transforms[at].identity;
            manifest.transforms.iter().any(|written| written.is_same_version(identity))
        };
        match &self.means.candidate {
            Some(candidate)
                if made_it(&candidate.plan, candidate.transform)
                    && (candidate.is_one_way() || candidate.may_go_back_from(manifest)) =>
            {
                Arc::clone(&candidate.plan)
            }
            _ => Arc::clone(&self.means.plan),
        }
    }

    /// Without state, what is wanted.
    fn plan_wanted(&self) -> Arc<Plan> {
        match &self.means.candidate {
            Some(candidate) if candidate.is_wanted(self.partition) => Arc::clone(&candidate.plan),
            _ => Arc::clone(&self.means.plan),
        }
    }

    /// With those that are not known yet.
    async fn offsets(&self, known: Vec<Option<i64>>) -> Result<Vec<i64>, Failure> {
        let sources = self.means.plan.sources.iter().zip(&known);
        let missing: Vec<&str> =
            sources.filter(|(_, known)| known.is_none()).map(|(source, _)| source.topic.as_str()).collect();
        let chosen = self.start_offsets(|topic| missing.contains(&topic)).await?;
        let mut chosen = chosen.into_iter().map(|(_, offset)| offset);
        Ok(known.into_iter().map(|known| known.or_else(|| chosen.next()).unwrap_or_default()).collect())
    }

    async fn resume(&self, mut claim: Claim, restored: Restored, kafka: &GroupOffsets) -> Result<Task, Failure> {
        let Restored { manifest, plan, offsets, is_new, converted, state, ledger } = restored;
        if let Err(error) = claim.sweep().await {
            debug!(task = %self.id, "chunks left behind stay until the next claim: {error}");
        }
        claim.restored(manifest.id);
        let mut task = self.open(plan, state, Some(Durable { claim, ledger }), offsets).await?;
        task.remember(&manifest);
        // Under exactly-once Kafka gets to know what the task goes on from, even if no record comes.
        task.converted = converted;
        task.dirty = is_new
            || converted
            || (self.means.plan.guarantee == Guarantee::ExactlyOnce && !resolve::names(kafka, &manifest));
        Ok(task)
    }

    async fn stateless(&self) -> Result<Progress, Failure> {
        let gone = |gone| Failure::OffsetsGone { task: self.id.clone(), gone };
        // The topic of dead letters may have come to the pipeline later.
        let letters = self.means.plan.sources.get(self.means.plan.inputs).map(|source| source.topic.as_str());
        let mut start = resolve::resolve_stateless(&self.committed().await?, letters, false).map_err(gone)?;
        if let StatelessStart::Genesis { .. } = start {
            // Asked in this order: somebody may have started it since Kafka was asked first.
            let started = self.through_outages(|| started_once(&*self.means.meta, &self.id)).await?;
            start = resolve::resolve_stateless(&self.committed().await?, letters, started).map_err(gone)?;
        }
        match start {
            StatelessStart::Resume(offsets) => {
                self.note_start();
                let offsets = self.means.plan.sources.iter().map(|source| offsets[&source.topic]).collect();
                let plan = self.plan_wanted();
                let state = plan.empty_state();
                let task = self.open(plan, state, None, offsets).await?;
                Ok(Progress::Up(Box::new(task)))
            }
            StatelessStart::Genesis { missing } => {
                let chosen = self.start_offsets(move |topic| missing.iter().any(|name| name == topic)).await?;
                let first = |(partition, offset)| CommitOffset { partition, offset, metadata: String::new() };
                Ok(Progress::First(chosen.into_iter().map(first).collect()))
            }
        }
    }

    /// Notes that the task has started once, beside the task, which does not wait for the metadata store. Each time: the process
    /// may have ended, or the answer been lost, between the first offsets and the note.
    fn note_start(&self) {
        let (meta, id, runtime) = (Arc::clone(&self.means.meta), self.id.clone(), Arc::clone(&self.means.runtime));
        let note = async move {
            if let Err(error) = through_outages(&*runtime, || note_started(&*meta, &id)).await {
                warn!(task = %id, "it is not noted that the task has started: {error}");
            }
        };
        self.means.runtime.spawn(note.boxed());
    }

    /// What the group has committed for the inputs of the task, in one request.
    async fn committed(&self) -> Result<GroupOffsets, Failure> {
        let partitions: Vec<TopicPartition> = task::partitions(self.partition, self.means.plan.sources.len()).collect();
        let committed = self.ask(move |offsets| offsets.committed(&partitions, KAFKA_WAIT)).await?;
        let by_topic = self.means.plan.sources.iter().zip(committed);
        Ok(by_topic
            .map(|(source, found)| {
                (source.topic.clone(), GroupOffset { offset: found.offset, metadata: found.metadata })
            })
            .collect())
    }

    /// Where the pipeline says to start, for the topics that `wanted` names.
    async fn start_offsets(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<(TopicPartition, i64)>, Failure> {
        let mut found = Vec::new();
        let inputs = task::partitions(self.partition, self.means.plan.sources.len()).zip(&self.means.plan.sources);
        for (at, source) in inputs.filter(|(_, source)| wanted(&source.topic)) {
            let start = match source.start {
                Start::Earliest => offsets::Start::Earliest,
                Start::Latest => offsets::Start::Latest,
                Start::Timestamp(timestamp) => offsets::Start::Timestamp(timestamp),
            };
            found.push((at, self.ask(move |offsets| offsets.start_offset(at, start, KAFKA_WAIT)).await?));
        }
        Ok(found)
    }

    /// Where a task without head starts: where the group stands, for a pipeline that had no state before, and where the
    /// pipeline says only for topics without an offset.
    async fn genesis_offsets(&self) -> Result<BTreeMap<String, i64>, Failure> {
        let kafka = self.committed().await?;
        let known: BTreeMap<String, i64> =
            kafka.into_iter().filter_map(|(topic, group)| Some((topic, group.offset?))).collect();
        let chosen = self.start_offsets(|topic| !known.contains_key(topic)).await?;
        let chosen = chosen
            .into_iter()
            .filter_map(|(at, offset)| Some((self.means.plan.sources.get(at.input as usize)?.topic.clone(), offset)));
        Ok(chosen.chain(known).collect())
    }

    /// Asks Kafka, where it may block, until it answers.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&OffsetsOf<K>) -> Result<T, RequestError> + Clone + Send + 'static,
    ) -> Result<T, Failure> {
        let mut said = false;
        loop {
            let (offsets, question) = (self.means.offsets.clone(), question.clone());
            match self.means.runtime.blocking(Box::new(move || question(&offsets))).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) if error.is_retriable() => {
                    say_once(&mut said, Some(self.partition), &error);
                    self.means.runtime.pause(PAUSE).await;
                }
                Some(Err(error)) => return Err(error.into()),
                // The runtime is being shut down.
                None => std::future::pending().await,
            }
        }
    }

    /// Opens the instances; the last step. A plugin that says it failed is opened again a few times.
    async fn open(
        &self,
        mut plan: Arc<Plan>,
        mut state: TaskState,
        durable: Option<Durable>,
        offsets: Vec<i64>,
    ) -> Result<Task, Failure> {
        let mut pause = Duration::from_millis(100);
        for attempt in 1.. {
            let (its_plan, partition, now_ms) = (Arc::clone(&plan), self.partition, self.means.runtime.now_ms());
            // Guests run on a thread that may block.
            let candidate = self.means.candidate.clone().filter(|candidate| Arc::ptr_eq(&candidate.plan, &plan));
            let is_one_way = candidate.as_ref().is_some_and(|candidate| candidate.is_one_way());
            let open = move || {
                let instances = task::instantiate(&its_plan, partition, now_ms)?;
                let mirror = candidate.filter(|candidate| !candidate.routes.is_empty()).map(|candidate| {
                    if candidate.is_one_way() {
                        return Ok(Migration::OneWay(OneWay::default()));
                    }
                    let opened = candidate.converter(partition, now_ms);
                    let converter = opened.map_err(|error| (candidate.transform, OpenError::Failed(error)))?;
                    let mirror = Box::new(Mirror::new(&candidate.routes, converter));
                    Ok(Migration::Mirroring { transform: candidate.transform, mirror })
                });
                Ok((instances, mirror.transpose()?))
            };
            match self.means.runtime.blocking(Box::new(open)).await {
                Some(Ok((instances, migration))) => {
                    let task = Task::new(partition, plan, instances, state, durable, offsets);
                    return Ok(Task { migration, ..task });
                }
                // A candidate does not keep a task from coming up, if there is a way back.
                Some(Err((at, error))) if !Arc::ptr_eq(&plan, &self.means.plan) && !is_one_way => {
                    let transform = &plan.transforms[at].name;
                    warn!(
                        partition,
                        transform, "the candidate does not start, coming up with the version before: {error}"
                    );
                    plan = Arc::clone(&self.means.plan);
                    state.declare(plan.stores());
                }
                Some(Err((at, error))) => {
                    let transform = plan.transforms[at].name.clone();
                    if !error.is_transient() || attempt == OPEN_ATTEMPTS {
                        return Err(Failure::Open { transform, error });
                    }
                    warn!(partition, transform, attempt, "a plugin does not start, trying again: {error}");
                }
                // The runtime is being shut down.
                None => break,
            }
            self.means.runtime.pause(pause).await;
            pause *= 2;
        }
        std::future::pending().await
    }

    async fn through_outages<T, F: Future<Output = Result<T, StateError>>>(
        &self,
        work: impl FnMut() -> F,
    ) -> Result<T, StateError> {
        through_outages(&*self.means.runtime, work).await
    }

    /// Whether somebody else has claimed the task since: then what was read for this claim stands for nothing.
    async fn is_superseded(&self, claim: &Claim) -> bool {
        let superseded = matches!(self.through_outages(|| claim.holds()).await, Ok(false));
        if superseded {
            warn!(owner = claim.head().owner, "somebody else claimed the task while it came up: claiming it again");
        }
        superseded
    }
}

/// State and position of a manifest.
struct Restored {
    manifest: Manifest,
    plan: Arc<Plan>,
    offsets: Vec<i64>,
    /// Some of the offsets are not in the manifest.
    is_new: bool,
    /// The state is not that of the manifest, but what its plugins read.
    converted: bool,
    state: TaskState,
    ledger: Ledger,
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
                say_once(&mut said, None, &error);
                runtime.pause(PAUSE).await;
            }
            result => return result,
        }
    }
}

fn say_once(said: &mut bool, partition: Option<u32>, error: &dyn Display) {
    if !std::mem::replace(said, true) {
        warn!(partition, "waiting: {error}");
    }
}

async fn started_once(meta: &dyn MetaStore, task: &TaskId) -> Result<bool, StateError> {
    let failed = |source| StateError::Meta { task: task.clone(), source };
    Ok(meta.get(&layout::TaskPath::new(task).started()).await.map_err(failed)?.is_some())
}

async fn note_started(meta: &dyn MetaStore, task: &TaskId) -> Result<(), StateError> {
    let failed = |source| StateError::Meta { task: task.clone(), source };
    let path = layout::TaskPath::new(task);
    meta.ensure(&path.root()).await.map_err(failed)?;
    let create = Write::Create { path: path.started(), data: bytes::Bytes::new(), ephemeral: false };
    match meta.multi(vec![create]).await {
        Ok(_) | Err(MetaError::Exists { .. }) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

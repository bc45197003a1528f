//! A candidate over recorded input, from state of that time, compared with what was really sent, or with the versions that ran.
//!
//! Reads only: source topics, sinks, heads and savepoints. Nothing is written, and no group is joined.
//!
//! Which of the two comparisons was made is part of the result. With what was sent, each record is matched with its cause by the
//! header that it carries; what differs then may also be due to the hour, or to the order of several inputs, which are not
//! recorded. With the versions that ran, both runs see the same, so that only the versions differ; that they did the same at the
//! time is not known.

pub mod letters;
mod prepare;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;

use self::prepare::Prepared;
use super::NodeError;
use super::deploy::PATIENCE;
use super::group::Group;
use super::load::Loader;
use super::offline::run::without_world;
use super::offline::snapshot::SnapshotError;
use super::offline::tape::Tape;
use super::offline::{NotRun, Run, emitted, states};
use super::swap::{self, Source};
use crate::cluster::pipelines::{PipelineRecord, Specification};
use crate::cluster::savepoints::SavepointError;
use crate::comparison::outcome;
use crate::comparison::{Comparison, Counts, Example, Naming, Outcomes, StoreDifference};
use crate::config::{Cluster, Guarantee, Pipeline};
use crate::digest;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::worker::control::Control;
use crate::worker::plan::Plan;

/// Bytes of each input of a task that are read at most.
const BYTES_MAX: usize = 256 << 20;
/// Bytes of outputs that are held for the comparison with what was sent.
const OUTCOME_BYTES_MAX: usize = 256 << 20;

/// Where to begin.
#[derive(Clone, Debug)]
pub enum Begin {
    /// As far back as there is state; without state so many records before what is committed as are to be replayed.
    Default,
    /// At this offset of the source partition.
    Offset(i64),
    /// At the first record of this time, in milliseconds since 1970.
    Time(i64),
    /// Where a savepoint was made.
    Savepoint(Segment),
}

/// What the candidate is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// What was really sent.
    Emitted,
    /// A run of the versions that ran then.
    Present,
}

/// What of the pipeline is to be another version.
#[derive(Clone, Debug)]
pub struct Change {
    /// Name of the transform.
    pub transform: String,
    /// Its plugin; as recorded if none.
    pub source: Option<Source>,
    /// Its configuration; as recorded if none.
    pub config: Option<Value>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The candidate; what is recorded of the pipeline if none.
    pub change: Option<Change>,
    /// Where to begin.
    pub begin: Begin,
    /// So many records of each source topic for each task at most.
    pub records: usize,
    /// Only these tasks; all if there are none.
    pub tasks: Vec<u32>,
    /// What to compare with; what the pipeline allows if it is not said.
    pub against: Option<Against>,
}

/// What was replayed of a task.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplayedTask {
    /// Its number.
    pub task: u32,
    /// The first offset that was compared, by topic.
    pub from: BTreeMap<String, i64>,
    /// The offset behind the last one.
    pub to: BTreeMap<String, i64>,
    /// Records that were compared.
    pub records: usize,
    /// Where the state was taken from; none without state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Records before the first that only brought the state there.
    #[serde(skip_serializing_if = "is_zero")]
    pub brought_up: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What it came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replayed {
    /// What was compared with.
    pub against: Against,
    /// Why with that, where nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The transforms as the candidate has them.
    pub candidate: Vec<String>,
    /// The tasks.
    pub tasks: Vec<ReplayedTask>,
    /// How the outputs compare; the candidate is the second.
    pub counts: Counts,
    /// A few records of which something else came.
    pub examples: Vec<Example>,
    /// How the states compare; only against a run.
    pub stores: Vec<StoreDifference>,
    /// Where the candidate would have stopped the pipeline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<String>,
    /// What the comparison cannot say.
    pub notes: Vec<String>,
}

impl Replayed {
    /// Whether the candidate does anything else.
    #[must_use]
    pub fn differs(&self) -> bool {
        let entries: u64 = self.stores.iter().map(StoreDifference::differences).sum();
        self.counts.differences() + entries > 0 || !self.stopped.is_empty()
    }
}

/// Replays.
///
/// # Errors
/// What was asked for is wrong, or something cannot be read.
pub async fn replay(
    cluster: &Arc<Cluster>,
    store: &Arc<dyn MetaStore>,
    name: &Segment,
    record: PipelineRecord,
    request: Request,
) -> Result<Replayed, NodeError> {
    let mut loader = Loader::of_command(cluster, store)?;
    let recorded = &record.specification;
    let pipeline = Pipeline::parse(Path::new("recorded"), &recorded.file).map_err(NodeError::Config)?;
    let specification = match &request.change {
        None => recorded.clone(),
        Some(change) => {
            let at = pipeline.transforms.iter().position(|transform| transform.name == change.transform);
            let at = at.ok_or_else(|| unknown_transform(&pipeline, &change.transform))?;
            let (source, config) = (change.source.as_ref(), change.config.as_ref());
            swap::changed(&mut loader, recorded, at, source, config).await?.specification
        }
    };
    if let Some(unknown) = request.tasks.iter().find(|task| **task >= recorded.partitions) {
        let last = recorded.partitions.saturating_sub(1);
        return Err(refused(format!("there is no task {unknown}: they go from 0 to {last}")));
    }
    if matches!(request.begin, Begin::Offset(_)) && pipeline.sources.len() > 1 {
        return Err(refused(format!(
            "pipeline `{name}` has {} source topics, and an offset is of one: begin at a time or a savepoint",
            pipeline.sources.len()
        )));
    }
    let candidate = plan(&loader, &record, &specification).await?;
    let group = Group::new(cluster, &record).map_err(NodeError::Refused)?;
    let tape = Tape::open(&loader.kafka, &candidate)?;
    let says_where_from = pipeline.delivery.provenance_headers;
    let stage = Stage {
        handle: Handle::current(),
        store: Arc::clone(store),
        name: name.clone(),
        loader,
        group,
        tape,
        candidate,
        record,
        request,
        versions: BTreeMap::new(),
    };
    let replayed = tokio::task::spawn_blocking(move || stage.replay(says_where_from)).await;
    replayed.map_err(|error| NodeError::Kafka(error.to_string()))?
}

fn unknown_transform(pipeline: &Pipeline, transform: &str) -> NodeError {
    let names: Vec<String> = pipeline.transforms.iter().map(|transform| format!("`{}`", transform.name)).collect();
    refused(format!("pipeline `{}` has no transform `{transform}`; it has {}", pipeline.name, names.join(", ")))
}

/// The plan of a specification, as a run takes it.
async fn plan(loader: &Loader, record: &PipelineRecord, specification: &Specification) -> Result<Arc<Plan>, NodeError> {
    let never = Arc::new(Control::default());
    let record = PipelineRecord { specification: specification.clone(), ..record.clone() };
    let loaded = loader.load_recorded(&record, Some(PATIENCE), &never).await?.expect("nobody drains it");
    let plan = loader.plan(loaded, record.revision, record.incarnation).await?;
    Ok(without_world(&plan)?)
}

/// Everything that a replay takes; on a thread that may block.
struct Stage {
    handle: Handle,
    store: Arc<dyn MetaStore>,
    name: Segment,
    loader: Loader,
    group: Group,
    tape: Tape,
    candidate: Arc<Plan>,
    record: PipelineRecord,
    request: Request,
    /// Plans of versions that ran, by the digests of their specifications.
    versions: BTreeMap<String, Arc<Plan>>,
}

impl Stage {
    fn replay(mut self, says_where_from: bool) -> Result<Replayed, NodeError> {
        let replayed = match (self.request.against, says_where_from) {
            (Some(Against::Present), _) => self.against_present(None)?,
            (Some(Against::Emitted), _) => self.against_emitted()?.map_err(NodeError::Refused)?,
            (None, true) => match self.against_emitted()? {
                Ok(replayed) => replayed,
                Err(why) => self.against_present(Some(why))?,
            },
            (None, false) => {
                let why =
                    "the pipeline has no `provenance-headers`, so that what was sent does not say where it comes from";
                self.against_present(Some(why.to_owned()))?
            }
        };
        if replayed.counts.records == 0 && replayed.stopped.is_empty() {
            let notes: String = replayed.notes.iter().map(|note| format!("\n{note}")).collect();
            return Err(refused(format!(
                "there is no record of pipeline `{}` to replay from there on: begin earlier, with --from{notes}",
                self.name
            )));
        }
        Ok(replayed)
    }

    fn tasks(&self) -> Vec<u32> {
        match self.request.tasks.is_empty() {
            true => (0..self.candidate.partitions).collect(),
            false => self.request.tasks.clone(),
        }
    }

    fn blank(&self, against: Against, because: Option<String>) -> Replayed {
        let of = |transform: &crate::worker::plan::TransformPlan| {
            let (manifest, identity) = (transform.plugin.manifest(), &transform.identity);
            let [plugin, config] = [&identity.plugin, &identity.config].map(|hex| digest::short(hex));
            let (name, version) = (&manifest.name, &manifest.version);
            format!("{}: {name}@{version}, plugin {plugin}, configuration {config}", transform.name)
        };
        let mut notes = Vec::new();
        if self.candidate.inputs > 1 {
            notes.push("the records of several inputs were merged by their timestamps; the pipeline may have seen them in another order".to_owned());
        }
        Replayed {
            against,
            because,
            candidate: self.candidate.transforms.iter().map(of).collect(),
            tasks: Vec::new(),
            counts: Counts::default(),
            examples: Vec::new(),
            stores: Vec::new(),
            stopped: Vec::new(),
            notes,
        }
    }

    fn naming(&self) -> Naming {
        let sinks = self.candidate.sinks.iter().map(|sink| sink.topic.clone()).collect();
        Naming { sources: self.tape.topics(), sinks, ..Naming::default() }
    }

    fn run(&self, plan: &Arc<Plan>, prepared: &Prepared, former: Option<&Arc<Plan>>) -> Result<Run, NotRun> {
        let now_ms = prepared.recording.begins_ms();
        let state = (&prepared.state, prepared.manifest.as_ref(), former);
        Run::new(plan, prepared.number, state, now_ms, None)
    }

    /// Compares with what was sent; why that cannot be done, if the sinks do not say enough.
    fn against_emitted(&mut self) -> Result<Result<Replayed, String>, NodeError> {
        let mut replayed = self.blank(Against::Emitted, None);
        let (mut outcomes, mut bytes) = (Outcomes::new(), 0);
        let mut since: Option<Option<i64>> = None;
        for task in self.tasks() {
            let Some(prepared) = self.prepare(task, &mut replayed)? else { continue };
            let mut run = match self.run(&self.candidate, &prepared, None) {
                // The version that made the state may be the one that converts it.
                Err(NotRun::State(_)) => {
                    let former = self.version(&prepared, &mut Vec::new())?;
                    self.run(&self.candidate, &prepared, Some(&former))?
                }
                run => run?,
            };
            for batch in &prepared.recording.batches {
                match run.process(batch) {
                    Ok(came) => {
                        let came = prepared.compared(came);
                        bytes += outcome::bytes(&came);
                        outcomes.extend(came);
                    }
                    Err(stopped) => {
                        replayed.stopped.push(stopped.reason);
                        break;
                    }
                }
            }
            let oldest = prepared.since();
            since = Some(match since {
                None => oldest,
                Some(known) => known.zip(oldest).map(|(one, other)| one.min(other)),
            });
            if bytes > OUTCOME_BYTES_MAX {
                replayed.notes.push(format!(
                    "the tasks behind {task} were not replayed: the outputs are too large; --task chooses"
                ));
                break;
            }
        }
        // A plugin may have put out records that are older than their causes.
        let oldest = outcomes.values().flat_map(|outcome| &outcome.sent).filter_map(|sent| sent.timestamp).min();
        let since = since.flatten().map(|since| oldest.map_or(since, |oldest| oldest.min(since)));
        let found = emitted::read(&self.loader.kafka, &self.candidate, &outcomes, since)?;
        let sends = outcomes.values().any(|outcome| !outcome.sent.is_empty());
        if found.matched == 0 && sends {
            return Ok(Err("no record of the sinks says that it comes from these records: `provenance-headers` under [delivery] was not set when they were sent".to_owned()));
        }
        if found.unattributed > 0 {
            let note =
                format!("{} records of the sinks in this range do not say where they come from", found.unattributed);
            if self.request.against.is_none() {
                return Ok(Err(note));
            }
            replayed.notes.push(format!("{note}: they are not compared, and may be what seems to be missing"));
        }
        let without_refusals = !(0..self.candidate.sinks.len()).any(|sink| self.candidate.is_dead_letters(sink));
        if without_refusals {
            replayed
                .notes
                .push("what was put aside is not compared: the pipeline has no topic for dead letters".to_owned());
        }
        let may_repeat = self.candidate.guarantee == Guarantee::AtLeastOnce;
        replayed.notes.push("plugins saw the time of the records, and not that of the hour".to_owned());
        let mut comparison = Comparison::new(Naming { without_refusals, may_repeat, ..self.naming() });
        comparison.add(&found.outcomes, &outcomes);
        (replayed.counts, replayed.examples) = (comparison.counts, comparison.examples());
        Ok(Ok(replayed))
    }

    /// Compares with a run of the versions that ran.
    fn against_present(&mut self, because: Option<String>) -> Result<Replayed, NodeError> {
        let mut replayed = self.blank(Against::Present, because);
        let mut comparison = Comparison::new(self.naming());
        let mut is_other = false;
        for task in self.tasks() {
            let Some(prepared) = self.prepare(task, &mut replayed)? else { continue };
            let version = self.version(&prepared, &mut replayed.notes)?;
            is_other |=
                version.transforms.iter().zip(&self.candidate.transforms).any(|(one, other)| !one.is_same(other));
            let mut first = self.run(&version, &prepared, None)?;
            let mut second = self.run(&self.candidate, &prepared, Some(&version))?;
            let mut halted = false;
            for batch in &prepared.recording.batches {
                match (first.process(batch), second.process(batch)) {
                    (Ok(one), Ok(other)) => comparison.add(&prepared.compared(one), &prepared.compared(other)),
                    (Ok(_), Err(stopped)) => {
                        replayed.stopped.push(stopped.reason);
                        halted = true;
                        break;
                    }
                    (Err(stopped), _) => {
                        replayed
                            .notes
                            .push(format!("the versions that ran would have stopped the pipeline: {stopped}"));
                        halted = true;
                        break;
                    }
                }
            }
            if !halted {
                states(&mut replayed.stores, task, &first, &second);
            }
        }
        if !is_other && !replayed.tasks.is_empty() {
            replayed
                .notes
                .push("the candidate is what ran: this shows only whether it does the same each time".to_owned());
        }
        (replayed.counts, replayed.examples) = (comparison.counts, comparison.examples());
        Ok(replayed)
    }
}

impl From<NotRun> for NodeError {
    fn from(error: NotRun) -> Self {
        Self::Refused(error.to_string())
    }
}

impl SnapshotError {
    /// Whether what was asked for is wrong.
    pub(super) fn is_bad_input(&self) -> bool {
        matches!(self, Self::Savepoint(SavepointError::Unknown { .. } | SavepointError::Incomplete { .. }))
    }
}

fn refused(message: impl Into<String>) -> NodeError {
    NodeError::Refused(message.into())
}

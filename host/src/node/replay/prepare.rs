//! What a replay of a task begins with: state of an earlier commit, the records from there on, and the versions that made that state.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Against, BYTES_MAX, Begin, Replayed, ReplayedTask, Stage, plan, refused};
use crate::checkpoint::head::{Manifest, TransformIdentity};
use crate::cluster::inspection;
use crate::cluster::pipelines::{self, Specification};
use crate::cluster::savepoints::{Offsets, Savepoints};
use crate::comparison::Outcomes;
use crate::config::Pipeline;
use crate::kafka::log::{Archive, LogError};
use crate::node::NodeError;
use crate::node::offline::snapshot::{self, Snapshot, SnapshotError};
use crate::node::offline::tape::Recording;
use crate::record::Batch;
use crate::state::TaskState;
use crate::worker::plan::Plan;

/// A task, ready to be replayed.
pub(super) struct Prepared {
    pub(super) number: u32,
    pub(super) state: TaskState,
    pub(super) manifest: Option<Manifest>,
    /// The first offset of each input that is compared.
    start: Vec<i64>,
    pub(super) recording: Recording,
}

impl Prepared {
    /// Leaves out what only brings the state to where the comparison begins.
    pub(super) fn compared(&self, mut outcomes: Outcomes) -> Outcomes {
        outcomes.retain(|cause, _| self.is_compared((cause.input, cause.partition, cause.offset)));
        outcomes
    }

    fn is_compared(&self, (input, _, offset): (u32, i32, i64)) -> bool {
        self.start.get(input as usize).is_some_and(|start| offset >= *start)
    }

    /// The oldest timestamp of what is compared; `None` where a record has none.
    pub(super) fn since(&self) -> Option<i64> {
        let batches = self.recording.batches.iter();
        let of = |batch: &Batch| {
            let timestamps = batch.origins().zip(batch.timestamps.clone());
            timestamps
                .filter(|(origin, _)| self.is_compared(*origin))
                .map(|(_, timestamp)| timestamp)
                .collect::<Vec<_>>()
        };
        batches.flat_map(of).min().filter(|&since| since > 0)
    }
}

impl Stage {
    /// Finds state and records of a task; `None` where there are none.
    pub(super) fn prepare(&self, task: u32, replayed: &mut Replayed) -> Result<Option<Prepared>, NodeError> {
        let partition = i32::try_from(task).unwrap_or(i32::MAX);
        let topics = self.tape.topics();
        let bounds = self.tape.inputs().iter().map(|input| input.bounds(partition));
        let bounds: Vec<Range<i64>> = bounds.collect::<Result<_, LogError>>()?;
        let committed = self.handle.block_on(self.committed(task))?;
        let Some(snapshot) = self.snapshot(task, &bounds, committed.as_ref(), &mut replayed.notes)? else {
            return Ok(None);
        };
        let Start { snapshot, start } = snapshot;
        let Snapshot { offsets, state, manifest, origin } = snapshot;
        let records = i64::try_from(self.request.records).unwrap_or(i64::MAX);
        let (mut ranges, mut to) = (Vec::new(), Vec::new());
        for ((topic, bounds), start) in topics.iter().zip(&bounds).zip(&start) {
            let end = match replayed.against {
                Against::Emitted => committed.as_ref().and_then(|of| of.get(topic).copied()).unwrap_or(bounds.start),
                Against::Present => bounds.end,
            };
            let end = end.min(bounds.end).min(start.saturating_add(records));
            let from = offsets.get(topic).copied().unwrap_or(*start).min(*start);
            if from < bounds.start {
                return Err(refused(format!(
                    "topic {topic} partition {task}: the records from offset {from} on, where the replay would begin, are gone; the oldest is {}",
                    bounds.start
                )));
            }
            ranges.push(from..end);
            to.push(end);
        }
        if start.iter().zip(&to).all(|(start, to)| start >= to) {
            return Ok(None);
        }
        let recording = self.tape.read(task, &ranges, BYTES_MAX, None)?;
        let prepared = Prepared { number: task, state, manifest, start, recording };
        let origins = prepared.recording.batches.iter().flat_map(Batch::origins);
        let compared = origins.filter(|origin| prepared.is_compared(*origin)).count();
        if prepared.recording.is_cut {
            replayed.notes.push(format!("of task {task}, only {compared} records were compared: more are too large"));
        }
        let by_topic = |offsets: &[i64]| topics.iter().cloned().zip(offsets.iter().copied()).collect();
        replayed.tasks.push(ReplayedTask {
            task,
            from: by_topic(&prepared.start),
            to: by_topic(&to),
            records: compared,
            state: prepared.manifest.is_some().then_some(origin),
            brought_up: prepared.recording.records() - compared,
        });
        Ok(Some(prepared))
    }

    /// What a task has committed, by topic.
    async fn committed(&self, task: u32) -> Result<Option<BTreeMap<String, i64>>, NodeError> {
        if self.candidate.is_stateful() {
            let position = inspection::position(&self.store, &self.group, &self.candidate.task(task)).await;
            return position.map_err(|error| SnapshotError::from(error).into());
        }
        let committed = self.group.committed(self.record.incarnation, task).await.map_err(NodeError::Kafka)?;
        let offsets = committed.into_iter().filter_map(|(topic, group)| Some((topic, group.offset?)));
        let offsets: BTreeMap<String, i64> = offsets.collect();
        Ok((!offsets.is_empty()).then_some(offsets))
    }

    /// State of a task to begin with, and where.
    fn snapshot(
        &self,
        task: u32,
        bounds: &[Range<i64>],
        committed: Option<&BTreeMap<String, i64>>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Start>, NodeError> {
        let partition = i32::try_from(task).unwrap_or(i32::MAX);
        let topics = self.tape.topics();
        let savepoints = Savepoints::new(Arc::clone(&self.store), &self.group, self.name.clone());
        let wanted: Option<Vec<i64>> = match &self.request.begin {
            Begin::Savepoint(name) => {
                let saved = self.handle.block_on(snapshot::saved(&savepoints, name, task))?;
                if saved.is_none() {
                    notes.push(format!("task {task} had never started when savepoint `{name}` was made"));
                }
                return Ok(saved.and_then(|saved| Start::at(saved, &topics)));
            }
            Begin::Offset(offset) => Some(vec![*offset]),
            Begin::Time(time) => {
                let at =
                    |(input, bounds): (&Archive, &Range<i64>)| Ok(input.at(partition, *time)?.unwrap_or(bounds.end));
                Some(self.tape.inputs().iter().zip(bounds).map(at).collect::<Result<_, LogError>>()?)
            }
            Begin::Default if self.candidate.is_stateful() => None,
            Begin::Default => {
                let Some(committed) = committed else { return Ok(None) };
                let records = i64::try_from(self.request.records).unwrap_or(i64::MAX);
                let before = |(topic, bounds): (&String, &Range<i64>)| {
                    committed.get(topic).map(|next| next.saturating_sub(records).max(bounds.start))
                };
                let Some(wanted) = topics.iter().zip(bounds).map(before).collect() else { return Ok(None) };
                Some(wanted)
            }
        };
        if !self.candidate.is_stateful() {
            let Some(start) = wanted else { return Ok(None) };
            let offsets = topics.iter().cloned().zip(start.iter().copied()).collect();
            let snapshot = Snapshot { offsets, state: TaskState::default(), manifest: None, origin: String::new() };
            return Ok(Some(Start { snapshot, start }));
        }
        let by_topic = wanted.as_ref().map(|wanted| topics.iter().cloned().zip(wanted.iter().copied()).collect());
        let id = self.candidate.task(task);
        let found = self.handle.block_on(snapshot::before(&self.store, &savepoints, &id, by_topic.as_ref()))?;
        match (found, wanted) {
            (Some(snapshot), Some(start)) => Ok(Some(Start { snapshot, start })),
            (Some(snapshot), None) => Ok(Start::at(snapshot, &topics)),
            (None, None) => Ok(None),
            (None, Some(_)) if committed.is_none() => Ok(None),
            (None, Some(_)) => Err(refused(format!(
                "there is no state of task {task} at or before that place any more: begin at a savepoint; `sluicegate savepoint list {}` shows what there is",
                self.name
            ))),
        }
    }

    /// The versions that made the state of a task, as a run takes them.
    pub(super) fn version(&mut self, prepared: &Prepared, notes: &mut Vec<String>) -> Result<Arc<Plan>, NodeError> {
        let specification = match &prepared.manifest {
            None => None,
            Some(manifest) => self.handle.block_on(self.specification(&manifest.transforms))?,
        };
        if specification.is_none() && prepared.manifest.is_some() {
            notes.push(format!(
                "the versions that made the state of task {} are not known any more: what is recorded now took their place",
                prepared.number
            ));
        }
        let specification = specification.unwrap_or_else(|| self.record.specification.clone());
        if let Some(known) = self.versions.get(&specification.digest) {
            return Ok(Arc::clone(known));
        }
        let plan = self.handle.block_on(plan(&self.loader, &self.record, &specification))?;
        self.versions.insert(specification.digest, Arc::clone(&plan));
        Ok(plan)
    }

    /// The specification that has all of these transforms: plugins and configurations.
    async fn specification(&self, transforms: &[TransformIdentity]) -> Result<Option<Specification>, NodeError> {
        let mut known = vec![self.record.specification.clone()];
        known.extend(self.record.rollout.iter().map(|rollout| rollout.candidate.clone()));
        let revisions = pipelines::revisions(&*self.store, &self.name).await?;
        known.extend(revisions.into_iter().rev().map(|revision| revision.specification));
        Ok(known.into_iter().find(|specification| has_all(specification, transforms)))
    }
}

/// A snapshot, and the first offset of each input that is compared.
struct Start {
    snapshot: Snapshot,
    start: Vec<i64>,
}

impl Start {
    /// Right where the snapshot was made; `None` if that does not say where in each topic.
    fn at(snapshot: Snapshot, topics: &[String]) -> Option<Self> {
        let start = topics.iter().map(|topic| snapshot.offsets.get(topic).copied()).collect::<Option<_>>()?;
        Some(Self { snapshot, start })
    }
}

fn has_all(specification: &Specification, transforms: &[TransformIdentity]) -> bool {
    let Ok(pipeline) = Pipeline::parse(Path::new("recorded"), &specification.file) else { return false };
    let named = |identity: &TransformIdentity| {
        let at = pipeline.transforms.iter().position(|transform| transform.name == identity.name);
        at.is_some_and(|at| {
            specification.plugins.get(at) == Some(&identity.plugin)
                && pipeline.config_hash(at).as_ref() == Some(&identity.config)
        })
    };
    transforms.len() == pipeline.transforms.len() && transforms.iter().all(named)
}

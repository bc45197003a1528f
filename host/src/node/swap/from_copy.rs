//! Taking a transform back to the state from before a rollout without return.
//!
//! The pipeline stands for that: each task is taken back in a commit of its own, and when all are, the record of the pipeline
//! follows. Whatever happens in between, each task has the state of one version or the other, and the version of the record goes on
//! from both.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::back::{before, known, last, nothing};
use super::{changed, refused, version};
use crate::checkpoint::head::TransformIdentity;
use crate::checkpoint::resolve::resolve;
use crate::checkpoint::store::TaskStore;
use crate::cluster::imports::{self, ImportError};
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Specification};
use crate::cluster::presence;
use crate::cluster::rollout::{Outcome, Phase, Rollout, Strategy, Version};
use crate::cluster::savepoints::Offsets;
use crate::config::{Cluster, Pipeline};
use crate::ids::TaskId;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node::NodeError;
use crate::node::deploy::PATIENCE;
use crate::node::group::Group;
use crate::node::load::Loader;
use crate::state::StoreName;
use crate::worker::control::Control;

/// What a task that goes back to the state from before forgets: changes of its state by the records between two offsets of each source
/// topic.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Since {
    /// Its partition.
    pub task: u32,
    /// Where it went over.
    pub from: BTreeMap<String, i64>,
    /// Where it goes on.
    pub to: BTreeMap<String, i64>,
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = |(topic, to): (&String, &i64)| match self.from.get(topic) {
            Some(from) => format!("{topic} offset {from} to {to}"),
            None => format!("{topic} to offset {to}"),
        };
        let topics: Vec<String> = self.to.iter().map(topic).collect();
        write!(f, "task {}: what the records of {} have changed", self.task, topics.join(", "))
    }
}

/// What tasks forget, a line for each.
#[must_use]
pub fn forgotten(forgotten: &[Since]) -> String {
    match forgotten.is_empty() {
        true => "  no task has gone over".to_owned(),
        false => forgotten.iter().map(|since| format!("  {since}")).collect::<Vec<_>>().join("\n"),
    }
}

/// Tasks that can go back to the state from before a rollout.
pub struct FromCopy {
    store: Arc<dyn MetaStore>,
    name: Segment,
    known: PipelineRecord,
    group: Group,
    specification: Specification,
    was: TransformIdentity,
    rollout: Rollout,
    outcome: Outcome,
    /// What they forget; nothing of tasks that have not gone over.
    pub forgotten: Vec<Since>,
}

/// Looks whether the tasks of a pipeline that stands can go back to the state from before a rollout without return. Changes nothing.
///
/// # Errors
/// The pipeline does not stand, the transform has a way back without loss, or the state from before is not there; those of the store.
pub async fn from_copy(
    cluster: &Arc<Cluster>,
    store: Arc<dyn MetaStore>,
    name: &Segment,
    transform: &str,
) -> Result<FromCopy, NodeError> {
    let known = known(&*store, name).await?;
    let specified = Pipeline::parse(Path::new("recorded"), &known.specification.file).map_err(NodeError::Config)?;
    let at = specified.transforms.iter().position(|it| it.name == transform);
    let at = at.ok_or_else(|| nothing(name, transform))?;
    let undone = match &known.rollout {
        Some(rollout) => rollout.clone(),
        None => last(&*store, name, transform).await?,
    };
    if undone.transform != transform {
        return Err(refused(format!(
            "transform `{}` of pipeline `{name}` is being changed: wait for the end of that",
            undone.transform
        )));
    }
    let reason = format!("by {}, to the state from before rollout {}", pipelines::whoever(), undone.number);
    if !undone.strategy.no_return || (known.rollout.is_some() && undone.can_be_called_off()) {
        return Err(refused(format!(
            "transform `{transform}` of pipeline `{name}` goes back without loss: leave --from-copy out"
        )));
    }
    stands(&*store, name, &known).await?;
    let mut loader = Loader::of_command(cluster, &store)?;
    let (specification, rollout, outcome) = match &known.rollout {
        Some(_) => {
            let rollout = Rollout { reason: Some(format!("taken back {reason}")), ..undone.clone() };
            (known.specification.clone(), rollout, Outcome::Returned)
        }
        None => {
            let now = version(&specified, &known.specification.plugins, at);
            if !now.is_same(&undone.to) {
                return Err(refused(format!(
                    "transform `{transform}` of pipeline `{name}` runs {now} since it was deployed, and not what rollout {} brought: there is nothing to go back to",
                    undone.number
                )));
            }
            let (source, config) = before(&*store, name, &undone).await?;
            let back = changed(&mut loader, &known.specification, at, Some(&source), config.as_ref()).await?;
            let rollout = Rollout {
                number: known.rollouts.max(undone.number) + 1,
                revision: known.revision + 1,
                candidate: back.specification.clone(),
                from: undone.to.clone(),
                to: undone.from.clone(),
                // From there on there is one.
                strategy: Strategy { no_return: false, ..undone.strategy.clone() },
                phase: Phase::Everywhere,
                watched_since: None,
                reason: Some(format!("taken back {reason}")),
                held: None,
                promoted_by: None,
                started_at: jiff::Timestamp::now(),
                started_by: pipelines::whoever(),
                switched: BTreeMap::new(),
                ..undone.clone()
            };
            (back.specification, rollout, Outcome::Done)
        }
    };
    let record = PipelineRecord { specification: specification.clone(), ..known.clone() };
    let loaded = loader.load_recorded(&record, Some(PATIENCE), &Arc::new(Control::default())).await?;
    let plan = loader.plan(loaded.expect("nobody drains it"), rollout.revision, known.incarnation).await?;
    let was = plan.transforms[at].identity.clone();
    let group = Group::new(cluster, &known).map_err(NodeError::Kafka)?;
    let (name, forgotten) = (name.clone(), Vec::new());
    let mut back = FromCopy { store, name, known, group, specification, was, rollout, outcome, forgotten };
    for task in 0..back.known.specification.partitions {
        let forgotten = back.look(task, &undone.to).await?;
        back.forgotten.extend(forgotten);
    }
    Ok(back)
}

/// Refuses while somebody runs the pipeline, or may at any moment.
async fn stands(store: &dyn MetaStore, name: &Segment, known: &PipelineRecord) -> Result<(), NodeError> {
    let nodes = presence::list(store, name).await?;
    if known.desired == Desired::Paused && nodes.is_empty() {
        return Ok(());
    }
    Err(refused(format!(
        "pipeline `{name}` runs, and tasks go back to the state from before while nobody runs them: `sluicegate pause {name}` first"
    )))
}

impl FromCopy {
    fn task(&self, partition: u32) -> TaskId {
        let (pipeline, incarnation) = (self.name.to_string(), self.known.incarnation);
        TaskId { pipeline, incarnation, stage: 0, partition }
    }

    /// What a task forgets that runs `is`; nothing of one that never ran, or runs what it would go back to.
    async fn look(&self, partition: u32, is: &Version) -> Result<Option<Since>, NodeError> {
        let task = self.task(partition);
        let Some((head, _)) = TaskStore::new(Arc::clone(&self.store), task.clone()).read().await? else {
            return Ok(None);
        };
        let kafka = self.group.committed(task.incarnation, partition).await.map_err(NodeError::Kafka)?;
        let manifest = resolve(&head, &kafka)
            .map_err(|disagreement| ImportError::Disagreement { task: task.clone(), disagreement })?;
        let Some(now) = manifest.transforms.iter().find(|now| now.name == self.was.name) else { return Ok(None) };
        if now.is_same_version(&self.was) {
            return Ok(None);
        }
        if (&now.plugin, &now.config) != (&is.plugin, &is.config) {
            return Err(refused(format!(
                "task {task} runs plugin {}, which is neither side of rollout {}",
                now.plugin, self.rollout.number
            )));
        }
        if let Some(store) = imports::missing(now, &self.was) {
            return Err(ImportError::NoCopy { task, store }.into());
        }
        // All of them stay from one moment.
        let mut stores = self.was.stores.iter().map(|(store, schema)| StoreName::of(&self.was.name, store, *schema));
        let from = stores.find_map(|name| now.former.get(&name.store)).cloned().unwrap_or_default();
        Ok(Some(Since { task: partition, from, to: manifest.offsets.clone() }))
    }

    /// What becomes of the pipeline: the version that its transform has then.
    #[must_use]
    pub fn to(&self) -> &Version {
        match self.outcome {
            Outcome::Done => &self.rollout.to,
            Outcome::Returned => &self.rollout.from,
        }
    }

    /// Takes the tasks back, and then the record of the pipeline. Safe to repeat, and to go on with after an interruption.
    ///
    /// # Errors
    /// Somebody runs the pipeline, or has changed it meanwhile; those of the store. Tasks that were taken back until then are
    /// converted again when the pipeline goes on as it was.
    pub async fn take_back(&self) -> Result<PipelineRecord, NodeError> {
        for since in &self.forgotten {
            imports::take_back(&self.store, &self.group, &self.task(since.task), &self.was).await?;
        }
        let (record, rollout) = (&self.known, &self.rollout);
        let back =
            pipelines::taken_back(&*self.store, &self.name, record, &self.specification, rollout, self.outcome).await?;
        back.ok_or_else(|| NodeError::ChangedMeanwhile { pipeline: self.name.to_string() })
    }
}

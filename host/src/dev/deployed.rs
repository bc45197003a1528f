//! The pipeline that is developed, as a cluster of one node has it: deployed, swapped and tried again by what
//! production uses for that, and told of.
//!
//! Invariant: one change at a time. While a rollout is under way the newest change waits for its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::change::Change;
use super::health::Health;
use super::told;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::presence;
use crate::cluster::rollout::{Outcome, Rollout, Strategy};
use crate::config::{Cluster, Pipeline, PluginReference};
use crate::digest::Digest;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node::NodeError;
use crate::node::deploy;
use crate::node::swap::{self, Refusal, Request, Source, Swap};

/// One pipeline on one node.
pub(super) struct Deployed {
    pub(super) cluster: Arc<Cluster>,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) name: Segment,
    manner: Manner,
    told: Told,
    /// Number of the rollout that is under way.
    rollout: Option<u64>,
    /// The newest change that has not been taken up.
    waiting: Option<Pipeline>,
    /// Whether this process has deployed it.
    is_deployed: bool,
}

/// How it is developed.
pub(super) struct Manner {
    /// How long a swapped version is watched.
    pub(super) probation: Duration,
    /// The folder that keeps the state, for the next time too.
    pub(super) kept: Option<PathBuf>,
    /// Whether a failure for good is the end.
    pub(super) once: bool,
    /// When its plugins were built for the first time.
    pub(super) begin: Instant,
}

/// What has been said already.
#[derive(Default)]
struct Told {
    health: Option<Health>,
    phase: Option<String>,
    has_run: bool,
}

impl Deployed {
    /// A pipeline that is to be deployed, if what is kept allows it.
    ///
    /// # Errors
    /// Another one is deployed there, and would run too; those of the store.
    pub(super) async fn new(
        (cluster, store): (Arc<Cluster>, Arc<dyn MetaStore>),
        pipeline: Pipeline,
        manner: Manner,
    ) -> Result<Self> {
        let name = Segment::new(pipeline.name.as_str())?;
        let others = pipelines::list(&*store).await?;
        let other = others.into_iter().find(|(other, record)| *other != name && record.desired == Desired::Running);
        if let (Some((other, _)), Some(folder)) = (other, &manner.kept) {
            let folder = folder.display();
            bail!(
                "pipeline `{other}` is deployed in {folder}, and would run too: take another folder, or take it off with `sluicegate undeploy {other} --keep-state --local-path {folder}`"
            );
        }
        let (waiting, told) = (Some(pipeline), Told::default());
        Ok(Self { cluster, store, name, manner, told, rollout: None, waiting, is_deployed: false })
    }

    /// The folder that keeps the state, if any does.
    pub(super) fn kept(&self) -> Option<&Path> {
        self.manner.kept.as_deref()
    }

    /// What the pipeline is to be from now on.
    pub(super) fn change(&mut self, pipeline: Pipeline) {
        let replaced = self.waiting.replace(pipeline).is_some();
        match (self.rollout, replaced) {
            (Some(_), false) => eprintln!("{}", told::WAITS),
            (Some(_), true) => eprintln!("{}", told::REPLACED),
            (None, _) => {}
        }
    }

    /// Looks how it is, says what is new, and takes the newest change up when nothing is in its way.
    ///
    /// # Errors
    /// It cannot be deployed for the first time; those of the store.
    pub(super) async fn look(&mut self) -> Result<Health> {
        let record = pipelines::read(&*self.store, &self.name).await?.map(|known| known.record);
        let mut health = Health::Coming;
        if let Some(record) = &record {
            let presences = presence::list(&*self.store, &self.name).await?;
            health = Health::of(record, presences.first().map(|(_, presence)| presence));
            self.tell_health(record, &health);
        }
        match record.as_ref().and_then(|record| record.rollout.as_ref()) {
            Some(rollout) => self.follow(rollout, &health).await?,
            None => {
                self.tell_end().await?;
                self.take_up(record.as_ref(), &health).await?;
            }
        }
        Ok(health)
    }

    fn tell_health(&mut self, record: &PipelineRecord, health: &Health) {
        if *health == Health::Coming || self.told.health.as_ref() == Some(health) {
            return;
        }
        if self.manner.once && matches!(health, Health::Failed(_)) {
            // It is the error that the command ends with.
            return;
        }
        let first = (!self.told.has_run).then(|| self.manner.begin.elapsed());
        eprintln!("{}", told::health(health, record, first, self.kept()));
        self.told.has_run |= *health == Health::Runs;
        self.told.health = Some(health.clone());
    }

    /// Says how far a rollout is, and decides where a person would have to.
    async fn follow(&mut self, rollout: &Rollout, health: &Health) -> Result<()> {
        if self.rollout.replace(rollout.number).is_none() && self.waiting.is_some() {
            eprintln!("{}", told::WAITS);
        }
        let phase = told::phase(rollout).filter(|phase| self.told.phase.as_ref() != Some(phase));
        if let Some(phase) = phase {
            eprintln!("{phase}");
            self.told.phase = Some(phase);
        }
        if rollout.awaits_decision().is_some() {
            // Nothing leads back: the next change mends what is wrong.
            pipelines::promote(&*self.store, &self.name, rollout.number).await?;
        } else if rollout.promoted_by.is_some() && is_over(health, self.waiting.is_some()) {
            // As a promotion ends it where tasks run. What the next change goes on from is checked by its deployment.
            pipelines::end_rollout(&*self.store, &self.name, rollout, rollout, Outcome::Done).await?;
        }
        Ok(())
    }

    async fn tell_end(&mut self) -> Result<()> {
        let Some(number) = self.rollout.take() else { return Ok(()) };
        self.told.phase = None;
        let mut ended = pipelines::rollouts(&*self.store, &self.name).await?.into_iter();
        if let Some(ended) = ended.find(|ended| ended.rollout.number == number) {
            eprintln!("{}", told::ended(&ended));
        }
        Ok(())
    }

    async fn take_up(&mut self, record: Option<&PipelineRecord>, health: &Health) -> Result<()> {
        let Some(pipeline) = self.waiting.take() else { return Ok(()) };
        match self.begin(record, health, &pipeline).await {
            Ok(()) => self.is_deployed = true,
            Err(NodeError::ChangedMeanwhile { .. }) => self.waiting = Some(pipeline),
            Err(NodeError::Config(errors)) if !self.is_deployed => bail!(errors),
            Err(error) if !self.is_deployed => bail!(told::here(&error.to_string(), self.kept())),
            Err(error) => eprintln!("{}", told::not_deployed(&error, self.kept())),
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        record: Option<&PipelineRecord>,
        health: &Health,
        pipeline: &Pipeline,
    ) -> Result<(), NodeError> {
        let Some(record) = record.filter(|_| self.is_deployed) else { return self.deploy(pipeline).await };
        let after = pipeline.canonical_json(&plugins(pipeline).await?);
        match Change::between(&record.specification.canonical, &after, !health.stands()) {
            Change::Nothing => eprintln!("{}", told::NOTHING),
            Change::Again => {
                eprintln!("{}", told::AGAIN);
                deploy::resume(&*self.store, &self.name).await?;
                self.told.health = None;
            }
            Change::Swap { transform, configured } => self.swap(pipeline, &transform, configured).await?,
            Change::Deploy => self.deploy(pipeline).await?,
        }
        Ok(())
    }

    async fn swap(&mut self, pipeline: &Pipeline, transform: &str, configured: bool) -> Result<(), NodeError> {
        match self.checked(pipeline, transform, configured).await {
            Ok(swap) => {
                swap.begin().await?;
                eprintln!("{}", told::swap(&swap.rollout, &swap.findings));
                self.rollout = Some(swap.rollout.number);
            }
            Err(NodeError::Gate(Refusal::Beyond)) => {
                eprintln!("{}", told::BEYOND);
                self.deploy(pipeline).await?;
            }
            Err(error) => eprintln!("{}", told::refused(&error, self.kept())),
        }
        Ok(())
    }

    /// A swap that has passed the gate; where it wants to be told that nothing leads back, it is.
    async fn checked(&self, pipeline: &Pipeline, transform: &str, configured: bool) -> Result<Swap, NodeError> {
        let named = pipeline.transforms.iter().find(|it| it.name == transform);
        let (Some(named), Some(PluginReference::Path(file))) = (named, named.map(|it| &it.plugin)) else {
            return Err(NodeError::Refused(format!("transform `{transform}` has no plugin that is named by its path")));
        };
        let request = |no_return| Request {
            transform: transform.to_owned(),
            source: Source::File(file.clone()),
            config: configured.then(|| named.config.clone()),
            strategy: Strategy {
                probation_ms: u64::try_from(self.manner.probation.as_millis()).unwrap_or(u64::MAX),
                no_return,
                ..Strategy::default()
            },
            // What goes wrong is seen with the records that are typed.
            rehearsal: None,
        };
        let check = |no_return| swap::check(&self.cluster, Arc::clone(&self.store), &self.name, request(no_return));
        match check(false).await {
            Err(NodeError::Gate(Refusal::NoWayBack(_))) => check(true).await,
            checked => checked,
        }
    }

    async fn deploy(&mut self, pipeline: &Pipeline) -> Result<(), NodeError> {
        let store = Arc::clone(&self.store);
        let deployable = deploy::check(&self.cluster, store, None, pipeline.clone(), false).await?;
        let mut deployment = deployable.deployment();
        deployable.deploy(&mut deployment).await?;
        if deployment.paused {
            deploy::resume(&*self.store, &self.name).await?;
        }
        if self.is_deployed {
            eprintln!("{}", told::deployed(&deployment));
        }
        self.told.health = None;
        Ok(())
    }

    /// Nothing runs any more: what is kept of it is not deployed either, so that another pipeline has the folder to
    /// itself.
    pub(super) async fn end(&self) {
        if self.kept().is_some()
            && let Err(error) = deploy::undeploy(&self.cluster, &*self.store, &self.name, true).await
        {
            tracing::debug!("the pipeline stays deployed: {error}");
        }
    }
}

/// Whether no task will go over any more: nothing runs, and will not, or not before the change that waits.
fn is_over(health: &Health, change_waits: bool) -> bool {
    match health {
        Health::Failed(_) => true,
        health => health.stands() && change_waits,
    }
}

/// SHA-256 of each transform's plugin, in hexadecimal.
async fn plugins(pipeline: &Pipeline) -> Result<Vec<String>, NodeError> {
    let mut plugins = Vec::with_capacity(pipeline.transforms.len());
    for (at, transform) in pipeline.transforms.iter().enumerate() {
        let PluginReference::Path(file) = &transform.plugin else { continue };
        let bytes = tokio::fs::read(file).await.map_err(|error| {
            let message = format!("cannot read the plugin: {error}");
            NodeError::Config(pipeline.plugin_error(at, &message, "build it, or correct the path"))
        })?;
        plugins.push(Digest::of(&bytes).hex());
    }
    Ok(plugins)
}

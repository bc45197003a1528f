//! The part of a node in a rollout: loads the candidate beside what runs, hands it to the threads, and tells how it fares.

use std::sync::Arc;

use futures::future::{BoxFuture, OptionFuture};
use tracing::{info, warn};

use super::crew::Crew;
use super::{NodeError, Services};
use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::rollout::{NodeReport, Phase, Rollout};
use crate::worker::candidate::Candidate;
use crate::worker::control::Control;
use crate::worker::plan::Plan;

/// What loading came to; no plan when the node drains meanwhile.
type Loaded = Result<Option<Plan>, NodeError>;

/// What is known of the rollout of a pipeline, if there is one.
#[derive(Default)]
pub(super) struct Trial {
    rollout: Option<Rollout>,
    loading: Option<BoxFuture<'static, Loaded>>,
    candidate: Option<Arc<Candidate>>,
    problem: Option<String>,
}

impl Trial {
    /// Does what the record says of a rollout.
    pub(super) fn follow(&mut self, services: &Arc<Services>, record: &PipelineRecord, control: &Arc<Control>) {
        let Some(rollout) = &record.rollout else {
            *self = Self::default();
            return;
        };
        if self.rollout.as_ref().is_none_or(|before| before.number != rollout.number) {
            *self = Self::default();
            let (services, control) = (Arc::clone(services), Arc::clone(control));
            let candidate = PipelineRecord {
                specification: rollout.candidate.clone(),
                revision: rollout.revision,
                ..record.clone()
            };
            self.loading = Some(Box::pin(async move { services.plan(&candidate, &control).await }));
        }
        self.rollout = Some(rollout.clone());
        self.want();
    }

    fn want(&self) {
        if let (Some(candidate), Some(rollout)) = (&self.candidate, &self.rollout) {
            candidate.want_in_shadow(rollout.phase == Phase::Shadow);
            candidate.want(|partition| rollout.wants(partition));
            if rollout.phase == Phase::Return {
                candidate.call_off();
            }
        }
    }

    /// Waits until the candidate is loaded, or cannot be; for ever when there is none on its way. May be cancelled and called again.
    pub(super) async fn loaded(&mut self) -> Loaded {
        match OptionFuture::from(self.loading.as_mut()).await {
            Some(loaded) => loaded,
            None => std::future::pending().await,
        }
    }

    /// Takes in what was loaded beside `base`.
    pub(super) fn take(&mut self, loaded: Loaded, base: &Arc<Plan>) -> Option<Arc<Candidate>> {
        self.loading = None;
        let plan = match loaded {
            Ok(Some(plan)) => Arc::new(plan),
            Ok(None) => return None,
            Err(error) => {
                warn!("the candidate of the rollout cannot be used here: {error}");
                self.problem = Some(error.to_string());
                return None;
            }
        };
        info!(pipeline = plan.pipeline, revision = plan.revision, "the candidate of the rollout is loaded");
        let one_way = self.is_one_way();
        let candidate = Candidate::new(base, plan);
        let candidate = candidate.map(|it| if one_way { it.without_return() } else { it });
        self.candidate = candidate.map(Arc::new);
        match self.candidate {
            Some(_) => self.want(),
            None => self.problem = Some("more differs than one transform, or its outputs do".to_owned()),
        }
        self.candidate.clone()
    }

    /// The rollout has ended well, and what `record` wants is the candidate: lets the threads work by it, if it is loaded.
    pub(super) fn becomes_plan(&self, crew: &Crew, record: &PipelineRecord) -> bool {
        let Some(candidate) = self.candidate.as_ref().filter(|candidate| {
            let rollout = self.rollout.as_ref();
            let is_it = rollout.is_some_and(|rollout| rollout.candidate == record.specification);
            is_it && candidate.plan.revision == record.revision
        }) else {
            return false;
        };
        // Before the candidate is taken away, or its tasks would go back.
        crew.follow(Arc::clone(&candidate.plan));
        true
    }

    /// What tasks may go over to.
    pub(super) fn candidate(&self) -> Option<Arc<Candidate>> {
        self.candidate.clone()
    }

    /// Whether there is a rollout, and some tasks may run the candidate already.
    pub(super) fn has_begun(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| matches!(rollout.phase, Phase::Canary | Phase::Everywhere))
    }

    /// Whether tasks that have gone over stay: nothing but the candidate goes on from their state.
    pub(super) fn is_one_way(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.strategy.no_return)
    }

    /// Whether there is a rollout.
    pub(super) fn is_under_way(&self) -> bool {
        self.rollout.is_some()
    }

    /// What others are told.
    pub(super) fn report(&self) -> Option<NodeReport> {
        let rollout = self.rollout.as_ref()?;
        Some(NodeReport {
            number: rollout.number,
            prepared: self.candidate.is_some(),
            problem: self.problem.clone(),
            shadowed: self.candidate.as_ref().and_then(|candidate| candidate.shadowed()),
            tasks: self.candidate.as_ref().map(|candidate| candidate.reports()).unwrap_or_default(),
        })
    }
}

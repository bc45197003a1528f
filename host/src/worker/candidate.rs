//! The candidate of a rollout: a plan beside the one that a pipeline runs by, to which its tasks go over one by one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::migration::{self, Converter, Route};
use super::plan::Plan;
use crate::candidate::{Shadowed, TaskReport};
use crate::checkpoint::head::Manifest;
use crate::engine::Conversion;

/// Shared by the threads of a pipeline and whoever moves the rollout on.
pub struct Candidate {
    /// Differs from the plan in one transform.
    pub plan: Arc<Plan>,
    /// Index of that.
    pub transform: usize,
    /// What state has to be copied first.
    pub routes: Arc<[Route]>,
    before: Arc<Plan>,
    /// See [`Candidate::without_return`].
    one_way: bool,
    called_off: AtomicBool,
    /// By partition.
    wanted: Vec<AtomicBool>,
    reports: Mutex<BTreeMap<u32, TaskReport>>,
    /// Tasks are to have it in their shadow.
    in_shadow: AtomicBool,
    shadowed: Mutex<Shadowed>,
}

impl Candidate {
    /// Wanted by no task yet; `None` when more differs from `base` than one transform.
    #[must_use]
    pub fn new(base: &Arc<Plan>, plan: Arc<Plan>) -> Option<Self> {
        let differ = |(one, other): (&_, &_)| !super::plan::TransformPlan::is_same(one, other);
        let mut differing = base.transforms.iter().zip(&plan.transforms).enumerate().filter(|(_, pair)| differ(*pair));
        let (transform, _) = differing.next()?;
        let is_only = differing.next().is_none();
        if !is_only || !base.may_become(&plan) || !base.has_sinks_of(&plan) {
            return None;
        }
        let wanted = (0..plan.partitions).map(|_| AtomicBool::new(false)).collect();
        let routes = migration::routes(&base.transforms[transform], &plan.transforms[transform]).into();
        let (before, called_off) = (Arc::clone(base), AtomicBool::new(false));
        let (reports, in_shadow, shadowed) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        Some(Self { transform, routes, before, one_way: false, called_off, wanted, reports, in_shadow, shadowed, plan })
    }

    /// Its state cannot be converted back: a task that has gone over stays, and the state of the version before stays as it was.
    #[must_use]
    pub fn without_return(self) -> Self {
        Self { one_way: true, ..self }
    }

    /// Whether a task that has gone over stays.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.one_way
    }

    /// Opens what converts the state of a task. Runs guests: on a thread that may block.
    ///
    /// # Errors
    /// It cannot be opened, in words.
    pub fn converter(&self, partition: u32, now_ms: i64) -> Result<Converter, String> {
        let versions = (&self.before.transforms[self.transform], &self.plan.transforms[self.transform]);
        Converter::open(versions, &self.routes, (&self.plan.pipeline, partition), now_ms)
    }

    /// Whether a commit of the candidate has everything that the version before needs. One that it has made as the plan of an earlier
    /// time has not.
    #[must_use]
    pub fn may_go_back_from(&self, manifest: &Manifest) -> bool {
        let name = &self.plan.transforms[self.transform].name;
        let written = manifest.transforms.iter().find(|written| written.name == *name);
        self.routes.iter().all(|Route { conversion: Conversion { store, from, .. }, .. }| {
            written.is_some_and(|written| written.copies.get(store) == Some(from))
        })
    }

    /// No task is to go over to it any more.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// Whether [`Candidate::call_off`] was called.
    #[must_use]
    pub fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }

    /// Whether tasks are to have it in their shadow.
    pub fn want_in_shadow(&self, wanted: bool) {
        self.in_shadow.store(wanted, Ordering::Relaxed);
    }

    /// Whether [`Candidate::want_in_shadow`] says so.
    #[must_use]
    pub fn is_wanted_in_shadow(&self) -> bool {
        self.in_shadow.load(Ordering::Relaxed)
    }

    /// Notes how it has compared in the shadow since the last time.
    pub fn compared(&self, since: &Shadowed) {
        let mut shadowed = self.shadowed.lock().unwrap_or_else(PoisonError::into_inner);
        *shadowed = std::mem::take(&mut *shadowed).and(since);
    }

    /// How it compares in the shadow; nothing where it has seen no record there.
    #[must_use]
    pub fn shadowed(&self) -> Option<Shadowed> {
        let shadowed = self.shadowed.lock().unwrap_or_else(PoisonError::into_inner);
        (shadowed.counts.records > 0).then(|| shadowed.clone())
    }

    /// Which tasks are to run it.
    pub fn want(&self, wants: impl Fn(u32) -> bool) {
        for (partition, wanted) in (0..).zip(&self.wanted) {
            wanted.store(wants(partition), Ordering::Relaxed);
        }
    }

    /// Whether the task of this partition is to run it.
    #[must_use]
    pub fn is_wanted(&self, partition: u32) -> bool {
        self.wanted.get(partition as usize).is_some_and(|wanted| wanted.load(Ordering::Relaxed))
    }

    /// What is told of the tasks that are here.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<u32, TaskReport> {
        self.lock().clone()
    }

    /// Tells of a task.
    pub fn report(&self, partition: u32, report: TaskReport) {
        self.lock().insert(partition, report);
    }

    /// A task is not here any more.
    pub fn forget(&self, partition: u32) {
        self.lock().remove(&partition);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, TaskReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

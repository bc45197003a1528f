//! The worker threads of one pipeline on this node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::error;

use super::{NodeError, Services};
use crate::kafka::settings::KafkaSettings;
use crate::meta::MetaStore;
use crate::worker::candidate::Candidate;
use crate::worker::control::Control;
use crate::worker::failure::Failure;
use crate::worker::gathering::Gathering;
use crate::worker::orphans::Orphans;
use crate::worker::plan::Plan;
use crate::worker::plans::Plans;
use crate::worker::runtime::Runtime;
use crate::worker::thread::{Equipment, Thread};

/// How a thread ended.
type Ending = (usize, std::thread::Result<Result<(), Failure>>);

/// Threads that work by the same plan. When one fails, the others commit and end.
pub(super) struct Crew {
    equipment: Equipment<KafkaSettings>,
    drain_deadline: Duration,
    wanted: usize,
    members: BTreeMap<usize, Arc<Control>>,
    end: mpsc::UnboundedSender<Ending>,
    endings: mpsc::UnboundedReceiver<Ending>,
    failure: Option<NodeError>,
}

impl Crew {
    /// Starts so many threads, at most one for each partition; `control` stops them.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(
        services: &Services,
        plan: Arc<Plan>,
        candidate: Option<Arc<Candidate>>,
        threads: usize,
        control: Arc<Control>,
    ) -> Result<Self, NodeError> {
        let meta = Arc::clone(&services.store) as Arc<dyn MetaStore>;
        let kafka = services.kafka.clone();
        let runtime: Arc<dyn Runtime> = Arc::new(Handle::current());
        let orphans = Orphans::new(Arc::clone(&plan), Arc::clone(&meta), Arc::clone(&runtime), kafka.clone());
        let equipment = Equipment {
            plans: Arc::new(Plans::new(plan)),
            kafka,
            meta,
            runtime,
            budget: Arc::clone(&services.budget),
            metrics: Arc::clone(&services.metrics),
            control,
            orphans: Arc::new(orphans),
            gathering: Arc::new(Gathering::of(threads)),
            node: services.node.as_str().to_owned(),
        };
        equipment.plans.try_out(candidate);
        let (end, endings) = mpsc::unbounded_channel();
        let mut crew = Self {
            equipment,
            drain_deadline: services.loader.cluster.limits.drain_deadline,
            wanted: 0,
            members: BTreeMap::new(),
            end,
            endings,
            failure: None,
        };
        crew.resize(threads)?;
        Ok(crew)
    }

    /// More threads, or fewer, and at most one for each partition: those that go commit first.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn resize(&mut self, threads: usize) -> Result<(), NodeError> {
        let threads = threads.min(self.plan().partitions.max(1) as usize);
        self.wanted = threads;
        for (_, control) in self.members.range(threads..) {
            control.drain(self.drain_deadline);
        }
        for number in (0..threads).filter(|number| !self.members.contains_key(number)).collect::<Vec<_>>() {
            self.spawn(number)?;
        }
        // Who comes later waits for nobody.
        self.equipment.gathering = Arc::new(Gathering::of(1));
        Ok(())
    }

    fn spawn(&mut self, number: usize) -> Result<(), NodeError> {
        let control = Control::below(&self.equipment.control);
        control.awaits();
        let equipment = Equipment { control: Arc::clone(&control), ..self.equipment.clone() };
        let end = self.end.clone();
        let work = move || {
            let run = || Thread::join(equipment, number).and_then(Thread::run);
            // A panic is a defect; the pipeline stops as for any failure, and the other threads commit.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let _ = end.send((number, result));
        };
        match std::thread::Builder::new().name(format!("worker-{number}")).spawn(work) {
            Ok(_) => {
                self.members.insert(number, control);
                Ok(())
            }
            Err(error) => {
                control.has_come();
                self.drain();
                Err(NodeError::Thread { number, reason: format!("cannot be started: {error}") })
            }
        }
    }

    /// The newest plan.
    pub(super) fn plan(&self) -> Arc<Plan> {
        self.equipment.plans.newest()
    }

    /// Lets the threads go over to another plan, each at the end of a commit; one that [`Plan::may_become`] allows.
    pub(super) fn follow(&self, plan: Arc<Plan>) {
        self.equipment.plans.change(plan);
    }

    /// Another candidate of a rollout, or none.
    pub(super) fn try_out(&self, candidate: Option<Arc<Candidate>>) {
        self.equipment.plans.try_out(candidate);
    }

    /// The oldest revision that a thread works by.
    pub(super) fn revision(&self) -> Option<u64> {
        self.equipment.plans.oldest_adopted()
    }

    /// Threads that have not ended.
    pub(super) fn threads(&self) -> usize {
        self.members.len()
    }

    /// Lets all threads commit and end.
    pub(super) fn drain(&self) {
        self.equipment.control.drain(self.drain_deadline);
    }

    /// Waits until all threads have ended. May be cancelled and called again.
    ///
    /// # Errors
    /// Why the first of them failed.
    pub(super) async fn ended(&mut self) -> Result<(), NodeError> {
        while !self.members.is_empty() {
            let (number, result) = self.endings.recv().await.expect("a sender is kept here");
            if let Some(control) = self.members.remove(&number) {
                control.has_come();
            }
            self.equipment.plans.left(number);
            match result {
                Ok(Ok(())) => {
                    if number < self.wanted && !self.equipment.control.is_draining() {
                        // It was told to go, and is wanted again.
                        self.spawn(number)?;
                    }
                }
                Ok(Err(failure)) => {
                    let pipeline = self.plan().pipeline.clone();
                    self.failed(NodeError::Stopped { pipeline, failure: Box::new(failure) });
                }
                Err(_) => {
                    let reason = "ended by a defect of sluicegate; its message is above".into();
                    self.failed(NodeError::Thread { number, reason });
                }
            }
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn failed(&mut self, error: NodeError) {
        self.drain();
        match &self.failure {
            None => self.failure = Some(error),
            Some(_) => error!("{error}"),
        }
    }
}

/// The byte budget that all pipelines of a node share.
pub(super) type SharedBudget = Arc<Mutex<crate::worker::budget::Budget>>;

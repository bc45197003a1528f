//! The loop of a worker thread. Everything it decides is in `step`, `commit`, `restore`; this puts them together and keeps the
//! group informed. What the group gives and takes is in `group`, going back in `recovery`, the way to the sinks in `sending`.

mod copying;
mod failing;
mod group;
mod recovery;
mod replaying;
mod sending;
mod switching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use self::group::LAST_OFFSETS_WAIT;
use self::recovery::open_outbox;
use self::sending::Sending;
use self::switching::{Spares, Tally};
use super::budget::Budget;
use super::candidate::Candidate;
use super::careful::{self, Careful, CarefulError};
use super::chain;
use super::commit::{Advanced, Committer, Tasks};
use super::control::Control;
use super::counters::Counters;
use super::failure::Failure;
use super::gathering::Gathering;
use super::orphans::Orphans;
use super::outbox::Outbox;
use super::plan::Plan;
use super::plans::Plans;
use super::restore::{Attempt, Means, Progress, Restorer};
use super::runtime::Runtime;
use super::step::{self, COMMIT_WAIT, Observed, Step};
use super::task::{self, Task};
use super::throttle::Throttle;
use crate::config::Guarantee;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::consumer::{Closed, ConsumerOptions};
use crate::kafka::producer::FlushError;
use crate::meta::MetaStore;
use crate::metrics::Metrics;

/// How long a thread waits at its start for the group's coordinator, and then for the node's other threads.
const GATHERING_WAIT: Duration = Duration::from_secs(1);
/// How long librdkafka may take to move to an offset.
const START_WAIT: Duration = Duration::from_secs(10);
/// How long an abort may hold up a rebalance or the end.
const ABORT_WAIT: Duration = Duration::from_secs(5);
/// Under exactly-once, how long the byte budget may keep a transaction open beyond the commit interval.
const TRANSACTION_STRETCH: Duration = Duration::from_secs(5);
/// How long leaving the group may take.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// While commits wait for the byte budget, it is said this often.
const BUDGET_MESSAGE: Duration = Duration::from_secs(30);
/// While every task has to wait for a commit, the group is looked after this often.
const TURN_WAIT: Duration = Duration::from_millis(5);
const METRICS_EVERY: Duration = Duration::from_secs(1);

/// What a thread is made with.
#[derive(Clone)]
pub struct Equipment<K> {
    /// The pipeline.
    pub plans: Arc<Plans>,
    /// Where Kafka is.
    pub kafka: K,
    /// Where state is kept.
    pub meta: Arc<dyn MetaStore>,
    /// Time, chance, and what waits for the metadata store.
    pub runtime: Arc<dyn Runtime>,
    /// The node's byte budget.
    pub budget: Arc<Mutex<Budget>>,
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// Stop and progress.
    pub control: Arc<Control>,
    /// Transactions of threads that have died.
    pub orphans: Arc<Orphans<K>>,
    /// Where the node's threads meet.
    pub gathering: Arc<Gathering>,
    /// The node's name.
    pub node: String,
}

/// A partition number of which at least one input is assigned.
#[derive(Default)]
struct Slot {
    assigned: BTreeSet<u32>,
    attempt: Option<Attempt>,
    patience: Option<Patience>,
    /// A plugin of the task has failed lately.
    careful: Option<Careful>,
    /// What is known of dead letters that are being processed again, by their orders' offsets.
    replaying: BTreeMap<i64, Careful>,
    /// How it fares in a rollout.
    tally: Tally,
}

/// A task that waits because its plugin asked for it.
struct Patience {
    until: Instant,
    pause: Duration,
    resumed: bool,
    /// The offsets behind the batch that failed: getting there ends the patience. What comes before is done again each time.
    behind: Vec<i64>,
}

/// A worker thread.
pub struct Thread<K: Kafka> {
    equipment: Equipment<K>,
    number: usize,
    plan: Arc<Plan>,
    /// For [`Plans::newer`].
    plan_seen: u64,
    /// What tasks go over to in a rollout, if there is one.
    candidate: Option<Arc<Candidate>>,
    /// For [`Plans::newer_candidate`].
    candidate_seen: u64,
    spares: Spares,
    /// Client id, transactional id, and owner of claims.
    name: String,
    consumer: K::Consumer,
    outbox: Outbox<K>,
    restorer: Restorer<K>,
    committer: Committer,
    slots: BTreeMap<u32, Slot>,
    tasks: Tasks,
    last_commit: Instant,
    /// How long the commit under way has been worked on instead of on records.
    held_up: Duration,
    /// Tasks that went over by it.
    went_over: usize,
    /// Keys and values taken since the last commit.
    bytes_since_commit: u64,
    caught_up: bool,
    /// The transaction, or the last one, is that of one task which looks for records that fail.
    alone: bool,
    /// Counts those.
    searches: usize,
    metrics_at: Instant,
    budget_said: Instant,
    counters: Counters,
    counted: (usize, usize),
    joined: bool,
    brokers_down: Throttle,
    /// When to send the group's offsets of tasks with state beside the commits that do it.
    group_offsets_at: Option<Instant>,
}

impl<K: Kafka> Thread<K> {
    /// Joins the group as thread `number` of its node.
    ///
    /// # Errors
    /// The clients could not be made.
    pub fn join(equipment: Equipment<K>, number: usize) -> Result<Self, Failure> {
        let Equipment { plans, kafka, meta, runtime, budget, metrics, orphans, node, .. } = equipment.clone();
        let mut plan_seen = 0;
        let plan = plans.newer(&mut plan_seen).expect("the first plan is newer than none");
        plans.adopted(number, plan.revision);
        let name = format!("{}/{node}/{number}", plan.group);
        let options = ConsumerOptions {
            group_id: plan.group.clone(),
            client_id: name.clone(),
            topics: plan.sources.iter().map(|source| source.topic.clone()).collect(),
        };
        // The producer first: it asks for its id half a second after it was made.
        let outbox = open_outbox(&equipment, &plan, &name, || Ok(()))?;
        let consumer = kafka.consumer(&options)?;
        consumer.meet_coordinator(GATHERING_WAIT);
        equipment.gathering.arrive(GATHERING_WAIT);
        consumer.join()?;
        let now = runtime.now();
        let means = Means {
            plan: Arc::clone(&plan),
            former: None,
            candidate: None,
            meta: Arc::clone(&meta),
            runtime: Arc::clone(&runtime),
            offsets: consumer.offsets(),
            owner: name.clone(),
            orphans,
        };
        Ok(Self {
            consumer,
            outbox,
            restorer: Restorer::new(means),
            name,
            committer: Committer::new(Arc::clone(&plan), meta, runtime, budget, Arc::clone(&metrics)),
            slots: BTreeMap::new(),
            tasks: (0..plan.partitions).map(|_| None).collect(),
            last_commit: now,
            held_up: Duration::ZERO,
            went_over: 0,
            bytes_since_commit: 0,
            caught_up: false,
            alone: false,
            searches: 0,
            metrics_at: now,
            budget_said: now,
            counters: Counters::new(&plan, &metrics),
            counted: (0, 0),
            joined: false,
            brokers_down: Throttle::default(),
            group_offsets_at: None,
            number,
            plan,
            plan_seen,
            candidate: None,
            candidate_seen: 0,
            spares: Spares::new(),
            equipment,
        })
    }

    /// Runs until the node drains or the pipeline fails, and leaves the group.
    ///
    /// # Errors
    /// Why the pipeline stops. What was done since the last commit is done again at the next start.
    pub fn run(mut self) -> Result<(), Failure> {
        let result = self.turn();
        // Readers of the sinks would wait for it.
        if let Err(error) = self.outbox.abort(ABORT_WAIT) {
            debug!("an open transaction is left to its time-out: {error}");
        }
        let control = Arc::clone(&self.equipment.control);
        control.tasks(self.counted, (0, 0));
        self.counters.tasks(self.counted, (0, 0));
        self.counters.forget(&self.tasks);
        if let Some(candidate) = &self.candidate {
            self.slots.keys().for_each(|partition| candidate.forget(*partition));
        }
        // Instances and attempts end before the consumer does.
        self.slots.clear();
        self.tasks.clear();
        if self.consumer.close(CLOSE_WAIT) == Closed::Abandoned {
            warn!("leaving the consumer group took too long; the brokers will notice by the session time-out");
        }
        result
    }

    fn turn(&mut self) -> Result<(), Failure> {
        loop {
            self.follow_candidate();
            self.group_events()?;
            self.bring_up()?;
            self.patience()?;
            self.repeat_group_offsets();
            self.report();
            match step::next(&self.observe()) {
                Step::Commit { wait } => self.commit(wait)?,
                Step::Overlap => {
                    self.commit(Duration::ZERO)?;
                    self.fetch(Duration::ZERO)?;
                }
                Step::Change => self.change()?,
                Step::Fetch { wait } => self.fetch(wait)?,
                Step::Idle { wait } => {
                    self.consumer.fetch(0, 0, wait, |_| {})?;
                }
                Step::Finish if self.is_exactly_once() => {
                    let left = self.equipment.control.left();
                    let wait = left.map_or(LAST_OFFSETS_WAIT, |left| left.min(LAST_OFFSETS_WAIT));
                    self.committer.clean_stop(&mut self.tasks, |_| true, wait);
                    return Ok(());
                }
                Step::Finish => return self.last_group_offsets(),
            }
        }
    }

    fn is_exactly_once(&self) -> bool {
        self.plan.guarantee == Guarantee::ExactlyOnce
    }

    fn observe(&self) -> Observed {
        let dirty = self.tasks.iter().flatten().any(|task| task.dirty);
        let switching = self.is_switch_due();
        Observed {
            now: self.equipment.runtime.now(),
            last_commit: self.last_commit,
            commit_interval: self.plan.commit_interval,
            bytes_due: self.bytes_since_commit >= self.plan.commit_bytes,
            budget_delay: self.committer.budget_delay(),
            stretch_max: if self.is_exactly_once() { TRANSACTION_STRETCH } else { Duration::MAX },
            last_took: self.committer.last_took().filter(|_| self.is_exactly_once()),
            caught_up: self.caught_up,
            dirty,
            committing: self.committer.is_under_way(),
            // Output that Kafka refuses has to be refused at once.
            overlapping: self.is_exactly_once()
                && self.slots.values().all(|slot| slot.careful.is_none())
                && !self.tasks.iter().flatten().any(|task| task.has_records())
                && self.committer.may_overlap()
                && self.outbox.has_room()
                && self.bytes_since_commit < self.plan.commit_bytes,
            running: self.tasks.iter().any(Option::is_some) && self.may_begin(),
            changing: self.equipment.plans.is_newer(self.plan_seen) || switching && !self.may_switch_at_seal(),
            switching,
            draining: self.equipment.control.is_draining(),
        }
    }

    fn begin_interval(&mut self) {
        self.last_commit = self.equipment.runtime.now();
        self.bytes_since_commit = 0;
    }

    /// A transaction of somebody who is no member of the group at the moment would be aborted.
    fn may_begin(&self) -> bool {
        !self.is_exactly_once() || self.outbox.is_in_transaction() || self.consumer.membership().is_some()
    }

    fn drop_task(&mut self, partition: u32) {
        self.committer.forget(partition);
        if let Some(candidate) = &self.candidate {
            candidate.forget(partition);
        }
        self.spares.forget(partition);
        if let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::take) {
            self.counters.forget_task(&task);
        }
    }

    /// Goes on with the commit under way. When it ends, so does holding outputs back.
    fn advance(&mut self, wait: Duration) -> Result<Advanced, Failure> {
        let began = self.equipment.runtime.now();
        let advanced = self.committer.advance(&mut self.tasks, &mut self.outbox, &mut self.consumer, wait);
        self.held_up(began);
        let advanced = match advanced {
            Err(Failure::Delivery(FlushError::Refused { first, .. })) if self.plan.is_fault_of_record(&first) => {
                self.all_go_carefully();
                Advanced::Unknown { reason: format!("output was refused: {first}") }
            }
            advanced => advanced?,
        };
        match advanced {
            Advanced::Waiting(_) => {}
            Advanced::Ended { .. } => self.send_held()?,
            Advanced::Spoiled { .. } | Advanced::Aborted { .. } | Advanced::Unknown { .. } => drop(self.outbox.open()),
        }
        Ok(advanced)
    }

    /// Begins a commit. A task whose plugin fails while it is flushed goes back and has no part in it. Whether one has begun that is
    /// not to be aborted, and beside which records may be processed.
    fn begin_commit(&mut self) -> Result<bool, Failure> {
        if self.committer.is_under_way() {
            return Ok(false);
        }
        if self.is_exactly_once() {
            if let Err(error) = self.outbox.begin() {
                return self.transaction_failed(error).map(|()| false);
            }
            self.outbox.close();
        }
        self.bytes_since_commit = 0;
        self.held_up = Duration::ZERO;
        self.went_over = 0;
        loop {
            match self.committer.begin(&mut self.tasks) {
                Err(Failure::Flush { transform, partition, error }) => {
                    self.flush_failed(transform, partition, error)?;
                }
                begun => return begun.map(|()| self.committer.may_process()),
            }
        }
    }

    /// Goes over to the newest plan: everything is committed. State stays where it is, unless the stores are other ones: then the
    /// tasks are brought up anew.
    fn change(&mut self) -> Result<(), Failure> {
        if let Some(plan) = self.equipment.plans.newer(&mut self.plan_seen) {
            self.change_plan(&plan)?;
        }
        self.switch()
    }

    fn change_plan(&mut self, plan: &Arc<Plan>) -> Result<(), Failure> {
        let new_producer =
            self.is_exactly_once() && self.plan.transactions(&self.name) != plan.transactions(&self.name);
        self.counters = Counters::new(plan, &self.equipment.metrics);
        self.restorer.change(Arc::clone(plan));
        self.committer.change(Arc::clone(plan));
        self.plan = Arc::clone(plan);
        if new_producer {
            self.open_outbox()?;
        } else {
            self.outbox.change(plan)?;
        }
        self.slots.values_mut().for_each(Slot::begins_anew);
        for number in self.slots.keys().copied().collect::<Vec<_>>() {
            let running = self.tasks.get_mut(number as usize).and_then(Option::as_mut);
            if let Some(task) = running.filter(|task| task.plan.has_stores_of(plan)) {
                switching::go_over(task, plan, self.equipment.runtime.now_ms())?;
            } else if self.slots[&number].assigned.len() == plan.sources.len() {
                let partitions: Vec<_> = task::partitions(number, plan.sources.len()).collect();
                self.consumer.halt(&partitions)?;
                self.drop_task(number);
                let attempt = self.restorer.begin(number);
                self.slots.entry(number).or_default().attempt = Some(attempt);
            }
        }
        self.equipment.plans.adopted(self.number, plan.revision);
        info!(pipeline = plan.pipeline, revision = plan.revision, "goes on with the changed pipeline");
        Ok(())
    }

    /// Begins a commit or goes on with the one under way, and waits for it for about `wait`.
    fn commit(&mut self, wait: Duration) -> Result<(), Failure> {
        let began = self.equipment.runtime.now();
        if self.begin_commit()? {
            self.switch_at_seal()?;
        }
        self.held_up(began);
        let wait = self.equipment.control.left().map_or(wait, |left| left.min(wait));
        match self.advance(wait)? {
            Advanced::Spoiled { reason } => self.take_back(&reason)?,
            Advanced::Aborted { lost, reason } => self.go_back(&lost, &reason)?,
            Advanced::Unknown { reason } => self.recover(&reason)?,
            Advanced::Ended { lost } => {
                self.last_commit = self.equipment.runtime.now();
                let (held_up_us, went_over) = (micros(self.held_up), self.went_over);
                debug!(thread = self.name, held_up_us, went_over, "committed");
                for partition in lost {
                    self.claim_again(partition)?;
                }
                // The group would not take the offsets, or there is more to commit: a drain does not try for ever.
                if self.equipment.control.is_overdue() && self.tasks.iter().flatten().any(|task| task.dirty) {
                    return Err(Failure::Undrained { waiting_for: "a commit of what was processed last".to_owned() });
                }
            }
            Advanced::Waiting(waiting_for) => {
                if self.equipment.control.is_overdue() {
                    return Err(Failure::Undrained { waiting_for: waiting_for.to_owned() });
                }
            }
        }
        // The group is served between the steps of a commit that waits.
        self.consumer.fetch(0, 0, Duration::ZERO, |_| {})?;
        self.equipment.control.worked(self.equipment.runtime.since(began));
        Ok(())
    }

    /// Since `began`, a commit was worked on.
    fn held_up(&mut self, began: Instant) {
        let time = self.equipment.runtime.since(began);
        self.held_up += time;
        if !self.caught_up {
            self.counters.held_up(time);
        }
    }

    /// Takes in tasks that have come up.
    fn bring_up(&mut self) -> Result<(), Failure> {
        let (mut positions, mut first, mut came_up) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(report) = self.restorer.next_report() {
            let partition = report.partition;
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            let Some(attempt) = &slot.attempt else { continue };
            let task = match self.restorer.report(attempt, report) {
                // The state may be of the plan that is to be taken over: then the task comes up by that.
                Err(Failure::Schema { .. }) if self.equipment.plans.is_newer(self.plan_seen) => {
                    slot.attempt = None;
                    continue;
                }
                Err(failure) => return Err(failure),
                Ok(None) => continue,
                Ok(Some(Progress::First(offsets))) => {
                    first.push((partition, offsets));
                    continue;
                }
                Ok(Some(Progress::Up(task))) => task,
            };
            self.counters.restored(self.equipment.runtime.since(attempt.began()));
            slot.attempt = None;
            positions.extend(task.positions());
            debug!(task = %self.plan.task(partition), offsets = ?task.next, "running");
            if task.durable.is_some() && self.plan.guarantee == Guarantee::AtLeastOnce {
                // Its last owner may have ended between its commit and the group's.
                self.group_offsets_at = Some(self.equipment.runtime.now());
            }
            self.tasks[partition as usize] = Some(task);
            came_up.push(partition);
        }
        came_up.into_iter().for_each(|partition| self.came_up(partition));
        self.consumer.start(&positions, START_WAIT)?;
        if !first.is_empty() && !self.equipment.control.is_draining() {
            for (partition, attempt) in self.restorer.commit_first(&first, &mut self.consumer) {
                self.slots.entry(partition).or_default().attempt = Some(attempt);
            }
        }
        Ok(())
    }

    fn fetch(&mut self, wait: Duration) -> Result<(), Failure> {
        // What has waited for a commit comes before more is taken.
        if !self.tasks.iter().flatten().any(|task| task.has_records()) && !self.take(wait)? {
            return Ok(());
        }
        let began = self.equipment.runtime.now();
        let in_turn = self.tasks_in_turn();
        if in_turn.is_empty() {
            // Until the commit that is due, which may have to wait for the byte budget.
            self.consumer.fetch(0, 0, TURN_WAIT, |_| {})?;
        }
        for partition in in_turn {
            // What is done before an abort is done in vain.
            if !self.committer.may_process() {
                break;
            }
            if self.is_exactly_once()
                && let Err(error) = self.outbox.begin()
            {
                return self.transaction_failed(error);
            }
            self.process(partition)?;
        }
        self.equipment.control.worked(self.equipment.runtime.since(began));
        Ok(())
    }

    /// Takes what Kafka has, waiting at most so long for the first record. Whether there was anything.
    fn take(&mut self, wait: Duration) -> Result<bool, Failure> {
        let Self { tasks, consumer, plan, .. } = self;
        let fetched = consumer.fetch(plan.batch_records, plan.batch_bytes, wait, |record| {
            let task = usize::try_from(record.partition).ok().and_then(|at| tasks.get_mut(at)).and_then(Option::as_mut);
            if let Some(inbox) = task.and_then(|task| task.inbox.get_mut(record.input as usize)) {
                let origin = (record.input, record.partition, record.offset);
                inbox.push(origin, record.timestamp, record.key, record.value, record.headers);
            }
        })?;
        self.caught_up = fetched.records < plan.batch_records && fetched.bytes < plan.batch_bytes;
        self.bytes_since_commit = self.bytes_since_commit.saturating_add(fetched.bytes as u64);
        Ok(fetched.records > 0)
    }

    /// Does what has come for a task: records, and orders to process dead letters again.
    fn process(&mut self, partition: usize) -> Result<(), Failure> {
        match self.process_records(partition).and_then(|()| self.replay(partition)) {
            Ok(()) => {
                self.end_patience(partition);
                Ok(())
            }
            Err(error) => self.not_processed(partition, error),
        }
    }

    fn process_records(&mut self, partition: usize) -> Result<(), CarefulError<Box<Failure>>> {
        let Some(task) = &mut self.tasks[partition] else { return Ok(()) };
        let plan = Arc::clone(&task.plan);
        let Some(slot) = self.slots.get_mut(&task.partition) else { return Ok(()) };
        let mut batch = task.take_batch(plan.inputs);
        if batch.is_empty() {
            return Ok(());
        }
        task.advance(&batch);
        self.counters.taken(&batch);
        let runtime = &*self.equipment.runtime;
        let mut sending = Sending::new(
            &plan,
            &self.equipment,
            &mut self.outbox,
            &mut self.consumer,
            &mut self.counters,
            &mut slot.tally,
        );
        let passed = match &mut slot.careful {
            None => {
                let now = runtime.now_ms();
                let Task { instances, state, shadow, .. } = &mut **task;
                let shadow = shadow.as_deref_mut();
                let passed = chain::run(&plan, instances, state, shadow, &mut batch, now, &mut sending);
                passed.map_err(CarefulError::Chain)
            }
            Some(careful) => {
                task.end_shadow();
                careful.forget_before(&task.committed);
                careful::Run::new(&plan, runtime, careful, task).through(0, &mut batch, &mut sending)
            }
        };
        self.counters.sent(&mut self.outbox);
        passed?;
        slot.tally.note_shadow(task);
        task.recycle(plan.inputs, batch);
        Ok(())
    }

    fn end_patience(&mut self, partition: usize) {
        let Some(task) = &self.tasks[partition] else { return };
        let Some(slot) = self.slots.get_mut(&task.partition) else { return };
        let reached = |waited: &mut Patience| task.next.iter().zip(&waited.behind).all(|(next, end)| next >= end);
        slot.patience.take_if(|waited| waited.resumed && reached(waited));
    }

    fn report(&mut self) {
        let now = (self.slots.len(), self.tasks.iter().flatten().count());
        if now != self.counted {
            self.equipment.control.tasks(self.counted, now);
            self.counters.tasks(self.counted, now);
            self.counted = now;
        }
        if self.equipment.runtime.since(self.metrics_at) >= METRICS_EVERY {
            self.metrics_at = self.equipment.runtime.now();
            let delay = self.committer.budget_delay();
            self.counters.delay(delay.min(METRICS_EVERY));
            if delay > self.plan.commit_interval && self.equipment.runtime.since(self.budget_said) >= BUDGET_MESSAGE {
                self.budget_said = self.equipment.runtime.now();
                warn!(
                    pipeline = self.plan.pipeline,
                    ?delay,
                    "commits wait for the byte budget of the metadata store (`zookeeper-bytes-per-second` under [limits])"
                );
            }
            self.tasks.iter().flatten().for_each(|task| self.counters.task(task));
            if self.candidate.is_none() {
                // One that still runs a candidate goes back to what is superseded here.
                for task in self.tasks.iter_mut().flatten().filter(|task| Arc::ptr_eq(&task.plan, &self.plan)) {
                    task.dirty |= task.tidy();
                }
            }
            self.report_trial();
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

//! One run: a few nodes over a modelled Kafka and ZooKeeper, faults for a while, then peace, and what has to be true.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use sluicegate::checkpoint::resolve::{GroupOffset, GroupOffsets};
use sluicegate::comparison::{Example, Side};
use sluicegate::config::Guarantee;
use sluicegate::kafka::TopicPartition;
use sluicegate::meta::layout::{self, Segment};
use sluicegate::metrics::Metrics;
use sluicegate::worker::budget::Budget;
use sluicegate::worker::candidate::Candidate;
use sluicegate::worker::control::Control;
use sluicegate::worker::gathering::Gathering;
use sluicegate::worker::orphans::Orphans;
use sluicegate::worker::plan::{Plan, SourcePlan};
use sluicegate::worker::plans::Plans;
use sluicegate::worker::runtime::Runtime;
use sluicegate::worker::thread::{Equipment, Thread};

use crate::breaks::{self, Break, BrokenKafka, Process};
use crate::faults::{Counts, Fault, Faults};
use crate::kafka::broker::{Broker, Input};
use crate::kernel::{Fibers, Kernel, Pid};
use crate::oracle::Oracle;
use crate::pipeline;
use crate::runtime::{Flag, Simulated};
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::zookeeper::ZooKeeper;

/// How long things go wrong, at most.
const STORM: Duration = Duration::from_secs(12);
/// When everything has to be through: time-outs, one after the other, and some.
const PEACE: Duration = Duration::from_secs(120);
/// A session ends so long after its process was last heard of.
const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

/// How a run went.
pub(crate) struct Report {
    /// What was wrong.
    pub(crate) violations: Vec<String>,
    /// How often what went wrong.
    pub(crate) faults: Counts,
    /// How many commits there were.
    pub(crate) commits: u64,
    /// How long it took, in virtual time.
    pub(crate) took: Duration,
    pub(crate) trace: Trace,
}

/// A node, by its name; its processes come and go.
struct Node {
    name: String,
    pid: Option<Pid>,
    control: Arc<Control>,
}

#[derive(Clone)]
struct World {
    scenario: Scenario,
    broken: Option<Break>,
    kernel: Kernel,
    faults: Faults,
    oracle: Oracle,
    broker: Broker,
    zookeeper: ZooKeeper,
    plan: Arc<Plan>,
    plans: Arc<Plans>,
    /// How many candidates there were, and the one that there is.
    tried: Arc<Mutex<(u64, Option<Arc<Candidate>>)>>,
    nodes: Arc<Mutex<Vec<Node>>>,
    inputs: Arc<Mutex<BTreeMap<TopicPartition, Vec<Input>>>>,
    last_pid: Arc<Mutex<u32>>,
    calm: Flag,
    closing: Flag,
}

/// Runs a scenario.
pub(crate) fn run(scenario: Scenario, seed: u64, broken: Option<Break>, trace: Trace) -> Report {
    let kernel = Kernel::new(seed, trace);
    let plan = Arc::new(pipeline::plan(&scenario, 1));
    let faults = Faults::new(kernel.clone());
    let oracle = Oracle::new(Arc::clone(&plan));
    let partitions = i32::try_from(plan.partitions).expect("a few");
    let broker = Broker::new(kernel.clone(), faults.clone(), oracle.clone(), scenario.inputs, partitions);
    let zookeeper = ZooKeeper::new(kernel.clone(), faults.clone(), oracle.clone());
    zookeeper.set_presence(layout::NODES, Some(Pid(0)));
    let world = World {
        scenario,
        broken,
        kernel,
        faults,
        oracle,
        broker,
        zookeeper,
        plans: Arc::new(Plans::new(Arc::clone(&plan))),
        tried: Arc::default(),
        plan,
        nodes: Arc::default(),
        inputs: Arc::default(),
        last_pid: Arc::default(),
        calm: Flag::default(),
        closing: Flag::default(),
    };
    world.run()
}

impl World {
    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self) -> Report {
        let mut fibers = Fibers::default();
        for name in ["a", "b", "c"].iter().take(self.scenario.nodes) {
            self.nodes().push(Node { name: (*name).to_owned(), pid: None, control: Arc::default() });
        }
        for at in 0..self.scenario.nodes {
            let (world, wait) = (self.clone(), self.kernel.between(Duration::ZERO, Duration::from_secs(1)));
            self.kernel.after(wait, move || world.start(at));
        }
        self.feed();
        let world = self.clone();
        self.faults.begin(move |pid, fault| world.strike(pid, fault));
        self.clone().weather();
        let (world, storm) = (self.clone(), self.kernel.between(STORM / 3, STORM));
        self.kernel.after(storm, move || world.calm());

        self.advance(&mut fibers, || self.oracle.is_violated() || (self.calm.is_set() && self.is_through()));
        if !self.oracle.is_violated() && !self.is_through() {
            self.oracle.violated(format!("after {PEACE:?} not everything is through: {}", self.left()));
        }
        let took = self.kernel.now();
        if !self.oracle.is_violated() {
            self.closing.set();
            self.nodes().iter().for_each(|node| node.control.drain(Duration::from_secs(86_400)));
            self.advance(&mut fibers, || self.oracle.is_violated() || self.has_stopped());
            self.judge();
        }
        self.faults.end();
        self.kernel.end(&mut fibers);
        Report {
            violations: self.oracle.violations(),
            faults: self.faults.counts(),
            commits: self.oracle.commits(),
            took,
            trace: self.kernel.take_trace(),
        }
    }

    fn advance(&self, fibers: &mut Fibers, over: impl Fn() -> bool) {
        self.kernel.run(fibers, STORM + PEACE, over, |pid, panic| {
            self.oracle.violated(format!("{pid} panics: {}", panic.0));
        });
    }

    /// Gives the sources their records, over some time; the second one few and seldom.
    fn feed(&self) {
        let Scenario { inputs, partitions, records, .. } = self.scenario;
        for number in 0..records {
            let (input, partition, key) = self.kernel.random(|rng| {
                let input = u32::from(inputs > 1 && rng.random_bool(0.03));
                (input, rng.random_range(0..partitions), rng.random_range(0..3))
            });
            let at = TopicPartition { input, partition: partition as i32 };
            let time = self.kernel.between(Duration::ZERO, STORM * 3 / 4);
            let world = self.clone();
            self.kernel.after(time, move || {
                let input = Input {
                    key: format!("key-{partition}-{key}").into_bytes(),
                    value: b"value".to_vec(),
                    timestamp: i64::from(number) + 1,
                };
                world.inputs.lock().unwrap_or_else(PoisonError::into_inner).entry(at).or_default().push(input.clone());
                world.broker.feed(at, input);
            });
        }
    }

    /// Now and then something large goes wrong; what goes wrong within calls is taken from the models.
    fn weather(self) {
        if self.faults.may_strike() {
            if self.kernel.chance(0.01) {
                self.gust();
            }
            let kernel = self.kernel.clone();
            kernel.after(Duration::from_millis(5), move || self.weather());
        }
    }

    fn gust(&self) {
        let pids: Vec<Pid> = self.nodes().iter().filter_map(|node| node.pid).collect();
        let Some(&pid) = pids.get(self.kernel.random(|rng| rng.random_range(0..self.scenario.nodes))) else { return };
        let large = [
            Fault::Crash,
            Fault::Pause,
            Fault::Stop,
            Fault::Change,
            Fault::Rebalance,
            Fault::StoreAway,
            Fault::TransactionTimedOut,
        ];
        let weight = |fault: &Fault| self.faults.weight(*fault);
        let Ok(fault) = self.kernel.random(|rng| large.choose_weighted(rng, weight).copied()) else { return };
        match fault {
            Fault::StoreAway => {
                let time = self.kernel.between(Duration::from_millis(50), Duration::from_secs(5));
                let whom = self.kernel.chance(0.5).then_some(pid);
                self.zookeeper.be_away(whom, time);
            }
            Fault::TransactionTimedOut => {
                if let Some(id) = self.broker.open_transactions().first() {
                    self.broker.give_up(id);
                }
            }
            fault => {
                self.faults.count(fault);
                self.strike(pid, fault);
            }
        }
    }

    fn strike(&self, pid: Pid, fault: Fault) {
        let Some(at) = self.nodes().iter().position(|node| node.pid == Some(pid)) else { return };
        self.kernel.note(format_args!("{pid}: {fault}"));
        let path = self.presence(at);
        match fault {
            Fault::Crash => {
                self.kernel.crash(pid);
                self.nodes()[at].pid = None;
                let (zookeeper, world) = (self.zookeeper.clone(), self.clone());
                self.kernel.after(SESSION_TIMEOUT, move || world.session_ended(&zookeeper, &path, pid));
                self.start_later(at);
            }
            Fault::Pause => {
                let time = self.kernel.between(Duration::from_millis(100), Duration::from_secs(8));
                self.kernel.pause(pid, time);
                if time > SESSION_TIMEOUT {
                    let (zookeeper, world, gone) = (self.zookeeper.clone(), self.clone(), path.clone());
                    self.kernel.after(SESSION_TIMEOUT, move || world.session_ended(&zookeeper, &gone, pid));
                    let world = self.clone();
                    self.kernel.after(time, move || world.session_begins(at, &path, pid));
                }
            }
            Fault::Stop => self.nodes()[at].control.drain(Duration::from_secs(86_400)),
            Fault::Change => self.change(),
            _ => self.broker.group(|group| group.disturb()),
        }
    }

    /// Another plan, or another step of a rollout.
    fn change(&self) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, now) = &mut *tried;
        let some: u64 = self.kernel.random(|rng| rng.random());
        // All tasks, or some.
        let wants = |partition: u32| (some >> 43 | some >> partition) & 1 == 1;
        let wanted: Vec<u32> = (0..self.plan.partitions).filter(|partition| wants(*partition)).collect();
        let base = self.plans.newest();
        // A rollout that does not return ends by that: no crash may find such a task with the version before.
        if let Some(candidate) = now.as_ref().filter(|candidate| candidate.is_one_way()) {
            let told = candidate.reports().into_iter().filter(|(_, report)| report.switched.is_some());
            // A next owner waits for what is pending.
            let is_stable = |task: u32| {
                let inputs = (0..self.scenario.inputs).map(|input| TopicPartition { input, partition: task as i32 });
                self.broker.stable_offsets(&inputs.collect::<Vec<_>>()).is_some()
            };
            told.filter(|(task, _)| is_stable(*task))
                .for_each(|(task, _)| self.oracle.has_gone_over(task, &self.group_offsets(task as i32), candidate));
        }
        self.oracle.has_ended(None);
        *now = match now.take() {
            None if some & 1 << 40 == 0 => {
                self.kernel.note(format_args!("another plan"));
                self.plans.change(Arc::new(pipeline::next(&self.scenario, &base)));
                None
            }
            None => {
                *number += 1;
                let plan = pipeline::candidate(&self.scenario, &base, *number);
                let candidate = Candidate::new(&base, Arc::new(plan)).expect("one transform differs");
                let converts = !candidate.routes.is_empty();
                let one_way = converts && some >> 42 & 1 == 1;
                let candidate = Arc::new(if one_way { candidate.without_return() } else { candidate });
                candidate.want(wants);
                candidate.want_in_shadow(some >> 41 & 1 == 1);
                let stores = &candidate.plan.transforms.last().expect("one").identity.stores;
                let shadow = if candidate.is_wanted_in_shadow() { "in the shadow" } else { "not in the shadow" };
                let back = if one_way { ", without a way back" } else { "" };
                self.kernel.note(format_args!("a candidate with {stores:?}, wanted by {wanted:?}, {shadow}{back}"));
                Some(candidate)
            }
            Some(candidate) => match some >> 40 & 3 {
                _ if !self.agrees_in_the_shadow(&candidate) => Some(candidate),
                // Some task may have gone over for good.
                0 if !candidate.is_one_way() => {
                    self.kernel.note(format_args!("the candidate is called off"));
                    None
                }
                1 if !self.all_run(&candidate) => {
                    candidate.want(|_| true);
                    Some(candidate)
                }
                1 => {
                    self.kernel.note(format_args!("the candidate is the plan"));
                    self.oracle.has_ended(Some(&candidate));
                    self.plans.change(Arc::clone(&candidate.plan));
                    None
                }
                _ => {
                    self.kernel.note(format_args!("the candidate is wanted by {wanted:?}"));
                    candidate.want(wants);
                    candidate.want_in_shadow(some >> 42 & 1 == 1);
                    Some(candidate)
                }
            },
        };
        self.plans.try_out(now.clone());
        // A rollout gets somewhere.
        if now.is_some() && self.faults.may_strike() {
            let (world, wait) = (self.clone(), self.kernel.between(Duration::from_millis(200), Duration::from_secs(2)));
            self.kernel.after(wait, move || world.change());
        }
    }

    /// As a leader sees it: whether all tasks run the candidate, and commits say so.
    fn all_run(&self, candidate: &Candidate) -> bool {
        let reports = candidate.reports();
        let runs = |partition| reports.get(&partition).is_some_and(|task| task.switched.is_some() && task.committed);
        (0..self.plan.partitions).all(runs)
    }

    /// What a candidate makes of the records in the shadow is what the version that runs makes of them: but for the mark behind it, which
    /// some leave, and the time.
    fn agrees_in_the_shadow(&self, candidate: &Candidate) -> bool {
        let last = candidate.plan.transforms.last().expect("one");
        let Some(shadowed) = candidate.shadowed() else { return true };
        let plain = |side: &Option<Side>| match side {
            Some(Side::Sent { value: Some(value), .. }) => value.to_string().trim_end_matches(';').to_owned(),
            other => format!("{other:?}"),
        };
        let differs = |example: &&Example| plain(&example.first) != plain(&example.second);
        let (of, differing) = (shadowed.counts, shadowed.examples.iter().find(differs));
        if let Some(example) = differing.filter(|_| !last.config.contains("trap")) {
            self.oracle.violated(format!("of {of:?} in the shadow something else came: {example:?}"));
        }
        differing.is_none()
    }

    fn presence(&self, at: usize) -> String {
        layout::node(&Segment::new(&self.nodes()[at].name).expect("a letter"))
    }

    fn session_ended(&self, zookeeper: &ZooKeeper, path: &str, pid: Pid) {
        if zookeeper.tree().get(path).is_some_and(|node| node.data == pid.to_string()) {
            zookeeper.set_presence(path, None);
        }
    }

    fn session_begins(&self, at: usize, path: &str, pid: Pid) {
        if self.nodes()[at].pid == Some(pid) {
            self.zookeeper.set_presence(path, Some(pid));
        }
    }

    fn start_later(&self, at: usize) {
        let most = if self.faults.may_strike() { Duration::from_secs(4) } else { Duration::from_secs(1) };
        let (world, wait) = (self.clone(), self.kernel.between(Duration::from_millis(50), most));
        self.kernel.after(wait, move || world.start(at));
    }

    /// Nothing goes wrong any more, and everybody comes back.
    fn calm(&self) {
        self.kernel.note(format_args!("calm"));
        self.faults.end();
        self.calm.set();
    }

    /// Starts a process of a node.
    fn start(&self, at: usize) {
        if self.closing.is_set() {
            return;
        }
        let pid = {
            let mut last = self.last_pid.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            Pid(*last)
        };
        let path = self.presence(at);
        let control = Arc::new(Control::default());
        let name = {
            let mut nodes = self.nodes();
            let node = &mut nodes[at];
            (node.pid, node.control) = (Some(pid), Arc::clone(&control));
            node.name.clone()
        };
        self.kernel.note(format_args!("{pid} starts as {name}"));
        self.kernel.begin(pid);
        self.zookeeper.set_presence(&path, Some(pid));
        let equipment = self.equipment(pid, name, control);
        let world = self.clone();
        self.kernel.start(pid, move || {
            let result = Thread::join(equipment, 0).and_then(Thread::run);
            world.ended(at, pid, result.map_err(|failure| failure.to_string()));
        });
    }

    fn ended(&self, at: usize, pid: Pid, result: Result<(), String>) {
        self.kernel.note(format_args!("{pid} ends: {result:?}"));
        let path = self.presence(at);
        self.session_ended(&self.zookeeper, &path, pid);
        self.nodes()[at].pid = None;
        match result {
            Err(failure) => self.oracle.violated(format!("{pid} stops: {failure}")),
            Ok(()) => self.start_later(at),
        }
    }

    fn equipment(&self, pid: Pid, node: String, control: Arc<Control>) -> Equipment<BrokenKafka> {
        let bare_epochs = self.broken == Some(Break::BareEpochs);
        let runtime: Arc<dyn Runtime> = Arc::new(Simulated { kernel: self.kernel.clone(), pid, bare_epochs });
        let process = Process { pid, kernel: self.kernel.clone(), broker: self.broker.clone(), how: self.broken };
        let (kafka, meta) = breaks::edges(process, self.zookeeper.client(pid), Arc::clone(&self.plan));
        Equipment {
            plans: Arc::clone(&self.plans),
            kafka: kafka.clone(),
            meta: Arc::clone(&meta),
            runtime: Arc::clone(&runtime),
            budget: Arc::new(Mutex::new(Budget::new(1 << 40, self.kernel.instant()))),
            metrics: Arc::new(Metrics::default()),
            control,
            orphans: Arc::new(Orphans::new(Arc::clone(&self.plan), meta, runtime, kafka)),
            gathering: Arc::new(Gathering::of(1)),
            node,
        }
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        let Scenario { inputs, partitions, .. } = self.scenario;
        (0..inputs)
            .flat_map(|input| (0..partitions).map(move |at| TopicPartition { input, partition: at as i32 }))
            .collect()
    }

    fn offset(&self, at: TopicPartition) -> Option<i64> {
        self.broker.offset(at).map(|(offset, _)| offset)
    }

    /// How many records have been given.
    fn fed(&self) -> usize {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }

    /// Whether everything was given and is committed, and nothing is open.
    fn is_through(&self) -> bool {
        self.fed() == self.scenario.records as usize
            && self.broker.visible().is_some()
            && self.partitions().into_iter().all(|at| match self.broker.end_offset(at) {
                // Of one without records nobody has to tell.
                0 => self.offset(at).is_none_or(|offset| offset == 0),
                end => self.offset(at) == Some(end),
            })
    }

    fn has_stopped(&self) -> bool {
        self.nodes().iter().all(|node| node.pid.is_none()) && self.broker.visible().is_some()
    }

    fn left(&self) -> String {
        let shown = self
            .partitions()
            .into_iter()
            .map(|at| format!("{at} is committed up to {:?} of {}", self.offset(at), self.broker.end_offset(at)));
        let open = if self.broker.visible().is_none() { "; a transaction is open" } else { "" };
        format!("{}{open}", shown.collect::<Vec<_>>().join(", "))
    }

    /// What Kafka would tell the next owner of a task.
    fn group_offsets(&self, partition: i32) -> GroupOffsets {
        let topics = (0..).zip(&self.plan.sources);
        let of = |(input, source): (u32, &SourcePlan)| {
            let stored = self.broker.offset(TopicPartition { input, partition });
            let (offset, metadata) = stored.map_or((None, String::new()), |(at, text)| (Some(at), text));
            (source.topic.clone(), GroupOffset { offset, metadata })
        };
        topics.map(of).collect()
    }

    fn judge(&self) {
        if self.oracle.is_violated() {
            return;
        }
        if self.nodes().iter().any(|node| node.pid.is_some()) {
            self.oracle.violated("a node does not stop".to_owned());
        }
        let Some(outputs) = self.broker.visible() else {
            self.oracle.violated("a transaction is open at the end".to_owned());
            return;
        };
        let given = self.inputs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tasks: Vec<Vec<Input>> = (0..self.scenario.partitions as i32)
            .map(|number| {
                let of_task = given.iter().filter(|(at, _)| at.partition == number);
                of_task.flat_map(|(_, inputs)| inputs.iter().cloned()).collect()
            })
            .collect();
        let offsets: Vec<GroupOffsets> =
            (0..self.scenario.partitions as i32).map(|partition| self.group_offsets(partition)).collect();
        let exactly = self.plan.guarantee == Guarantee::ExactlyOnce;
        self.oracle.check_outputs(&tasks, &outputs, exactly);
        self.oracle.check_state(&self.zookeeper.tree(), &offsets, &tasks);
    }
}

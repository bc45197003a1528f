//! Rollouts over a model of a cluster: nodes die and come, tasks move, leaders act on what they saw long ago, answers are lost. In
//! whatever order that happens, a rollout ends when it is over, and what runs then is what the record says. Without a way back, a task
//! whose head names the candidate runs nothing else, until a person has taken it back while nobody ran it.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::tests::{at, rollout};
use super::*;

const TASKS: usize = 4;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Steps with everything that can go wrong, and then steps in which a rollout has to come to its end.
const STORM: usize = 300;
const CALM: usize = 2000;

#[derive(Clone, Default)]
struct Task {
    runs_candidate: bool,
    in_shadow: bool,
    has_failed_there: bool,
    refused: bool,
    /// Records on which it has failed, where it does not go back for that.
    errors: u64,
}

#[derive(Default)]
struct Node {
    /// The record as it was read last.
    seen: Option<Rollout>,
    loaded: bool,
    shadowed: u64,
    tasks: BTreeMap<u32, Task>,
}

/// What a leader has read; it may act on it much later.
#[derive(Clone)]
struct Sight {
    rollout: Rollout,
    placed: Vec<&'static str>,
    reports: BTreeMap<&'static str, NodeReport>,
}

struct World {
    random: StdRng,
    /// Whether the candidate fails on some records.
    is_bad: bool,
    one_way: bool,
    /// Somebody has paused the pipeline to take its tasks back.
    paused: bool,
    seconds: i64,
    record: Option<Rollout>,
    outcome: Option<Outcome>,
    nodes: BTreeMap<&'static str, Node>,
    reports: BTreeMap<&'static str, NodeReport>,
    /// Whether the head of each task names the candidate.
    heads: [bool; TASKS],
    sights: Vec<Sight>,
}

impl World {
    fn new(seed: u64, one_way: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let canary = ["1", "50%"].choose(&mut random).filter(|_| seed.is_multiple_of(2)).copied();
        let mut record = rollout(canary);
        record.strategy.probation_ms = 5000;
        record.strategy.shadow = ["50", "10s"].get(seed as usize % 3).map(|shadow| shadow.parse().unwrap());
        record.strategy.no_return = one_way;
        Self {
            one_way,
            paused: false,
            is_bad: random.random_bool(0.5),
            random,
            seconds: 0,
            record: Some(record),
            outcome: None,
            nodes: BTreeMap::new(),
            reports: BTreeMap::new(),
            heads: [false; TASKS],
            sights: Vec::new(),
        }
    }

    fn some_node(&mut self) -> Option<&'static str> {
        self.nodes.keys().copied().choose(&mut self.random)
    }

    /// Anything that can happen on a node, or to it.
    fn node_step(&mut self, is_stormy: bool) {
        let Some(name) = self.some_node() else { return self.comes() };
        match self.random.random_range(0..if is_stormy { 7 } else { 5 }) {
            0 => self.reads(name),
            1 => drop(self.nodes.get_mut(name).map(|node| node.loaded = node.seen.is_some())),
            2 => self.works(name),
            3 => self.publishes(name),
            4 => self.assigns(),
            5 => {
                self.nodes.remove(name);
                self.reports.remove(name);
            }
            _ => self.comes(),
        }
    }

    fn comes(&mut self) {
        let name = NAMES.choose(&mut self.random).copied().unwrap_or("a");
        self.nodes.entry(name).or_default();
    }

    fn reads(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let number = |rollout: &Option<Rollout>| rollout.as_ref().map(|rollout| rollout.number);
        if number(&node.seen) != number(&self.record) {
            node.loaded = false;
            node.shadowed = 0;
        }
        node.seen.clone_from(&self.record);
    }

    fn works(&mut self, name: &str) {
        let (one_way, Some(node)) = (self.one_way, self.nodes.get_mut(name)) else { return };
        let wants = |partition: u32| node.loaded && node.seen.as_ref().is_some_and(|rollout| rollout.wants(partition));
        for (partition, task) in &mut node.tasks {
            let head = &mut self.heads[*partition as usize];
            assert!(!one_way || !*head || task.runs_candidate, "the version before would misread task {partition}");
            if one_way && task.runs_candidate {
                task.errors += u64::from(self.is_bad && self.random.random_bool(0.1));
            } else if !wants(*partition) {
                task.runs_candidate = false;
            } else if !task.refused {
                task.runs_candidate = true;
            }
            task.in_shadow = node.loaded && node.seen.as_ref().is_some_and(|rollout| rollout.phase == Phase::Shadow);
            assert!(!task.in_shadow || !task.runs_candidate, "nobody runs it while it is in the shadow");
            node.shadowed += 10 * u64::from(task.in_shadow);
            task.has_failed_there |= task.in_shadow && self.is_bad && self.random.random_bool(0.1);
            if task.runs_candidate && self.is_bad && !one_way && self.random.random_bool(0.1) {
                *task = Task { refused: true, ..Task::default() };
            }
            // A commit, or not yet.
            if self.random.random_bool(0.5) {
                *head = task.runs_candidate;
            }
        }
    }

    fn publishes(&mut self, name: &'static str) {
        let Some(node) = self.nodes.get(name) else { return };
        let Some(rollout) = &node.seen else { return drop(self.reports.remove(name)) };
        let heads = self.heads;
        let report = |partition: u32, task: &Task| TaskReport {
            committed: task.runs_candidate && heads[partition as usize],
            // For good only what is durable.
            switched: (task.runs_candidate && (!self.one_way || heads[partition as usize])).then(Switched::default),
            refused: task.refused.then(|| "it traps".to_owned()),
            shadow: match task.has_failed_there {
                true => Some(InShadow::Failed("it traps".to_owned())),
                false => task.in_shadow.then_some(InShadow::Sees),
            },
            after: Counted { records: 1000 * task.errors, errors: 500 * task.errors, busy_us: 0 },
            ..TaskReport::default()
        };
        let tasks = match node.loaded {
            true => node.tasks.iter().map(|(partition, task)| (*partition, report(*partition, task))).collect(),
            false => BTreeMap::new(),
        };
        let counts = Counts { records: node.shadowed, same: node.shadowed, ..Counts::default() };
        let shadowed = (node.shadowed > 0).then_some(Shadowed { counts, examples: Vec::new() });
        let report = NodeReport { number: rollout.number, prepared: node.loaded, problem: None, shadowed, tasks };
        self.reports.insert(name, report);
    }

    /// Tasks that nobody has come up where chance wants them, with the version that their heads name.
    fn assigns(&mut self) {
        if self.paused {
            return;
        }
        for partition in 0..TASKS {
            let number = u32::try_from(partition).unwrap_or_default();
            if self.nodes.values().any(|node| node.tasks.contains_key(&number)) {
                continue;
            }
            let Some(name) = self.some_node() else { return };
            let Some(node) = self.nodes.get_mut(name) else { return };
            // Where nothing else goes on from its state, a node that has not loaded the candidate does not come up.
            let can_come_up = !self.one_way || node.loaded || !self.heads[partition];
            if can_come_up {
                let runs_candidate = node.loaded && self.heads[partition];
                node.tasks.insert(number, Task { runs_candidate, ..Task::default() });
            }
        }
    }

    /// A leader looks, or one that has looked some time ago acts.
    fn leader_step(&mut self, is_stormy: bool) {
        let Some(rollout) = self.record.clone() else { return };
        self.sights.push(Sight {
            rollout,
            placed: self.nodes.keys().copied().collect(),
            reports: self.reports.clone(),
        });
        let at_hand = self.sights.len() - 1;
        let chosen = if is_stormy { self.random.random_range(at_hand.saturating_sub(5)..=at_hand) } else { at_hand };
        let sight = self.sights[chosen].clone();
        let reports = sight.reports.iter().map(|(node, report)| (*node, report)).collect();
        let next = sight.rollout.next(&sight.placed, &reports, at(self.seconds));
        // The record is changed under its version.
        if self.record.as_ref() != Some(&sight.rollout) {
            return;
        }
        match next {
            Next::Wait => {}
            Next::Go(next) => self.record = Some(*next),
            Next::End(ended, outcome) => {
                let refused = sight.reports.values().flat_map(|it| it.tasks.values()).any(|it| it.refused.is_some());
                assert!(outcome == Outcome::Returned || !refused, "done, though a task had refused it: {ended:?}");
                let fails = sight.reports.values().flat_map(|it| it.tasks.values()).any(|it| it.after.errors > 0);
                assert!(!fails || ended.promoted_by.is_some(), "done, though nobody has decided so: {ended:?}");
                let all = self.heads.iter().all(|head| *head);
                assert!(!self.one_way || all == (outcome == Outcome::Done), "{outcome:?} with {:?}", self.heads);
                assert!(outcome == Outcome::Done || ended.reason.is_some(), "somebody has to know why");
                (self.record, self.outcome) = (None, Some(outcome));
            }
        }
    }

    /// A person decides what nobody else may.
    fn decides(&mut self) {
        let Some(held) = self.record.clone().filter(|record| record.awaits_decision().is_some()) else { return };
        assert!(!held.can_be_called_off());
        match self.random.random_range(0..8) {
            0 => self.record = held.promoted("me@here".to_owned()),
            1 => {
                // Everybody lets go of it, with a last commit or without.
                self.paused = true;
                self.nodes.values_mut().for_each(|node| node.tasks.clear());
                self.reports.clear();
            }
            // Interrupted, and resumed.
            2 => self.paused = false,
            _ if self.paused => match self.heads.iter_mut().find(|head| **head) {
                Some(head) => *head = false,
                None => (self.record, self.outcome, self.paused) = (None, Some(Outcome::Returned), false),
            },
            _ => {}
        }
        self.paused &= self.record.as_ref().is_some_and(|record| record.awaits_decision().is_some());
    }

    fn step(&mut self, is_stormy: bool) {
        if self.random.random_bool(0.1) {
            self.decides();
        }
        self.seconds += i64::from(self.random.random_bool(0.3));
        match self.random.random_bool(0.2) {
            true => self.leader_step(is_stormy),
            false => self.node_step(is_stormy),
        }
    }
}

#[test]
fn a_rollout_comes_to_its_end_whatever_happens_meanwhile() {
    let (mut done, mut returned) = (0, 0);
    for seed in 0..500 {
        let mut world = World::new(seed, false);
        (0..STORM).for_each(|_| world.step(true));
        let mut left = CALM;
        while world.record.is_some() {
            left = left.checked_sub(1).unwrap_or_else(|| panic!("seed {seed} does not end: {:?}", world.record));
            world.step(false);
        }
        match world.outcome {
            Some(Outcome::Done) => done += 1,
            _ => returned += 1,
        }
        // Those that are left hear of it.
        for name in NAMES {
            world.reads(name);
            world.works(name);
        }
        let runs = world.nodes.values().flat_map(|node| node.tasks.values()).any(|task| task.runs_candidate);
        assert!(!runs, "seed {seed}: beside what the record says nothing runs");
    }
    assert!(done > 50 && returned > 50, "{done} done, {returned} returned");
}

#[test]
fn without_a_way_back_a_task_stays_with_what_has_made_its_state_and_a_person_ends_what_is_held() {
    let (mut done, mut promoted, mut returned) = (0, 0, 0);
    for seed in 0..500 {
        let mut world = World::new(seed, true);
        (0..STORM).for_each(|_| world.step(true));
        let mut left = 5 * CALM;
        let mut was_held = false;
        while let Some(record) = &world.record {
            was_held |= record.held.is_some();
            left = left.checked_sub(1).unwrap_or_else(|| panic!("seed {seed} does not end: {record:?}"));
            world.step(false);
        }
        match world.outcome {
            Some(Outcome::Done) if was_held => promoted += 1,
            Some(Outcome::Done) => done += 1,
            _ => returned += 1,
        }
    }
    assert!(done > 50 && promoted > 20 && returned > 20, "{done} done, {promoted} promoted, {returned} returned");
}

//! What a worker's log says of commits and switches. Pure.
//!
//! A thread lets tasks go over when it begins a commit. What that adds is how much longer it stood still for that commit, the exchange
//! of instances with it, than it does otherwise: than for the ordinary commits of the same thread shortly before.

use std::collections::BTreeMap;

use serde_json::Value;
use sluicegate_bench::figures::median;

/// Ordinary commits before a switch that it is compared with.
const COMPARED: usize = 20;

/// A commit of a thread. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Commit {
    /// How long it was worked on instead of on records, with the exchange.
    held_up: f64,
    /// How long the exchange of instances took, when tasks went over by it.
    exchange: Option<f64>,
}

/// What a log says.
#[derive(Default)]
pub(crate) struct Log {
    threads: BTreeMap<String, Vec<Commit>>,
    /// Of tasks that have gone over by the commit under way, by thread.
    exchanges: BTreeMap<String, f64>,
    /// When a task went over, in seconds since 1970.
    switched: Vec<f64>,
}

/// Milliseconds, of all threads.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pauses {
    /// Commits that no switch is near.
    pub(crate) ordinary: Vec<f64>,
    /// Commits by which tasks went over.
    pub(crate) switching: Vec<f64>,
    /// How much longer these are than the ordinary ones of the same thread before them.
    pub(crate) added: Vec<f64>,
    /// The same of ordinary commits: what is chance.
    pub(crate) chance: Vec<f64>,
    /// The exchange of instances alone, which rollouts record.
    pub(crate) exchange: Vec<f64>,
    /// The first commits of what the new version did.
    pub(crate) next: Vec<f64>,
}

impl Log {
    /// Reads lines of JSON; those that say nothing of this are left out.
    pub(crate) fn read(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            log.take(&line);
        }
        log
    }

    fn take(&mut self, line: &Value) -> Option<()> {
        let number = |name: &str| line[name].as_f64();
        let thread = line["thread"].as_str()?.to_owned();
        match line["message"].as_str()? {
            "committed" => {
                let by_it = self.exchanges.remove(&thread).filter(|_| line["went_over"].as_u64() > Some(0));
                let commit = Commit { held_up: number("held_up_us")?, exchange: by_it };
                self.threads.entry(thread).or_default().push(commit);
            }
            "went over to the candidate" => {
                let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
                self.switched.push(at.as_duration().as_secs_f64());
                // Each task of a thread says the same of their switch.
                self.exchanges.insert(thread, number("pause_us")?);
            }
            _ => {}
        }
        Some(())
    }

    /// When the last task went over between two moments, in seconds since 1970.
    pub(crate) fn last_switch(&self, from: f64, to: f64) -> Option<f64> {
        self.switched.iter().copied().filter(|at| (from..=to).contains(at)).reduce(f64::max)
    }

    /// Takes the switches of each thread apart, without the first `warm_up` of them.
    pub(crate) fn pauses(&self, warm_up: usize) -> Pauses {
        let mut pauses = Pauses::default();
        for commits in self.threads.values() {
            let (mut ordinary, mut switches, mut is_next) = (Vec::new(), 0, false);
            for Commit { held_up, exchange } in commits {
                let held_up = held_up / 1000.0;
                let is_after = std::mem::replace(&mut is_next, exchange.is_some());
                let usual =
                    || ordinary.len().checked_sub(COMPARED).map(|from| median(ordinary[from..].iter().copied()));
                match exchange {
                    None if is_after => pauses.next.extend((switches > warm_up).then_some(held_up)),
                    None => {
                        pauses.chance.extend(usual().map(|usual| held_up - usual));
                        ordinary.push(held_up);
                    }
                    Some(exchange) => {
                        switches += 1;
                        if let Some(usual) = usual().filter(|_| switches > warm_up) {
                            pauses.switching.push(held_up);
                            pauses.added.push(held_up - usual);
                            pauses.exchange.push(exchange / 1000.0);
                        }
                    }
                }
            }
            pauses.ordinary.extend(ordinary);
        }
        pauses
    }
}

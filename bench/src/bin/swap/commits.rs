//! What a worker's log says of commits and switches. Pure.
//!
//! A thread that lets tasks go over comes to rest by a commit, exchanges instances, and goes on. What that adds is how much longer it
//! stood still than it does for a commit otherwise: than for the ordinary commits of the same thread shortly before.

use std::collections::BTreeMap;

use serde_json::Value;
use sluicegate_bench::figures::median;

/// Ordinary commits before a switch that it is compared with.
const COMPARED: usize = 20;

/// A commit of a thread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// How long it was worked on instead of on records, in microseconds.
    Commit { held_up: f64 },
    /// Some tasks, or all, went over in one go. In microseconds: with the commit before, and without.
    Switch { stood_still: f64, exchange: f64 },
}

/// What a log says.
#[derive(Default)]
pub(crate) struct Log {
    threads: BTreeMap<String, Vec<Event>>,
    /// When a task went over, in seconds since 1970.
    switched: Vec<f64>,
}

/// Milliseconds, of all threads.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pauses {
    /// Commits that no switch is near.
    pub(crate) ordinary: Vec<f64>,
    /// Commits with the switch behind them.
    pub(crate) switching: Vec<f64>,
    /// How much longer these are than the ordinary ones of the same thread before them.
    pub(crate) added: Vec<f64>,
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
        let event = match line["message"].as_str()? {
            "committed" => Event::Commit { held_up: number("held_up_us")? },
            "went over to the candidate" => {
                let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
                self.switched.push(at.as_duration().as_secs_f64());
                Event::Switch { stood_still: number("stood_still_us")?, exchange: number("pause_us")? }
            }
            _ => return None,
        };
        let events = self.threads.entry(line["thread"].as_str()?.to_owned()).or_default();
        // Each task of a thread says the same of their switch.
        if !(matches!(event, Event::Switch { .. }) && events.last() == Some(&event)) {
            events.push(event);
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
        for events in self.threads.values() {
            let (mut ordinary, mut switches) = (Vec::new(), 0);
            for (at, event) in events.iter().enumerate() {
                let is_switch = |at: Option<usize>| {
                    at.and_then(|at| events.get(at)).is_some_and(|event| matches!(event, Event::Switch { .. }))
                };
                match *event {
                    Event::Commit { held_up } if is_switch(at.checked_sub(1)) => {
                        pauses.next.extend((switches > warm_up).then_some(held_up / 1000.0));
                    }
                    Event::Commit { .. } if is_switch(Some(at + 1)) => {}
                    Event::Commit { held_up } => ordinary.push(held_up / 1000.0),
                    Event::Switch { stood_still, exchange } => {
                        switches += 1;
                        let before = ordinary.len().saturating_sub(COMPARED);
                        let usual = median(ordinary[before..].iter().copied());
                        if switches > warm_up && !usual.is_nan() {
                            pauses.switching.push(stood_still / 1000.0);
                            pauses.added.push(stood_still / 1000.0 - usual);
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

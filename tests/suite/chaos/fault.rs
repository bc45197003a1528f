//! What can go wrong, how often each of it does, and what has gone wrong so far.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Fault {
    Kill,
    Freeze,
    Drain,
    Join,
    CutOff,
    Delay,
    SwallowAnswers,
    RestartKafka,
    KillLeader,
    RestartZooKeeper,
    Deploy,
    Pause,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "node killed (SIGKILL) and started again",
            Self::Freeze => "node frozen (SIGSTOP) for longer than its sessions",
            Self::Drain => "node drained (SIGTERM) and started again",
            Self::Join => "fourth node joins and drains",
            Self::CutOff => "node cut off from zookeeper",
            Self::Delay => "what a node and zookeeper say to each other is late",
            Self::SwallowAnswers => "zookeeper's answers to a node lost",
            Self::RestartKafka => "kafka killed and started again",
            Self::KillLeader => "leader of the zookeepers killed and started again",
            Self::RestartZooKeeper => "all zookeepers killed and started again",
            Self::Deploy => "changed pipeline deployed",
            Self::Pause => "pipeline paused and resumed",
        })
    }
}

/// Node faults come more often than those of servers, which everybody has to recover from.
const FAULTS: [Fault; 20] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Drain,
    Fault::Drain,
    Fault::Join,
    Fault::Freeze,
    Fault::Freeze,
    Fault::CutOff,
    Fault::CutOff,
    Fault::Delay,
    Fault::SwallowAnswers,
    Fault::RestartKafka,
    Fault::KillLeader,
    Fault::KillLeader,
    Fault::RestartZooKeeper,
    Fault::Deploy,
    Fault::Deploy,
    Fault::Pause,
];

/// Faults in random order, all of them before any comes again: so that a run of some length has every kind.
#[derive(Default)]
pub(super) struct Bag(Vec<Fault>);

impl Bag {
    pub(super) fn draw(&mut self, random: &mut StdRng) -> Fault {
        if self.0.is_empty() {
            self.0.extend(FAULTS);
            self.0.shuffle(random);
        }
        self.0.pop().expect("it was just filled")
    }
}

/// A fault that was injected.
struct Event {
    fault: Fault,
    /// Where.
    at: String,
    began: Instant,
    /// When it was undone.
    ended: Option<Instant>,
}

/// All of them, in their order.
pub(super) struct Events {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), events: Mutex::default() }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down a fault before it happens, says so, and gives its number.
    pub(super) fn begin(&self, fault: Fault, at: &str) -> usize {
        let began = Instant::now();
        let mut events = self.events();
        events.push(Event { fault, at: at.to_owned(), began, ended: None });
        let clock = jiff::Timestamp::now().strftime("%H:%M:%S%.3f");
        println!("  {clock} {:>7} #{} {fault}: {at}", self.time(began), events.len());
        events.len()
    }

    /// Writes down that a fault has been undone.
    pub(super) fn end(&self, number: usize) {
        self.events()[number - 1].ended = Some(Instant::now());
    }

    /// A moment of the run.
    pub(super) fn time(&self, moment: Instant) -> String {
        format!("+{:.1}s", moment.duration_since(self.start).as_secs_f64())
    }

    pub(super) fn len(&self) -> usize {
        self.events().len()
    }

    pub(super) fn print_counts(&self) {
        let mut counts: BTreeMap<Fault, u32> = BTreeMap::new();
        self.events().iter().for_each(|event| *counts.entry(event.fault).or_default() += 1);
        counts.iter().for_each(|(fault, count)| println!("  {count:>4} x {fault}"));
    }

    /// The fault that a time without records came after, and the numbers of those in it.
    pub(super) fn around(&self, began: Instant, length: Duration) -> String {
        /// The last record came up to so long before the fault: readers see whole commits.
        const COMMIT: Duration = Duration::from_millis(500);
        let events = self.events();
        let number = events.partition_point(|event| event.began <= began + COMMIT);
        let last = events.partition_point(|event| event.began <= began + length);
        let Some(Event { fault, at, began, ended }) = number.checked_sub(1).map(|before| &events[before]) else {
            return "before any fault".to_owned();
        };
        let took = ended.map_or_else(String::new, |ended| format!(" for {:.1} s", (ended - *began).as_secs_f64()));
        let others = if last > number { format!("; until #{last}") } else { String::new() };
        format!("after #{number} {}{took} {fault}: {at}{others}", self.time(*began))
    }
}

//! What goes wrong, how often, and how often it did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::seq::IndexedRandom;

use crate::kernel::{Kernel, Pid};
use crate::runtime::Flag;

/// A kind of fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    /// A process ends where it stands.
    Crash,
    /// A process stands still, for longer than its session or not, and goes on with what it knew.
    Pause,
    /// A process is told to stop, and commits and leaves.
    Stop,
    /// The pipeline is changed: threads go over to another plan.
    Change,
    /// The group moves partitions between its members.
    Rebalance,
    /// ZooKeeper does not hear a request.
    StoreRequestLost,
    /// ZooKeeper has done what it was asked, and its answer is lost.
    StoreAnswerLost,
    /// A write fails, and is applied seconds later.
    StoreLateWrite,
    /// ZooKeeper is away, for one process or for all.
    StoreAway,
    /// Kafka takes seconds to answer.
    KafkaSlow,
    /// Kafka commits or does not, and the producer is told that nobody knows.
    CommitUnknown,
    /// Records are refused, and their transaction with them.
    NotDelivered,
    /// The coordinator gives up a transaction that is open.
    TransactionTimedOut,
    /// The producer's buffer is full.
    BufferFull,
}

impl Fault {
    /// All there are.
    pub(crate) const ALL: [Self; 14] = [
        Self::Crash,
        Self::Pause,
        Self::Stop,
        Self::Change,
        Self::Rebalance,
        Self::StoreRequestLost,
        Self::StoreAnswerLost,
        Self::StoreLateWrite,
        Self::StoreAway,
        Self::KafkaSlow,
        Self::CommitUnknown,
        Self::NotDelivered,
        Self::TransactionTimedOut,
        Self::BufferFull,
    ];

    /// How often it happens to what it can happen to.
    fn probability(self) -> f64 {
        match self {
            Self::Crash => 0.004,
            Self::Pause => 0.003,
            Self::StoreRequestLost | Self::StoreAnswerLost | Self::StoreLateWrite => 0.01,
            Self::KafkaSlow => 0.02,
            Self::CommitUnknown => 0.04,
            Self::NotDelivered => 0.01,
            Self::BufferFull => 0.005,
            Self::Stop | Self::Change | Self::Rebalance | Self::StoreAway | Self::TransactionTimedOut => 0.0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Pause => "pause",
            Self::Stop => "stop",
            Self::Change => "change of the pipeline",
            Self::Rebalance => "rebalance",
            Self::StoreRequestLost => "store: request lost",
            Self::StoreAnswerLost => "store: answer lost",
            Self::StoreLateWrite => "store: applied late",
            Self::StoreAway => "store: away",
            Self::KafkaSlow => "kafka: slow",
            Self::CommitUnknown => "kafka: commit unknown",
            Self::NotDelivered => "kafka: not delivered",
            Self::TransactionTimedOut => "kafka: transaction timed out",
            Self::BufferFull => "kafka: buffer full",
        })
    }
}

/// How often each kind happened.
pub(crate) type Counts = BTreeMap<Fault, u64>;

/// Injects faults.
#[derive(Clone)]
pub(crate) struct Faults {
    kernel: Kernel,
    over: Flag,
    /// Each run has more of one and less of another: what is frequent everywhere would hide what comes of the rest.
    factors: Arc<BTreeMap<Fault, f64>>,
    inner: Arc<Mutex<Inner>>,
}

/// What happens to a process that is struck.
type Blow = Arc<dyn Fn(Pid, Fault) + Send + Sync>;

#[derive(Default)]
struct Inner {
    counts: Counts,
    blow: Option<Blow>,
}

impl Faults {
    pub(crate) fn new(kernel: Kernel) -> Self {
        let factor = || kernel.random(|rng| *[0.0, 0.3, 1.0, 4.0].choose(rng).expect("there are some"));
        let factors = Fault::ALL.into_iter().map(|fault| (fault, factor())).collect();
        Self { kernel, over: Flag::default(), factors: Arc::new(factors), inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happens to a process that is struck.
    pub(crate) fn begin(&self, blow: impl Fn(Pid, Fault) + Send + Sync + 'static) {
        self.inner().blow = Some(Arc::new(blow));
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn end(&self) {
        self.over.set();
        self.inner().blow = None;
    }

    /// Whether things may still go wrong.
    pub(crate) fn may_strike(&self) -> bool {
        !self.over.is_set()
    }

    /// Whether this goes wrong here and now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let strikes = self.may_strike() && self.kernel.chance(fault.probability() * self.factors[&fault]);
        if strikes {
            self.count(fault);
        }
        strikes
    }

    /// How likely one fault is among others in this run.
    pub(crate) fn weight(&self, fault: Fault) -> f64 {
        self.factors[&fault]
    }

    /// It was decided elsewhere that this goes wrong.
    pub(crate) fn count(&self, fault: Fault) {
        self.kernel.note(format_args!("fault: {fault}"));
        *self.inner().counts.entry(fault).or_default() += 1;
    }

    /// One of two ways that a fault may go.
    pub(crate) fn happens(&self) -> bool {
        self.kernel.chance(0.5)
    }

    /// A point at which a process may crash or stand still, here and now.
    pub(crate) fn point(&self, pid: Pid) {
        if !self.kernel.is_running(pid) {
            return;
        }
        let fault = [Fault::Crash, Fault::Pause].into_iter().find(|fault| self.strikes(*fault));
        let blow = self.inner().blow.clone();
        if let (Some(fault), Some(blow)) = (fault, blow) {
            blow(pid, fault);
        }
    }

    /// How often each kind happened.
    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    /// How long something takes in a network that is well.
    pub(crate) fn latency(&self) -> Duration {
        self.kernel.between(Duration::from_micros(200), Duration::from_millis(5))
    }

    /// How long Kafka takes.
    pub(crate) fn kafka_latency(&self) -> Duration {
        if self.strikes(Fault::KafkaSlow) {
            return self.kernel.between(Duration::from_millis(300), Duration::from_secs(4));
        }
        self.latency()
    }
}

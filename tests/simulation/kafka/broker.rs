//! The brokers: topics, the transaction coordinator, the group's offsets.
//!
//! A transaction is decided at one moment, and its markers reach the sink and the group's offsets later, each in its own time.
//! Until then the offsets are pending, and whoever wants stable ones has to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate::kafka::TopicPartition;

use super::group::{Group, Refusal};
use crate::faults::{Fault, Faults};
use crate::kernel::Kernel;
use crate::oracle::Oracle;

/// How often the coordinators look at their clocks.
const TICK: Duration = Duration::from_millis(50);

/// A record of a source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Input {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// What it is told apart by.
    pub(crate) timestamp: i64,
}

/// A record of the sink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Output {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
}

/// One transaction, ever.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TransactionId(u64);

/// An offset as it was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Offset {
    pub(crate) at: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
}

#[derive(Clone, Debug)]
struct Stored {
    offset: i64,
    metadata: String,
    /// When it was appended, among all offsets.
    number: u64,
}

/// What the transaction coordinator knows of a transactional id.
#[derive(Debug, Default)]
struct Producer {
    epoch: u32,
    timeout: Duration,
    open: Option<Open>,
    /// Decided, and its markers are not all there.
    ending: Option<TransactionId>,
    last: Option<(TransactionId, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: TransactionId,
    since: Duration,
}

/// Why a request about a transaction is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Denied {
    /// Another transaction of the id is not through: later.
    Concurrent,
    /// Another producer has taken the id over, or the coordinator has given the transaction up.
    Fenced,
    /// The group refuses its member.
    Group(Refusal),
    /// There is none.
    NoTransaction,
}

struct Inner {
    sources: Vec<Vec<Vec<Input>>>,
    sink: Vec<Vec<(Output, Option<TransactionId>)>>,
    visible: BTreeSet<TransactionId>,
    group: Group,
    offsets: BTreeMap<TopicPartition, Stored>,
    pending: BTreeMap<TransactionId, BTreeMap<TopicPartition, Stored>>,
    producers: BTreeMap<String, Producer>,
    last: u64,
}

/// The brokers.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) kernel: Kernel,
    pub(crate) faults: Faults,
    oracle: Oracle,
    inner: Arc<Mutex<Inner>>,
}

impl Broker {
    pub(crate) fn new(kernel: Kernel, faults: Faults, oracle: Oracle, inputs: u32, partitions: i32) -> Self {
        let inner = Inner {
            sources: vec![vec![Vec::new(); partitions as usize]; inputs as usize],
            sink: vec![Vec::new(); partitions as usize],
            visible: BTreeSet::new(),
            group: Group::new(inputs, partitions),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            producers: BTreeMap::new(),
            last: 0,
        };
        let broker = Self { kernel, faults, oracle, inner: Arc::new(Mutex::new(inner)) };
        broker.clone().tick();
        broker
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(self) {
        let now = self.kernel.now();
        let generation = self.inner().group.tick(now);
        if let Some(generation) = generation {
            self.kernel.note(format_args!("group: generation {generation}"));
        }
        let late: Vec<String> = {
            let inner = self.inner();
            let late = |producer: &Producer| producer.open.is_some_and(|open| now >= open.since + producer.timeout);
            inner.producers.iter().filter(|(_, producer)| late(producer)).map(|(id, _)| id.clone()).collect()
        };
        for id in late {
            self.give_up(&id);
        }
        let kernel = self.kernel.clone();
        kernel.after(TICK, move || self.tick());
    }

    /// Looks at the group.
    pub(crate) fn group<T>(&self, look: impl FnOnce(&mut Group) -> T) -> T {
        look(&mut self.inner().group)
    }

    /// Appends to a source.
    pub(crate) fn feed(&self, at: TopicPartition, input: Input) {
        self.inner().sources[at.input as usize][at.partition as usize].push(input);
    }

    /// How far a source goes.
    pub(crate) fn end_offset(&self, at: TopicPartition) -> i64 {
        self.inner().sources[at.input as usize][at.partition as usize].len() as i64
    }

    /// Records of a source from an offset on.
    pub(crate) fn read(&self, at: TopicPartition, from: i64, most: usize) -> Vec<(i64, Input)> {
        let inner = self.inner();
        let log = &inner.sources[at.input as usize][at.partition as usize];
        (from..).zip(log.iter().skip(from.max(0) as usize).take(most).cloned()).collect()
    }

    /// What readers of the sink see, by partition; `None` while a transaction is open.
    pub(crate) fn visible(&self) -> Option<Vec<Vec<Output>>> {
        let inner = self.inner();
        let idle = |producer: &Producer| producer.open.is_none() && producer.ending.is_none();
        let seen = |(output, of): &(Output, Option<TransactionId>)| {
            of.is_none_or(|id| inner.visible.contains(&id)).then(|| output.clone())
        };
        inner
            .producers
            .values()
            .all(idle)
            .then(|| inner.sink.iter().map(|log| log.iter().filter_map(seen).collect()).collect())
    }

    /// What the group has committed, whatever is pending.
    pub(crate) fn offset(&self, at: TopicPartition) -> Option<(i64, String)> {
        self.inner().offsets.get(&at).map(|stored| (stored.offset, stored.metadata.clone()))
    }

    /// What the group has committed; `None` while something about it is pending.
    pub(crate) fn stable_offsets(&self, of: &[TopicPartition]) -> Option<Vec<Option<(i64, String)>>> {
        let unstable = {
            let inner = self.inner();
            of.iter().any(|at| inner.pending.values().any(|pending| pending.contains_key(at)))
        };
        (!unstable).then(|| of.iter().map(|at| self.offset(*at)).collect())
    }

    /// Commits offsets without a transaction.
    pub(crate) fn commit_offsets(&self, member: u64, generation: i32, offsets: &[Offset]) -> Result<(), Refusal> {
        let mut inner = self.inner();
        inner.group.check(member, generation)?;
        for Offset { at, offset, metadata } in offsets {
            inner.last += 1;
            let number = inner.last;
            inner.offsets.insert(*at, Stored { offset: *offset, metadata: metadata.clone(), number });
        }
        drop(inner);
        self.kernel.note(format_args!("kafka: offsets {}", Shown(offsets)));
        self.oracle.offsets_committed();
        Ok(())
    }

    /// Takes a transactional id over.
    pub(crate) fn init(&self, id: &str, timeout: Duration) -> Result<u32, Denied> {
        let open = {
            let mut inner = self.inner();
            let producer = inner.producers.entry(id.to_owned()).or_default();
            if producer.ending.is_some() {
                return Err(Denied::Concurrent);
            }
            producer.timeout = timeout;
            producer.epoch += 1;
            producer.open
        };
        match open {
            Some(_) => {
                self.decide(id, false);
                Err(Denied::Concurrent)
            }
            None => {
                let epoch = self.inner().producers[id].epoch;
                self.kernel.note(format_args!("kafka: {id} has epoch {epoch}"));
                Ok(epoch)
            }
        }
    }

    /// Appends records, in a transaction if there is an id; the first of it begins it.
    pub(crate) fn append(&self, producer: Option<(&str, u32)>, records: &[(usize, Output)]) -> Result<(), Denied> {
        let id = producer.map(|(id, epoch)| self.enrol(id, epoch)).transpose()?;
        let mut inner = self.inner();
        for (partition, output) in records {
            inner.sink[*partition].push((output.clone(), id));
        }
        Ok(())
    }

    /// The transaction that is open for this producer, after it has begun if there was none.
    fn enrol(&self, id: &str, epoch: u32) -> Result<TransactionId, Denied> {
        let now = self.kernel.now();
        let mut inner = self.inner();
        let number = inner.last + 1;
        let producer = inner.producers.entry(id.to_owned()).or_default();
        if producer.epoch != epoch {
            return Err(Denied::Fenced);
        }
        if producer.ending.is_some() {
            return Err(Denied::Concurrent);
        }
        let open = *producer.open.get_or_insert(Open { id: TransactionId(number), since: now });
        inner.last = number.max(inner.last);
        Ok(open.id)
    }

    /// Makes offsets part of a transaction.
    pub(crate) fn add_offsets(
        &self,
        id: &str,
        epoch: u32,
        member: u64,
        generation: i32,
        offsets: &[Offset],
    ) -> Result<(), Denied> {
        let transaction = self.enrol(id, epoch)?;
        let mut inner = self.inner();
        inner.group.check(member, generation).map_err(Denied::Group)?;
        for Offset { at, offset, metadata } in offsets {
            inner.last += 1;
            let stored = Stored { offset: *offset, metadata: metadata.clone(), number: inner.last };
            inner.pending.entry(transaction).or_default().insert(*at, stored);
        }
        drop(inner);
        self.kernel.note(format_args!("kafka: {id} sends offsets {}", Shown(offsets)));
        Ok(())
    }

    /// Ends a transaction.
    pub(crate) fn end(&self, id: &str, epoch: u32, commit: bool) -> Result<(), Denied> {
        let (open, last) = {
            let inner = self.inner();
            let producer = inner.producers.get(id).ok_or(Denied::NoTransaction)?;
            if producer.epoch != epoch {
                return Err(Denied::Fenced);
            }
            (producer.open, producer.last)
        };
        match (open, last) {
            (Some(_), _) => {
                self.decide(id, commit);
                Ok(())
            }
            // Asked again, because the answer was lost.
            (None, Some((_, before))) if before == commit => Ok(()),
            (None, _) => Err(Denied::NoTransaction),
        }
    }

    /// The coordinator gives up what is open, and fences who opened it. Returns whether there was anything.
    pub(crate) fn give_up(&self, id: &str) -> bool {
        let open = {
            let mut inner = self.inner();
            let Some(producer) = inner.producers.get_mut(id) else { return false };
            if producer.open.is_some() {
                producer.epoch += 1;
            }
            producer.open.is_some()
        };
        if open {
            self.faults.count(Fault::TransactionTimedOut);
            self.decide(id, false);
        }
        open
    }

    /// Transactional ids with something open.
    pub(crate) fn open_transactions(&self) -> Vec<String> {
        let inner = self.inner();
        inner.producers.iter().filter(|(_, producer)| producer.open.is_some()).map(|(id, _)| id.clone()).collect()
    }

    fn decide(&self, id: &str, commit: bool) {
        let (transaction, offsets) = {
            let mut inner = self.inner();
            let producer = inner.producers.get_mut(id).expect("somebody's");
            let transaction = producer.open.take().expect("is open").id;
            producer.ending = Some(transaction);
            producer.last = Some((transaction, commit));
            let pending = inner.pending.get(&transaction);
            let offset = |(at, stored): (&TopicPartition, &Stored)| Offset {
                at: *at,
                offset: stored.offset,
                metadata: stored.metadata.clone(),
            };
            (transaction, pending.into_iter().flatten().map(offset).collect::<Vec<_>>())
        };
        let decided = if commit { "commits" } else { "aborts" };
        self.kernel.note(format_args!("kafka: {id} {decided}, with {}", Shown(&offsets)));
        if commit {
            self.oracle.kafka_committed(&offsets);
        }
        let (sink, group, id) = (self.clone(), self.clone(), id.to_owned());
        let (first, second) = (self.faults.latency(), self.faults.kafka_latency());
        self.kernel.after(first, move || {
            if commit {
                sink.inner().visible.insert(transaction);
            }
        });
        self.kernel.after(first + second, move || group.marked(&id, transaction, commit));
    }

    /// The markers are everywhere.
    fn marked(&self, id: &str, transaction: TransactionId, commit: bool) {
        let mut inner = self.inner();
        for (at, stored) in inner.pending.remove(&transaction).into_iter().flatten() {
            let newer = inner.offsets.get(&at).is_none_or(|before| before.number < stored.number);
            if commit && newer {
                inner.offsets.insert(at, stored);
            }
        }
        if let Some(producer) = inner.producers.get_mut(id) {
            producer.ending = None;
        }
    }
}

/// Offsets, in short.
struct Shown<'a>(&'a [Offset]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, Offset { at: TopicPartition { input, partition }, offset, metadata }) in self.0.iter().enumerate() {
            let space = if at > 0 { ", " } else { "" };
            write!(f, "{space}{input}:{partition}@{offset} {metadata}")?;
        }
        Ok(())
    }
}

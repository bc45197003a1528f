//! A member of the group: librdkafka's consumer.
//!
//! Heartbeats come from beside the thread: a thread that is busy stays a member, a process that is paused does not. What the
//! group wants is heard with a heartbeat and told at the next look. A member that was put out learns of it late, and until then
//! reads records and offsets as before: brokers do not check who asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rdkafka::error::RDKafkaErrorCode;
use sluicegate::kafka::clients::{ConsumerClient, OffsetsClient};
use sluicegate::kafka::consumer::{
    Closed, CommitError, CommitOffset, ConsumeError, ConsumerEvent, ConsumerOptions, FetchOutcome, StartError,
};
use sluicegate::kafka::offsets::{Committed, RequestError, Start};
use sluicegate::kafka::{ClientError, Fetched, HeaderIter, TopicPartition};

use super::Clients;
use super::broker::{Broker, Offset};
use super::group::{Assignment, Heartbeat, Refusal};
use crate::kernel::{Kernel, Pid};
use crate::runtime::Answer;

/// How often a member tells that it is there, and how often it looks for the end of a round that it has joined.
const HEARTBEAT: Duration = Duration::from_millis(300);
const ROUND_LOOK: Duration = Duration::from_millis(20);

/// Membership, as a transaction names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) member: u64,
    pub(crate) generation: i32,
}

/// What librdkafka knows beside the thread.
#[derive(Default)]
struct Member {
    id: Option<u64>,
    generation: Option<i32>,
    /// Accepted and not released.
    owned: BTreeSet<TopicPartition>,
    joining: bool,
    rejoin: bool,
    lost: bool,
    assignment: Option<Assignment>,
    closed: bool,
}

/// One member of the group.
pub(crate) struct Consumer {
    broker: Broker,
    kernel: Kernel,
    pid: Pid,
    client_id: String,
    member: Arc<Mutex<Member>>,
    /// An event is out that has not been answered.
    unanswered: bool,
    events: VecDeque<ConsumerEvent>,
    /// Of partitions that are held; `None` while they stand still.
    positions: BTreeMap<TopicPartition, Option<i64>>,
    commits: VecDeque<Answer<Result<(), Refusal>>>,
    /// When the last of them arrives.
    last_commit: Duration,
}

impl Consumer {
    pub(super) fn new(clients: Clients, options: &ConsumerOptions) -> Self {
        let Clients { broker, pid } = clients;
        Self {
            kernel: broker.kernel.clone(),
            broker,
            pid,
            client_id: options.client_id.clone(),
            member: Arc::default(),
            unanswered: false,
            events: VecDeque::new(),
            positions: BTreeMap::new(),
            commits: VecDeque::new(),
            last_commit: Duration::ZERO,
        }
    }

    fn member(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to be part of the round.
    fn join_round(&self) {
        self.member().joining = true;
        let (broker, member, kernel) = (self.broker.clone(), Arc::clone(&self.member), self.kernel.clone());
        self.kernel.after(self.broker.faults.latency(), move || {
            let mut member = member.lock().unwrap_or_else(PoisonError::into_inner);
            if !member.closed {
                let (id, owned) = (member.id, member.owned.clone());
                match broker.group(|group| group.join(id, owned, kernel.now())) {
                    Some(id) => member.id = Some(id),
                    None => (member.lost, member.joining, member.generation) = (true, false, None),
                }
            }
        });
    }

    /// Looks after the membership, beside the thread and as long as the process lives.
    fn attend(broker: Broker, pid: Pid, shared: Arc<Mutex<Member>>) {
        let kernel = broker.kernel.clone();
        if kernel.has_crashed(pid) {
            return;
        }
        let mut joining = false;
        if kernel.is_running(pid) {
            let mut member = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if member.closed {
                return;
            }
            if let Some(id) = member.id {
                match broker.group(|group| group.heartbeat(id, kernel.now())) {
                    Heartbeat::Unknown => {
                        (member.lost, member.joining, member.generation) = (true, false, None);
                    }
                    Heartbeat::Rebalancing => member.rejoin |= !member.joining,
                    Heartbeat::Fine => {}
                }
                if let Some(assignment) = broker.group(|group| group.answer(id)) {
                    member.generation = Some(assignment.generation);
                    (member.assignment, member.joining) = (Some(assignment), false);
                }
            }
            joining = member.joining;
        }
        let pause = if joining { ROUND_LOOK } else { HEARTBEAT };
        let pause = kernel.between(pause / 2, pause);
        kernel.after(pause, move || Self::attend(broker, pid, shared));
    }

    /// Turns what the group wants into events.
    fn serve(&mut self) {
        while self.commits.front().is_some_and(Answer::is_there) {
            let answer = self.commits.pop_front().and_then(|answer| answer.take());
            self.events.extend(answer.map(|answer| ConsumerEvent::Committed(answer.map_err(refusal))));
        }
        if self.unanswered {
            return;
        }
        let cooperative = self.broker.group(|group| group.is_cooperative());
        let mut member = self.member();
        let owned = member.owned.clone();
        if member.lost {
            // All over again, as somebody new.
            if owned.is_empty() {
                *member = Member::default();
                drop(member);
                return self.join_round();
            }
            drop(member);
            return self.tell(ConsumerEvent::Revoked { partitions: owned.into_iter().collect(), lost: true });
        }
        if let Some(assignment) = member.assignment.take() {
            let gone: Vec<TopicPartition> = owned.difference(&assignment.partitions).copied().collect();
            let new: Vec<TopicPartition> = assignment.partitions.difference(&owned).copied().collect();
            if cooperative && !gone.is_empty() {
                // What is new comes behind it.
                member.assignment = Some(assignment);
                member.rejoin = true;
                drop(member);
                return self.tell(ConsumerEvent::Revoked { partitions: gone, lost: false });
            }
            drop(member);
            return self.tell(ConsumerEvent::Assigned(new));
        }
        if std::mem::take(&mut member.rejoin) {
            let keeps = cooperative || owned.is_empty();
            drop(member);
            if keeps {
                return self.join_round();
            }
            self.member().rejoin = true;
            self.tell(ConsumerEvent::Revoked { partitions: owned.into_iter().collect(), lost: false });
        }
    }

    fn tell(&mut self, event: ConsumerEvent) {
        self.kernel.note(format_args!("{} {}: {event:?}", self.pid, self.client_id));
        self.unanswered = true;
        self.events.push_back(event);
    }

    /// Gives the sink what there is.
    fn take(&mut self, records_max: usize, mut sink: impl FnMut(Fetched<'_>)) -> usize {
        let mut taken = 0;
        let started: Vec<(TopicPartition, i64)> =
            self.positions.iter().filter_map(|(at, next)| Some((*at, (*next)?))).collect();
        for (at, next) in started {
            let most = self.kernel.random(|rng| rng.random_range(0..=12)).min(records_max - taken);
            for (offset, input) in self.broker.read(at, next, most) {
                self.positions.insert(at, Some(offset + 1));
                taken += 1;
                sink(Fetched {
                    input: at.input,
                    partition: at.partition,
                    offset,
                    timestamp: input.timestamp,
                    key: Some(&input.key),
                    value: Some(&input.value),
                    headers: HeaderIter::none(),
                });
            }
        }
        taken
    }

    fn send_commit(&mut self, offsets: &[CommitOffset]) -> Answer<Result<(), Refusal>> {
        let offsets: Vec<Offset> = offsets.iter().map(Offset::from).collect();
        let answer = Answer::default();
        let (broker, given) = (self.broker.clone(), answer.clone());
        let membership = self.membership();
        let (late, back) = (self.broker.faults.kafka_latency(), self.broker.faults.latency());
        let now = self.kernel.now();
        self.last_commit = (self.last_commit + Duration::from_micros(1)).max(now + late);
        self.kernel.after(self.last_commit - now, move || {
            let result = match membership {
                Some(Membership { member, generation }) => broker.commit_offsets(member, generation, &offsets),
                None => Err(Refusal::UnknownMember),
            };
            broker.kernel.after(back, move || given.give(result));
        });
        answer
    }
}

fn refusal(refusal: Refusal) -> CommitError {
    CommitError::NotOwner(match refusal {
        Refusal::IllegalGeneration => RDKafkaErrorCode::IllegalGeneration,
        Refusal::UnknownMember => RDKafkaErrorCode::UnknownMemberId,
    })
}

impl From<&CommitOffset> for Offset {
    fn from(commit: &CommitOffset) -> Self {
        Self { at: commit.partition, offset: commit.offset, metadata: commit.metadata.clone() }
    }
}

impl ConsumerClient for Consumer {
    type Membership = Membership;
    type Offsets = Offsets;

    fn meet_coordinator(&self, _: Duration) {}

    fn join(&self) -> Result<(), ClientError> {
        self.join_round();
        Self::attend(self.broker.clone(), self.pid, Arc::clone(&self.member));
        Ok(())
    }

    fn fetch(
        &mut self,
        records_max: usize,
        _bytes_max: usize,
        wait: Duration,
        mut sink: impl FnMut(Fetched<'_>),
    ) -> Result<FetchOutcome, ConsumeError> {
        let cost = self.kernel.between(Duration::from_micros(20), Duration::from_micros(300));
        self.kernel.sleep(cost);
        self.serve();
        let mut records = self.take(records_max, &mut sink);
        if records == 0 && self.events.is_empty() && !wait.is_zero() {
            self.kernel.sleep(wait);
            self.serve();
            records = self.take(records_max, &mut sink);
        }
        Ok(FetchOutcome { records, bytes: records, events: !self.events.is_empty() })
    }

    fn next_event(&mut self) -> Option<ConsumerEvent> {
        self.events.pop_front()
    }

    fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.unanswered = false;
        self.positions.extend(partitions.iter().map(|at| (*at, None)));
        self.member().owned.extend(partitions);
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.unanswered = false;
        for at in partitions {
            self.positions.remove(at);
            self.member().owned.remove(at);
        }
        Ok(())
    }

    fn start(&mut self, offsets: &[(TopicPartition, i64)], _: Duration) -> Result<(), StartError> {
        for (at, offset) in offsets {
            *self.positions.get_mut(at).ok_or(StartError::NotHeld(*at))? = Some(*offset);
        }
        Ok(())
    }

    fn halt(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        for at in partitions {
            if let Some(position) = self.positions.get_mut(at) {
                *position = None;
            }
        }
        Ok(())
    }

    fn membership(&self) -> Option<Membership> {
        let member = self.member();
        Some(Membership { member: member.id?, generation: member.generation? })
    }

    fn offsets(&self) -> Offsets {
        Offsets { broker: self.broker.clone(), pid: self.pid, client_id: self.client_id.clone() }
    }

    fn commit(&mut self, offsets: &[CommitOffset], wait: Duration) -> Result<(), CommitError> {
        self.broker.faults.point(self.pid);
        let answer = self.send_commit(offsets);
        self.kernel.wait_for(wait, || answer.is_there());
        match answer.take() {
            Some(result) => result.map_err(refusal),
            None => Err(CommitError::TimedOut(wait)),
        }
    }

    fn commit_later(&mut self, offsets: &[CommitOffset]) -> Result<(), CommitError> {
        let answer = self.send_commit(offsets);
        self.commits.push_back(answer);
        Ok(())
    }

    fn has_unanswered_commits(&self) -> bool {
        !self.commits.is_empty()
    }

    fn close(self, _: Duration) -> Closed {
        Closed::Left
    }
}

/// Asks on a consumer's connections.
#[derive(Clone)]
pub(crate) struct Offsets {
    broker: Broker,
    pid: Pid,
    client_id: String,
}

impl OffsetsClient for Offsets {
    fn committed(&self, partitions: &[TopicPartition], wait: Duration) -> Result<Vec<Committed>, RequestError> {
        let kernel = &self.broker.kernel;
        self.broker.faults.point(self.pid);
        let late = self.broker.faults.kafka_latency();
        kernel.sleep(late.min(wait));
        let mut found = None;
        let stable = kernel.wait_for(wait.saturating_sub(late), || {
            found = self.broker.stable_offsets(partitions);
            found.is_some()
        });
        if !stable || late >= wait {
            return Err(RequestError::new("read committed offsets", RDKafkaErrorCode::OperationTimedOut));
        }
        let back = self.broker.faults.latency();
        kernel.sleep(back);
        let committed = |(at, stored): (&TopicPartition, Option<(i64, String)>)| {
            let (offset, metadata) = stored.map_or((None, String::new()), |(offset, text)| (Some(offset), text));
            Committed { partition: *at, offset, metadata }
        };
        let committed: Vec<Committed> = partitions.iter().zip(found.into_iter().flatten()).map(committed).collect();
        let shown: Vec<String> = committed
            .iter()
            .map(|found| format!("{}@{:?} {}", found.partition, found.offset, found.metadata))
            .collect();
        kernel.note(format_args!("{} {}: committed is {}", self.pid, self.client_id, shown.join(", ")));
        Ok(committed)
    }

    fn start_offset(&self, partition: TopicPartition, start: Start, _: Duration) -> Result<i64, RequestError> {
        let late = self.broker.faults.latency();
        self.broker.kernel.sleep(late);
        Ok(if start == Start::Earliest { 0 } else { self.broker.end_offset(partition) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // One whose process has crashed says nothing more.
        if std::thread::panicking() {
            return;
        }
        let mut member = self.member();
        member.closed = true;
        if let Some(id) = member.id {
            self.broker.group(|group| group.leave(id));
        }
    }
}

//! One member of a consumer group, driven by the thread that owns it.
//!
//! The order that keeps state and offsets together is in the caller's hands: a rebalance arrives as an event, and nothing
//! happens until the caller answers it with [`Consumer::release`] (after its commit) or [`Consumer::accept`]. What was accepted
//! is held still; [`Consumer::start`] lets records flow from an exact offset, when the state is there. Committed offsets are
//! never read implicitly and offsets are never reset.
//!
//! Records come through [`Consumer::fetch`], in each partition's order, each offset at most once, none from before the start.

mod positions;
mod report;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use self::positions::Positions;
pub(super) use self::report::offset_list;
pub use self::report::{
    Closed, CommitError, CommitOffset, ConsumeError, ConsumerEvent, FetchOutcome, PartitionFault, StartError,
};
use super::access::advice;
use super::clients::OffsetsClient;
use super::context::{Context, Notice};
use super::native::{Admin, Fetched, GroupMetadata, Message, Reader};
use super::offsets::{Offsets, RequestError};
use super::settings::{KafkaSettings, creation_error};
use super::statistics::Statistics;
use super::{ClientError, TopicPartition};

/// Records are taken from librdkafka in portions of at most this many, so that the byte limit can be heeded in between.
const PORTION_MAX: usize = 1024;
/// The first portion of a fetch, before the size of a record is known.
const PORTION_FIRST: usize = 64;
/// How many reports of librdkafka are served in one go; the others have to wait for the next.
const NOTICES_MAX: usize = 64;
/// How long a seek that came too early waits before it is tried again.
const SEEK_RETRY: Duration = Duration::from_millis(2);
/// How long starting a partition waits for its leader, at most.
const ROUSE_WAIT: Duration = Duration::from_millis(100);
/// Between two looks, when closing, whether a question is still under way.
const CLOSE_LOOK: Duration = Duration::from_millis(10);
/// How long dropping a consumer may take.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// What a consumer is made with.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Consumer group.
    pub group_id: String,
    /// Name of this member in the broker's logs and metrics.
    pub client_id: String,
    /// Source topics; a topic's index is its input number. Several are assigned co-partitioned.
    pub topics: Vec<String>,
}

/// One member of a consumer group.
pub struct Consumer {
    /// `None` only while it is being dropped.
    reader: Option<Reader>,
    group: String,
    topics: Vec<String>,
    positions: Positions,
    events: VecDeque<ConsumerEvent>,
    commits_sent: u64,
    commits_ended: u64,
    fatal: Option<ConsumeError>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("topics", &self.topics)
            .field("positions", &self.positions)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// Makes a consumer that will be a member of its group when it has [joined](Consumer::join). Does not wait for a broker.
    ///
    /// # Errors
    /// Settings or topic names that cannot be used.
    pub fn new(settings: &KafkaSettings, options: &ConsumerOptions) -> Result<Self, ClientError> {
        let config = settings.consumer_config(&options.group_id, &options.client_id, options.topics.len())?;
        let consumer: BaseConsumer<Context> = config.create_with_context(Context::default()).map_err(creation_error)?;
        let reader = Reader::new(consumer, &options.topics)
            .map_err(|bad| ClientError::TopicName { topic: options.topics[bad.0].clone() })?;
        Ok(Self {
            reader: Some(reader),
            group: options.group_id.clone(),
            topics: options.topics.clone(),
            positions: Positions::default(),
            events: VecDeque::new(),
            commits_sent: 0,
            commits_ended: 0,
            fatal: None,
        })
    }

    /// Waits up to `wait` for a connection with the group's coordinator, so that joining takes effect at once. Whether there
    /// is one now does not matter to anything but speed.
    pub fn meet_coordinator(&self, wait: Duration) {
        // A request that only the coordinator answers. Its contents are of no interest, nor what the answer is.
        let _ = self.offsets().committed(&[TopicPartition { input: 0, partition: 0 }], wait);
    }

    /// Joins the group. Does not wait for it; [`ConsumerEvent::Assigned`] says that it has happened.
    ///
    /// # Errors
    /// librdkafka refuses the topics.
    pub fn join(&self) -> Result<(), ClientError> {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        self.native().subscribe(&topics).map_err(ClientError::Client)
    }

    pub(super) fn group_metadata(&self) -> Option<GroupMetadata> {
        self.reader().group_metadata()
    }

    fn reader(&self) -> &Reader {
        self.reader.as_ref().expect("only drop takes it")
    }

    fn native(&self) -> &BaseConsumer<Context> {
        self.reader().consumer()
    }

    /// Takes what is there, up to `records_max` records or about `bytes_max` bytes (a portion of records may exceed it), and
    /// waits up to `wait` for the first of it; does not wait when an event is pending. Also keeps the membership alive: call
    /// it regularly, with `records_max` 0 when no records are wanted.
    ///
    /// # Errors
    /// The consumer has failed for good.
    pub fn fetch(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        mut sink: impl FnMut(Fetched<'_>),
    ) -> Result<FetchOutcome, ConsumeError> {
        self.serve(Duration::ZERO);
        let mut outcome = FetchOutcome::default();
        let mut wait = if self.events.is_empty() { wait } else { Duration::ZERO };
        if records_max == 0 && !wait.is_zero() {
            self.serve(wait);
        }
        while outcome.records < records_max && outcome.bytes < bytes_max {
            let portion = portion(outcome, bytes_max).min(records_max - outcome.records);
            let taken = self.take(portion, wait, &mut outcome, &mut sink);
            wait = Duration::ZERO;
            if taken < portion {
                break;
            }
        }
        if outcome.records == 0 {
            self.serve(Duration::ZERO);
        }
        outcome.events = !self.events.is_empty();
        match &self.fatal {
            Some(error) => Err(error.clone()),
            None => Ok(outcome),
        }
    }

    /// Takes at most `portion` messages and returns how many there were.
    #[inline]
    fn take(
        &mut self,
        portion: usize,
        wait: Duration,
        outcome: &mut FetchOutcome,
        sink: &mut impl FnMut(Fetched<'_>),
    ) -> usize {
        let Self { reader, positions, events, .. } = self;
        let mut taken = reader.as_mut().expect("only drop takes it").take(wait, portion);
        let count = taken.len();
        let mut look = |message: Message<'_>| match message {
            Message::Record { topic, mut record } => {
                if let Some(input) = positions.accept(topic, record.partition, record.offset) {
                    record.input = input;
                    outcome.records += 1;
                    outcome.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                    sink(record);
                }
            }
            Message::Error { topic, partition, code, text } => {
                // One from before the start is about an offset nobody asked for.
                if let Some(partition) = positions.identify(topic, partition).filter(|held| positions.started(*held)) {
                    events.push_back(ConsumerEvent::PartitionFailed {
                        partition,
                        fault: PartitionFault::of(code),
                        text: format!("{text}{}", advice(code)),
                    });
                }
            }
        };
        while taken.next(&mut look).is_some() {}
        count
    }

    /// The next thing that happened, if any; [`Consumer::fetch`] collects them.
    pub fn next_event(&mut self) -> Option<ConsumerEvent> {
        self.events.pop_front()
    }

    /// Lets librdkafka deliver its reports, waiting up to `wait` for the first one, and turns them into events.
    fn serve(&mut self, wait: Duration) {
        let native = self.native();
        let (mut errors, mut missed) = (Vec::new(), None);
        // Records do not come this way, they are forwarded; one from before a start is of no interest.
        native.context().serve(wait, NOTICES_MAX, |wait| match native.poll(wait) {
            Some(Ok(message)) => missed = missed.or_else(|| self.wanted(&message)),
            Some(Err(error)) => errors.push(error),
            None => {}
        });
        for error in errors {
            self.group_error(&error);
        }
        if let Some(at) = missed {
            // The position would go past it with the next record: better to stop than to lose it.
            let text =
                format!("a record of {at} came by another way than its queue; start again, it is read again then");
            self.fatal = Some(ConsumeError { text });
        }
        while let Some(answer) = self.reader().next_commit(Duration::ZERO) {
            self.commits_ended += 1;
            self.events.push_back(ConsumerEvent::Committed(answer.map_err(CommitError::of)));
        }
        while let Some(notice) = self.native().context().next() {
            if let Some(event) = self.event(notice) {
                self.events.push_back(event);
            }
        }
    }

    /// The partition of a message, if [`Consumer::fetch`] would have let it through.
    fn wanted(&self, message: &impl rdkafka::Message) -> Option<TopicPartition> {
        let input = self.topics.iter().position(|topic| topic == message.topic())?;
        let at = TopicPartition { input: u32::try_from(input).ok()?, partition: message.partition() };
        self.positions.position(at).filter(|next| message.offset() >= *next).map(|_| at)
    }

    /// What the group coordinator refuses comes as a message that is none.
    fn group_error(&mut self, error: &KafkaError) {
        let text = error.to_string();
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                let known = self.native().client().fatal_error().map(|(_, text)| text);
                self.fatal = Some(ConsumeError { text: known.unwrap_or(text) });
            }
            // librdkafka would go on asking for ever.
            KafkaError::MessageConsumption(code @ RDKafkaErrorCode::GroupAuthorizationFailed) => {
                let text = format!("group `{}`: {code}{}", self.group, advice(*code));
                self.fatal = Some(ConsumeError { text });
            }
            // librdkafka has logged it, with the address.
            KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure) => {}
            KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown) => {
                self.events.push_back(ConsumerEvent::BrokersDown);
            }
            _ => self.events.push_back(ConsumerEvent::Trouble { text }),
        }
    }

    fn event(&mut self, notice: Notice) -> Option<ConsumerEvent> {
        Some(match notice {
            Notice::Assign(partitions) => ConsumerEvent::Assigned(self.by_input(partitions)),
            Notice::Revoke { partitions, lost } => {
                ConsumerEvent::Revoked { partitions: self.by_input(partitions), lost }
            }
            Notice::Statistics(statistics) => {
                let lag = self.lag(&statistics);
                ConsumerEvent::Statistics { statistics, lag }
            }
            Notice::Error { code: RDKafkaErrorCode::AllBrokersDown, .. } => ConsumerEvent::BrokersDown,
            Notice::Error { code: RDKafkaErrorCode::BrokerTransportFailure, .. } => return None,
            Notice::Error { code: RDKafkaErrorCode::Fatal, text } => {
                let text = self.native().client().fatal_error().map_or(text, |(_, text)| text);
                self.fatal = Some(ConsumeError { text });
                return None;
            }
            Notice::Error { code, text } => ConsumerEvent::Trouble { text: format!("{code}: {text}") },
            // A producer's.
            Notice::NotDelivered { .. } => return None,
        })
    }

    fn by_input(&self, partitions: Vec<(String, i32)>) -> Vec<TopicPartition> {
        let mut partitions: Vec<_> = partitions
            .into_iter()
            .filter_map(|(topic, partition)| {
                let input = self.topics.iter().position(|name| *name == topic)?;
                Some(TopicPartition { input: u32::try_from(input).ok()?, partition })
            })
            .collect();
        partitions.sort_unstable();
        partitions
    }

    fn lag(&self, statistics: &Statistics) -> Vec<(TopicPartition, u64)> {
        let lag = |entry: &super::statistics::PartitionStatistics| {
            let input = self.topics.iter().position(|name| *name == entry.topic)?;
            let partition = TopicPartition { input: u32::try_from(input).ok()?, partition: entry.partition };
            let behind = entry.end_offset? - self.positions.position(partition)?;
            Some((partition, behind.max(0).unsigned_abs()))
        };
        statistics.partitions.iter().filter_map(lag).collect()
    }

    fn list(&self, partitions: impl IntoIterator<Item = (TopicPartition, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            if let Some(topic) = self.topics.get(partition.input as usize) {
                list.add_partition_offset(topic, partition.partition, offset)
                    .expect("an offset is a position or a name of one");
            }
        }
        list
    }

    fn plain_list(&self, partitions: &[TopicPartition]) -> TopicPartitionList {
        self.list(partitions.iter().map(|&partition| (partition, Offset::Invalid)))
    }

    fn is_cooperative(&self) -> bool {
        matches!(self.native().rebalance_protocol(), RebalanceProtocol::Cooperative)
    }

    /// Answers [`ConsumerEvent::Assigned`]: the partitions are held from now on and stand still until started.
    ///
    /// # Errors
    /// librdkafka refuses, which means that the group is in another state than its events said.
    pub fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        let cooperative = self.is_cooperative();
        if !cooperative {
            self.positions.clear();
        }
        for &partition in partitions {
            if let Some(topic) = self.reader().topic_id(partition.input) {
                self.positions.hold(topic, partition);
                // Makes librdkafka know the partition, which pausing it before it is assigned takes.
                self.reader().forward(partition.input, partition.partition);
            }
        }
        // Paused before it is assigned, so that offset 0, which may be gone, is never asked for: librdkafka would stop the
        // partition for good. A logical offset is worse: a lookup that is under way when the seek of `start` comes is
        // repeated (librdkafka 2.12, "outdated offset response"), and its answer silently moves the partition there.
        self.pause(partitions)?;
        let list = self.list(partitions.iter().map(|&partition| (partition, Offset::Offset(0))));
        let assigned = if cooperative { self.native().incremental_assign(&list) } else { self.native().assign(&list) };
        assigned.map_err(RequestError::of("accept partitions"))
    }

    /// Answers [`ConsumerEvent::Revoked`]: the partitions are no longer held. Everything that must be done while nobody else
    /// has them, such as a commit, comes before.
    ///
    /// # Errors
    /// As for [`Consumer::accept`].
    pub fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        let released = if self.is_cooperative() {
            for &partition in partitions {
                self.positions.release(partition);
            }
            self.native().incremental_unassign(&self.plain_list(partitions))
        } else {
            self.positions.clear();
            self.native().unassign()
        };
        released.map_err(RequestError::of("release partitions"))
    }

    /// Lets records of accepted partitions flow, from the offsets given. May also be used to go back.
    ///
    /// A seek that comes before librdkafka has started on the partition is tried again for up to `wait`.
    ///
    /// # Errors
    /// See [`StartError`]. Partitions named after the one that failed stand still.
    pub fn start(&mut self, offsets: &[(TopicPartition, i64)], wait: Duration) -> Result<(), StartError> {
        let begin = Instant::now();
        if offsets.is_empty() {
            return Ok(());
        }
        for &(partition, _) in offsets {
            if !self.positions.holds(partition) {
                return Err(StartError::NotHeld(partition));
            }
            self.positions.stop(partition);
        }
        let mut rest: Vec<_> = offsets.to_vec();
        loop {
            let list = self.list(rest.iter().map(|&(partition, offset)| (partition, Offset::Offset(offset))));
            let left = wait.saturating_sub(begin.elapsed()).max(SEEK_RETRY);
            let list = self.native().seek_partitions(list, left).map_err(StartError::Refused)?;
            let results: Vec<_> = list.elements().iter().map(|element| error_code(element.error())).collect();
            let mut again = Vec::new();
            for (&(partition, offset), result) in rest.iter().zip(results) {
                match result {
                    None => {
                        // Only now has a stop of an earlier assignment ended, which undoes the forwarding.
                        self.reader().forward(partition.input, partition.partition);
                        self.positions.start(partition, offset);
                    }
                    Some(
                        RDKafkaErrorCode::State
                        | RDKafkaErrorCode::PreviousInProgress
                        | RDKafkaErrorCode::OperationTimedOut
                        | RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::InProgress,
                    ) => again.push((partition, offset)),
                    Some(code) => return Err(StartError::Refused(KafkaError::OffsetFetch(code))),
                }
            }
            match again.first() {
                None => break,
                Some(&(partition, offset)) if begin.elapsed() >= wait => {
                    return Err(StartError::TimedOut { partition, offset, waited: wait });
                }
                Some(_) => thread::sleep(SEEK_RETRY),
            }
            rest = again;
        }
        let partitions: Vec<_> = offsets.iter().map(|&(partition, _)| partition).collect();
        self.resume(&partitions).map_err(|error| StartError::Refused(error.source))?;
        self.rouse(&partitions);
        Ok(())
    }

    /// Makes librdkafka look for partitions to fetch now. The threads with which it serves the brokers sleep up to a second when
    /// they have nothing to do, and a partition that goes on does not wake them; a request to its leader does.
    fn rouse(&self, partitions: &[TopicPartition]) {
        let list = self.list(partitions.iter().map(|&partition| (partition, Offset::Beginning)));
        // What the answer is, and whether there is one, matters to nothing.
        let _ = self.native().offsets_for_times(list, ROUSE_WAIT);
    }

    /// Lets nothing of these partitions through until they are started again, wherever that may be.
    ///
    /// # Errors
    /// One of them is not held.
    pub fn halt(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        for &partition in partitions {
            self.positions.stop(partition);
        }
        self.pause(partitions)
    }

    /// Stops fetching partitions; what is fetched and not taken is fetched again later.
    ///
    /// # Errors
    /// One of them is not held.
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        if partitions.is_empty() {
            return Ok(());
        }
        self.native().pause(&self.plain_list(partitions)).map_err(RequestError::of("pause partitions"))
    }

    /// Goes on fetching partitions that were paused, where they were.
    ///
    /// # Errors
    /// One of them is not held.
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        if partitions.is_empty() {
            return Ok(());
        }
        self.native().resume(&self.plain_list(partitions)).map_err(RequestError::of("resume partitions"))
    }

    /// Offset of the next record of a partition, once it is started.
    #[must_use]
    pub fn position(&self, partition: TopicPartition) -> Option<i64> {
        self.positions.position(partition)
    }

    /// Whether partitions that are being revoked may belong to somebody else already.
    #[must_use]
    pub fn assignment_lost(&self) -> bool {
        self.native().assignment_lost()
    }

    /// Commits offsets and waits for the answer. Events that happen meanwhile are kept.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&mut self, offsets: &[CommitOffset], wait: Duration) -> Result<(), CommitError> {
        let begin = Instant::now();
        if offsets.is_empty() {
            return Ok(());
        }
        self.commit_later(offsets)?;
        let ours = self.commits_sent;
        loop {
            let left = wait.saturating_sub(begin.elapsed());
            // Answers come in the order of the commits.
            if let Some(answer) = self.reader().next_commit(left) {
                self.commits_ended += 1;
                let answer = answer.map_err(CommitError::of);
                if self.commits_ended == ours {
                    return answer;
                }
                self.events.push_back(ConsumerEvent::Committed(answer));
            } else if left.is_zero() {
                return Err(CommitError::TimedOut(wait));
            }
        }
    }

    /// Whether a commit was sent whose answer has not come.
    #[must_use]
    pub fn has_unanswered_commits(&self) -> bool {
        self.commits_ended < self.commits_sent
    }

    /// Sends a commit, of at least one offset; [`ConsumerEvent::Committed`] says how it went.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn commit_later(&mut self, offsets: &[CommitOffset]) -> Result<(), CommitError> {
        let list = offset_list(&self.topics, offsets);
        self.reader().commit(&list).map_err(CommitError::of)?;
        self.commits_sent += 1;
        Ok(())
    }

    /// Asks what the group has committed, and where partitions begin and end, from any thread.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        Offsets::new(self.reader().consumer(), &self.topics)
    }

    /// How many members the group has, whether this is one or not; none if there is no such group.
    pub(super) fn members(&self, wait: Duration) -> Result<usize, RDKafkaErrorCode> {
        Ok(Admin::new(self.native()).group(&self.group, wait)?.members)
    }

    /// Leaves the group and ends, within `deadline`. What is held is given back without a commit: commit before.
    pub fn close(mut self, deadline: Duration) -> Closed {
        self.shut(deadline)
    }

    /// Closing may hang (rust-rdkafka #509), so it happens on a thread of its own.
    fn shut(&mut self, deadline: Duration) -> Closed {
        let Some(reader) = self.reader.take() else { return Closed::Left };
        reader.consumer().context().close();
        let held = self.list(self.positions.held().map(|partition| (partition, Offset::Invalid)));
        let (ended, end) = mpsc::channel();
        let closer = thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
            // A rebalance that was never answered would keep the group waiting.
            let consumer = reader.consumer();
            let given_back = match consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => consumer.incremental_unassign(&held),
                _ => consumer.unassign(),
            };
            if let Err(error) = given_back {
                tracing::debug!(%error, "nothing to give back while closing");
            }
            // A question that is under way uses the client, and has a time-out.
            let mut client = Arc::clone(consumer);
            drop(reader);
            while let Err(shared) = Arc::try_unwrap(client) {
                client = shared;
                thread::sleep(CLOSE_LOOK);
            }
            // Nobody waits any more after the deadline.
            let _ = ended.send(());
        });
        match closer {
            Ok(_) if end.recv_timeout(deadline).is_ok() => Closed::Left,
            _ => {
                tracing::warn!(?deadline, "the consumer did not close in time and is left behind");
                Closed::Abandoned
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shut(DROP_DEADLINE);
    }
}

/// How many messages to take next, so that about `bytes_max` bytes come together.
fn portion(outcome: FetchOutcome, bytes_max: usize) -> usize {
    if outcome.records == 0 {
        return PORTION_FIRST;
    }
    let mean = outcome.bytes / outcome.records + 1;
    ((bytes_max - outcome.bytes) / mean).clamp(1, PORTION_MAX)
}

fn error_code(result: Result<(), KafkaError>) -> Option<RDKafkaErrorCode> {
    result.err().map(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))
}

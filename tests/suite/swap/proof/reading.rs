//! All records of a run, read with `read_committed` from the first to the last, one by one: a run has more than fit in memory.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::CODES;
use crate::deployment::Deployment;
use crate::records;
use crate::shared::{SOON, wait_for};

/// When nothing has come for so long, nothing comes any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is wrong, over all partitions.
#[derive(Default)]
pub(super) struct Verdict {
    sent: u64,
    read: u64,
    lost: u64,
    repeated: u64,
    /// Records that another version made than the one which is recorded.
    of_another_version: u64,
    /// Records whose count is not that of their place: the state lost or repeated something.
    counted_wrongly: u64,
    first: Option<String>,
}

impl Verdict {
    pub(super) fn is_exact(&self) -> bool {
        let Self { sent, read, lost, repeated, of_another_version, counted_wrongly, .. } = self;
        sent == read && *sent > 0 && lost + repeated + of_another_version + counted_wrongly == 0
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.first.get_or_insert_with(what);
    }

    /// One record; `next` is the number that comes next in its partition.
    fn take(&mut self, partition: usize, value: &str, next: &mut u64, offsets: &[i64]) {
        self.read += 1;
        let parts: Vec<&str> = value.split(' ').collect();
        let [code, mark, number, count] = parts[..] else { panic!("partition {partition}: {value}") };
        let number: u64 = number.parse().unwrap();
        if number > *next {
            self.lost += number - *next;
            self.note(|| format!("partition {partition}: {next} to {number} are missing"));
        }
        if number < *next {
            self.repeated += 1;
            self.note(|| format!("partition {partition}: {number} comes after {}", *next - 1));
        }
        *next = (number + 1).max(*next);
        // Those that went over at this record or before.
        let version = offsets.partition_point(|from| from.unsigned_abs() <= number);
        if code != CODES[version % 2] || mark.parse() != Ok(version) {
            self.of_another_version += 1;
            self.note(|| format!("partition {partition}: {value} is of version {version} by the recorded offsets"));
        }
        if count.parse() != Ok(number + 1) {
            self.counted_wrongly += 1;
            self.note(|| format!("partition {partition}: {value} is counted wrongly"));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, read, lost, repeated, of_another_version, counted_wrongly, first } = self;
        write!(f, "{sent} records in, {read} out: {lost} lost, {repeated} repeated, ")?;
        write!(f, "{of_another_version} of another version than recorded, {counted_wrongly} counted wrongly")?;
        first.iter().try_for_each(|first| write!(f, "; first: {first}"))
    }
}

/// How many records each partition of the source has. Their numbers are their offsets.
pub(super) fn source(deployment: &Deployment) -> Vec<u64> {
    let mut next = vec![0; records::ends(&deployment.consumer(), &deployment.topic("in")).len()];
    each(deployment, "in", |partition, message| {
        assert_eq!((message.partition(), message.offset()), (partition as i32, next[partition] as i64));
        assert_eq!(value(message).parse(), Ok(next[partition]), "partition {partition}");
        next[partition] += 1;
    });
    next
}

/// Compares the sink with what was `sent` into each partition, and with the `offsets` at which versions went over.
pub(super) fn sink(deployment: &Deployment, sent: &[u64], offsets: &[Vec<i64>]) -> Verdict {
    let mut verdict = Verdict { sent: sent.iter().sum(), ..Verdict::default() };
    for (partition, offsets) in offsets.iter().enumerate() {
        assert!(offsets.is_sorted(), "partition {partition} went over backwards: {offsets:?}");
    }
    let mut next = vec![0; sent.len()];
    each(deployment, "out", |partition, message| {
        verdict.take(partition, value(message), &mut next[partition], &offsets[partition]);
    });
    for (partition, (next, sent)) in next.iter().zip(sent).enumerate() {
        verdict.lost += sent.saturating_sub(*next);
        if next < sent {
            verdict.note(|| format!("partition {partition}: {next} to {sent} are missing at the end"));
        }
    }
    verdict
}

fn reader(deployment: &Deployment, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", &deployment.servers.kafka)
        .set("group.id", "swaps-reader")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap()
}

fn value<'a>(message: &'a BorrowedMessage<'_>) -> &'a str {
    std::str::from_utf8(message.payload().unwrap()).unwrap()
}

/// Everything in a topic that is committed, with the partition of the source that it is of, which is its key.
fn each(deployment: &Deployment, topic: &str, mut take: impl FnMut(usize, &BorrowedMessage<'_>)) {
    let topic = deployment.topic(topic);
    let (committed, all) = (reader(deployment, "read_committed"), reader(deployment, "read_uncommitted"));
    // What a killed process left open hides what came after it until its successor, or the broker, has ended it.
    let ends = wait_for("the end of all transactions", || {
        let ends = records::ends(&committed, &topic);
        (ends == records::ends(&all, &topic)).then_some(ends)
    });
    let mut assignment = TopicPartitionList::new();
    for partition in 0..ends.len() {
        assignment.add_partition_offset(&topic, partition as i32, Offset::Beginning).unwrap();
    }
    committed.assign(&assignment).unwrap();
    let (mut unread, mut last) = (ends.len(), Instant::now());
    while unread > 0 {
        assert!(last.elapsed() < SILENCE_MAX, "{topic} cannot be read to its ends {ends:?}");
        match committed.poll(SOON) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(message) => {
                let message = message.unwrap();
                let key = std::str::from_utf8(message.key().unwrap()).unwrap();
                take(key.parse().unwrap(), &message);
                last = Instant::now();
            }
        }
    }
}

#[test]
fn a_verdict_sees_whatever_is_wrong() {
    let [a, b] = CODES;
    let right = [format!("{a} 0 0 1"), format!("{b} 1 1 2"), format!("{b} 1 2 3")];
    let verdict = |records: &[&String]| {
        let (mut verdict, mut next) = (Verdict { sent: 3, ..Verdict::default() }, 0);
        records.iter().for_each(|record| verdict.take(0, record, &mut next, &[1]));
        verdict
    };
    let [first, second, third] = &right;
    assert!(verdict(&[first, second, third]).is_exact());
    let lost = verdict(&[first, third]);
    assert!(!lost.is_exact() && lost.lost == 1);
    let repeated = verdict(&[first, second, second, third]);
    assert!(!repeated.is_exact() && repeated.repeated == 1);
    for (wrong, what) in
        [(format!("{a} 1 1 2"), "code"), (format!("{b} 0 1 2"), "mark"), (format!("{a} 0 1 2"), "both")]
    {
        let verdict = verdict(&[first, &wrong, third]);
        assert!(!verdict.is_exact() && verdict.of_another_version == 1, "{what}");
    }
    let early = verdict(&[&format!("{b} 1 0 1"), second, third]);
    assert!(!early.is_exact() && early.of_another_version == 1);
    let miscounted = verdict(&[first, &format!("{b} 1 1 1"), third]);
    assert!(!miscounted.is_exact() && miscounted.counted_wrongly == 1);
}

//! Brokers that stand still, die and come back. Each test has its own.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluicegate::kafka::clients::OffsetsClient;
use sluicegate::kafka::consumer::Closed;
use sluicegate::kafka::offsets::Start;
use sluicegate::kafka::producer::{FlushError, SendError};
use sluicegate_harness::kafka::{Kafka, KafkaOptions};

use super::{at, member, produce, producer, settings};
use crate::shared::{SOON, create_topic, eventually};

const COUNT: u64 = 60_000;

/// Sends [`COUNT`] records of `timestamp` to two partitions, kills the broker in the middle and starts it again; returns the
/// numbers in each partition's log, in the order of the offsets.
fn log_after_a_restart(timestamp: i64) -> [Vec<u64>; 2] {
    let mut kafka = Kafka::start(KafkaOptions::default()).unwrap();
    let bootstrap = kafka.bootstrap();
    create_topic(&bootstrap, "t", 2);
    let settings = settings(&bootstrap);
    let mut first = member(&settings, "first", &["t"]);
    first.join_from_start();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut producer = producer(&settings);
            let topic = producer.topic("t").unwrap();
            for number in 0..COUNT {
                let partition = i32::try_from(number % 2).unwrap();
                let value = number.to_string();
                let send =
                    || producer.send(topic, partition, None, Some(value.as_bytes()), timestamp, std::iter::empty());
                while send().is_err() {
                    producer.poll(Duration::from_millis(1));
                }
                if number % 100 == 0 {
                    producer.poll(Duration::from_millis(5));
                }
            }
            producer.flush(Instant::now() + SOON).unwrap();
        });
        first.fetch_until(2_000);
        kafka.kill().unwrap();
        kafka.restart().unwrap();
        sending.join().unwrap();
    });
    // Not the first one: it may have lost its partitions meanwhile.
    let mut reader = member(&settings, "reader", &["t"]);
    reader.join_from_start();
    let ends =
        [0, 1].map(|partition| reader.consumer.offsets().start_offset(at(0, partition), Start::Latest, SOON).unwrap());
    reader.fetch_until(usize::try_from(ends.iter().sum::<i64>()).unwrap());
    [0, 1].map(|partition| {
        let from = at(0, partition);
        assert_eq!(reader.offsets(from), (0..ends[partition as usize]).collect::<Vec<_>>());
        reader.records.iter().filter(|record| record.from == from).map(super::Record::number).collect()
    })
}

fn sent(partition: u64) -> Vec<u64> {
    (0..COUNT).filter(|number| number % 2 == partition).collect()
}

#[test]
fn a_restart_of_the_broker_loses_repeats_and_reorders_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let [even, odd] = log_after_a_restart(i64::try_from(now).unwrap());
    assert_eq!((even, odd), (sent(0), sent(1)));
}

/// A broker forgets a producer whose newest record is older than `producer.id.expiration.ms`, one day, by the record's own
/// timestamp (KAFKA-6817), and then takes again what was sent and not acknowledged when it went away.
#[test]
fn a_restart_of_the_broker_may_repeat_records_of_long_ago_and_loses_none() {
    for (partition, mut log) in (0..).zip(log_after_a_restart(1)) {
        log.sort_unstable();
        log.dedup();
        assert_eq!(log, sent(partition));
    }
}

#[test]
fn a_broker_that_stands_still_fills_the_queue_and_is_waited_for() {
    let kafka = Kafka::start(KafkaOptions::default()).unwrap();
    let bootstrap = kafka.bootstrap();
    create_topic(&bootstrap, "t", 1);
    let mut settings = settings(&bootstrap);
    settings.producer.insert("queue.buffering.max.messages".to_owned(), "10".to_owned());
    let mut out = producer(&settings);
    let topic = out.topic("t").unwrap();
    let send = |value: &str| out.send(topic, 0, None, Some(value.as_bytes()), 1, std::iter::empty());
    send("0").unwrap();
    out.flush(Instant::now() + SOON).unwrap();
    kafka.pause().unwrap();
    for number in 1..=10 {
        send(&number.to_string()).unwrap();
    }
    assert!(matches!(send("11").unwrap_err(), SendError::QueueFull));
    let error = out.flush(Instant::now() + Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, FlushError::TimedOut { in_flight: 10 }), "{error}");
    kafka.resume().unwrap();
    eventually("room", || {
        out.poll(Duration::from_millis(1));
        send("11").ok()
    });
    out.flush(Instant::now() + SOON).unwrap();
    let mut member = member(&settings, "group", &["t"]);
    member.join_from_start();
    member.fetch_until(12);
    assert_eq!(member.records.iter().map(super::Record::number).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
}

#[test]
fn closing_does_not_hang_on_a_broker_that_is_away() {
    let mut kafka = Kafka::start(KafkaOptions::default()).unwrap();
    let bootstrap = kafka.bootstrap();
    create_topic(&bootstrap, "t", 1);
    let settings = settings(&bootstrap);
    produce(&settings, "t", 1, 0..10);
    let (mut held, mut unanswered) = (member(&settings, "a", &["t"]), member(&settings, "b", &["t"]));
    held.join_from_start();
    held.fetch_until(10);
    eventually("an assignment nobody answers", || {
        unanswered.fetch(Duration::from_millis(20));
        unanswered.events.pop_front()
    });
    let mut out = producer(&settings);
    let topic = out.topic("t").unwrap();
    kafka.kill().unwrap();
    out.send(topic, 0, None, Some(b"lost with its producer"), 1, std::iter::empty()).unwrap();

    let begin = Instant::now();
    drop(out);
    assert_eq!(held.consumer.close(Duration::from_secs(20)), Closed::Left);
    assert_eq!(unanswered.consumer.close(Duration::from_secs(20)), Closed::Left);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

//! Records as they come and go: contents, order, exact positions.

use std::time::{Duration, Instant};

use sluicegate::kafka::clients::OffsetsClient;
use sluicegate::kafka::consumer::{ConsumerEvent, PartitionFault, StartError};
use sluicegate::kafka::embedded::EmbeddedBroker;
use sluicegate::kafka::offsets::Start;
use sluicegate::kafka::producer::{FlushError, SendError};

use super::{at, member, produce, producer, settings};
use crate::shared::{SOON, eventually, kafka, topic, unique};

type Header<'a> = (&'a [u8], Option<&'a [u8]>);

#[test]
fn keys_values_headers_and_timestamps_pass_unchanged() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "contents", 1));
    let headers: [&[Header<'_>]; 3] =
        [&[], &[(b"a", Some(b"1")), (b"a", None), (b"b", Some(b""))], &[(b"only", Some(&[0, 255]))]];
    let keys: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"key\0with zero")];
    let values: [Option<&[u8]>; 3] = [None, Some(b""), Some(&[0, 159, 146, 150])];
    let mut sent = Vec::new();
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    for key in keys {
        for value in values {
            for headers in headers {
                let timestamp = 1_700_000_000_000 - i64::try_from(sent.len()).unwrap();
                out.send(handle, 0, key, value, timestamp, headers.iter().copied()).unwrap();
                let owned = headers.iter().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)));
                sent.push((key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec), timestamp, owned.collect::<Vec<_>>()));
            }
        }
    }
    out.flush(Instant::now() + SOON).unwrap();

    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join_from_start();
    member.fetch_until(sent.len());
    let received: Vec<_> = member
        .records
        .iter()
        .map(|record| (record.key.clone(), record.value.clone(), record.timestamp, record.headers.clone()))
        .collect();
    assert_eq!(received, sent);
}

#[test]
fn a_record_without_a_time_gets_the_time_of_sending() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "now", 1));
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    out.send(handle, 0, None, Some(b"x"), -1, std::iter::empty()).unwrap();
    out.flush(Instant::now() + SOON).unwrap();
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join_from_start();
    member.fetch_until(1);
    assert!(member.records[0].timestamp > 1_600_000_000_000);
}

#[test]
fn every_offset_comes_once_and_in_order_in_each_partition() {
    const COUNT: u64 = 30_000;
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "order", 4));
    produce(&settings, &topic, 4, 0..COUNT);
    let mut member = member(&settings, &unique("group"), &[&topic]);
    let partitions = member.join_from_start();
    assert_eq!(partitions.len(), 4);
    member.fetch_until(COUNT as usize);
    for partition in partitions {
        let expected: Vec<i64> = (0..i64::try_from(COUNT / 4).unwrap()).collect();
        assert_eq!(member.offsets(partition), expected);
        let numbers = member.records.iter().filter(|record| record.from == partition).map(super::Record::number);
        assert!(numbers.is_sorted());
    }
}

#[test]
fn nothing_passes_before_the_start_and_then_exactly_from_there() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "start", 2));
    produce(&settings, &topic, 2, 0..2_000);
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join();
    member.linger(Duration::from_millis(700));
    assert_eq!(member.records, [], "records before the start");

    member.consumer.start(&[(at(0, 0), 777)], SOON).unwrap();
    member.fetch_until(223);
    assert_eq!(member.offsets(at(0, 0)), (777..1_000).collect::<Vec<_>>());
    assert!(member.offsets(at(0, 1)).is_empty(), "the other partition stands still");
    assert_eq!(member.consumer.position(at(0, 0)), Some(1_000));
    assert_eq!(member.consumer.position(at(0, 1)), None);

    member.records.clear();
    member.consumer.start(&[(at(0, 0), 10), (at(0, 1), 990)], SOON).unwrap();
    member.fetch_until(1_000);
    assert_eq!(member.offsets(at(0, 0)), (10..1_000).collect::<Vec<_>>(), "going back");
    assert_eq!(member.offsets(at(0, 1)), (990..1_000).collect::<Vec<_>>());
}

#[test]
fn a_seek_right_after_the_assignment_is_exact() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "race", 8));
    produce(&settings, &topic, 8, 0..8_000);
    for round in 0..10 {
        let mut member = member(&settings, &unique("group"), &[&topic]);
        let partitions = member.join();
        let offsets: Vec<_> = partitions.iter().map(|&partition| (partition, 500 + round)).collect();
        member.consumer.start(&offsets, SOON).unwrap();
        member.fetch_until(8 * (500 - round as usize));
        for partition in partitions {
            assert_eq!(member.offsets(partition), (500 + round..1_000).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_pause_loses_and_repeats_nothing() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "pause", 2));
    produce(&settings, &topic, 2, 0..20_000);
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join_from_start();
    member.consumer.pause(&[at(0, 1)]).unwrap();
    for round in 1..=20 {
        let (paused, other) = if round % 2 == 0 { (1, 0) } else { (0, 1) };
        member.consumer.pause(&[at(0, paused)]).unwrap();
        member.consumer.resume(&[at(0, other)]).unwrap();
        let before = member.offsets(at(0, paused)).len();
        let wanted = (member.offsets(at(0, other)).len() + 700).min(10_000);
        eventually("records of the partition that is not paused", || {
            member.fetch(Duration::from_millis(20));
            (member.offsets(at(0, other)).len() >= wanted).then_some(())
        });
        assert_eq!(member.offsets(at(0, paused)).len(), before, "records of a paused partition");
    }
    member.consumer.resume(&[at(0, 0), at(0, 1)]).unwrap();
    member.fetch_until(20_000);
    for partition in [at(0, 0), at(0, 1)] {
        assert_eq!(member.offsets(partition), (0..10_000).collect::<Vec<_>>());
    }
}

#[test]
fn limits_of_a_fetch_hold() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "limits", 1));
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    for _ in 0..500 {
        out.send(handle, 0, None, Some(&[7; 10_000]), 1, std::iter::empty()).unwrap();
    }
    out.flush(Instant::now() + SOON).unwrap();
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join_from_start();
    let mut seen = 0;
    eventually("all records", || {
        let outcome = member.consumer.fetch(100, 1_000_000, Duration::from_millis(20), |_| seen += 1).unwrap();
        assert!(outcome.records <= 100 && outcome.bytes <= 1_010_000, "{outcome:?}");
        assert_eq!(outcome.bytes, outcome.records * 10_000);
        (seen == 500).then_some(())
    });
}

#[test]
fn partitions_begin_where_they_are_told() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "begin", 1));
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    for timestamp in [1_000, 2_000, 3_000] {
        out.send(handle, 0, None, Some(b"x"), timestamp, std::iter::empty()).unwrap();
    }
    out.flush(Instant::now() + SOON).unwrap();
    let member = member(&settings, &unique("group"), &[&topic]);
    let offset = |start| member.consumer.offsets().start_offset(at(0, 0), start, SOON).unwrap();
    assert_eq!(offset(Start::Earliest), 0);
    assert_eq!(offset(Start::Latest), 3);
    assert_eq!(offset(Start::Timestamp(0)), 0);
    assert_eq!(offset(Start::Timestamp(1_001)), 1);
    assert_eq!(offset(Start::Timestamp(3_000)), 2);
    assert_eq!(offset(Start::Timestamp(3_001)), 3);
}

#[test]
fn an_offset_that_does_not_exist_is_an_event_of_its_partition() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "range", 2));
    produce(&settings, &topic, 2, 0..20);
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join();
    member.consumer.start(&[(at(0, 0), 0), (at(0, 1), 1_000_000)], SOON).unwrap();
    let (partition, fault) = eventually("the event", || {
        member.fetch(Duration::from_millis(20));
        member.events.drain(..).find_map(|event| match event {
            ConsumerEvent::PartitionFailed { partition, fault, .. } => Some((partition, fault)),
            _ => None,
        })
    });
    assert_eq!((partition, fault), (at(0, 1), PartitionFault::OffsetOutOfRange));
    member.fetch_until(10);
    assert_eq!(member.offsets(at(0, 0)).len(), 10, "the other partition is read");
}

#[test]
fn what_is_not_held_cannot_be_started() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "held", 1));
    let mut member = member(&settings, &unique("group"), &[&topic]);
    let error = member.consumer.start(&[(at(0, 0), 0)], SOON).unwrap_err();
    assert!(matches!(error, StartError::NotHeld(partition) if partition == at(0, 0)), "{error}");
}

#[test]
fn statistics_tell_the_lag() {
    let bootstrap = kafka().bootstrap();
    let (mut settings, topic) = (settings(&bootstrap), topic(&bootstrap, "lag", 1));
    settings.consumer.insert("statistics.interval.ms".to_owned(), "100".to_owned());
    produce(&settings, &topic, 1, 0..100);
    let mut member = member(&settings, &unique("group"), &[&topic]);
    member.join_from_start();
    eventually("no lag", || {
        member.fetch(Duration::from_millis(20));
        member.events.drain(..).find_map(|event| match event {
            ConsumerEvent::Statistics { lag, .. } => (lag == [(at(0, 0), 0)]).then_some(()),
            _ => None,
        })
    });
    assert_eq!(member.records.len(), 100);
    produce(&settings, &topic, 1, 100..150);
    let lag = eventually("a lag", || {
        member.consumer.fetch(0, 1, Duration::from_millis(20), |_| ()).unwrap();
        match member.consumer.next_event()? {
            ConsumerEvent::Statistics { lag, .. } => lag.first().map(|(_, lag)| *lag).filter(|lag| *lag > 0),
            _ => None,
        }
    });
    assert_eq!(lag, 50);
}

#[test]
fn a_record_too_large_is_refused_at_once_or_by_the_broker() {
    let bootstrap = kafka().bootstrap();
    let (mut settings, topic) = (settings(&bootstrap), topic(&bootstrap, "large", 1));
    let large = vec![7; 1_500_000];
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    let error = out.send(handle, 0, None, Some(&large), 1, std::iter::empty()).unwrap_err();
    assert!(matches!(error, SendError::TooLarge), "{error}");
    out.flush(Instant::now() + SOON).unwrap();

    settings.producer.insert("message.max.bytes".to_owned(), "5000000".to_owned());
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    out.send(handle, 0, None, Some(&large), 1, std::iter::empty()).unwrap();
    let error = out.flush(Instant::now() + SOON).unwrap_err();
    assert!(matches!(&error, FlushError::Refused { count: 1, first } if first.topic == topic), "{error}");
    assert_eq!(out.failures().len(), 1);
}

#[test]
fn a_partition_that_does_not_exist_is_refused() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic) = (settings(&bootstrap), topic(&bootstrap, "partition", 1));
    let mut out = producer(&settings);
    let handle = out.topic(&topic).unwrap();
    out.send(handle, 0, None, Some(b"x"), 1, std::iter::empty()).unwrap();
    out.flush(Instant::now() + SOON).unwrap();
    let error = out.send(handle, 1, None, Some(b"x"), 1, std::iter::empty()).unwrap_err();
    assert!(matches!(error, SendError::UnknownTopicOrPartition { partition: 1 }), "{error}");
}

#[test]
fn the_embedded_broker_carries_records_and_offsets() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 3).unwrap();
    let settings = broker.settings();
    produce(&settings, "t", 3, 0..300);
    let mut member = member(&settings, "group", &["t"]);
    let partitions = member.join_from_start();
    assert_eq!(partitions.len(), 3);
    member.fetch_until(300);
    for partition in partitions {
        assert_eq!(member.offsets(partition), (0..100).collect::<Vec<_>>());
    }
}

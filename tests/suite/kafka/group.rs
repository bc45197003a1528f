//! Group membership: rebalances wait for the commit, and the next owner sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate::kafka::TopicPartition;
use sluicegate::kafka::clients::OffsetsClient;
use sluicegate::kafka::consumer::{Closed, CommitOffset, ConsumerEvent};
use sluicegate::kafka::settings::KafkaSettings;

use super::{Member, at, member, produce, settings};
use crate::shared::{SOON, eventually, kafka, topic, unique};

#[test]
fn committed_offsets_come_back_with_their_metadata() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic, group) = (settings(&bootstrap), topic(&bootstrap, "metadata", 3), unique("group"));
    let mut member = member(&settings, &group, &[&topic]);
    let partitions = member.join_from_start();
    let before = member.consumer.offsets().committed(&partitions, SOON).unwrap();
    assert!(before.iter().all(|committed| committed.offset.is_none() && committed.metadata.is_empty()), "{before:?}");

    let commit = |partition, offset, metadata: &str| CommitOffset { partition, offset, metadata: metadata.to_owned() };
    let offsets = [commit(at(0, 0), 7, "12-9f86d081884c7d65"), commit(at(0, 2), 0, "")];
    member.consumer.commit(&offsets, SOON).unwrap();
    let after = member.consumer.offsets().committed(&partitions, SOON).unwrap();
    let seen: Vec<_> = after.iter().map(|c| (c.partition.partition, c.offset, c.metadata.as_str())).collect();
    assert_eq!(seen, [(0, Some(7), "12-9f86d081884c7d65"), (1, None, ""), (2, Some(0), "")]);
}

#[test]
fn commits_sent_and_commits_waited_for_do_not_mix_up_their_answers() {
    let bootstrap = kafka().bootstrap();
    let (settings, topic, group) = (settings(&bootstrap), topic(&bootstrap, "commits", 1), unique("group"));
    let mut member = member(&settings, &group, &[&topic]);
    member.join_from_start();
    let commit = |offset, metadata: &str| CommitOffset { partition: at(0, 0), offset, metadata: metadata.to_owned() };
    let too_long = "x".repeat(5_000);
    member.consumer.commit_later(&[commit(1, &too_long)]).unwrap();
    member.consumer.commit(&[commit(2, "")], SOON).unwrap();
    member.fetch(Duration::ZERO);
    let answers: Vec<_> = member
        .events
        .drain(..)
        .filter_map(|event| match event {
            ConsumerEvent::Committed(result) => Some(result),
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].is_err(), "metadata longer than the broker takes");
    assert!(member.consumer.commit(&[commit(3, &too_long)], SOON).is_err());
    assert_eq!(member.consumer.offsets().committed(&[at(0, 0)], SOON).unwrap()[0].offset, Some(2));
}

/// Answers the events of a member as a worker does: commit, then release; read the committed offsets, then start.
fn answer(member: &mut Member) {
    while let Some(event) = member.events.pop_front() {
        match event {
            ConsumerEvent::Assigned(partitions) => {
                member.consumer.accept(&partitions).unwrap();
                let committed = member.consumer.offsets().committed(&partitions, SOON).unwrap();
                let offsets: Vec<_> =
                    committed.iter().map(|committed| (committed.partition, committed.offset.unwrap_or(0))).collect();
                member.consumer.start(&offsets, SOON).unwrap();
            }
            ConsumerEvent::Revoked { partitions, lost } => {
                assert!(!lost);
                let offsets: Vec<_> = partitions
                    .iter()
                    .filter_map(|&partition| {
                        let offset = member.consumer.position(partition)?;
                        Some(CommitOffset { partition, offset, metadata: String::new() })
                    })
                    .collect();
                if !offsets.is_empty() {
                    member.consumer.commit(&offsets, SOON).unwrap();
                }
                member.consumer.release(&partitions).unwrap();
            }
            ConsumerEvent::PartitionFailed { partition, text, .. } => panic!("{partition}: {text}"),
            _ => {}
        }
    }
}

/// Partitions that hand records to each member, while one joins and one leaves; every record is seen exactly once because each
/// hand-over goes through a commit that the next owner reads.
fn handing_over_loses_and_repeats_nothing(settings: &KafkaSettings, topics: &[&str], partitions: i32) {
    const COUNT: u64 = 20_000;
    let group = unique("group");
    for topic in topics {
        produce(settings, topic, partitions, 0..COUNT);
    }
    let held = |member: &Member| {
        let all =
            (0..topics.len()).flat_map(|input| (0..partitions).map(move |p| at(u32::try_from(input).unwrap(), p)));
        all.filter(|&partition| member.consumer.position(partition).is_some()).collect::<Vec<TopicPartition>>()
    };
    let mut first = member(settings, &group, topics);
    eventually("the first member has everything", || {
        first.fetch(Duration::from_millis(5));
        answer(&mut first);
        (held(&first).len() == topics.len() * partitions.unsigned_abs() as usize).then_some(())
    });
    let mut second = member(settings, &group, topics);
    eventually("the members share", || {
        first.fetch(Duration::from_millis(5));
        answer(&mut first);
        second.fetch(Duration::from_millis(5));
        answer(&mut second);
        let half = topics.len() * partitions.unsigned_abs() as usize / 2;
        (held(&first).len() == half && held(&second).len() == half).then_some(())
    });
    if topics.len() > 1 {
        for member in [&first, &second] {
            let of = |input| held(member).iter().filter(|p| p.input == input).map(|p| p.partition).collect::<Vec<_>>();
            assert_eq!(of(0), of(1), "co-partitioned topics stay together");
        }
    }
    produce(settings, topics[0], partitions, COUNT..2 * COUNT);

    // The first one leaves, as a worker does that drains: commit, then close.
    let offsets: Vec<_> = held(&first)
        .iter()
        .map(|&partition| CommitOffset {
            partition,
            offset: first.consumer.position(partition).unwrap(),
            metadata: String::new(),
        })
        .collect();
    first.consumer.commit(&offsets, SOON).unwrap();
    let mut records = first.records;
    assert_eq!(first.consumer.close(SOON), Closed::Left);

    let expected = usize::try_from(COUNT).unwrap() * (topics.len() + 1);
    eventually("all records", || {
        second.fetch(Duration::from_millis(5));
        answer(&mut second);
        (records.len() + second.records.len() >= expected).then_some(())
    });
    second.linger(Duration::from_millis(200));
    records.append(&mut second.records);
    let mut seen: BTreeMap<TopicPartition, Vec<i64>> = BTreeMap::new();
    for record in &records {
        seen.entry(record.from).or_default().push(record.offset);
    }
    for (partition, offsets) in seen {
        let expected: Vec<i64> = (0..i64::try_from(offsets.len()).unwrap()).collect();
        assert_eq!(offsets, expected, "{partition}");
    }
    assert_eq!(records.len(), expected);
}

#[test]
fn handing_over_is_exact_with_the_cooperative_protocol() {
    let bootstrap = kafka().bootstrap();
    let topic = topic(&bootstrap, "cooperative", 4);
    handing_over_loses_and_repeats_nothing(&settings(&bootstrap), &[&topic], 4);
}

#[test]
fn handing_over_is_exact_with_co_partitioned_topics() {
    let bootstrap = kafka().bootstrap();
    let (left, right) = (topic(&bootstrap, "range-left", 4), topic(&bootstrap, "range-right", 4));
    handing_over_loses_and_repeats_nothing(&settings(&bootstrap), &[&left, &right], 4);
}

#[test]
fn handing_over_is_exact_with_the_brokers_protocol() {
    let bootstrap = kafka().bootstrap();
    let topic = topic(&bootstrap, "kip848", 4);
    let mut settings = settings(&bootstrap);
    settings.consumer.insert("group.protocol".to_owned(), "consumer".to_owned());
    handing_over_loses_and_repeats_nothing(&settings, &[&topic], 4);
}

#[test]
fn handing_over_is_exact_with_the_brokers_protocol_and_co_partitioned_topics() {
    let bootstrap = kafka().bootstrap();
    let (left, right) = (topic(&bootstrap, "kip848-left", 4), topic(&bootstrap, "kip848-right", 4));
    let mut settings = settings(&bootstrap);
    settings.consumer.insert("group.protocol".to_owned(), "consumer".to_owned());
    handing_over_loses_and_repeats_nothing(&settings, &[&left, &right], 4);
}

#[test]
fn a_member_that_is_put_out_of_the_group_hears_that_its_partitions_are_lost() {
    let bootstrap = kafka().bootstrap();
    let (mut settings, topic, group) = (settings(&bootstrap), topic(&bootstrap, "lost", 1), unique("group"));
    settings.consumer.insert("session.timeout.ms".to_owned(), "1000".to_owned());
    settings.consumer.insert("heartbeat.interval.ms".to_owned(), "300".to_owned());
    settings.consumer.insert("max.poll.interval.ms".to_owned(), "1000".to_owned());
    let mut slow = member(&settings, &group, &[&topic]);
    slow.join_from_start();
    // It does not poll any more, while another member joins and gets the partition.
    let mut other = member(&settings, &group, &[&topic]);
    other.join_from_start();
    eventually("the loss", || {
        slow.fetch(Duration::from_millis(20));
        other.fetch(Duration::ZERO);
        while let Some(event) = slow.events.pop_front() {
            match event {
                ConsumerEvent::Assigned(partitions) => slow.consumer.accept(&partitions).unwrap(),
                ConsumerEvent::Revoked { lost, .. } => {
                    assert!(lost);
                    return Some(());
                }
                _ => {}
            }
        }
        None
    });
    let commit = CommitOffset { partition: at(0, 0), offset: 1, metadata: String::new() };
    assert!(slow.consumer.commit(&[commit], SOON).is_err(), "a member without partitions must not commit");
    slow.consumer.release(&[at(0, 0)]).unwrap();
}

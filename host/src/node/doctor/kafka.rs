//! What to think of what brokers have answered. Pure.

use super::finding::Finding;
use crate::config::Pipeline;
use crate::kafka::survey::{Partition, Rights, Survey, Topic, TopicError};

/// What a topic is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Source,
    Sink,
    DeadLetters,
}

/// What a pipeline needs of Kafka.
pub(super) struct Needs {
    topics: Vec<(String, Role)>,
    group: String,
    /// The partitions that the pipeline was recorded with, and its state belongs to.
    recorded: Option<u32>,
}

impl Needs {
    pub(super) fn new(pipeline: &Pipeline, group: String, recorded: Option<u32>) -> Self {
        let sources = pipeline.sources.iter().map(|source| (source.topic.clone(), Role::Source));
        let sinks = pipeline.sinks.iter().map(|sink| (sink.topic.clone(), Role::Sink));
        let letters = pipeline.dead_letter_topic().map(|topic| (topic.clone(), Role::DeadLetters));
        Self { topics: sources.chain(sinks).chain(letters).collect(), group, recorded }
    }

    pub(super) fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.topics.iter().map(|(topic, _)| topic.clone()).collect();
        topics.sort();
        topics.dedup();
        topics
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }
}

pub(super) fn judge(survey: &Survey, needs: Option<&Needs>) -> Vec<Finding> {
    let count = survey.brokers.len();
    let noun = if count == 1 { "broker" } else { "brokers" };
    let mut findings = vec![Finding::ok("kafka", format!("{count} {noun}: {}", survey.brokers.join(", ")))];
    let Some(needs) = needs else { return findings };
    match &survey.topics {
        Err(reason) => findings.push(Finding::problem("topics", format!("no answer about them: {reason}"))),
        Ok(found) => {
            findings.extend(needs.topics.iter().map(|(name, role)| topic(name, *role, found)));
            findings.extend(equal_partitions(needs, found));
        }
    }
    findings.push(group(needs, &survey.group));
    findings
}

fn topic(name: &str, role: Role, found: &[Topic]) -> Finding {
    let what = match role {
        Role::Source => "source",
        Role::Sink => "sink",
        Role::DeadLetters => "dead letters",
    };
    let subject = format!("topic `{name}`");
    let Some(topic) = found.iter().find(|topic| topic.name == name) else {
        return Finding::problem(subject, format!("{what}: no broker says anything of it"));
    };
    let partitions = match &topic.partitions {
        Ok(partitions) => partitions,
        Err(error) => return unknown(subject, what, role, error),
    };
    let right = match (role, topic.rights) {
        (Role::Source | Role::DeadLetters, Some(Rights { read: false, .. })) => Some("Read"),
        (Role::Sink | Role::DeadLetters, Some(Rights { write: false, .. })) => Some("Write"),
        _ => None,
    };
    if let Some(right) = right {
        let finding = format!("{what}: this user may not {} it", right.to_ascii_lowercase());
        return Finding::problem(subject, finding).help(format!("grant this user `{right}` on the topic"));
    }
    replicated(subject, what, partitions)
}

fn unknown(subject: String, what: &str, role: Role, error: &TopicError) -> Finding {
    let rights = match role {
        Role::Source => "`Describe` and `Read`",
        Role::Sink => "`Describe` and `Write`",
        Role::DeadLetters => "`Describe`, `Read` and `Write`",
    };
    match error {
        TopicError::Missing => Finding::problem(subject, format!("{what}: it does not exist"))
            .help("create it; how many partitions and replicas it has is yours to say"),
        TopicError::Denied => Finding::problem(subject, format!("{what}: this user may not see it"))
            .help(format!("grant this user {rights} on the topic")),
        TopicError::Other(reason) => Finding::problem(subject, format!("{what}: {reason}")),
    }
}

fn replicated(subject: String, what: &str, partitions: &[Partition]) -> Finding {
    let count = partitions.len();
    let noun = if count == 1 { "partition" } else { "partitions" };
    let without_leader = partitions.iter().filter(|partition| !partition.has_leader).count();
    if without_leader > 0 {
        let finding = format!("{what}: {without_leader} of {count} {noun} without a leader");
        return Finding::problem(subject, finding).help("start the brokers that have them");
    }
    let behind = partitions.iter().filter(|partition| partition.in_sync < partition.replicas).count();
    if behind > 0 {
        let finding = format!("{what}: {behind} of {count} {noun} with replicas that are not in sync");
        return Finding::warning(subject, finding).help("look at the brokers that have them");
    }
    let replicas = partitions.iter().map(|partition| partition.replicas).min().unwrap_or(0);
    let replicated = if replicas == 1 { "one replica".to_owned() } else { format!("{replicas} replicas") };
    Finding::ok(subject, format!("{what}: {count} {noun}, {replicated} each"))
}

/// Partition *n* of each source belongs to task *n*, and so does its state; orders to process dead letters again come the same way.
fn equal_partitions(needs: &Needs, found: &[Topic]) -> Option<Finding> {
    let sources = needs.topics.iter().filter(|(_, role)| *role != Role::Sink);
    let counts: Vec<(&str, usize)> = sources
        .filter_map(|(name, _)| {
            let description = found.iter().find(|description| description.name == *name)?;
            Some((name.as_str(), description.partitions.as_ref().ok()?.len()))
        })
        .collect();
    let (_, first) = *counts.first()?;
    if counts.iter().any(|(_, count)| *count != first) {
        let list: Vec<String> = counts.iter().map(|(name, count)| format!("`{name}` has {count}")).collect();
        let finding = format!("they have different numbers of partitions: {}", list.join(", "));
        let help = "give the source topics of one pipeline, and its dead-letter topic, equal numbers of partitions";
        return Some(Finding::problem("source topics", finding).help(help));
    }
    if let Some(recorded) = needs.recorded.filter(|recorded| *recorded as usize != first) {
        let finding = format!("{first} partitions, and the pipeline was recorded with {recorded}");
        let help =
            "state belongs to partition numbers: deploy it with --discard-state, or use a topic with as many as before";
        return Some(Finding::problem("source topics", finding).help(help));
    }
    (counts.len() > 1).then(|| Finding::ok("source topics", format!("{first} partitions each")))
}

fn group(needs: &Needs, found: &Result<Option<Rights>, String>) -> Finding {
    let subject = format!("group `{}`", needs.group);
    match found {
        Ok(Some(Rights { read: false, .. })) => {
            let finding = "this user may not be a member of it";
            Finding::problem(subject, finding).help("grant this user `Read` on the group")
        }
        Ok(Some(_)) => Finding::ok(subject, "this user may be a member of it"),
        Ok(None) => Finding::ok(subject, "kafka does not say what this user may do with it"),
        Err(reason) => Finding::problem(subject, reason.clone()),
    }
}

/// `is_named`: the transactional id is one of a pipeline's, as its rights allow.
pub(super) fn transactions(id: &str, is_named: bool, tried: &Result<(), String>) -> Finding {
    match tried {
        Ok(()) => Finding::ok("transactions", format!("can be had, tried as `{id}`")),
        Err(reason) if is_named => Finding::problem("transactions", reason.clone())
            .help("`guarantee = \"at-least-once\"` does without; otherwise see `Rights in Kafka` in docs/operating.md"),
        Err(reason) => Finding::warning("transactions", reason.clone())
            .help("name a pipeline file, to have them tried in the pipeline's name"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::Level;
    use super::*;

    const JOIN: &str = "name = \"join\"\n[[source]]\ntopic = \"a\"\n[[source]]\ntopic = \"b\"\n\
        [[transform]]\nname = \"t\"\nplugin = \"p@1.0.0\"\n[[sink]]\ntopic = \"out\"\n";

    fn described(name: &str, partitions: usize) -> Topic {
        let partition = Partition { has_leader: true, replicas: 3, in_sync: 3 };
        let rights = Some(Rights { read: true, write: true });
        Topic { name: name.to_owned(), partitions: Ok(vec![partition; partitions]), rights }
    }

    /// What is said of these topics, without what is fine.
    fn complaints(topics: Vec<Topic>, recorded: Option<u32>) -> Vec<String> {
        let pipeline = Pipeline::parse(Path::new("p.toml"), JOIN).unwrap();
        let needs = Needs::new(&pipeline, "sluicegate/join/1".into(), recorded);
        let survey = Survey { brokers: vec!["k:9092".into()], topics: Ok(topics), group: Ok(None) };
        let bad = judge(&survey, Some(&needs)).into_iter().filter(|finding| finding.level != Level::Ok);
        bad.map(|finding| format!("{} {}: {}", finding.level.word(), finding.subject, finding.finding)).collect()
    }

    #[test]
    fn topics_that_are_as_they_should_be_are_not_complained_of() {
        assert_eq!(complaints(vec![described("a", 4), described("b", 4), described("out", 1)], Some(4)), [""; 0]);
    }

    #[test]
    fn sources_must_have_equal_numbers_of_partitions_and_keep_them() {
        let unequal = complaints(vec![described("a", 4), described("b", 3), described("out", 1)], None);
        assert_eq!(unequal, ["problem source topics: they have different numbers of partitions: `a` has 4, `b` has 3"]);
        let more = complaints(vec![described("a", 4), described("b", 4), described("out", 1)], Some(3));
        assert_eq!(more, ["problem source topics: 4 partitions, and the pipeline was recorded with 3"]);
    }

    #[test]
    fn a_topic_that_cannot_be_used_is_named_with_the_reason() {
        let missing = Topic { partitions: Err(TopicError::Missing), ..described("a", 0) };
        let unreadable = Topic { rights: Some(Rights { read: false, write: true }), ..described("b", 4) };
        let mut leaderless = described("out", 2);
        if let Ok(partitions) = &mut leaderless.partitions {
            partitions[1].has_leader = false;
        }
        assert_eq!(
            complaints(vec![missing, unreadable, leaderless], None),
            [
                "problem topic `a`: source: it does not exist",
                "problem topic `b`: source: this user may not read it",
                "problem topic `out`: sink: 1 of 2 partitions without a leader",
            ]
        );
    }

    #[test]
    fn replicas_that_lag_behind_are_a_warning() {
        let mut lagging = described("out", 1);
        if let Ok(partitions) = &mut lagging.partitions {
            partitions[0].in_sync = 2;
        }
        let said = complaints(vec![described("a", 1), described("b", 1), lagging], None);
        assert_eq!(said, ["warning topic `out`: sink: 1 of 1 partition with replicas that are not in sync"]);
    }
}

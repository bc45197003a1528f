//! What a rollout waits for: which tasks, and where they are. Pure.
//!
//! Loading and converting have a limit, and end a rollout that exceeds it. That tasks go over has none: one that no node has goes over
//! when it comes up, and there is nothing to go back from. So it is said which those are, and a person decides whether to wait.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::{NodeReport, Phase, Rollout};
use crate::candidate::TaskReport;

/// So many are told in words.
const TOLD_MAX: usize = 4;

/// Something that a rollout waits for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Awaited {
    /// Which task; absent where it is a node, or that there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<u32>,
    /// The node that has the task; absent where none has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What has not happened yet.
    pub lacks: Lack,
}

/// What has not happened yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// No node has it.
    Node,
    /// The candidate is not loaded.
    Load,
    /// Its state is not converted.
    Conversion,
    /// The candidate does not see its records.
    Shadow,
    /// It has not gone over.
    Switch,
    /// It has gone over, and no commit says so yet.
    Commit,
    /// It has not gone back.
    Return,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.task, &self.node) {
            (Some(task), Some(node)) => write!(f, "task {task} on node {node}: ")?,
            (Some(task), None) => write!(f, "task {task}: ")?,
            (None, Some(node)) => write!(f, "node {node}: ")?,
            (None, None) => return f.write_str("a node: none runs the pipeline"),
        }
        f.write_str(match self.lacks {
            Lack::Node => "no node has it",
            Lack::Load => "the new version is not loaded",
            Lack::Conversion => "its state is not converted",
            Lack::Shadow => "the new version does not see its records yet",
            Lack::Switch => "it has not gone over",
            Lack::Commit => "no commit says yet that it has gone over",
            Lack::Return => "it has not gone back",
        })
    }
}

/// In a line; nothing if nothing is awaited.
#[must_use]
pub fn in_words(awaited: &[Awaited]) -> Option<String> {
    let told: Vec<String> = awaited.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    let more = match awaited.len().saturating_sub(TOLD_MAX) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (!told.is_empty()).then(|| format!("waits for {}{more}", told.join("; ")))
}

impl Rollout {
    /// What it waits for, by what the nodes say that run the pipeline. Nothing where only time is to pass, records are to come, or a
    /// person is to decide.
    #[must_use]
    pub fn waits_for<'a>(&self, nodes: impl IntoIterator<Item = (&'a str, Option<&'a NodeReport>)>) -> Vec<Awaited> {
        let of_this = |report: &&NodeReport| report.number == self.number;
        let nodes: BTreeMap<&str, Option<&NodeReport>> =
            nodes.into_iter().map(|(node, report)| (node, report.filter(of_this))).collect();
        if self.awaits_decision().is_some() {
            return Vec::new();
        }
        if nodes.is_empty() {
            // A rollout that is called off ends then.
            let nobody = Awaited { task: None, node: None, lacks: Lack::Node };
            return if self.phase == Phase::Return { Vec::new() } else { vec![nobody] };
        }
        let tasks = (0..self.candidate.partitions).flat_map(|partition| self.task_waits(&nodes, partition));
        not_loaded(&nodes).chain(tasks).collect()
    }

    /// What is awaited of a task, on each node that has it.
    fn task_waits(&self, nodes: &BTreeMap<&str, Option<&NodeReport>>, partition: u32) -> Vec<Awaited> {
        let is_asked = match self.phase {
            Phase::Prepare => self.converts,
            Phase::Shadow => true,
            Phase::Canary | Phase::Everywhere => self.wants(partition) && self.watched_since.is_none(),
            Phase::Return => true,
        };
        if !is_asked {
            return Vec::new();
        }
        let found = |(node, report): (&&'_ str, &Option<&NodeReport>)| {
            report.and_then(|report| report.tasks.get(&partition)).map(|task| ((*node).to_owned(), task.clone()))
        };
        let found: Vec<(String, TaskReport)> = nodes.iter().filter_map(found).collect();
        let lacks = |task: &TaskReport| match self.phase {
            Phase::Prepare => (!task.ready && task.switched.is_none()).then_some(Lack::Conversion),
            Phase::Shadow => task.shadow.is_none().then_some(Lack::Shadow),
            Phase::Canary | Phase::Everywhere if task.switched.is_none() => Some(Lack::Switch),
            Phase::Canary | Phase::Everywhere => (!task.committed).then_some(Lack::Commit),
            Phase::Return => task.switched.is_some().then_some(Lack::Return),
        };
        // What nobody has need not go back: it comes up on what it ran before.
        if found.is_empty() && self.phase != Phase::Return {
            return vec![Awaited { task: Some(partition), node: None, lacks: Lack::Node }];
        }
        let awaited = |(node, task): (String, TaskReport)| {
            Some(Awaited { task: Some(partition), lacks: lacks(&task)?, node: Some(node) })
        };
        found.into_iter().filter_map(awaited).collect()
    }
}

/// Nodes that have not loaded the candidate, or have not said anything: they may have tasks of which nobody knows.
fn not_loaded(nodes: &BTreeMap<&str, Option<&NodeReport>>) -> impl Iterator<Item = Awaited> {
    let missing = nodes.iter().filter(|(_, report)| !report.is_some_and(|report| report.prepared));
    missing.map(|(node, _)| Awaited { task: None, node: Some((*node).to_owned()), lacks: Lack::Load })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, report, rollout};
    use super::*;
    use crate::candidate::InShadow;

    fn said(rollout: &Rollout, nodes: &[(&str, Option<&NodeReport>)]) -> Vec<String> {
        rollout.waits_for(nodes.iter().copied()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_task_that_no_node_has_is_named_and_so_is_one_that_does_not_commit() {
        let everywhere = Rollout { phase: Phase::Everywhere, ..rollout(None) };
        let mut x = report(true, &[(0, true), (1, false)]);
        let y = report(true, &[(3, true)]);
        x.tasks.get_mut(&0).unwrap().committed = false;
        let nodes = [("x", Some(&x)), ("y", Some(&y))];
        let expected = [
            "task 0 on node x: no commit says yet that it has gone over",
            "task 1 on node x: it has not gone over",
            "task 2: no node has it",
        ];
        assert_eq!(said(&everywhere, &nodes), expected);
        let watched = Rollout { watched_since: Some(at(1)), ..everywhere.clone() };
        assert_eq!(said(&watched, &nodes), [""; 0], "only time is to pass");
        let held = Rollout { held: Some("too slow".to_owned()), ..everywhere };
        assert_eq!(said(&held, &nodes), [""; 0], "a person is to decide");
        let canary = Rollout { phase: Phase::Canary, ..rollout(Some("1")) };
        assert_eq!(said(&canary, &nodes), expected[..1], "of the others nothing is wanted yet");
    }

    #[test]
    fn nodes_that_have_not_loaded_it_and_state_that_is_not_converted_are_named() {
        let (x, y) = (report(true, &[(0, false), (1, false), (2, false)]), report(false, &[]));
        let stale = NodeReport { number: 2, ..report(true, &[(3, false)]) };
        let nodes = [("x", Some(&x)), ("y", Some(&y)), ("z", Some(&stale))];
        let missing = ["node y: the new version is not loaded", "node z: the new version is not loaded"];
        assert_eq!(said(&rollout(None), &nodes), missing);
        assert_eq!(said(&rollout(None), &[]), ["a node: none runs the pipeline"]);
        let converts = Rollout { converts: true, ..rollout(None) };
        let mut x = x.clone();
        x.tasks.get_mut(&0).unwrap().ready = true;
        let expected = [
            "task 1 on node x: its state is not converted",
            "task 2 on node x: its state is not converted",
            "task 3: no node has it",
        ];
        assert_eq!(said(&converts, &[("x", Some(&x))]), expected);
    }

    #[test]
    fn tasks_that_do_not_see_their_records_or_have_not_gone_back_are_named() {
        let mut x = report(true, &[(0, true), (1, false), (2, false), (3, false)]);
        let off = rollout(None).called_off("enough");
        assert_eq!(said(&off, &[("x", Some(&x))]), ["task 0 on node x: it has not gone back"]);
        assert_eq!(said(&off, &[]), [""; 0]);
        x.tasks.values_mut().skip(1).for_each(|task| task.shadow = Some(InShadow::Sees));
        let shadow = Rollout { phase: Phase::Shadow, ..rollout(None) };
        let expected = ["task 0 on node x: the new version does not see its records yet"];
        assert_eq!(said(&shadow, &[("x", Some(&x))]), expected);
    }

    #[test]
    fn of_many_a_few_are_told() {
        let awaited = |task| Awaited { task: Some(task), node: None, lacks: Lack::Node };
        assert_eq!(in_words(&[]), None);
        assert_eq!(in_words(&[awaited(2)]).unwrap(), "waits for task 2: no node has it");
        let many: Vec<_> = (0..20).map(awaited).collect();
        assert!(in_words(&many).unwrap().ends_with("task 3: no node has it; and 16 more"));
    }
}

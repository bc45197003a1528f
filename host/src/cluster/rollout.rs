//! A rollout: one transform of a running pipeline goes over to other code or another configuration, task by task. Pure.
//!
//! It stands in the pipeline's record, as what is wanted; what each task runs stands in its head, and nodes say it of their tasks.
//! The leader compares the two and moves the rollout on. It may die at any point: the next one finds the same record and the same
//! facts. Two that believe to lead do no harm either, because the record is changed under its version.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pipelines::Specification;
use crate::candidate::{Counted, InShadow, Shadowed, Switched, TaskReport};
use crate::comparison::Counts;
use crate::digest;

/// Nodes that have not loaded the candidate by then call the rollout off.
pub const PREPARE_MAX: Duration = Duration::from_secs(300);
/// Tasks whose state is not converted by then call it off.
pub const CONVERT_MAX: Duration = Duration::from_secs(3600);
/// A record that takes less than so many microseconds is never too slow: below that, the sizes of batches and what else the machine
/// does weigh more than the plugin.
const TIME_FLOOR_US: f64 = 25.0;
/// So many records of a million may be rejected where nobody knows how many the version before did.
const UNKNOWN_PPM: f64 = 100_000.0;
/// With fewer records a rate says nothing, unless there are more failures already than so many records may have.
const RECORDS_MIN: u64 = 1000;

pub mod extent;
pub mod waiting;

pub use self::extent::Extent;
pub use self::waiting::Awaited;

/// What a transform runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Version {
    /// As the pipeline file names the plugin.
    pub reference: String,
    /// SHA-256 of the plugin, in hexadecimal.
    pub plugin: String,
    /// SHA-256 of its configuration, in hexadecimal.
    pub config: String,
}

impl Version {
    /// The plugin, as people are shown it.
    #[must_use]
    pub fn plugin(&self) -> String {
        match self.reference.strip_prefix(digest::PREFIX) {
            Some(hex) => format!("{}{}", digest::PREFIX, digest::short(hex)),
            None => self.reference.clone(),
        }
    }

    /// What a transform ran and is to run, as people are shown it: where that is the same plugin, with its configurations.
    #[must_use]
    pub fn both(from: &Self, to: &Self) -> [String; 2] {
        let same = from.plugin == to.plugin;
        [from, to].map(|version| if same { version.to_string() } else { version.plugin() })
    }

    /// Whether this is the same code with the same configuration, however the plugin is named.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.plugin, &self.config) == (&other.plugin, &other.config)
    }
}

impl fmt::Display for Version {
    /// With the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} configuration {}", self.plugin(), digest::short(&self.config))
    }
}

/// How many tasks go first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Share {
    /// So many.
    Tasks(u32),
    /// Of a hundred; at least one task.
    Percent(u32),
}

/// Not a number of tasks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("write a number of tasks such as 1, or a share such as 25%")]
pub struct ShareError;

impl Share {
    /// Of so many tasks; at least one, and not all if there is more than one.
    #[must_use]
    pub fn of(self, tasks: u32) -> u32 {
        let count = match self {
            Self::Tasks(count) => count,
            Self::Percent(share) => u32::try_from(u64::from(tasks) * u64::from(share) / 100).unwrap_or(tasks),
        };
        count.clamp(1, tasks.saturating_sub(1).max(1))
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let (number, is_percent) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
        match (number.parse(), is_percent) {
            (Ok(share @ 1..=100), true) => Ok(Self::Percent(share)),
            (Ok(count @ 1..), false) => Ok(Self::Tasks(count)),
            _ => Err(ShareError),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tasks(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How carefully.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default, rename_all = "kebab-case")]
pub struct Strategy {
    /// These go first, and the others when the probation of these has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "25%")]
    pub canary: Option<Share>,
    /// How long the candidate is watched when all tasks that are to run it do, in milliseconds.
    pub probation_ms: u64,
    /// Records of a million that the candidate may fail on or reject beyond what the version before did.
    pub max_errors_ppm: u32,
    /// So many times the time a record that the version before took is too long.
    pub max_slowdown: u32,
    /// Before any task goes over, the candidate sees this much in the shadow of the version that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10000")]
    pub shadow: Option<Extent>,
    /// Differences for each million of records in the shadow that are too many; none are if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_differences_ppm: Option<u32>,
    /// The candidate's state cannot be converted back, and no task that has gone over goes back by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_return: bool,
}

impl Default for Strategy {
    /// As commands have it.
    fn default() -> Self {
        Self {
            canary: None,
            probation_ms: 60_000,
            max_errors_ppm: 1000,
            max_slowdown: 5,
            shadow: None,
            max_differences_ppm: None,
            no_return: false,
        }
    }
}

impl Strategy {
    /// What can be said of it.
    pub const KEYS: [&str; 7] =
        ["canary", "probation-ms", "max-errors-ppm", "max-slowdown", "shadow", "max-differences-ppm", "no-return"];

    fn probation(&self) -> SignedDuration {
        SignedDuration::from_millis(i64::try_from(self.probation_ms).unwrap_or(i64::MAX))
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nodes load the candidate, and nobody runs it.
    Prepare,
    /// It sees the records of all tasks, and nobody runs it.
    Shadow,
    /// The first tasks are to run it.
    Canary,
    /// All tasks are to run it.
    Everywhere,
    /// No task is to run it any more.
    Return,
}

/// A rollout that has not ended, in the record of its pipeline.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rollout {
    /// Counts the rollouts of the pipeline, from 1.
    pub number: u64,
    /// What the pipeline is to be.
    pub candidate: Specification,
    /// The revision that this would be.
    pub revision: u64,
    /// Which transform.
    pub transform: String,
    /// What it ran before.
    pub from: Version,
    /// What it is to run.
    pub to: Version,
    /// How carefully.
    pub strategy: Strategy,
    /// Whether state has to be converted first, beside the version that runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converts: bool,
    /// How far it is.
    pub phase: Phase,
    /// Since when all tasks that are to run the candidate have done so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_since: Option<Timestamp>,
    /// Why it is called off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it waits for a person: what would call it off, where no task goes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Who let it go on that was held: user and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_by: Option<String>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// Who began it: user and host.
    pub started_by: String,
    /// How it compared in the shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadowed: Option<Shadowed>,
    /// What the candidate had done when it was found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Counted>,
    /// What was known of the tasks that had gone over, by partition, when the phase, or what is watched, changed last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switched: BTreeMap<u32, Switched>,
}

/// What a node says of a rollout.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeReport {
    /// Which.
    pub number: u64,
    /// Whether the candidate is loaded.
    pub prepared: bool,
    /// Why it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How it compares in the shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadowed: Option<Shadowed>,
    /// Its tasks, by partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<u32, TaskReport>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All tasks run the candidate: it is the pipeline's next revision.
    Done,
    /// All tasks run what they ran before.
    Returned,
}

/// A rollout that has ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Ended {
    /// As it was at its end.
    pub rollout: Rollout,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub ended_at: Timestamp,
}

/// What becomes of a rollout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// It is to be this.
    Go(Box<Rollout>),
    /// It has ended.
    End(Box<Rollout>, Outcome),
}

impl Rollout {
    /// What the transform ran and is to run, as people are shown it.
    #[must_use]
    pub fn versions(&self) -> [String; 2] {
        Version::both(&self.from, &self.to)
    }

    /// Tasks that run the candidate, by what nodes say.
    #[must_use]
    pub fn gone_over<'a>(&self, reports: impl IntoIterator<Item = &'a NodeReport>) -> usize {
        let reports = reports.into_iter().filter(|report| report.number == self.number);
        reports.flat_map(|report| report.tasks.values()).filter(|task| task.switched.is_some()).count()
    }

    /// Whether the task of this partition is to run the candidate.
    #[must_use]
    pub fn wants(&self, partition: u32) -> bool {
        match self.phase {
            Phase::Prepare | Phase::Shadow | Phase::Return => false,
            Phase::Canary => partition < self.first_tasks(),
            Phase::Everywhere => true,
        }
    }

    fn first_tasks(&self) -> u32 {
        let tasks = self.candidate.partitions;
        self.strategy.canary.map_or(tasks, |canary| canary.of(tasks))
    }

    /// Whether this is the same rollout, however far.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.number == other.number && self.started_at == other.started_at
    }

    /// Whether it can be called off without loss: tasks find their way back, or none can have gone over yet.
    #[must_use]
    pub fn can_be_called_off(&self) -> bool {
        !self.strategy.no_return || matches!(self.phase, Phase::Prepare | Phase::Shadow | Phase::Return)
    }

    /// Why a person has to decide now, if one has to.
    #[must_use]
    pub fn awaits_decision(&self) -> Option<&str> {
        self.held.as_deref().filter(|_| self.promoted_by.is_none())
    }

    /// Lets it go on that is held: all tasks go over, and it ends when they have, whatever the candidate does. `None` when nobody has
    /// to decide.
    #[must_use]
    pub fn promoted(&self, by: String) -> Option<Self> {
        self.awaits_decision()?;
        Some(Self { phase: Phase::Everywhere, promoted_by: Some(by), watched_since: None, ..self.clone() })
    }

    /// Calls it off: nobody is to run the candidate. One that is being called off already keeps its reason.
    #[must_use]
    pub fn called_off(&self, reason: impl Into<String>) -> Self {
        let reason = self.reason.clone().unwrap_or_else(|| reason.into());
        Self { phase: Phase::Return, reason: Some(reason), watched_since: None, ..self.clone() }
    }

    /// Decides. `placed` are the nodes that are to run the pipeline; `reports` what those say that do.
    #[must_use]
    pub fn next(&self, placed: &[&str], reports: &BTreeMap<&str, &NodeReport>, now: Timestamp) -> Next {
        let reports: BTreeMap<&str, &NodeReport> =
            reports.iter().filter(|(_, report)| report.number == self.number).map(|(node, it)| (*node, *it)).collect();
        if self.phase == Phase::Return {
            let runs_it = |report: &&NodeReport| report.tasks.values().any(|task| task.switched.is_some());
            let all_said = placed.iter().all(|node| reports.contains_key(node));
            return match all_said && !reports.values().any(runs_it) {
                true => Next::End(Box::new(self.with_shadowed(&reports)), Outcome::Returned),
                false => Next::Wait,
            };
        }
        if self.awaits_decision().is_some() {
            return Next::Wait;
        }
        if self.promoted_by.is_none()
            && let Some(reason) = self.objection(&reports)
        {
            return Next::Go(Box::new(match self.can_be_called_off() {
                true => self.with_shadowed(&reports).called_off(reason),
                false => Self { held: Some(reason), watched_since: None, ..self.clone() },
            }));
        }
        match self.phase {
            Phase::Prepare => self.after_prepare(placed, &reports, now),
            Phase::Shadow => self.in_shadow(&reports, now),
            _ => self.after_switch(placed, &reports, now),
        }
    }

    /// Why it has to be called off.
    fn objection(&self, reports: &BTreeMap<&str, &NodeReport>) -> Option<String> {
        for (node, report) in reports {
            if let Some(problem) = &report.problem {
                return Some(format!("node {node} cannot run it: {problem}"));
            }
            for (partition, task) in &report.tasks {
                let in_shadow = match &task.shadow {
                    Some(InShadow::Failed(reason)) if self.phase == Phase::Shadow => Some(reason),
                    _ => None,
                };
                if let Some(refused) = task.refused.as_ref().or(in_shadow) {
                    return Some(format!("task {partition} on node {node}: {refused}"));
                }
            }
        }
        let tasks = || reports.values().flat_map(|report| report.tasks.values());
        let sum = |of: fn(&TaskReport) -> Counted| tasks().map(of).fold(Counted::default(), Counted::and);
        let (before, after) = (sum(|task| task.before), sum(|task| task.after));
        self.too_many_errors(before, after).or_else(|| self.too_slow(before, after))
    }

    fn too_many_errors(&self, before: Counted, after: Counted) -> Option<String> {
        let rate = |counted: Counted| counted.errors as f64 * 1e6 / counted.records.max(1) as f64;
        let limit = f64::from(self.strategy.max_errors_ppm);
        let allowed = match before.records >= RECORDS_MIN {
            true => rate(before) + limit,
            // What the version before would have done is not known.
            false => limit.max(UNKNOWN_PPM),
        };
        let enough = after.records >= RECORDS_MIN || after.errors as f64 > allowed * RECORDS_MIN as f64 / 1e6;
        (after.errors > 0 && enough && rate(after) > allowed).then(|| {
            format!(
                "it rejects {} of {} records, the version before {} of {}",
                after.errors, after.records, before.errors, before.records
            )
        })
    }

    fn too_slow(&self, before: Counted, after: Counted) -> Option<String> {
        let each = |counted: Counted| counted.busy_us as f64 / counted.records.max(1) as f64;
        let enough = before.records.min(after.records) >= RECORDS_MIN;
        (enough && each(after) > (each(before) * f64::from(self.strategy.max_slowdown)).max(TIME_FLOOR_US))
            .then(|| format!("it takes {:.1} us a record, the version before {:.1}", each(after), each(before)))
    }

    fn after_prepare(&self, placed: &[&str], reports: &BTreeMap<&str, &NodeReport>, now: Timestamp) -> Next {
        let is_prepared = |node: &str| reports.get(node).is_some_and(|report| report.prepared);
        let missing: Vec<&str> = placed.iter().copied().filter(|node| !is_prepared(node)).collect();
        let can_go = |task: &TaskReport| task.ready || task.switched.is_some();
        let is_ready = |partition: u32| reports.values().any(|report| report.tasks.get(&partition).is_some_and(can_go));
        let unready = (0..self.candidate.partitions).filter(|partition| self.converts && !is_ready(*partition)).count();
        if !placed.is_empty() && missing.is_empty() && unready == 0 {
            let phase = if self.strategy.shadow.is_some() { Phase::Shadow } else { self.first_phase() };
            return Next::Go(Box::new(Self { phase, ..self.clone() }));
        }
        let is_over = |limit: Duration| {
            now.duration_since(self.started_at) > SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX)
        };
        if is_over(PREPARE_MAX) && (placed.is_empty() || !missing.is_empty()) {
            let whom = if placed.is_empty() { "no node runs the pipeline".to_owned() } else { missing.join(", ") };
            let limit = humantime::format_duration(PREPARE_MAX);
            return Next::Go(Box::new(self.called_off(format!("not loaded after {limit}: {whom}"))));
        }
        if is_over(CONVERT_MAX) {
            let limit = humantime::format_duration(CONVERT_MAX);
            let reason = format!("the state of {unready} tasks is not converted after {limit}");
            return Next::Go(Box::new(self.called_off(reason)));
        }
        Next::Wait
    }

    /// That in which tasks go over first.
    fn first_phase(&self) -> Phase {
        if self.first_tasks() < self.candidate.partitions { Phase::Canary } else { Phase::Everywhere }
    }

    /// How the candidate compares in the shadow, by what nodes say together. They forget it when they are started anew: what was written
    /// down stays then. Nothing while it has seen nothing.
    #[must_use]
    pub fn shadowed<'a>(&self, reports: impl IntoIterator<Item = &'a NodeReport>) -> Option<Shadowed> {
        let reports = reports.into_iter().filter(|report| report.number == self.number);
        let said = reports.filter_map(|report| report.shadowed.as_ref());
        let now = said.fold(None, |sum: Option<Shadowed>, next| Some(sum.unwrap_or_default().and(next)));
        let seen = |shadowed: &Option<Shadowed>| shadowed.as_ref().map_or(0, |shadowed| shadowed.counts.records);
        if seen(&now) > seen(&self.shadowed) { now } else { self.shadowed.clone() }
    }

    fn with_shadowed(&self, reports: &BTreeMap<&str, &NodeReport>) -> Self {
        Self { shadowed: self.shadowed(reports.values().copied()), ..self.clone() }
    }

    fn in_shadow(&self, reports: &BTreeMap<&str, &NodeReport>, now: Timestamp) -> Next {
        let shadow = |partition: u32| {
            let mut of = reports.values().filter_map(|report| report.tasks.get(&partition)?.shadow.as_ref());
            of.next()
        };
        let tasks: Vec<Option<&InShadow>> = (0..self.candidate.partitions).map(shadow).collect();
        let all_see = tasks.iter().all(Option::is_some);
        let none_goes_on = tasks.iter().all(|task| *task == Some(&InShadow::GivenUp));
        let counts = self.shadowed(reports.values().copied()).unwrap_or_default().counts;
        let is_over = match (self.strategy.shadow, self.watched_since) {
            (None, _) => true,
            (Some(Extent::Records(records)), _) => counts.records >= records || none_goes_on,
            (Some(Extent::Time(time)), Some(since)) => {
                all_see && now.duration_since(since) >= SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
            }
            (Some(Extent::Time(_)), None) => false,
        };
        let watched_since = match (all_see, self.watched_since) {
            (true, None) => Some(now),
            (false, _) => None,
            (true, since) => since,
        };
        let known = self.with_shadowed(reports);
        if let Some(reason) = self.too_many_differences(counts, is_over) {
            return Next::Go(Box::new(known.called_off(reason)));
        }
        if is_over {
            return Next::Go(Box::new(Self { phase: self.first_phase(), watched_since: None, ..known }));
        }
        match watched_since == self.watched_since {
            true => Next::Wait,
            false => Next::Go(Box::new(Self { watched_since, ..self.clone() })),
        }
    }

    fn too_many_differences(&self, counts: Counts, is_over: bool) -> Option<String> {
        let limit = self.strategy.max_differences_ppm?;
        let (records, differences) = (counts.records, counts.differences());
        let rate = differences as f64 * 1e6 / records.max(1) as f64;
        let says_enough = records >= RECORDS_MIN || is_over;
        (differences > 0 && says_enough && rate > f64::from(limit)).then(|| {
            let words = counts.in_words("the version before", "the new one");
            format!("in the shadow, of {records} records too much is different: {words}")
        })
    }

    fn after_switch(&self, placed: &[&str], reports: &BTreeMap<&str, &NodeReport>, now: Timestamp) -> Next {
        let mut known = self.clone();
        for (partition, task) in reports.values().flat_map(|report| &report.tasks) {
            let Some(switched) = &task.switched else { continue };
            // One that came up with the candidate knows nothing of a pause.
            let is_known = known.switched.get(partition).is_some_and(|before| before.offsets == switched.offsets);
            if !is_known {
                known.switched.insert(*partition, switched.clone());
            }
        }
        // A node that has died is heard for a while, and so is the one that has its tasks now.
        let runs = |partition: u32| {
            let mut of = reports.values().filter_map(|report| report.tasks.get(&partition)).peekable();
            of.peek().is_some() && of.all(|task| task.switched.is_some() && task.committed)
        };
        let is_prepared = |node: &&str| reports.get(node).is_some_and(|report| report.prepared);
        let all_run = placed.iter().all(is_prepared)
            && (0..self.candidate.partitions).filter(|partition| self.wants(*partition)).all(runs);
        match self.watched_since {
            _ if all_run && self.promoted_by.is_some() => return Next::End(Box::new(known), Outcome::Done),
            // Time in which it does not run says nothing.
            Some(_) if !all_run => known.watched_since = None,
            None if all_run => known.watched_since = Some(now),
            Some(since) if all_run && now.duration_since(since) >= self.strategy.probation() => match self.phase {
                Phase::Canary => (known.phase, known.watched_since) = (Phase::Everywhere, None),
                _ => {
                    let tasks = reports.values().flat_map(|report| report.tasks.values());
                    known.watched = Some(tasks.map(|task| task.after).fold(Counted::default(), Counted::and));
                    return Next::End(Box::new(known), Outcome::Done);
                }
            },
            _ => {}
        }
        // What is only known better is not worth a write, of which every node hears: nodes tell it again, and so do heads.
        let is_further = (known.phase, known.watched_since) != (self.phase, self.watched_since);
        if is_further { Next::Go(Box::new(known)) } else { Next::Wait }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;

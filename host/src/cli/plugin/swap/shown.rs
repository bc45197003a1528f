//! Rollouts, as people read them. Pure, but for the printing.

use std::io::{self, Write};

use super::DECISION;
use crate::candidate::{Counted, Shadowed};
use crate::cli::{comparison, table};
use crate::cluster::presence::Presence;
use crate::cluster::rollout::{Ended, Extent, Outcome, Phase, Rollout};
use crate::comparison::Counts;
use crate::meta::layout::Segment;
use crate::node::swap::{Finding, Level};

const ROLLOUTS: [&str; 8] = ["ROLLOUT", "TRANSFORM", "FROM", "TO", "STARTED", "BY", "OUTCOME", "PAUSE"];

/// What was looked at before anything is touched.
pub(super) fn findings(out: &mut impl Write, rollout: &Rollout, findings: &[Finding]) -> io::Result<()> {
    let [from, to] = rollout.versions();
    writeln!(out, "transform `{}`: {from} -> {to}", rollout.transform)?;
    for Finding { level, subject, finding } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Refused => "refused",
        };
        writeln!(out, "  {level:<8} {subject}: {finding}")?;
    }
    Ok(())
}

/// That it is held, and who decides how.
pub(super) fn held(name: &Segment, rollout: &Rollout) -> String {
    let (transform, held) = (&rollout.transform, rollout.awaits_decision().unwrap_or_default());
    format!(
        "the rollout is held, {DECISION}: {held}\n`sluicegate plugin promote {name} {transform}` lets the new version stay; `sluicegate pause {name}` and `sluicegate plugin rollback {name} {transform} --from-copy` go back to the state from before, and forget what came since"
    )
}

/// How far it is, in a line.
pub(super) fn progress(rollout: &Rollout, nodes: &[(String, Presence)]) -> String {
    let reports = || nodes.iter().filter_map(|(_, presence)| presence.rollout.as_ref());
    let reports = || reports().filter(|report| report.number == rollout.number);
    let tasks = rollout.candidate.partitions;
    let run = rollout.gone_over(reports());
    let wanted = (0..tasks).filter(|task| rollout.wants(*task)).count();
    let [_, to] = rollout.versions();
    if let Some(held) = rollout.awaits_decision() {
        return format!("held: {run} of {tasks} tasks run {to}; {DECISION}: {held}");
    }
    match (rollout.phase, rollout.watched_since) {
        (Phase::Prepare, _) => {
            let prepared = reports().filter(|report| report.prepared).count();
            if rollout.converts && prepared == nodes.len() {
                let ready = reports().flat_map(|report| report.tasks.values()).filter(|task| task.ready).count();
                return format!("convert: {ready} of {tasks} tasks have their state as {to} reads it");
            }
            format!("prepare: {prepared} of {} nodes have loaded {to}", nodes.len())
        }
        (Phase::Shadow, _) => in_shadow(rollout, rollout.shadowed(reports()).unwrap_or_default().counts),
        (Phase::Canary, None) => format!("canary: {run} of {wanted} tasks run {to}"),
        (Phase::Canary, Some(_)) => format!("canary: {run} of {tasks} tasks are watched"),
        (Phase::Everywhere, None) => format!("switch: {run} of {tasks} tasks run {to}"),
        (Phase::Everywhere, Some(_)) => format!("probation: {run} of {tasks} tasks are watched"),
        (Phase::Return, _) => {
            format!("return: {run} tasks are to go back; {}", rollout.reason.as_deref().unwrap_or_default())
        }
    }
}

fn in_shadow(rollout: &Rollout, counts: Counts) -> String {
    let of = match rollout.strategy.shadow {
        Some(Extent::Records(records)) => format!("{} of {records} records", counts.records),
        Some(Extent::Time(time)) => format!("{} records, for {}", counts.records, humantime::format_duration(time)),
        None => format!("{} records", counts.records),
    };
    format!("shadow: {of}: {}", counts.in_words("the present version", "the new one"))
}

/// What the candidate did in the shadow, if it was there.
pub(super) fn shadowed(out: &mut impl Write, rollout: &Rollout) -> io::Result<()> {
    let Some(Shadowed { counts, examples }) = &rollout.shadowed else { return Ok(()) };
    let words = counts.in_words("the version before", "the new one");
    writeln!(out, "shadow: {} records: {words}", counts.records)?;
    comparison::examples(out, examples, "output", ["before", "new"])
}

/// That it is done, and what it cost.
pub(super) fn done(out: &mut impl Write, ended: &Ended) -> io::Result<()> {
    let rollout = &ended.rollout;
    let pause = pause(ended).map_or_else(String::new, |pause| format!(", the longest pause of a task {pause}"));
    let (transform, [_, to], revision) = (&rollout.transform, rollout.versions(), rollout.revision);
    writeln!(
        out,
        "done: transform `{transform}` runs {to} in all {} tasks{pause}; revision {revision}",
        rollout.candidate.partitions
    )?;
    match rollout.watched {
        Some(Counted { records: 0, .. }) => {
            writeln!(out, "warning: no record came while it was watched, so that nothing is known of how it does")
        }
        Some(Counted { records, errors, .. }) => {
            writeln!(out, "watched over {records} records, {errors} of them rejected")
        }
        None => Ok(()),
    }
}

/// The longest.
fn pause(ended: &Ended) -> Option<String> {
    let longest = ended.rollout.switched.values().map(|switched| switched.pause_us).max()?;
    Some(format!("{longest} us"))
}

/// Those that have ended.
pub(super) fn history(out: &mut impl Write, name: &Segment, ended: &[Ended]) -> io::Result<()> {
    if ended.is_empty() {
        return writeln!(out, "no rollout of pipeline `{name}` has ended yet");
    }
    let row = |ended: &Ended| {
        let rollout = &ended.rollout;
        let outcome = match ended.outcome {
            Outcome::Done if rollout.promoted_by.is_some() => format!("promoted, revision {}", rollout.revision),
            Outcome::Done => format!("done, revision {}", rollout.revision),
            Outcome::Returned => "returned".to_owned(),
        };
        let [from, to] = rollout.versions();
        [
            rollout.number.to_string(),
            rollout.transform.clone(),
            from,
            to,
            table::time(rollout.started_at),
            rollout.started_by.clone(),
            outcome,
            pause(ended).unwrap_or_else(|| "-".to_owned()),
        ]
    };
    table::print(out, ROLLOUTS, &ended.iter().map(row).collect::<Vec<_>>())?;
    for Ended { rollout, .. } in ended {
        let Rollout { number, held, promoted_by, reason, .. } = rollout;
        if let Some(held) = held {
            let by = promoted_by.as_ref().map_or_else(String::new, |by| format!("promoted by {by}, "));
            writeln!(out, "\n{number}: {by}held before: {held}")?;
        }
        if let Some(reason) = reason {
            writeln!(out, "\n{number}: {reason}")?;
        }
        if rollout.shadowed.is_some() {
            write!(out, "\n{number}: ")?;
            shadowed(out, rollout)?;
        }
    }
    Ok(())
}

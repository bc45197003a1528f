//! What people who develop are told of swaps, deployments and failures, in words. Pure.
//!
//! Errors come from what a cluster has too, and name its commands, which do not reach what is developed: those are left
//! out.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::change::is_name_of_plugin;
use super::health::Health;
use crate::candidate::Counted;
use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::rollout::{Ended, Outcome, Phase, Rollout};
use crate::digest;
use crate::node::NodeError;
use crate::node::deploy::Deployment;
use crate::node::swap::{Finding, Level};

/// A change that changes nothing.
pub(super) const NOTHING: &str = "nothing has changed in what runs";
/// A change while a swap is under way.
pub(super) const WAITS: &str = "the change waits for the end of the swap that is under way";
/// Another one.
pub(super) const REPLACED: &str = "the newer change takes the place of the one that waits";
/// The same again, after a failure.
pub(super) const AGAIN: &str = "nothing has changed; it is tried again";
/// A swap that a deployment has to be.
pub(super) const BEYOND: &str = "more differs than a swap can change while records flow: it is a deployment";
/// A failure that stays.
const GOES_ON: &str = "what ran before goes on";

/// Commands that work on files, and so here too.
const ON_FILES: [&str; 5] = ["plugin new", "plugin build", "plugin check", "plugin pack", "plugin keygen"];
/// What commands and flags begin with that need a cluster.
const COMMAND: &str = "`sluicegate ";
const FLAGS: [&str; 2] = ["`--discard-state", "`--no-return"];
/// Those by which a state is begun anew, or decided about.
const ABOUT_STATE: [&str; 3] = ["--discard-state", "state reset", "state accept"];

/// That a transform is being swapped, with what the gate warns of.
pub(super) fn swap(rollout: &Rollout, findings: &[Finding]) -> String {
    let [from, to] = versions(rollout);
    let mut text = format!("swap of transform `{}` from {from} to {to}", rollout.transform);
    // What is said of the return, elsewhere, is to whoever decides about it.
    let warnings = findings.iter().filter(|it| it.level == Level::Warning && it.subject != "return");
    for Finding { subject, finding, .. } in warnings {
        let _ = write!(text, "\n  warning: {subject}: {}", without_commands(finding));
    }
    if rollout.strategy.no_return {
        text.push_str("\n  no automatic return, as with --no-return: it stays, whatever goes wrong with it");
    }
    text
}

/// How far a swap is, where that is worth a line.
pub(super) fn phase(rollout: &Rollout) -> Option<String> {
    if let Some(held) = &rollout.held {
        let held = without_commands(held);
        let why = held.lines().next().unwrap_or_default();
        return Some(format!("  it stays all the same, for nothing leads back: {why}"));
    }
    match (rollout.phase, rollout.watched_since) {
        (Phase::Prepare, _) if rollout.converts => Some("  its state is being converted".to_owned()),
        (Phase::Canary | Phase::Everywhere, Some(_)) => {
            let probation = Duration::from_millis(rollout.strategy.probation_ms);
            Some(format!("  all tasks have gone over; probation: {}", humantime::format_duration(probation)))
        }
        (Phase::Return, _) => Some("  it goes back".to_owned()),
        _ => None,
    }
}

/// How a swap has ended.
pub(super) fn ended(Ended { rollout, outcome, .. }: &Ended) -> String {
    let (transform, [from, to]) = (&rollout.transform, versions(rollout));
    match outcome {
        Outcome::Done => {
            let watched = match rollout.watched {
                Some(Counted { records: 0, .. }) => "; no record came meanwhile".to_owned(),
                Some(Counted { records, errors, .. }) => format!("; {records} records, {errors} of them rejected"),
                // Nobody asked how it did.
                None => String::new(),
            };
            format!("swap done: transform `{transform}` runs {to}{watched}")
        }
        Outcome::Returned => {
            let reason = without_commands(rollout.reason.as_deref().unwrap_or_default());
            // What a plugin has said has lines, which were put into one.
            let reason = reason.replace(" | ", "\n  ");
            format!("swap returned: transform `{transform}` runs {from} again: {reason}")
        }
    }
}

/// What a rollout goes from and to, each by what differs.
fn versions(rollout: &Rollout) -> [String; 2] {
    let same = rollout.from.plugin == rollout.to.plugin;
    [&rollout.from, &rollout.to].map(|version| match same {
        true => format!("configuration {}", digest::short(&version.config)),
        false => format!("{}{}", digest::PREFIX, digest::short(&version.plugin)),
    })
}

/// That a revision is deployed, and where it differs.
pub(super) fn deployed(deployment: &Deployment) -> String {
    let places = deployment.differences.iter().map(|difference| difference.at.as_str());
    let places: Vec<&str> = places.filter(|at| !is_name_of_plugin(at)).collect();
    format!("deployed as revision {}: {}", deployment.revision, places.join(", "))
}

/// That a swap does not pass the gate, and why.
pub(super) fn refused(error: &NodeError, kept: Option<&Path>) -> String {
    let refused = here(&error.to_string(), kept);
    // Errors about a file have lines, the first of which begins with that.
    let between = if refused.starts_with("error: ") { "\n" } else { " " };
    format!("refused by the gate:{between}{refused}\n{GOES_ON}")
}

/// That a change is not deployed, and why.
pub(super) fn not_deployed(error: &NodeError, kept: Option<&Path>) -> String {
    format!("not deployed: {}\n{GOES_ON}", here(&error.to_string(), kept))
}

/// How it is now; `first` is how long the first start has taken.
pub(super) fn health(health: &Health, record: &PipelineRecord, first: Option<Duration>, kept: Option<&Path>) -> String {
    match (health, first) {
        (Health::Coming, _) => "it is about to run".to_owned(),
        (Health::Runs, Some(after)) => format!("running after {:.1} s; Ctrl-C ends it", after.as_secs_f64()),
        (Health::Runs, None) => format!("revision {} runs", record.revision),
        (Health::Behind(problem), _) => format!("error: {}\n{GOES_ON}", here(problem, kept)),
        (Health::Retries(problem), _) => format!("error: {}\nit is tried again", here(problem, kept)),
        (Health::Failed(problem), _) => {
            format!("error: {}\nit stays stopped until something changes", here(problem, kept))
        }
    }
}

/// An error in words that hold here; `kept` is the folder in which the state is kept.
pub(super) fn here(text: &str, kept: Option<&Path>) -> String {
    let cut = without_commands(text);
    if cut.len() == text.len() || !ABOUT_STATE.iter().any(|words| text.contains(words)) {
        return cut;
    }
    match kept {
        Some(folder) => {
            format!("{cut}\nto begin without state, end `dev` and give it another folder than {}", folder.display())
        }
        None => format!("{cut}\nto begin without state, end `dev` and start it again"),
    }
}

/// Without the sentences, and the lines, that name commands or flags for a cluster.
fn without_commands(text: &str) -> String {
    let lines = text.lines().map(|line| match command_in(line) {
        Some(at) => {
            let begin = [". ", "; ", ": "].iter().filter_map(|stop| line[..at].rfind(stop)).max();
            &line[..begin.unwrap_or(0)]
        }
        None => line,
    });
    lines.filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

/// Where the first of them begins.
fn command_in(line: &str) -> Option<usize> {
    let commands = line.match_indices(COMMAND).filter(|(at, _)| {
        let name = &line[at + COMMAND.len()..];
        !ON_FILES.iter().any(|command| name.starts_with(command))
    });
    let flags = FLAGS.iter().filter_map(|flag| line.find(flag));
    let unquoted = line.find("or swap with --no-return");
    commands.map(|(at, _)| at).chain(flags).chain(unquoted).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rollout::tests::rollout;

    #[test]
    fn commands_of_a_cluster_are_left_out_and_those_on_files_stay() {
        let schema = "task 0: store `a` holds schema 2. Run the plugin that wrote it, or begin anew with `sluicegate deploy --discard-state`";
        assert_eq!(
            here(schema, None),
            "task 0: store `a` holds schema 2\nto begin without state, end `dev` and start it again"
        );
        let incompatible = "the pipeline could not go on: why\n`--discard-state` begins anew";
        let said = here(incompatible, Some(Path::new("kept")));
        assert_eq!(
            said,
            "the pipeline could not go on: why\nto begin without state, end `dev` and give it another folder than kept"
        );
        let file = "it has no manifest: for other languages use `sluicegate plugin pack`";
        assert_eq!(here(file, None), file);
        assert_eq!(without_commands("gone: its entries are kept until `sluicegate state drop`"), "gone");
        let way = "there would be no way back without loss: it knows none; let its `migrate` know both ways, or swap with --no-return";
        assert_eq!(without_commands(way), "there would be no way back without loss: it knows none");
        let lines = "one\n`sluicegate state drop` does it\ntwo";
        assert_eq!(without_commands(lines), "one\ntwo");
    }

    #[test]
    fn versions_are_told_apart_by_what_differs() {
        let mut rollout = rollout(None);
        (rollout.from.plugin, rollout.to.plugin) = ("a".repeat(64), "b".repeat(64));
        let said = swap(&rollout, &[]);
        assert!(said.ends_with("from sha256:aaaaaaaaaaaa to sha256:bbbbbbbbbbbb"), "{said}");
        rollout.from.plugin = rollout.to.plugin.clone();
        (rollout.from.config, rollout.to.config) = ("c".repeat(64), "d".repeat(64));
        assert!(swap(&rollout, &[]).ends_with("from configuration cccccccccccc to configuration dddddddddddd"));
    }

    #[test]
    fn what_does_not_go_back_says_so_and_leaves_out_who_decides() {
        let mut rollout = rollout(None);
        let finding = |subject: &str| {
            let (subject, finding) = (subject.to_owned(), "which it is".to_owned());
            Finding { level: Level::Warning, subject, finding }
        };
        let findings = ["outputs", "return"].map(finding);
        let said = swap(&rollout, &findings);
        assert!(said.ends_with("\n  warning: outputs: which it is"), "{said}");
        rollout.strategy.no_return = true;
        let said = swap(&rollout, &findings);
        assert!(
            said.contains("\n  no automatic return, as with --no-return") && !said.contains("return: which"),
            "{said}"
        );
    }

    #[test]
    fn what_the_gate_refuses_leaves_what_ran_before() {
        let refused = |text: &str| refused(&NodeError::Refused(text.to_owned()), None);
        assert_eq!(refused("outputs: gone"), "refused by the gate: outputs: gone\nwhat ran before goes on");
        assert!(refused("error: wrong\n  --> line").starts_with("refused by the gate:\nerror: wrong\n"));
    }

    #[test]
    fn the_end_of_a_swap_says_what_runs_and_why() {
        let mut rollout = rollout(None);
        (rollout.from.plugin, rollout.to.plugin) = ("a".repeat(64), "b".repeat(64));
        rollout.reason = Some("it traps".to_owned());
        let end = |outcome, rollout: &Rollout| {
            ended(&Ended { rollout: rollout.clone(), outcome, ended_at: rollout.started_at })
        };
        let said = end(Outcome::Returned, &rollout);
        assert!(
            said.starts_with("swap returned") && said.ends_with("runs sha256:aaaaaaaaaaaa again: it traps"),
            "{said}"
        );
        rollout.watched = Some(Counted { records: 5, errors: 1, busy_us: 0 });
        let said = end(Outcome::Done, &rollout);
        assert!(said.ends_with("runs sha256:bbbbbbbbbbbb; 5 records, 1 of them rejected"), "{said}");
    }
}

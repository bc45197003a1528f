//! The tests: many seeds hold, the same seed gives the same run, and each break of the protocol is found.

use crate::breaks::Break;
use crate::campaign::Campaign;
use crate::scenario::{SCENARIOS, Scenario};
use crate::trace::Trace;
use crate::world;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Everything holds under so many seeds; or under those that `cargo xtask simulate` asks for. The tests have the names of the
/// scenarios.
mod holds {
    use super::*;

    fn check(name: &str, seeds: u64) {
        let scenario = Scenario::named(name).expect("a scenario");
        let (first, chosen) = (number("SLUICEGATE_SIMULATION_SEED"), number("SLUICEGATE_SIMULATION_SEEDS"));
        let (first, seeds) = (first.unwrap_or(0), chosen.unwrap_or(seeds));
        let campaign = Campaign::run(scenario, first..first + seeds, None);
        println!("{}", campaign.summary(scenario));
        if let Some((seed, violations)) = campaign.failed {
            let trace = world::run(scenario, seed, None, Trace::in_words()).trace;
            trace.lines().iter().for_each(|line| println!("{line}"));
            let again = format!("cargo xtask simulate --scenario {scenario} --seed {seed}");
            panic!("{scenario}, seed {seed}:\n{}\nto see it again: {again}", violations.join("\n"));
        }
        assert!(campaign.faults.values().sum::<u64>() > 0, "nothing went wrong");
        if chosen.is_none() {
            for fault in scenario.faults() {
                assert!(campaign.faults.contains_key(&fault), "{scenario}: no {fault} in {seeds} seeds");
            }
            assert!(campaign.commits > 5 * seeds, "{} commits", campaign.commits);
        }
    }

    #[test]
    fn exactly_once() {
        check("exactly-once", 1000);
    }

    #[test]
    fn two_inputs() {
        check("two-inputs", 600);
    }

    #[test]
    fn patience() {
        check("patience", 300);
    }

    #[test]
    fn failing() {
        check("failing", 300);
    }

    #[test]
    fn failing_at_least_once() {
        check("failing-at-least-once", 200);
    }

    #[test]
    fn exactly_once_stateless() {
        check("exactly-once-stateless", 500);
    }

    #[test]
    fn at_least_once() {
        check("at-least-once", 500);
    }

    #[test]
    fn at_least_once_stateless() {
        check("at-least-once-stateless", 400);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for scenario in SCENARIOS {
        for seed in 0..8 {
            let run = || world::run(scenario, seed, None, Trace::default()).trace.fingerprint();
            assert_eq!(run(), run(), "{scenario}, seed {seed}");
        }
    }
    let run = |seed| world::run(SCENARIOS[0], seed, None, Trace::default()).trace.fingerprint();
    assert_ne!(run(0), run(1), "the fingerprint tells runs apart");
}

/// The protocol, broken on purpose: each way is found within so many seeds, and the seed that finds it holds without it.
mod broken {
    use super::*;

    fn is_found(broken: Break, scenario: &str, within: u64) {
        let scenario = Scenario::named(scenario).expect("a scenario");
        let campaign = Campaign::run(scenario, 0..within, Some(broken));
        let (seed, violations) =
            campaign.failed.unwrap_or_else(|| panic!("{broken:?} was not found in {within} seeds"));
        println!("{broken:?} is found by seed {seed}: {}", violations[0]);
        let whole = world::run(scenario, seed, None, Trace::default());
        assert!(whole.violations.is_empty(), "{scenario}, seed {seed} without it: {}", whole.violations.join("\n"));
    }

    #[test]
    fn a_commit_in_kafka_before_the_prepare_is_durable() {
        is_found(Break::CommitsBeforePrepared, "exactly-once", 20);
    }

    #[test]
    fn kafka_read_before_the_claim() {
        is_found(Break::ReadsBeforeClaim, "exactly-once", 3000);
    }

    #[test]
    fn a_claim_that_drops_what_others_have_prepared() {
        is_found(Break::ClaimDropsPrepared, "exactly-once", 200);
    }

    #[test]
    fn a_bare_epoch_as_identity() {
        is_found(Break::BareEpochs, "exactly-once", 300);
    }

    #[test]
    fn the_offset_of_an_idle_input_left_out() {
        is_found(Break::ForgetsIdleInputs, "two-inputs", 20);
    }

    #[test]
    fn an_unknown_commit_undone_in_memory() {
        is_found(Break::UndoesUnknownCommits, "exactly-once", 300);
    }

    #[test]
    fn a_sweep_that_trusts_its_list() {
        is_found(Break::SweepsUnchecked, "exactly-once", 1000);
    }

    #[test]
    fn a_commit_before_the_outputs_are_written() {
        is_found(Break::CommitsBeforeOutputs, "at-least-once", 300);
        is_found(Break::CommitsBeforeOutputs, "exactly-once", 300);
    }
}

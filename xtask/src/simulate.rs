//! `cargo xtask simulate`: chosen seeds of the simulator; the same runs as in its tests.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::plugins;

const SCENARIOS: [&str; 8] = [
    "exactly-once",
    "two-inputs",
    "patience",
    "failing",
    "failing-at-least-once",
    "exactly-once-stateless",
    "at-least-once",
    "at-least-once-stateless",
];

#[derive(Args, Debug)]
pub(crate) struct SimulateOptions {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds, one after the other, until one fails; the trace of that one is printed
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What is run; everything if not given
    #[arg(long, value_parser = SCENARIOS)]
    scenario: Option<String>,
}

/// Builds what is needed and runs; an error when a seed fails.
pub(crate) fn run(options: &SimulateOptions) -> Result<()> {
    plugins::build()?;
    let mut command = plugins::cargo();
    command.args(["test", "--package", "sluicegate-tests", "--test", "simulation", "--"]);
    // The tests have the names of the scenarios.
    match &options.scenario {
        Some(scenario) => command.args(["--exact", &format!("proof::holds::{}", scenario.replace('-', "_"))]),
        None => command.arg("proof::holds::"),
    };
    command.args(["--nocapture", "--test-threads", "1"]);
    command.env("SLUICEGATE_SIMULATION_SEED", options.seed.to_string());
    command.env("SLUICEGATE_SIMULATION_SEEDS", options.seeds.to_string());
    if !command.status().context("run cargo")?.success() {
        bail!("the trace of the seed that fails is above");
    }
    Ok(())
}

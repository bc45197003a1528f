//! `cargo xtask chaos`: three workers under random faults for as long as one likes; the test of the suite, only longer. Its last
//! line has `chaos passed:` or `chaos FAILED:`.

use anyhow::Result;
use clap::Args;

use crate::{plugins, test};

#[derive(Args, Debug)]
pub(crate) struct ChaosOptions {
    /// How long faults are injected
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Repeats the faults and their order; chosen if not given
    #[arg(long)]
    seed: Option<u64>,
}

/// Prepares and runs; an error when a record was lost, repeated or out of order, or a worker did not last.
pub(crate) fn run(options: &ChaosOptions) -> Result<()> {
    test::prepare()?;
    let mut command = plugins::cargo();
    command.args(["test", "--package", "sluicegate-tests", "--test", "suite", "chaos::", "--", "--nocapture"]);
    command.env("SLUICEGATE_CHAOS_SECONDS", options.seconds.to_string());
    if let Some(seed) = options.seed {
        command.env("SLUICEGATE_CHAOS_SEED", seed.to_string());
    }
    test::run_closing(command, "chaos")
}

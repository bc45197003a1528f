//! `cargo xtask chaos`: three workers under random faults for as long as one likes; the test of the suite, only longer. Its last
//! line has `chaos passed:` or `chaos FAILED:`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
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
    let mut running = command.stdout(Stdio::piped()).spawn().context("run cargo")?;
    let mut summary = None;
    for line in running.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.context("read the test's output")?;
        println!("{line}");
        if ["chaos passed: ", "chaos FAILED: "].iter().any(|begin| line.starts_with(begin)) {
            summary = Some(line);
        }
    }
    let succeeded = running.wait().context("wait for cargo")?.success();
    match summary {
        Some(summary) if succeeded => println!("{summary}"),
        Some(summary) => bail!(summary),
        None => bail!("the test came to no end; what it said is above"),
    }
    Ok(())
}

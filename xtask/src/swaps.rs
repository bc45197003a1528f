//! `cargo xtask swaps`: one hot swap after the other under load, and a look at every record; the tests of the suite, only longer,
//! faster, and optimised. Its last line has `swaps passed:` or `swaps FAILED:`.

use anyhow::Result;
use clap::Args;

use crate::{plugins, test};

/// In one build, so that nothing large is compiled twice.
const PACKAGES: [&str; 4] = ["--package", "sluicegate", "--package", "sluicegate-tests"];

#[derive(Args, Debug)]
pub(crate) struct SwapsOptions {
    /// How often
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    swaps: u32,
    /// Records a second, over all partitions
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Partitions, and so tasks
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Kill a node during each swap, and start it again
    #[arg(long)]
    kill: bool,
    /// Repeats which nodes are killed, and how long after the beginning of a swap; chosen if not given
    #[arg(long)]
    seed: Option<u64>,
}

/// Prepares and runs; an error when a record was lost or repeated, or made by another version than is recorded, or a swap went
/// back.
pub(crate) fn run(options: &SwapsOptions) -> Result<()> {
    test::prepare_release(&PACKAGES)?;
    let name = match options.kill {
        true => "swap::proof::that_holds_while_nodes_are_killed_and_come_back",
        false => "swap::proof::every_record_comes_out_once_and_from_the_version_that_is_recorded",
    };
    let mut command = plugins::cargo();
    command.args(["test", "--release"]).args(PACKAGES).args(["--test", "suite", name, "--", "--exact", "--nocapture"]);
    command.env("SLUICEGATE_SWAPS", options.swaps.to_string());
    command.env("SLUICEGATE_SWAPS_RATE", options.rate.to_string());
    command.env("SLUICEGATE_SWAPS_PARTITIONS", options.partitions.to_string());
    command.env("SLUICEGATE_SWAPS_NODES", options.nodes.to_string());
    if let Some(seed) = options.seed {
        command.env("SLUICEGATE_TEST_SEED", seed.to_string());
    }
    test::run_closing(command, "swaps")
}

//! `cargo xtask`: the project's commands. One file per command.

mod bench;
mod chaos;
mod demo;
mod plugins;
mod servers;
mod simulate;
mod swaps;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See two pipelines at work: builds what they need and runs them on an embedded broker
    Demo(demo::DemoArgs),
    /// Measure: engine, end-to-end, latency, state, start, failover, zookeeper, swap, or all of it
    Bench(bench::Bench),
    /// Let nodes and servers fail at random, and check that every record counts once
    Chaos(chaos::ChaosOptions),
    /// Build every plugin and test guest for WebAssembly
    Plugins,
    /// A local Kafka and ZooKeeper for hand use
    #[command(subcommand)]
    Servers(servers::ServersCommand),
    /// Simulate the commit protocol under chosen seeds: the production code over models that fail at every point
    Simulate(simulate::SimulateOptions),
    /// Swap a transform again and again under load, and check which version made each record
    Swaps(swaps::SwapsOptions),
    /// Run all tests, after installing and building what they need
    Test(test::TestOptions),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Chaos(options) => chaos::run(&options),
        Command::Demo(args) => demo::run(&args),
        Command::Plugins => plugins::run(),
        Command::Servers(command) => servers::run(&command),
        Command::Simulate(options) => simulate::run(&options),
        Command::Swaps(options) => swaps::run(&options),
        Command::Test(options) => test::run(&options),
    }
}

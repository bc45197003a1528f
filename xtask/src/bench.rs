//! `cargo xtask bench`: builds what a benchmark needs, optimised, and runs it.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::plugins;

#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Which; all of them if not given
    #[arg(value_enum)]
    benchmark: Option<Benchmark>,
    /// Options of the benchmark, for example `-- --rounds 7`
    #[arg(last = true)]
    options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Benchmark {
    /// Plugins beside native functions, without Kafka
    Engine,
    /// `sluicegate run` beside native loops, on a real Kafka
    EndToEnd,
    /// Write, restore and change state in a ZooKeeper
    State,
    /// From a producer through a pipeline to a reader, at a steady rate
    Latency,
    /// Start of `sluicegate run`, and what it costs when idle
    Start,
    /// Restarts and crashes of nodes of a cluster
    Failover,
    /// What a pipeline asks of ZooKeeper
    Zookeeper,
    /// Hot swaps: how long records wait, and from the command to the last task
    Swap,
}

/// Runs the command.
pub(crate) fn run(arguments: &Bench) -> Result<()> {
    let chosen: Vec<Benchmark> = match arguments.benchmark {
        Some(benchmark) => vec![benchmark],
        None if arguments.options.is_empty() => Benchmark::value_variants().to_vec(),
        None => bail!("options are for one benchmark: name it"),
    };
    plugins::build()?;
    if chosen.iter().any(|benchmark| *benchmark != Benchmark::Engine) {
        let mut build = plugins::cargo();
        build.args(["build", "--release", "--package", "sluicegate", "--package", "sluicegate-bench"]);
        execute(build)?;
    }
    let programs = plugins::target_folder()?.join("release");
    for benchmark in chosen {
        let mut command = match benchmark {
            Benchmark::Engine => {
                let mut bench = plugins::cargo();
                bench.args(["bench", "--package", "sluicegate-bench", "--bench", "engine", "--"]);
                bench
            }
            Benchmark::EndToEnd => Command::new(programs.join("end_to_end")),
            Benchmark::State => Command::new(programs.join("state")),
            Benchmark::Latency => Command::new(programs.join("latency")),
            Benchmark::Start => Command::new(programs.join("start")),
            Benchmark::Failover => Command::new(programs.join("failover")),
            Benchmark::Zookeeper => Command::new(programs.join("zookeeper_load")),
            Benchmark::Swap => Command::new(programs.join("swap")),
        };
        command.args(&arguments.options);
        execute(command)?;
    }
    Ok(())
}

fn execute(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

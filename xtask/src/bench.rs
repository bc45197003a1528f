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
    /// Start of `sluicegate run`, and what it costs when idle
    Start,
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
        cargo(&["build", "--release", "--package", "sluicegate", "--package", "sluicegate-bench"])?;
    }
    for benchmark in chosen {
        let (run, binary): (&[&str], _) = match benchmark {
            Benchmark::Engine => (&["bench", "--package", "sluicegate-bench", "--bench", "engine"], None),
            Benchmark::EndToEnd => (&["run"], Some("end_to_end")),
            Benchmark::State => (&["run"], Some("state")),
            Benchmark::Start => (&["run"], Some("start")),
        };
        let mut command: Vec<&str> = run.to_vec();
        if let Some(binary) = binary {
            // Both packages, so that the features are those of the build above and nothing is built twice.
            command = vec!["run", "--quiet", "--release", "--package", "sluicegate-bench", "--bin", binary];
        }
        command.push("--");
        command.extend(arguments.options.iter().map(String::as_str));
        cargo(&command)?;
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = command.args(arguments).status().context("run cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

//! `cargo xtask test`: installs what the tests need, builds what they run, runs them all.
//!
//! One profile and one set of packages for everything native, so that nothing large is compiled twice. The tests themselves
//! fetch nothing, and start no cargo but for the new projects of `plugin new`: what they run is there before the first one
//! begins.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use sluicegate_harness::jars::{Distribution, class_path};

use crate::plugins;

/// Everything but the benchmarks, which have no tests and would bring dependencies and features of their own.
const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "sluicegate-bench"];

#[derive(Args, Debug)]
pub(crate) struct TestOptions {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// For the test programs, as `-- --nocapture`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Prepares and runs; an error when a test fails.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    prepare()?;
    let mut arguments = [&["test"], &PACKAGES[..], &["--no-fail-fast"]].concat();
    arguments.extend(options.filter.as_deref());
    if !options.arguments.is_empty() {
        arguments.push("--");
        arguments.extend(options.arguments.iter().map(String::as_str));
    }
    step("tests", || cargo_test(&arguments))
}

/// Runs tests; an error also when there was none to run, because no name contains the filter.
fn cargo_test(arguments: &[&str]) -> Result<()> {
    eprintln!("   cargo {}", arguments.join(" "));
    let mut command = plugins::cargo();
    let mut running =
        command.args(arguments).envs(test_threads()).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let mut ran = false;
    for line in running.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.context("read what the tests say")?;
        println!("{line}");
        ran |= line.starts_with("running ") && !line.starts_with("running 0 ");
    }
    let status = running.wait().context("wait for cargo")?;
    match status.success() {
        true if ran => Ok(()),
        true => bail!("no test ran: the name of none contains that"),
        false => bail!("`cargo {}` failed ({status})", arguments.join(" ")),
    }
}

/// Most tests of the suite wait for servers most of the time: twice as many at once as there are cores.
fn test_threads() -> Option<(&'static str, String)> {
    let name = "RUST_TEST_THREADS";
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::env::var_os(name).is_none().then(|| (name, (2 * cores).to_string()))
}

/// Fetches and builds everything that tests need.
pub(crate) fn prepare() -> Result<()> {
    prepare_guests()?;
    // All targets in one build: the program that the suite runs, and the tests.
    step("host and tests", || cargo(&[&["build"], &PACKAGES[..], &["--bins", "--tests"]].concat()))
}

/// The same for a long run of a part of the suite, optimised: `packages` are those that it takes.
pub(crate) fn prepare_release(packages: &[&str]) -> Result<()> {
    prepare_guests()?;
    let build = ["build", "--release", "--bins", "--test", "suite"];
    step("host and suite, optimised", || cargo(&[&build, packages].concat()))
}

fn prepare_guests() -> Result<()> {
    step("servers: Kafka and ZooKeeper, fetched once by Maven", || {
        class_path(Distribution::Kafka)?;
        class_path(Distribution::ZooKeeper).map(drop)
    })?;
    step("plugins and test guests, for WebAssembly", || plugins::build().map(drop))
}

/// Runs a test of the suite that prints a closing line, `NAME passed: ` or `NAME FAILED: `, which comes last here too.
pub(crate) fn run_closing(mut command: Command, name: &str) -> Result<()> {
    let mut running = command.stdout(Stdio::piped()).spawn().context("run cargo")?;
    let mut summary = None;
    for line in running.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.context("read the test's output")?;
        println!("{line}");
        if ["passed: ", "FAILED: "].iter().any(|end| line.starts_with(&format!("{name} {end}"))) {
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

fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("== {what}");
    let begin = Instant::now();
    work()?;
    eprintln!("== done in {:.0?}", begin.elapsed());
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    eprintln!("   cargo {}", arguments.join(" "));
    let status = plugins::cargo().args(arguments).status().context("run cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

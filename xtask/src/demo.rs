//! `cargo xtask demo`: builds two plugins and the host, and runs the host's demo.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::plugins;

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Run on until Ctrl-C
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let begin = Instant::now();
    eprintln!("Building two plugins and the host; the first time takes some minutes.");
    let built = plugins::build_those(|package| ["value-length", "keyed-count"].contains(&package))?;
    let folder =
        built.first().and_then(|component| component.file.parent()).context("the demo's plugins are missing")?;
    let mut build = plugins::cargo();
    let status = build.args(["build", "--release", "--package", "sluicegate"]).status().context("run cargo build")?;
    if !status.success() {
        bail!("the host does not build ({status})");
    }
    eprintln!("Built in {:.0} s.\n", begin.elapsed().as_secs_f64());
    let binary = plugins::target_folder()?.join("release").join("sluicegate");
    let mut demo = Command::new(&binary);
    demo.arg("demo").arg("--plugins").arg(folder);
    if args.keep {
        demo.arg("--keep");
    }
    let status = demo.status().with_context(|| format!("run {}", binary.display()))?;
    if !status.success() {
        bail!("the demo failed ({status})");
    }
    Ok(())
}

//! `sluicegate version`: what this program is made of.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{CommandError, table};
use crate::{engine, kafka, manifest};

/// Arguments of `version`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate version
  sluicegate version --json")]
pub(super) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Version {
    version: &'static str,
    /// The plugin interface that it speaks.
    interface: String,
    wasmtime: &'static str,
    librdkafka: String,
    /// Cargo features that it was built with.
    features: Vec<&'static str>,
    /// Processor architecture, operating system, and C library where there are several.
    target: String,
}

impl Version {
    fn of_this_program() -> Self {
        let libc = if cfg!(target_env = "musl") {
            Some("musl")
        } else if cfg!(target_env = "gnu") {
            Some("gnu")
        } else {
            None
        };
        let target = [Some(std::env::consts::ARCH), Some(std::env::consts::OS), libc];
        Self {
            version: env!("CARGO_PKG_VERSION"),
            interface: format!("sluicegate:transform@{}", manifest::INTERFACE),
            wasmtime: engine::wasmtime_version(),
            librdkafka: kafka::librdkafka_version(),
            features: if cfg!(feature = "tls") { vec!["tls"] } else { Vec::new() },
            target: target.into_iter().flatten().collect::<Vec<_>>().join("-"),
        }
    }
}

pub(super) fn run(args: &VersionArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let version = Version::of_this_program();
    if args.json {
        return Ok(table::json(out, &version)?);
    }
    let Version { version, interface, wasmtime, librdkafka, features, target } = version;
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    writeln!(out, "sluicegate {version}")?;
    writeln!(out, "  interface   {interface}")?;
    writeln!(out, "  wasmtime    {wasmtime}")?;
    writeln!(out, "  librdkafka  {librdkafka}")?;
    writeln!(out, "  features    {features}")?;
    Ok(writeln!(out, "  target      {target}")?)
}

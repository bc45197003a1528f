//! Figures for machines.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

/// Where figures go beside the terminal.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Write the figures here too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl ReportArgs {
    /// Writes `figures`, with what they were measured on, if that was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, mut figures: Value) -> Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        figures["machine"] = crate::figures::machine();
        std::fs::write(file, format!("{figures:#}\n")).with_context(|| format!("write {}", file.display()))
    }
}

//! What commands print: tables for people, JSON for machines.

use std::io::{self, Write};

use serde::Serialize;

/// Prints rows with aligned columns under their headings.
pub(super) fn print<const N: usize>(out: &mut impl Write, headings: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let headings = headings.map(str::to_owned);
    let width =
        |column: usize| rows.iter().chain([&headings]).map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    for row in std::iter::once(&headings).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Pretty JSON and a new line.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A point in time, to the second, in UTC.
pub(super) fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

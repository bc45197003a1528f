//! How two versions differ, as people read it. Pure, but for the printing.

use std::io::{self, Write};

use crate::comparison::{EntryExample, Example, Kind, Side, StoreDifference};
use crate::payload::Payload;

/// Characters of a value or a reason that are shown; `--json` has more.
const SHOWN_MAX: usize = 120;

/// A few records of which something else comes; `names` are those of the two sides, `sinks` says what outputs go to.
pub(super) fn examples(out: &mut impl Write, examples: &[Example], sinks: &str, names: [&str; 2]) -> io::Result<()> {
    let [first, second] = names;
    for Example { kind, topic, partition, offset, sink, first: one, second: other } in examples {
        let what = match kind {
            Kind::FailedBySecondOnly => format!("fails with {second} only"),
            Kind::FailedByFirstOnly => format!("fails with {first} only"),
            Kind::RejectedBySecondOnly => format!("rejected by {second} only"),
            Kind::RejectedByFirstOnly => format!("rejected by {first} only"),
            Kind::Different => "different".to_owned(),
            Kind::Missing => format!("of {first} only"),
            Kind::Additional => format!("of {second} only"),
        };
        let sink = sink.as_ref().map_or_else(String::new, |sink| format!(", for {sinks} {sink}"));
        writeln!(out, "  {what}: topic {topic} partition {partition} offset {offset}{sink}")?;
        // A timestamp is worth its place where nothing else differs.
        let plain = [one, other].map(|of| of.as_ref().map(Side::without_timestamp));
        let shown = if plain[0] == plain[1] { [one.clone(), other.clone()] } else { plain };
        sides(out, names, shown.map(|of| of.as_ref().map(side)))?;
    }
    Ok(())
}

/// A few entries of state that are not the same at the end.
pub(super) fn entries(out: &mut impl Write, stores: &[StoreDifference], names: [&str; 2]) -> io::Result<()> {
    let [first, second] = names;
    for StoreDifference { store, same, different, missing, additional, examples } in stores {
        if different + missing + additional == 0 {
            continue;
        }
        let each = [
            (*different, "different".to_owned()),
            (*missing, format!("of {first} only")),
            (*additional, format!("of {second} only")),
        ];
        let others: String =
            each.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
        writeln!(out, "  store {store}: {same} entries the same{others}")?;
        for EntryExample { task, key, first, second } in examples {
            writeln!(out, "    task {task}, key {}", short(&key.to_string()))?;
            let shown = |value: &Option<Payload>| value.as_ref().map(|value| short(&value.to_string()));
            sides(out, names, [shown(first), shown(second)])?;
        }
    }
    Ok(())
}

fn sides(out: &mut impl Write, names: [&str; 2], sides: [Option<String>; 2]) -> io::Result<()> {
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    for (name, side) in names.iter().zip(sides) {
        writeln!(out, "    {name:<width$}  {}", side.as_deref().unwrap_or("nothing"))?;
    }
    Ok(())
}

/// One side in a line.
pub(super) fn side(side: &Side) -> String {
    match side {
        Side::Outputs(0) => "nothing".to_owned(),
        Side::Outputs(count) => format!("{count} records"),
        Side::PutAside { transform, kind, reason } => {
            let line = reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
            format!("transform `{transform}`: {kind}: {}", short(&line))
        }
        Side::Sent { key, value, headers, timestamp } => {
            let shown = |payload: &Option<Payload>| {
                payload.as_ref().map_or_else(|| "null".to_owned(), |payload| short(&payload.to_string()))
            };
            let header = |(name, value): &(String, Option<Payload>)| format!(", {name}={}", shown(value));
            let headers: String = headers.iter().map(header).collect();
            let time = timestamp.map_or_else(String::new, |timestamp| format!(" @{timestamp}"));
            format!("{}: {}{headers}{time}", shown(key), shown(value))
        }
    }
}

/// The beginning, in one line.
fn short(text: &str) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let shown: String = text.chars().take(SHOWN_MAX).map(plain).collect();
    if shown.len() < text.len() { format!("{shown}..") } else { shown }
}

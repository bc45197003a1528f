//! The export of plugins that convert state. Wasm only.

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package sluicegate:migrating; world migrating { export sluicegate:transform/migration@0.1.0; }",
        world: "sluicegate:migrating/migrating",
        with: { "sluicegate:transform/types@0.1.0": crate::bindings::sluicegate::transform::types },
        pub_export_macro: true,
        default_bindings_module: "sluicegate_sdk::migrating::bindings",
        runtime_path: "::sluicegate_sdk::__private::rt",
    });
}

use crate::bindings::sluicegate::transform::types::Column;
use crate::migration::Migrate;
use bindings::exports::sluicegate::transform::migration::{BadEntry, Stuck};

/// The export `migrate`.
pub fn migrate<T: Migrate>(store: &str, from: u32, to: u32, keys: &Column, values: &Column) -> Result<Column, Stuck> {
    let step = T::step(store, from, to).ok_or(Stuck::Unsupported)?;
    let mut converted = Column::default();
    for (index, (key, value)) in (0..).zip(entries(keys).zip(entries(values))) {
        let value = step
            .convert(key, value)
            .map_err(|failure| Stuck::Entry(BadEntry { index, reason: failure.reason().to_owned() }))?;
        let length = value.as_ref().map_or(Ok(-1), |value| i32::try_from(value.len()));
        converted.lengths.push(length.map_err(|_| Stuck::Fatal("a value has 2 GiB or more".into()))?);
        converted.bytes.extend_from_slice(&value.unwrap_or_default());
    }
    Ok(converted)
}

/// Entries of a column without nulls.
fn entries(column: &Column) -> impl Iterator<Item = &[u8]> {
    let mut rest = &column.bytes[..];
    column.lengths.iter().map(move |length| {
        let (entry, after) = rest.split_at(usize::try_from(*length).unwrap_or(0));
        rest = after;
        entry
    })
}

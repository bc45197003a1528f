//! What the benchmarks share: where plugins and results are, servers and topics, processes that are measured, and the
//! tables that are printed at the end.
//!
//! Decides nothing about what is measured. The criterion benchmark of the engine is in `benches/`, everything that needs servers
//! in `src/bin/`.

pub mod figures;
pub mod load;
pub mod native;
pub mod process;
pub mod records;
pub mod report;
pub mod servers;
pub mod sluicegate;
pub mod topics;

use std::path::PathBuf;

/// One line of the table: a measurement beside its baseline.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Nanoseconds a record.
    pub ns: f64,
    /// Nanoseconds a record of the same work done natively.
    pub native_ns: f64,
    /// Nanoseconds a record that it may take; `None` where no goal is set.
    pub goal_ns: Option<f64>,
}

/// The build directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
}

/// Where `cargo xtask plugins` puts a plugin.
#[must_use]
pub fn plugin_path(name: &str) -> PathBuf {
    target_dir().join("wasm32-wasip2/plugin").join(format!("{name}.wasm"))
}

/// The bytes of a plugin that `cargo xtask plugins` has built.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn plugin(name: &str) -> Vec<u8> {
    let path = plugin_path(name);
    match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => panic!("cannot read {}: {error}; build the plugins with `cargo xtask plugins`", path.display()),
    }
}

/// Median time of one iteration of a criterion benchmark that has just run, in nanoseconds; `None` when it was filtered out.
#[must_use]
pub fn median_ns(group: &str, function: &str, parameter: usize) -> Option<f64> {
    let path = target_dir().join(format!("criterion/{group}/{function}/{parameter}/new/estimates.json"));
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!("{:<30} {:>10} {:>10} {:>7} {:>8}", "ns a record", "plugin", "native", "ratio", "goal");
    for Row { name, ns, native_ns, goal_ns } in rows {
        let goal =
            goal_ns.map_or(String::new(), |goal| format!("<= {goal:.0} {}", if *ns <= goal { "ok" } else { "MISSED" }));
        println!("{name:<30} {ns:>10.1} {native_ns:>10.1} {:>6.2}x {goal:>8}", ns / native_ns);
    }
}

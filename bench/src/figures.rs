//! Numbers that come out of several rounds, and the machine they were measured on.

use std::fs;

use serde_json::{Value, json};

/// The middle one; of an even number the mean of the two in the middle. NaN of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// What stands beside the figures: processor, cores, kernel, and how busy the machine is.
#[must_use]
pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_matches([' ', '\t', ':']));
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": load(),
    })
}

/// Processes that ran or wanted to, averaged over the last minute. What is measured is among them.
#[must_use]
pub fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Prints one line that describes the machine.
pub fn print_machine() {
    let machine = machine();
    println!(
        "{} x {}, Linux {}, load {:.1}",
        machine["cores"],
        machine["cpu"].as_str().unwrap_or_default(),
        machine["kernel"].as_str().unwrap_or_default(),
        machine["load"].as_f64().unwrap_or(f64::NAN)
    );
}

//! The figures of all rounds, for people and for programs.

use serde_json::{Value, json};
use sluicegate_bench::figures::median;
use sluicegate_bench::sluicegate::Delivery;

use super::contender::{Contender, Measurement};

/// CPU that `sluicegate run` may use, as a multiple of the native loop's with one thread.
const GOAL_AT_LEAST_ONCE: f64 = 1.1;
/// The same in transactions, with state that is durable beside one that is not.
const GOAL_EXACTLY_ONCE: f64 = 1.3;

pub(crate) fn print_heading() {
    println!(
        "{:>5}  {:<18} {:>12} {:>14} {:>14} {:>9} {:>6}",
        "round", "", "records/s", "CPU-s/million", "before first", "wall s", "load"
    );
}

pub(crate) fn print_measurement(measured: &Measurement) {
    println!(
        "{:>5}  {:<18} {:>12.0} {:>14.3} {:>12.2} s {:>9.2} {:>6.1}",
        measured.round,
        measured.contender.name(),
        measured.records_per_second(),
        measured.cpu_per_million(),
        measured.cpu_first_s,
        measured.wall_s,
        measured.load,
    );
}

/// Medians, and the ratios of each round, since the machine is not as busy in one as in another.
pub(crate) fn print_summary(measured: &[Measurement], delivery: Delivery) {
    let goal = if delivery.exactly_once { GOAL_EXACTLY_ONCE } else { GOAL_AT_LEAST_ONCE };
    let of = |contender| measured.iter().filter(move |one| one.contender == contender);
    println!("medians");
    for contender in contenders(measured) {
        println!(
            "{:>5}  {:<18} {:>12.0} {:>14.3}",
            "",
            contender.name(),
            median(of(contender).map(Measurement::records_per_second)),
            median(of(contender).map(Measurement::cpu_per_million)),
        );
        if contender == Contender::Sluicegate {
            let held_up = median(of(contender).filter_map(|one| one.held_up));
            let written = median(of(contender).filter_map(|one| one.written_per_s));
            println!(
                "{:>5}    commits held the worker threads up for {:.1} % of their time; {:.0} kB/s to ZooKeeper",
                "",
                held_up * 100.0,
                written / 1000.0
            );
        }
        let threads = threads(of(contender));
        let shown = threads.iter().filter(|(_, cpu)| *cpu >= 0.005).map(|(name, cpu)| format!("{name} {cpu:.3}"));
        println!("{:>5}    by thread: {}", "", shown.collect::<Vec<_>>().join(", "));
    }
    for contender in contenders(measured).into_iter().filter(|one| *one != Contender::Sluicegate) {
        let (cpu, rate) = ratios(measured, contender);
        if cpu.is_nan() {
            continue;
        }
        let verdict = match contender {
            Contender::Native => format!("; goal: CPU at most x {goal}: {}", if cpu <= goal { "ok" } else { "MISSED" }),
            _ => String::new(),
        };
        println!(
            "sluicegate run beside {}: CPU x {cpu:.2}, records/s x {rate:.2} (medians of the rounds){verdict}",
            contender.name()
        );
    }
}

fn contenders(measured: &[Measurement]) -> Vec<Contender> {
    let mut contenders: Vec<Contender> = Vec::new();
    for one in measured {
        if !contenders.contains(&one.contender) {
            contenders.push(one.contender);
        }
    }
    contenders.sort_by_key(|one| *one as u8);
    contenders
}

/// CPU and throughput of `sluicegate run` as multiples of another's in the same round.
fn ratios(measured: &[Measurement], other: Contender) -> (f64, f64) {
    let pairs: Vec<(&Measurement, &Measurement)> = measured
        .iter()
        .filter(|one| one.contender == Contender::Sluicegate)
        .filter_map(|ours| Some((ours, measured.iter().find(|one| one.contender == other && one.round == ours.round)?)))
        .collect();
    (
        median(pairs.iter().map(|(ours, other)| ours.cpu_per_million() / other.cpu_per_million())),
        median(pairs.iter().map(|(ours, other)| ours.records_per_second() / other.records_per_second())),
    )
}

/// CPU seconds a million records by thread name, medians, the largest first.
fn threads<'a>(measured: impl Iterator<Item = &'a Measurement> + Clone) -> Vec<(String, f64)> {
    let names: std::collections::BTreeSet<&String> = measured.clone().flat_map(|one| one.threads.keys()).collect();
    let cpu = |name: &String| {
        median(measured.clone().map(|one| one.threads.get(name).copied().unwrap_or(0.0) / one.records as f64 * 1e6))
    };
    let mut threads: Vec<(String, f64)> = names.into_iter().map(|name| (name.clone(), cpu(name))).collect();
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    threads
}

pub(crate) fn json(measured: &[Measurement]) -> Value {
    let one = |one: &Measurement| {
        json!({
            "contender": one.contender.name(),
            "round": one.round,
            "records": one.records,
            "wall_s": one.wall_s,
            "cpu_s": one.cpu_s,
            "cpu_before_first_record_s": one.cpu_first_s,
            "records_per_s": one.records_per_second(),
            "cpu_s_per_million": one.cpu_per_million(),
            "cpu_s_by_thread": one.threads,
            "held_up_by_commits": one.held_up,
            "zookeeper_bytes_per_s": one.written_per_s,
            "load": one.load,
        })
    };
    measured.iter().map(one).collect()
}

//! The engine alone: plugins beside native functions that do the same to the same columns.
//!
//! Measured is what a worker does for a batch: build its columns from single records, process it, walk what was emitted and
//! look at every field of it. Values of 100 bytes, keys of 16. Time is CPU time of the thread, so that whatever else the
//! machine does changes little. Before it: `cargo xtask plugins`. To run it:
//! `cargo bench -p sluicegate-bench --bench engine`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use cpu_time::ThreadTime as Clock;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput};
use hashbrown::HashMap;
use sluicegate::engine::{Engine, EngineOptions, Grants, Instance, InstanceOptions, Limits};
use sluicegate::record::{Batch, Column, Emission, Output};
use sluicegate::state::{Store, TransformState};
use sluicegate_bench::{Row, median_ns, plugin, print};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: usize = 100_000;
const VALUE_BYTES: usize = 100;
/// Keys at hand, one a record: several times [`KEYS`], so that a batch holds unrelated ones.
const RECORDS: usize = 400_000;
/// Values at hand. Few, as in a fetch buffer that has just arrived: the memory of the machine is not what is measured.
const VALUES: usize = 1000;

/// The same records in every run, in an order without pattern.
struct Records {
    keys: Vec<[u8; 16]>,
    values: Vec<[u8; VALUE_BYTES]>,
}

impl Records {
    fn new() -> Self {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let key =
            |number: u64| format!("key-{:012}", number as usize % KEYS).into_bytes().try_into().expect("16 bytes");
        Self {
            keys: (0..RECORDS).map(|_| key(next())).collect(),
            values: (0..VALUES).map(|_| std::array::from_fn(|_| b'a' + (next() % 26) as u8)).collect(),
        }
    }
}

/// Hands out batch after batch, built the way the Kafka edge builds them.
struct Source<'a> {
    records: &'a Records,
    at: usize,
    batch: Batch,
}

impl<'a> Source<'a> {
    fn new(records: &'a Records) -> Self {
        Self { records, at: 0, batch: Batch::default() }
    }

    fn build(&mut self, count: usize) -> &mut Batch {
        self.batch.clear();
        if self.at + count > RECORDS {
            self.at = 0;
        }
        let values = self.records.values.iter().cycle();
        for ((offset, key), value) in (self.at as i64..).zip(&self.records.keys[self.at..self.at + count]).zip(values) {
            self.batch.push((0, 0, offset), offset, Some(key), Some(value), std::iter::empty());
        }
        self.at += count;
        &mut self.batch
    }
}

/// Reads what was emitted as a producer would.
fn walk(output: &Output, batch: &Batch) -> u64 {
    let mut sum = 0;
    for emission in &output.emissions {
        for record in emission.records(batch) {
            sum += record.timestamp as u64;
            for bytes in [record.key, record.value].into_iter().flatten() {
                sum += bytes.len() as u64 + bytes.first().map_or(0, |&byte| u64::from(byte));
                black_box(bytes);
            }
        }
    }
    sum
}

/// A transform in the host's own language.
trait Native {
    fn process(&mut self, batch: &Batch, values: &mut Column);
}

struct ValueLength;

impl Native for ValueLength {
    fn process(&mut self, batch: &Batch, values: &mut Column) {
        let mut line = String::new();
        for value in batch.values.values() {
            let text = std::str::from_utf8(value.expect("no tombstones here")).expect("all of it is text");
            line.clear();
            line.push_str(text);
            write!(line, ",{}", text.len()).expect("strings do not fail");
            values.push(Some(line.as_bytes()));
        }
    }
}

#[derive(Default)]
struct KeyedCount(HashMap<Vec<u8>, u64>);

impl Native for KeyedCount {
    fn process(&mut self, batch: &Batch, values: &mut Column) {
        let mut text = String::new();
        for key in batch.keys.values() {
            let key = key.expect("every record has a key");
            let count = match self.0.get_mut(key) {
                Some(count) => count,
                None => self.0.entry(key.to_vec()).or_insert(0),
            };
            *count += 1;
            text.clear();
            write!(text, "{count}").expect("strings do not fail");
            values.push(Some(text.as_bytes()));
        }
    }
}

fn instance(engine: &Engine, plugin_name: &str) -> Instance {
    let plugin = engine.load(&plugin(plugin_name)).expect("the plugin loads");
    plugin.instantiate(options(plugin_name)).expect("the plugin opens")
}

fn options(transform: &str) -> InstanceOptions {
    InstanceOptions {
        pipeline: "bench".into(),
        transform: transform.into(),
        task: 0,
        inputs: vec!["main".into()],
        outlets: vec!["main".into()],
        config: "{}".into(),
        limits: Limits { time_per_call: Duration::from_secs(10), ..Limits::default() },
        log_level: sluicegate::engine::LogLevel::INFO,
        grants: Grants::default(),
        now_ms: 0,
    }
}

/// CPU time of the thread that measures.
struct ThreadTime;

impl Measurement for ThreadTime {
    type Intermediate = Clock;
    type Value = Duration;

    fn start(&self) -> Clock {
        Clock::now()
    }

    fn end(&self, start: Clock) -> Duration {
        start.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

struct Case {
    group: &'static str,
    plugin: &'static str,
    stores: usize,
    native: fn() -> Box<dyn Native>,
    /// Records in a batch, and the goal in nanoseconds a record.
    sizes: &'static [(usize, Option<f64>)],
}

const CASES: [Case; 2] = [
    Case {
        group: "value-length",
        plugin: "value_length",
        stores: 0,
        native: || Box::new(ValueLength),
        sizes: &[(10, Some(200.0)), (100, Some(60.0)), (1000, Some(40.0))],
    },
    Case {
        group: "keyed-count",
        plugin: "keyed_count",
        stores: 1,
        native: || Box::<KeyedCount>::default(),
        sizes: &[(1000, Some(100.0))],
    },
];

fn measure(criterion: &mut Criterion<ThreadTime>, engine: &Engine, records: &Records, case: &Case) {
    let mut group = criterion.benchmark_group(case.group);
    for &(count, _) in case.sizes {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("plugin", count), |bencher| {
            let mut source = Source::new(records);
            let mut instance = instance(engine, case.plugin);
            let mut state = TransformState { stores: (0..case.stores).map(|_| Store::default()).collect() };
            bencher.iter(|| {
                let batch = source.build(count);
                let output = instance.process(batch, &mut state, 0).expect("the plugin works");
                assert!(output.rejects.is_empty());
                black_box(walk(&output, batch));
                instance.recycle(output);
            });
        });
        group.bench_function(BenchmarkId::new("native", count), |bencher| {
            let mut source = Source::new(records);
            let mut native = (case.native)();
            let mut spare = Column::default();
            bencher.iter(|| {
                let batch = source.build(count);
                let mut values = std::mem::take(&mut spare);
                values.clear();
                native.process(batch, &mut values);
                let emission =
                    Emission { values: Some(values), ..Emission::default() }.checked(count).expect("it fits");
                let mut output = Output { emissions: vec![emission], rejects: Vec::new() };
                black_box(walk(&output, batch));
                spare = output.emissions.pop().and_then(|emission| emission.values).expect("it was put there");
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let engine = Engine::new(EngineOptions::default()).expect("this machine runs WebAssembly");
    let records = Records::new();
    for case in &CASES {
        measure(&mut criterion, &engine, &records, case);
    }
    criterion.bench_function("instantiate", |bencher| {
        let plugin = engine.load(&plugin("value_length")).expect("the plugin loads");
        bencher.iter(|| plugin.instantiate(options("value_length")).expect("the plugin opens"));
    });
    criterion.final_summary();
    let rows: Vec<Row> = CASES
        .iter()
        .flat_map(|case| case.sizes.iter().map(move |&(count, goal_ns)| (case, count, goal_ns)))
        .filter_map(|(case, count, goal_ns)| {
            let ns = |function| median_ns(case.group, function, count).map(|ns| ns / count as f64);
            let name = format!("{}, batches of {count}", case.group);
            Some(Row { name, ns: ns("plugin")?, native_ns: ns("native")?, goal_ns })
        })
        .collect();
    print(&rows);
}

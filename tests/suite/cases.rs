//! Pipelines as data: a folder in `tests/cases` is a test; a new one needs no Rust.
//!
//! | file | |
//! |---|---|
//! | `pipeline.toml` | topics and plugins by plain names, as `keyed_count.wasm` |
//! | `input.jsonl` | a record a line; all are written, to topics of three partitions, before the pipeline starts |
//! | `expected.jsonl` | every record that comes out |
//! | `expected.stderr` | instead of a clean end: the pipeline stops by itself with exit code 1 and says each line |
//!
//! A record is `{"topic": "in", "key": "k", "value": "v", "headers": [["name", "value"]], "timestamp": 5, "partition": 0}`. Key and
//! value may be `null` or left out, which is the same, and `{"hex": "ff00"}` where they are no text; the value may be `{"json": ..}`.
//! Without a partition a record goes where its key says. Of what comes out, keys, values and headers are compared, in order
//! for each topic and key; timestamps and partitions where the expected record has them. Records without a key are compared in
//! order for each partition, which they must have.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use crate::deployment::Deployment;
use crate::records::Record;

/// The timestamp of the first record that has none of its own; each later one has one more.
const FIRST_MS: i64 = 1_700_000_000_000;

fn lines(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), number + 1))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// The bytes that a key or a value of a case stands for.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(kind) if kind.contains_key("json") => Some(kind["json"].to_string().into_bytes()),
        Value::Object(kind) => {
            let hex = kind["hex"].as_str().unwrap();
            Some((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect())
        }
        other => panic!("{other} is neither null nor text"),
    }
}

fn record(line: &Map<String, Value>) -> Record {
    for field in line.keys() {
        assert!(["topic", "key", "value", "headers", "timestamp", "partition"].contains(&field.as_str()), "`{field}`");
    }
    let field = |name: &str| bytes(line.get(name).unwrap_or(&Value::Null));
    let headers = line.get("headers").and_then(Value::as_array).into_iter().flatten();
    Record {
        partition: line.get("partition").map(|partition| i32::try_from(partition.as_i64().unwrap()).unwrap()),
        key: field("key"),
        value: field("value"),
        headers: headers.map(|header| (header[0].as_str().unwrap().to_owned(), bytes(&header[1]))).collect(),
        timestamp: line.get("timestamp").map(|timestamp| timestamp.as_i64().unwrap()),
    }
}

/// What is compared, in order, for each of: topic, key, and for records without one the partition.
type Streams = BTreeMap<(String, Option<Vec<u8>>, i32), Vec<Record>>;

fn streams(records: impl IntoIterator<Item = (String, Record)>) -> Streams {
    let mut streams = Streams::new();
    for (topic, record) in records {
        let partition = match record.key {
            Some(_) => 0,
            None => record.partition.expect("a record without a key needs its partition in expected.jsonl"),
        };
        streams.entry((topic, record.key.clone(), partition)).or_default().push(record);
    }
    streams
}

/// Takes from `actual` what the expected records say nothing of.
fn forget(actual: &mut Streams, expected: &Streams) {
    for (stream, records) in actual {
        for (record, wanted) in records.iter_mut().zip(expected.get(stream).into_iter().flatten()) {
            record.timestamp = wanted.timestamp.and(record.timestamp);
            record.partition = wanted.partition.and(record.partition);
        }
    }
}

/// The streams as lines, so that a difference can be seen.
fn show(streams: &Streams) -> String {
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        None => Value::Null,
        Some(bytes) => String::from_utf8(bytes.clone()).map_or_else(|_| json!({ "bytes": bytes }), Value::from),
    };
    let mut lines = String::new();
    for ((topic, ..), records) in streams {
        for record in records {
            let headers: Vec<Value> = record.headers.iter().map(|(name, value)| json!([name, text(value)])).collect();
            let mut line =
                json!({ "topic": topic, "key": text(&record.key), "value": text(&record.value), "headers": headers });
            if let Some(timestamp) = record.timestamp {
                line["timestamp"] = timestamp.into();
            }
            if let Some(partition) = record.partition {
                line["partition"] = partition.into();
            }
            lines += &format!("{line}\n");
        }
    }
    lines
}

fn run(folder: &Path) {
    let deployment = Deployment::new(&fs::read_to_string(folder.join("pipeline.toml")).unwrap());
    let topic_of = |line: &Map<String, Value>| line["topic"].as_str().expect("a topic").to_owned();
    let mut given: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for (line, timestamp) in lines(&folder.join("input.jsonl")).iter().zip(FIRST_MS..) {
        let record = record(line);
        let timestamp = record.timestamp.unwrap_or(timestamp);
        given.entry(topic_of(line)).or_default().push(record.at(timestamp));
    }
    for (topic, records) in given {
        deployment.produce(&topic, records);
    }
    match fs::read_to_string(folder.join("expected.stderr")) {
        Ok(said) => deployment.start().wait_for_end().expect(1, &said.lines().collect::<Vec<_>>()),
        Err(_) => deployment.run_through(),
    }
    let expected = streams(lines(&folder.join("expected.jsonl")).iter().map(|line| (topic_of(line), record(line))));
    let prefix = deployment.topic("");
    let read = |sink: &String| {
        let topic = sink.strip_prefix(&prefix).unwrap();
        deployment.read(topic).into_iter().map(|record| (topic.to_owned(), record)).collect::<Vec<_>>()
    };
    let mut actual = streams(deployment.sinks.iter().flat_map(read));
    forget(&mut actual, &expected);
    assert!(actual == expected, "what came out:\n{}what was expected:\n{}", show(&actual), show(&expected));
}

#[test]
fn every_case_gives_what_it_says() {
    let mut folders: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    let wanted = std::env::var("SLUICEGATE_TEST_CASE").unwrap_or_default();
    folders.retain(|folder| folder.to_str().unwrap().contains(&wanted));
    // A case mostly waits for its group.
    const AT_A_TIME: usize = 3;
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if std::panic::catch_unwind(|| run(folder)).is_err() {
                        failed.lock().unwrap().push(folder.file_name().unwrap().to_owned());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "cases that failed: {failed:?}; SLUICEGATE_TEST_CASE=NAME runs one");
}

//! What librdkafka's statistics say that somebody here wants to know. Pure: JSON in, numbers out.
//!
//! librdkafka documents the format in STATISTICS.md. Fields it adds are ignored; fields it lacks are zero or unknown.

use std::collections::HashMap;

use serde::Deserialize;

/// One report of a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Partitions the consumer reads.
    pub partitions: Vec<PartitionStatistics>,
    /// Requests that failed, of all brokers since the client was made.
    pub request_errors: u64,
    /// Requests that timed out, of all brokers since the client was made.
    pub request_timeouts: u64,
    /// The longest time, in milliseconds, a broker made a response wait to slow the client down, in the last interval.
    pub throttle_ms_max: u64,
    /// Records in the producer's queue.
    pub queued_records: u64,
    /// Bytes in the producer's queue.
    pub queued_bytes: u64,
}

/// How far one partition has been read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PartitionStatistics {
    /// Topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// The offset the next committed record of the partition will get, as of the last fetch; unknown before one.
    pub end_offset: Option<i64>,
    /// Records fetched that nobody has taken yet.
    pub fetched_records: u64,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_size: u64,
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    txerrs: u64,
    #[serde(default)]
    req_timeouts: u64,
    #[serde(default)]
    throttle: Window,
}

#[derive(Default, Deserialize)]
struct Window {
    #[serde(default)]
    max: i64,
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: i32,
    #[serde(default)]
    fetchq_cnt: i64,
    #[serde(default)]
    fetch_state: String,
    #[serde(default = "unknown")]
    ls_offset: i64,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Reads one report.
    ///
    /// # Errors
    /// It is not the JSON it should be.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let report: Report = serde_json::from_slice(json)?;
        let brokers = report.brokers.values();
        let mut statistics = Self {
            request_errors: brokers.clone().map(|broker| broker.txerrs).sum(),
            request_timeouts: brokers.clone().map(|broker| broker.req_timeouts).sum(),
            throttle_ms_max: brokers.map(|broker| broker.throttle.max.max(0).unsigned_abs()).max().unwrap_or(0),
            queued_records: report.msg_cnt,
            queued_bytes: report.msg_size,
            partitions: Vec::new(),
        };
        for (name, topic) in report.topics {
            // -1 is the internal partition for records that have none yet; partitions not being read are in state "none".
            let read = |partition: &Partition| partition.partition >= 0 && partition.fetch_state != "none";
            statistics.partitions.extend(topic.partitions.into_values().filter(read).map(|partition| {
                PartitionStatistics {
                    topic: name.clone(),
                    partition: partition.partition,
                    end_offset: (partition.ls_offset >= 0).then_some(partition.ls_offset),
                    fetched_records: partition.fetchq_cnt.max(0).unsigned_abs(),
                }
            }));
        }
        statistics.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(statistics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_ends_and_counters() {
        let json = br#"{
            "name": "c", "msg_cnt": 3, "msg_size": 300,
            "brokers": {
                "a:1/1": { "txerrs": 2, "req_timeouts": 1, "throttle": { "max": 7 } },
                "a:1/bootstrap": { "txerrs": 1, "req_timeouts": 0 }
            },
            "topics": { "t": { "topic": "t", "partitions": {
                "1": { "partition": 1, "fetch_state": "active", "fetchq_cnt": 5, "ls_offset": 42 },
                "0": { "partition": 0, "fetch_state": "offset-wait", "ls_offset": -1001 },
                "2": { "partition": 2, "fetch_state": "none" },
                "-1": { "partition": -1, "fetch_state": "none" }
            } } }
        }"#;
        let statistics = Statistics::parse(json).unwrap();
        assert_eq!(statistics.request_errors, 3);
        assert_eq!(statistics.request_timeouts, 1);
        assert_eq!(statistics.throttle_ms_max, 7);
        assert_eq!((statistics.queued_records, statistics.queued_bytes), (3, 300));
        let ends: Vec<_> = statistics.partitions.iter().map(|p| (p.partition, p.end_offset)).collect();
        assert_eq!(ends, [(0, None), (1, Some(42))]);
        assert_eq!(statistics.partitions[1].fetched_records, 5);
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(Statistics::parse(b"[").is_err());
    }
}

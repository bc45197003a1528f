//! Records of tests, and the columns they come in and go out by.

use crate::host::{Batch, Column, Headers, INHERIT, NULL, Records, Run};

/// A record that is given to a plugin or came out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRecord {
    /// `None`: no key.
    pub key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names and values in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; -1 is none.
    pub timestamp: i64,
    /// Negative: the one after the record before.
    pub offset: i64,
    /// Partition of the source topic.
    pub partition: i32,
    /// Name of the input; empty is the first.
    pub input: String,
}

/// A record with a key and a value.
pub fn record(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> TestRecord {
    TestRecord { key: Some(key.into()), ..keyless(value) }
}

/// A record without a key.
pub fn keyless(value: impl Into<Vec<u8>>) -> TestRecord {
    TestRecord {
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
        timestamp: -1,
        offset: -1,
        partition: 0,
        input: String::new(),
    }
}

/// A record without a value.
pub fn tombstone(key: impl Into<Vec<u8>>) -> TestRecord {
    TestRecord { value: None, ..record(key, []) }
}

impl TestRecord {
    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// With this timestamp, in milliseconds since 1970.
    #[must_use]
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// From this input.
    #[must_use]
    pub fn from(mut self, input: impl Into<String>) -> Self {
        self.input = input.into();
        self
    }
}

/// The columns of a batch.
pub(super) fn batch(records: &[TestRecord], inputs: &[String]) -> Batch {
    let mut batch = Batch::default();
    for record in records {
        let named = inputs.iter().position(|input| *input == record.input);
        let input = if record.input.is_empty() { Some(0) } else { named };
        let input = input.unwrap_or_else(|| panic!("the manifest declares no input `{}`", record.input));
        let input = u32::try_from(input).expect("few inputs");
        match batch.runs.last_mut() {
            Some(run) if run.input == input && run.partition == record.partition => run.count += 1,
            _ => batch.runs.push(Run { input, partition: record.partition, count: 1 }),
        }
        batch.offsets.push(record.offset);
        batch.timestamps.push(record.timestamp);
        batch.keys.push(record.key.as_deref());
        batch.values.push(record.value.as_deref());
        batch.headers.counts.push(i32::try_from(record.headers.len()).expect("few headers"));
        for (name, value) in &record.headers {
            batch.headers.names.push(Some(name.as_bytes()));
            batch.headers.values.push(value.as_deref());
        }
    }
    batch
}

/// The records of an emission with the causes they came from.
pub(super) fn emitted(emission: &Records, batch: &[TestRecord]) -> Vec<(usize, TestRecord)> {
    let causes: Vec<usize> = match &emission.causes {
        Some(causes) => causes.iter().map(|&cause| cause as usize).collect(),
        None => (0..batch.len()).collect(),
    };
    assert!(causes.is_sorted(), "causes never fall");
    let mut emitted: Vec<_> = causes.iter().map(|&cause| (cause, batch[cause].clone())).collect();
    replace(&mut emitted, emission.keys.as_ref(), |record, key| record.key = key);
    replace(&mut emitted, emission.values.as_ref(), |record, value| record.value = value);
    if let Some(timestamps) = &emission.timestamps {
        assert_eq!(timestamps.len(), emitted.len(), "one timestamp a record");
        emitted.iter_mut().zip(timestamps).for_each(|((_, record), &timestamp)| record.timestamp = timestamp);
    }
    if let Some(headers) = &emission.headers {
        replace_headers(&mut emitted, headers);
    }
    emitted
}

fn replace(
    records: &mut [(usize, TestRecord)],
    column: Option<&Column>,
    set: impl Fn(&mut TestRecord, Option<Vec<u8>>),
) {
    let Some(column) = column else { return };
    assert_eq!(column.lengths.len(), records.len(), "one entry a record");
    for ((_, record), entry) in records.iter_mut().zip(column.entries()) {
        match entry {
            Ok(bytes) => set(record, Some(bytes.to_vec())),
            Err(NULL) => set(record, None),
            Err(length) => assert_eq!(length, INHERIT, "a length is at least -2"),
        }
    }
}

fn replace_headers(records: &mut [(usize, TestRecord)], headers: &Headers) {
    assert_eq!(headers.counts.len(), records.len(), "one count a record");
    let mut names = headers.names.entries();
    let mut values = headers.values.entries();
    for ((_, record), &count) in records.iter_mut().zip(&headers.counts) {
        if count == INHERIT {
            continue;
        }
        let list = (0..count).map(|_| {
            let (name, value) = names.next().zip(values.next()).expect("counts add up to the names");
            let name = String::from_utf8(name.expect("a name is not null").to_vec()).expect("a name is UTF-8");
            (name, value.ok().map(<[u8]>::to_vec))
        });
        record.headers = list.collect();
    }
}

//! Records as lines of a file: those that go into a plugin, and what came of them. Pure.

use serde::{Deserialize, Serialize};

use super::lines::{self, Line, LineError};
use crate::payload::Payload;
use crate::record::{Batch, HeaderList, Output, RecordView};

/// A record that goes in. What is left out is null, or none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputRecord {
    /// Name of the input; the first one otherwise.
    input: Option<String>,
    key: Option<Payload>,
    value: Option<Payload>,
    #[serde(default)]
    headers: Vec<(String, Option<Payload>)>,
    timestamp: Option<i64>,
}

/// What came of a record: something sent to an output, or that it was rejected, with the record itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outcome {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rejected: Option<String>,
    pub(super) key: Option<Payload>,
    pub(super) value: Option<Payload>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) headers: Vec<(String, Option<Payload>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timestamp: Option<i64>,
}

/// Records to be processed, in batches.
#[derive(Debug)]
pub(super) struct Input {
    /// Every offset is the index of a record among all.
    pub(super) batches: Vec<Batch>,
    /// The number of each record's line.
    pub(super) lines: Vec<usize>,
}

/// Kafka's word for no timestamp.
const NO_TIMESTAMP: i64 = -1;

/// Reads records, for a plugin that has these inputs.
///
/// # Errors
/// The first line that is wrong.
pub(super) fn input(file: &str, bytes: &[u8], inputs: &[String], batch_records: usize) -> Result<Input, LineError> {
    let records: Vec<Line<InputRecord>> = lines::read(file, bytes)?;
    let mut batches: Vec<Batch> = Vec::new();
    for (offset, Line { number, contents: record }) in (0..).zip(&records) {
        let named = |name: &String| inputs.iter().position(|input| input == name);
        let Some(input) = record.input.as_ref().map_or(Some(0), named) else {
            let name = record.input.as_deref().unwrap_or_default();
            let problem = format!("the plugin has no input `{name}`; it has {}", inputs.join(", "));
            let text = bytes.split(|&byte| byte == b'\n').nth(number - 1).unwrap_or_default();
            return Err(LineError::new(file, *number, problem, String::from_utf8_lossy(text).trim_end()));
        };
        if batches.last().is_none_or(|batch| batch.len() == batch_records) {
            batches.push(Batch::default());
        }
        let Some(batch) = batches.last_mut() else { continue };
        let plain = |payload: &'_ Option<Payload>| payload.as_ref().map(|Payload(bytes)| bytes.clone());
        let (key, value) = (plain(&record.key), plain(&record.value));
        let header = |(name, value): &'_ (String, Option<Payload>)| (name.clone(), plain(value));
        let headers: Vec<_> = record.headers.iter().map(header).collect();
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
        let origin = (u32::try_from(input).unwrap_or(u32::MAX), 0, offset);
        let timestamp = record.timestamp.unwrap_or(NO_TIMESTAMP);
        batch.push(origin, timestamp, key.as_deref(), value.as_deref(), headers);
    }
    Ok(Input { batches, lines: records.into_iter().map(|line| line.number).collect() })
}

impl Outcome {
    fn of(record: &RecordView<'_>) -> Self {
        Self {
            output: None,
            rejected: None,
            key: record.key.map(Payload::from),
            value: record.value.map(Payload::from),
            headers: headers(record.headers),
            timestamp: Some(record.timestamp).filter(|&timestamp| timestamp != NO_TIMESTAMP),
        }
    }
}

fn headers(headers: HeaderList<'_>) -> Vec<(String, Option<Payload>)> {
    headers.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.map(Payload::from))).collect()
}

/// What came of a batch, in the order of its records, and for each in the order of the outlets; this does not depend on how
/// records are cut into batches.
pub(super) fn outcomes(batch: &Batch, output: &Output, outlets: &[String]) -> Vec<Outcome> {
    let mut found: Vec<((u32, Option<u32>), Outcome)> = Vec::new();
    for emission in &output.emissions {
        let name = outlets.get(emission.outlet as usize);
        let outcome = |record: RecordView<'_>| {
            ((record.cause, Some(emission.outlet)), Outcome { output: name.cloned(), ..Outcome::of(&record) })
        };
        found.extend(emission.records(batch).map(outcome));
    }
    for reject in &output.rejects {
        let place = (reject.index, None);
        // Rejected again: the first reason counts.
        if !found.iter().any(|(there, _)| *there == place)
            && let Some(record) = batch.records().nth(reject.index as usize)
        {
            found.push((place, Outcome { rejected: Some(reject.reason.clone()), ..Outcome::of(&record) }));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The records of a batch as lines, for people.
pub(super) fn shown(batch: &Batch) -> String {
    lines::write(batch.records().map(|record| Outcome::of(&record)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Column, Emission, Reject};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn records_are_cut_into_batches_and_know_their_lines() {
        let text = br#"{"key":"a","value":"1","timestamp":5}

{"input":"right","value":{"base64":"/w=="},"headers":[["h","x"],["n",null]]}
{}
"#;
        let Input { batches, lines } = input("in.jsonl", text, &names(&["left", "right"]), 2).unwrap();
        assert_eq!(lines, [1, 3, 4]);
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(batches[0].origins().collect::<Vec<_>>(), [(0, 0, 0), (1, 0, 1)]);
        assert_eq!((batches[0].timestamps.as_slice(), batches[1].offsets.as_slice()), (&[5, -1][..], &[2][..]));
        assert_eq!(
            shown(&batches[0]).lines().last().unwrap(),
            r#"{"key":null,"value":{"base64":"/w=="},"headers":[["h","x"],["n",null]]}"#
        );
    }

    #[test]
    fn mistakes_are_named_at_their_line() {
        let said = |text: &str| input("in.jsonl", text.as_bytes(), &names(&["main"]), 9).unwrap_err().to_string();
        assert!(
            said("{}\n{\"vlaue\":\"x\"}").starts_with("in.jsonl:2:8: unknown field `vlaue`"),
            "{}",
            said("{}\n{\"vlaue\":\"x\"}")
        );
        assert!(said("{\"input\":\"x\"}").contains("the plugin has no input `x`; it has main"));
        assert!(said("[1]").starts_with("in.jsonl:1:"));
        assert!(said("{\"key\": 7}").contains("expected text"));
    }

    #[test]
    fn outcomes_are_in_the_order_of_the_records() {
        let batch =
            input("a", b"{\"value\":\"0\"}\n{\"value\":\"1\"}\n{\"value\":\"2\"}", &names(&["main"]), 9).unwrap();
        let emission =
            |outlet, causes: &[u32]| Emission { outlet, causes: Some(causes.to_vec()), ..Emission::default() };
        let second =
            Emission { values: Some([Some(&b"x"[..]), None].into_iter().collect::<Column>()), ..emission(1, &[0, 2]) };
        let output = Output {
            emissions: [second, emission(0, &[0, 0])].map(|emission| emission.checked(3).unwrap()).into(),
            rejects: vec![Reject { index: 1, reason: "no".into() }, Reject { index: 1, reason: "still no".into() }],
        };
        let text = lines::write(outcomes(&batch.batches[0], &output, &names(&["main", "side"])));
        let expected = r#"{"output":"main","key":null,"value":"0"}
{"output":"main","key":null,"value":"0"}
{"output":"side","key":null,"value":"x"}
{"rejected":"no","key":null,"value":"1"}
{"output":"side","key":null,"value":null}
"#;
        assert_eq!(text, expected);
    }
}

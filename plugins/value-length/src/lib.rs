//! Appends to each value a separator and the value's length: `hello` becomes `hello,5`.
//!
//! The length is in bytes. A value that is not UTF-8, and a tombstone, is rejected.

use sluicegate_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "comma")]
    separator: String,
}

fn comma() -> String {
    ",".into()
}

#[transform]
fn value_length(config: &Config, record: Record, out: &mut Output) -> Outcome {
    let text = record.text()?;
    out.send(record.with_value((text, &config.separator, text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_sdk::testing::{TestHost, record, tombstone};

    #[test]
    fn the_length_is_appended() {
        let mut host = TestHost::<value_length>::new("{}");
        assert_eq!(host.process([record("k", "hello"), record("k", "")]).values("main"), ["hello,5", ",0"]);
    }

    #[test]
    fn the_separator_is_configured() {
        let mut host = TestHost::<value_length>::new(r#"{"separator": " -> "}"#);
        assert_eq!(host.process([record("k", "é")]).values("main"), ["é -> 2"]);
    }

    #[test]
    fn key_headers_and_timestamp_stay() {
        let given = record("k", "a").header("h", "x").at(7);
        let done = TestHost::<value_length>::new("{}").process([given.clone()]);
        let [out] = done.output("main") else { panic!("one record") };
        assert_eq!((&out.key, &out.headers, out.timestamp), (&given.key, &given.headers, 7));
    }

    #[test]
    fn what_is_no_text_is_rejected() {
        let done = TestHost::<value_length>::new("{}").process([record("k", [0xff]), tombstone("k"), record("k", "a")]);
        assert_eq!(done.values("main"), ["a,1"]);
        assert_eq!(done.rejects().len(), 2);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let unfit = TestHost::<value_length>::try_new(r#"{"separator": 1}"#).err().expect("it is refused");
        assert!(unfit.to_string().contains("separator"), "{unfit}");
    }
}

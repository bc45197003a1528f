//! Values in upper case, with an ending.

use sluicegate_sdk::prelude::*;

/// What a pipeline may write behind `config =`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What each value ends with.
    #[serde(default = "exclamation_mark")]
    ending: String,
}

fn exclamation_mark() -> String {
    "!".to_owned()
}

#[transform]
fn upper_case(config: &Config, record: Record, out: &mut Output) -> Outcome {
    // What is no text is rejected, with that reason.
    let text = record.text()?;
    out.send(record.with_value((text.to_uppercase(), &config.ending)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_sdk::testing::{TestHost, record};

    #[test]
    fn values_become_upper_case() {
        let mut host = TestHost::<upper_case>::new(r#"{ "ending": "?" }"#);
        assert_eq!(host.process([record("ada", "hello")]).values("main"), ["HELLO?"]);
    }

    #[test]
    fn what_is_no_text_is_rejected() {
        let done = TestHost::<upper_case>::new("{}").process([record("ada", [0xff]), record("ada", "hi")]);
        assert_eq!(done.values("main"), ["HI!"]);
        assert!(done.rejects()[0].1.starts_with("value is not UTF-8"));
    }
}

//! Masks configured paths in JSON values: `{"card": "4111", ..}` becomes `{"card": "***", ..}`.
//!
//! A path is field names and array indices separated by dots; `*` is every field or element. A path that a record lacks is
//! no error. What is not JSON is rejected; a tombstone passes as it is. The order of an object's fields is not kept.

use serde_json::Value as Json;
use sluicegate_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    paths: Vec<Path>,
    #[serde(default = "stars")]
    mask: Json,
}

fn stars() -> Json {
    "***".into()
}

/// Steps from the root of a document.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Path(Vec<String>);

impl TryFrom<String> for Path {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let steps: Vec<_> = text.split('.').map(str::to_owned).collect();
        if steps.iter().any(String::is_empty) {
            return Err(format!("`{text}` has an empty step: write a path like `customer.card` or `items.*.price`"));
        }
        Ok(Self(steps))
    }
}

/// Replaces what `steps` lead to. Whether there was anything.
fn mask(document: &mut Json, steps: &[String], with: &Json) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        *document = with.clone();
        return true;
    };
    // Every one that matches is masked, whatever came of those before.
    match document {
        Json::Object(fields) if step == "*" => {
            fields.values_mut().fold(false, |any, field| mask(field, rest, with) | any)
        }
        Json::Object(fields) => fields.get_mut(step).is_some_and(|field| mask(field, rest, with)),
        Json::Array(elements) if step == "*" => {
            elements.iter_mut().fold(false, |any, element| mask(element, rest, with) | any)
        }
        Json::Array(elements) => {
            let element = step.parse().ok().and_then(|index: usize| elements.get_mut(index));
            element.is_some_and(|element| mask(element, rest, with))
        }
        _ => false,
    }
}

#[transform]
fn mask_json(config: &Config, record: Record, out: &mut Output) -> Outcome {
    if record.value().is_none() {
        return out.send(record);
    }
    let mut document: Json = record.json()?;
    if config.paths.iter().fold(false, |any, path| mask(&mut document, &path.0, &config.mask) | any) {
        out.send(record.with_value(sluicegate_sdk::Json(document)))
    } else {
        out.send(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluicegate_sdk::testing::{TestHost, record, tombstone};

    fn masked(paths: Json, value: Json) -> Json {
        let mut host = TestHost::<mask_json>::new(json!({ "paths": paths }));
        let done = host.process([record("k", value.to_string())]);
        serde_json::from_str(&done.values("main")[0]).unwrap()
    }

    #[test]
    fn paths_are_masked_where_they_lead_somewhere() {
        let value = json!({ "card": "4111", "name": { "last": "B" }, "items": [{ "p": 1 }, { "p": 2, "q": 3 }] });
        let expected =
            json!({ "card": "***", "name": { "last": "***" }, "items": [{ "p": "***" }, { "p": "***", "q": 3 }] });
        assert_eq!(masked(json!(["card", "name.last", "items.*.p", "no.such"]), value), expected);
    }

    #[test]
    fn an_index_is_a_step() {
        assert_eq!(masked(json!(["a.1"]), json!({ "a": [1, 2] })), json!({ "a": [1, "***"] }));
    }

    #[test]
    fn a_record_without_such_a_path_keeps_its_bytes() {
        let mut host = TestHost::<mask_json>::new(json!({ "paths": ["x"] }));
        assert_eq!(host.process([record("k", r#"{ "b" : 1 }"#)]).values("main"), [r#"{ "b" : 1 }"#]);
    }

    #[test]
    fn what_is_not_json_is_rejected_and_a_tombstone_passes() {
        let mut host = TestHost::<mask_json>::new(json!({ "paths": ["x"] }));
        let done = host.process([record("k", "{"), tombstone("k")]);
        assert_eq!(done.rejects()[0].0, 0);
        assert_eq!(done.output("main")[0].value, None);
    }

    #[test]
    fn a_wrong_path_is_named_by_its_place() {
        let unfit = TestHost::<mask_json>::try_new(json!({ "paths": ["a", "b..c"] })).err().expect("it is refused");
        assert!(unfit.to_string().starts_with("configuration: paths[1]: `b..c`"), "{unfit}");
    }
}

//! What differs between two pipelines, for people who are about to deploy one. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// A value that is another one, is new, or is gone.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Difference {
    /// Where: keys with dots between, list entries by their name.
    pub at: String,
    /// What was there.
    pub before: Option<Value>,
    /// What is to be there.
    pub after: Option<Value>,
}

/// What differs between two specifications in canonical JSON, in the order of their places.
#[must_use]
pub fn differences(before: &str, after: &str) -> Vec<Difference> {
    let read = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &read(before), &mut old);
    flatten("", &read(after), &mut new);
    let mut places: Vec<&String> = old.keys().chain(new.keys()).collect();
    places.sort();
    places.dedup();
    let difference = |at: &String| {
        let (before, after) = (old.get(at).cloned(), new.get(at).cloned());
        (before != after).then(|| Difference { at: at.clone(), before, after })
    };
    places.into_iter().filter_map(difference).collect()
}

/// Every scalar, by its place.
fn flatten(at: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                let place = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                flatten(&place, value, into);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.iter().enumerate() {
                let name = ["name", "topic"].into_iter().find_map(|key| value.get(key)?.as_str());
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                flatten(&format!("{at}[{name}]"), value, into);
            }
            // The order of a chain matters.
            if at == "transform" {
                let names: Vec<Value> = list.iter().filter_map(|value| value.get("name").cloned()).collect();
                into.insert("transform".to_owned(), Value::Array(names));
            }
        }
        Value::Null => {}
        scalar => {
            into.insert(at.to_owned(), scalar.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(before: &str, after: &str) -> Vec<String> {
        let value = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
        let show = |it: Difference| format!("{}: {} -> {}", it.at, value(&it.before), value(&it.after));
        differences(before, after).into_iter().map(show).collect()
    }

    #[test]
    fn entries_of_lists_are_told_apart_by_their_names() {
        let before = r#"{"name":"x","transform":[{"name":"a","config":{"n":1}},{"name":"b","config":{}}],"sink":[{"topic":"out"}]}"#;
        let after = r#"{"name":"x","transform":[{"name":"b","config":{}},{"name":"a","config":{"n":2}}],"sink":[{"topic":"out"},{"topic":"more"}]}"#;
        assert_eq!(
            show(before, after),
            [
                r#"sink[more].topic: - -> "more""#,
                r#"transform: ["a","b"] -> ["b","a"]"#,
                "transform[a].config.n: 1 -> 2",
            ]
        );
        assert_eq!(show(before, before), Vec::<String>::new());
    }

    #[test]
    fn what_is_gone_has_no_value_after() {
        let gone = show(r#"{"delivery":{"interval":5,"x":[1,2]}}"#, r#"{"delivery":{"interval":5}}"#);
        assert_eq!(gone, ["delivery.x: [1,2] -> -"]);
    }
}

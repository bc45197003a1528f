//! A pipeline file with another plugin or configuration of one transform; comments and order stay. Pure.

use serde_json::Value;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item};

/// `text` with `plugin` as the plugin of the transform at this index, and `config` as its configuration if that is given.
///
/// `None` when the text is no pipeline file, has no such transform, or the configuration has a null, which TOML lacks.
#[must_use]
pub fn with_transform(text: &str, at: usize, plugin: &str, config: Option<&Value>) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let transforms: &mut ArrayOfTables = document.get_mut("transform")?.as_array_of_tables_mut()?;
    let transform = transforms.get_mut(at)?;
    let plugin_is = transform.get_mut("plugin")?.as_value_mut()?;
    let decor = plugin_is.decor().clone();
    *plugin_is = plugin.into();
    *plugin_is.decor_mut() = decor;
    if let Some(config) = config {
        let value = value(config)?;
        match value.as_inline_table().is_some_and(InlineTable::is_empty) {
            true => drop(transform.remove("config")),
            false => drop(transform.insert("config", Item::Value(value))),
        }
    }
    Some(document.to_string())
}

fn value(json: &Value) -> Option<toml_edit::Value> {
    Some(match json {
        Value::Null => return None,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => toml_edit::Value::Array(list.iter().map(value).collect::<Option<_>>()?),
        Value::Object(object) => {
            let entries = object.iter().map(|(key, entry)| Some((key.as_str(), value(entry)?)));
            toml_edit::Value::InlineTable(entries.collect::<Option<_>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = r#"name = "orders" # mine
[[source]]
topic = "in"

[[transform]]
name = "mask"
plugin = "mask@1.0.0"  # the old one
config = { fields = ["a"] }

[[transform]] # last
name = "count"
plugin = "./count.wasm"
[transform.config]
separator = ";"
"#;

    #[test]
    fn one_plugin_is_another_one_and_everything_else_stays() {
        let changed = with_transform(FILE, 0, "mask@1.1.0", None).unwrap();
        assert_eq!(changed, FILE.replace("mask@1.0.0", "mask@1.1.0"));
    }

    #[test]
    fn a_configuration_is_another_one_however_it_was_written() {
        let config = json!({ "fields": ["b", 1, 2.5, true], "deep": { "a": {} } });
        for at in [0, 1] {
            let changed = with_transform(FILE, at, "x@1.0.0", Some(&config)).unwrap();
            let read: toml::Table = changed.parse().unwrap();
            assert_eq!(serde_json::to_value(&read["transform"][at]["config"]).unwrap(), config, "{changed}");
            assert!(changed.contains("# mine") && changed.contains("# the old one"), "{changed}");
        }
        let without = with_transform(FILE, 1, "x@1.0.0", Some(&json!({}))).unwrap();
        assert!(!without.contains("separator"), "{without}");
    }

    #[test]
    fn what_cannot_be_changed_is_none() {
        assert_eq!(with_transform(FILE, 2, "x@1.0.0", None), None);
        assert_eq!(with_transform("name = ", 0, "x@1.0.0", None), None);
        assert_eq!(with_transform(FILE, 0, "x@1.0.0", Some(&json!({ "a": null }))), None);
    }
}

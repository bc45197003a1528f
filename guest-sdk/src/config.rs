//! A plugin's configuration: one JSON object read by serde, with errors that say which field is wrong.

use crate::failure::Unfit;
use serde::de::DeserializeOwned;

/// Reads the configuration that the host hands to `open`.
///
/// # Errors
/// What is wrong and where: the field's path, like `paths[2]`.
pub fn parse_config<T: DeserializeOwned>(json: &str) -> Result<T, Unfit> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // "." is how the whole is called.
        let field = if path == "." { String::new() } else { path };
        Unfit::config(field, without_position(error.inner()))
    })
}

/// The line and column are those of the JSON that the host made, which nobody has seen.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).into()
}

/// What a plugin without a configuration takes: an object without fields.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Config {
        #[expect(dead_code)]
        paths: Vec<String>,
    }

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        let error = parse_config::<Config>(r#"{"paths":["a",3]}"#).unwrap_err();
        assert_eq!(error, Unfit::config("paths[1]", "invalid type: integer `3`, expected a string"));
    }

    #[test]
    fn a_missing_field_is_named_in_the_message() {
        assert_eq!(parse_config::<Config>("{}").unwrap_err(), Unfit::config("", "missing field `paths`"));
    }
}

//! What a change of files means for a pipeline that is deployed. Pure.
//!
//! What runs and what is to run are compared as canonical JSON, with plugins by their digests: how a file names a
//! plugin says nothing, since a swap writes the digest where the file has a path.

use std::collections::BTreeSet;

use crate::config::differences;

/// What is to be done about a change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Nothing: it is what runs.
    Nothing,
    /// It is what is recorded, and does not run: it is tried again.
    Again,
    /// One transform has another plugin, another configuration, or both: a rollout.
    Swap {
        /// Its name.
        transform: String,
        /// Whether it has another configuration.
        configured: bool,
    },
    /// More than that, or there is nothing that runs and could be swapped: a deployment.
    Deploy,
}

impl Change {
    /// From what is recorded to what is wanted; `runs` says whether the former does.
    pub(super) fn between(before: &str, after: &str, runs: bool) -> Self {
        let places = differences(before, after).into_iter().map(|it| it.at).filter(|at| !is_name_of_plugin(at));
        let places: Vec<String> = places.collect();
        if places.is_empty() {
            return if runs { Self::Nothing } else { Self::Again };
        }
        let swapped: Option<BTreeSet<&str>> = places.iter().map(|at| swapped(at)).collect();
        match swapped.as_ref().and_then(BTreeSet::first) {
            Some(transform) if runs && swapped.as_ref().is_some_and(|swapped| swapped.len() == 1) => {
                let configured = places.iter().any(|at| !at.ends_with("].digest"));
                Self::Swap { transform: (*transform).to_owned(), configured }
            }
            _ => Self::Deploy,
        }
    }
}

/// Whether this is the place where a file names a plugin.
pub(super) fn is_name_of_plugin(at: &str) -> bool {
    of_transform(at).is_some_and(|(_, key)| key == "plugin")
}

/// The transform in which this place is, if a swap can change it.
fn swapped(at: &str) -> Option<&str> {
    let (transform, key) = of_transform(at)?;
    (key == "digest" || key == "config" || key.starts_with("config.")).then_some(transform)
}

/// Name of the transform and the place in it.
fn of_transform(at: &str) -> Option<(&str, &str)> {
    at.strip_prefix("transform[")?.split_once("].")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Pipeline;

    const FILE: &str = r#"
name = "orders"
[[source]]
topic = "in"
[[transform]]
name = "count"
plugin = "./count.wasm"
[[transform]]
name = "length"
plugin = "./length.wasm"
config = { separator = ",", paths = ["a"] }
[[sink]]
topic = "out"
"#;

    fn canonical(file: &str, digests: [&str; 2]) -> String {
        Pipeline::parse(Path::new("test"), file).unwrap().canonical_json(&digests.map(str::to_owned))
    }

    /// From [`FILE`] to itself with one text replaced by another, and these plugins.
    fn change(from: &str, to: &str, digests: [&str; 2], runs: bool) -> Change {
        assert!(FILE.contains(from));
        Change::between(&canonical(FILE, ["a", "b"]), &canonical(&FILE.replace(from, to), digests), runs)
    }

    fn swap(transform: &str, configured: bool) -> Change {
        Change::Swap { transform: transform.to_owned(), configured }
    }

    #[test]
    fn one_transform_with_another_plugin_or_configuration_is_swapped() {
        assert_eq!(change("", "", ["a", "c"], true), swap("length", false));
        assert_eq!(change("separator = \",\"", "separator = \";\"", ["a", "b"], true), swap("length", true));
        assert_eq!(change("paths = [\"a\"]", "more = { n = 1 }", ["a", "c"], true), swap("length", true));
        let without = ["config = { separator = \",\", paths = [\"a\"] }", ""];
        assert_eq!(change(without[0], without[1], ["a", "b"], true), swap("length", true));
    }

    #[test]
    fn more_than_that_is_deployed() {
        assert_eq!(change("", "", ["c", "c"], true), Change::Deploy, "two transforms");
        assert_eq!(change("topic = \"out\"", "topic = \"elsewhere\"", ["a", "b"], true), Change::Deploy);
        assert_eq!(change("topic = \"out\"", "topic = \"elsewhere\"", ["a", "c"], true), Change::Deploy);
        let limited = "plugin = \"./count.wasm\"\nlimits = { time-per-batch = \"2s\" }";
        assert_eq!(change("plugin = \"./count.wasm\"", limited, ["c", "b"], true), Change::Deploy);
        assert_eq!(change("name = \"count\"", "name = \"tally\"", ["a", "b"], true), Change::Deploy);
    }

    #[test]
    fn what_means_the_same_is_nothing_however_a_file_names_the_plugin() {
        assert_eq!(change("", "", ["a", "b"], true), Change::Nothing);
        assert_eq!(change("topic = \"out\"", "topic = \"out\" # there", ["a", "b"], true), Change::Nothing);
        let by_digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(change("./length.wasm", &by_digest, ["a", "b"], true), Change::Nothing);
        assert_eq!(change("./length.wasm", &by_digest, ["a", "c"], true), swap("length", false));
    }

    #[test]
    fn what_has_failed_is_deployed_with_a_change_and_tried_again_without() {
        assert_eq!(change("", "", ["a", "c"], false), Change::Deploy);
        assert_eq!(change("", "", ["a", "b"], false), Change::Again);
    }
}

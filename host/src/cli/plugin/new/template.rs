//! The files of a new project. Pure: the templates are in the program, words in double braces are filled in.

use std::fmt;
use std::path::PathBuf;

/// Where a project takes the SDK from.
#[derive(Clone, Debug)]
pub(super) enum Sdk {
    /// A folder.
    Path(PathBuf),
    /// A registry of crates.
    Version(String),
}

impl fmt::Display for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "in {}", path.display()),
            Self::Version(version) => write!(f, "{version}"),
        }
    }
}

impl Sdk {
    /// What stands behind `sluicegate-sdk =` in Cargo.toml.
    fn dependency(&self) -> String {
        match self {
            Self::Path(path) => format!("{{ path = {} }}", quoted(&path.to_string_lossy())),
            Self::Version(version) => quoted(version),
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What cargo calls the component of a package.
pub(super) fn wasm_file(name: &str) -> String {
    format!("{}.wasm", name.replace('-', "_"))
}

macro_rules! of {
    ($folder:literal) => {
        [
            ("src/lib.rs", include_str!(concat!("template/", $folder, "/lib.rs"))),
            ("pipeline.toml", include_str!(concat!("template/", $folder, "/pipeline.toml"))),
            ("tests/records.jsonl", include_str!(concat!("template/", $folder, "/records.jsonl"))),
            ("tests/expected.jsonl", include_str!(concat!("template/", $folder, "/expected.jsonl"))),
        ]
    };
}

/// Path and contents of each file.
pub(super) fn files(name: &str, state: bool, sdk: &Sdk) -> Vec<(&'static str, String)> {
    let own = if state { of!("state") } else { of!("plain") };
    let what = if state { "Sums up numbers by key" } else { "Puts values in upper case, with an ending" };
    let common = [
        ("Cargo.toml", include_str!("template/Cargo.toml.in")),
        (".gitignore", include_str!("template/gitignore")),
        ("README.md", include_str!("template/README.md")),
    ];
    let fill = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{wasm}}", &wasm_file(name))
            .replace("{{sdk}}", &sdk.dependency())
            .replace("{{description}}", what)
    };
    common.into_iter().chain(own).map(|(path, text)| (path, fill(text))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Pipeline;

    #[test]
    fn every_word_in_braces_is_filled_in() {
        for state in [false, true] {
            for (path, text) in files("my-plugin", state, &Sdk::Version("0.1.0".into())) {
                assert!(!text.contains("{{"), "{path}: {text}");
            }
        }
    }

    #[test]
    fn the_pipeline_of_a_new_project_is_right() {
        for state in [false, true] {
            let files = files("my-plugin", state, &Sdk::Version("0.1.0".into()));
            let (_, text) = files.iter().find(|(path, _)| *path == "pipeline.toml").unwrap();
            Pipeline::parse(Path::new("pipeline.toml"), text).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(text.contains("release/my_plugin.wasm"));
        }
    }

    #[test]
    fn the_path_of_the_sdk_is_quoted() {
        let files = files("a", false, &Sdk::Path(r#"/odd "folder"\sdk"#.into()));
        let manifest: toml::Table = files[0].1.parse().unwrap();
        assert_eq!(manifest["dependencies"]["sluicegate-sdk"]["path"].as_str(), Some(r#"/odd "folder"\sdk"#));
    }
}

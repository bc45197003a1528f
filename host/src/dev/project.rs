//! The sources of plugins, and what an embedded broker needs a pipeline to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use crate::config::{Errors, OnError, Pipeline, PluginReference};

/// The projects that the plugins of a pipeline are built from.
#[derive(Debug, Default)]
pub struct Projects {
    /// Folders with a `Cargo.toml`.
    folders: BTreeSet<PathBuf>,
    /// Plugins that are not built here: they are only read again when they change.
    files: BTreeSet<PathBuf>,
}

impl Projects {
    /// Of the plugins that the pipeline names by path: `a/target/wasm32-wasip2/release/b.wasm` is built from the package in `a`
    /// whose library is `b`.
    #[must_use]
    pub fn of(pipeline: &Pipeline) -> Self {
        let mut projects = Self::default();
        for transform in &pipeline.transforms {
            let PluginReference::Path(file) = &transform.plugin else { continue };
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            // Only what lies in a `target` folder has been built from what is beside that.
            let target = file.ancestors().find(|folder| folder.ends_with("target"));
            match target.and_then(Path::parent).filter(|folder| folder.join("Cargo.toml").is_file()) {
                Some(folder) => projects.folders.insert(package(folder, &file).unwrap_or_else(|| folder.to_path_buf())),
                None => projects.files.insert(file),
            };
        }
        projects
    }

    /// All folders.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.folders.clone()
    }

    /// What has to be watched: folders whole, but for what is built in them, and files.
    pub fn watched(&self) -> impl Iterator<Item = &PathBuf> {
        self.folders.iter().chain(&self.files)
    }

    /// Folders in which one of these files lies.
    #[must_use]
    pub fn touched_by(&self, files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let lies = |folder: &&PathBuf| files.iter().any(|file| file.starts_with(folder) && is_source(folder, file));
        self.folders.iter().filter(lies).cloned().collect()
    }
}

/// The folder of the package of a workspace, or of the only one, whose library is compiled to this file. Asks cargo.
fn package(folder: &Path, file: &Path) -> Option<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(folder);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let stem = file.file_stem()?.to_str()?;
    let is_library = |target: &serde_json::Value| {
        let kinds = target["kind"].as_array().into_iter().flatten();
        let name = target["name"].as_str().unwrap_or_default().replace('-', "_");
        kinds.filter_map(|kind| kind.as_str()).any(|kind| kind == "cdylib") && name == stem
    };
    let found = metadata["packages"]
        .as_array()?
        .iter()
        .find(|package| package["targets"].as_array().into_iter().flatten().any(is_library))?;
    Some(Path::new(found["manifest_path"].as_str()?).parent()?.to_path_buf())
}

/// Whether a change of this file means that the plugin of the project in `folder` has to be built anew.
#[must_use]
pub fn is_source(folder: &Path, file: &Path) -> bool {
    let Ok(inner) = file.strip_prefix(folder) else { return false };
    let built = inner.components().next().is_some_and(|first| first.as_os_str() == "target");
    let extension = inner.extension().and_then(|extension| extension.to_str());
    // Editors leave other files behind.
    !built && matches!(extension, Some("rs" | "toml" | "wit" | "json"))
}

/// Refuses a pipeline with a plugin that is not named by its path: there is no registry to take it from.
///
/// # Errors
/// The first one, at its line.
pub fn must_be_by_path(pipeline: &Pipeline) -> Result<(), Errors> {
    let named = pipeline.transforms.iter().position(|it| !matches!(it.plugin, PluginReference::Path(_)));
    let Some(at) = named else { return Ok(()) };
    let message = format!("`dev` has no registry to take `{}` from", pipeline.transforms[at].plugin);
    let help = "name the plugin by its path, such as \"./target/wasm32-wasip2/release/name.wasm\"";
    Err(pipeline.plugin_error(at, &message, help))
}

/// The text of a pipeline without what the embedded broker lacks: transactions. Rejected records have a topic, so that they are
/// shown instead of ending it.
///
/// # Errors
/// It is no pipeline.
pub fn for_embedded_broker(pipeline: &Pipeline) -> Result<String> {
    let mut table: Table = pipeline.text().parse().context("read the pipeline file")?;
    let mut set = |section: &str, entries: BTreeMap<&str, Value>, without: &[&str]| {
        let section = table.entry(section).or_insert_with(|| Table::new().into());
        if let Some(section) = section.as_table_mut() {
            without.iter().for_each(|key| drop(section.remove(*key)));
            section.extend(entries.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
    };
    let delivery = [("guarantee", Value::from("at-least-once")), ("commit-interval", Value::from("100ms"))];
    set("delivery", delivery.into(), &[]);
    if !matches!(pipeline.on_error, OnError::DeadLetter(_)) {
        let topic = Value::from(format!("{}.rejected", pipeline.name));
        set("errors", [("dead-letter-topic", topic)].into(), &["on-error"]);
    }
    Ok(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = "name = \"p\"\n[[source]]\ntopic = \"a\"\n[[transform]]\nname = \"t\"\nplugin = \"PLUGIN\"\n[[sink]]\ntopic = \"b\"\n[errors]\non-error = \"stop\"\n";

    fn pipeline(plugin: &Path) -> Pipeline {
        let text = PIPELINE.replace("PLUGIN", &plugin.display().to_string());
        Pipeline::parse(Path::new("p.toml"), &text).unwrap()
    }

    #[test]
    fn the_project_of_a_plugin_is_beside_its_target_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("target/wasm32-wasip2/release/t.wasm");
        let of = || Projects::of(&pipeline(&file));
        assert!(of().folders().is_empty() && of().watched().eq([&file]));
        std::fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(of().folders(), BTreeSet::from([folder.path().to_path_buf()]));
        let touched = |file: &str| !of().touched_by(&[folder.path().join(file)].into()).is_empty();
        assert!(touched("src/lib.rs") && touched("Cargo.toml"));
        assert!(!touched("target/release/build.rs") && !touched("src/.lib.rs.swp"));
    }

    #[test]
    fn plugins_are_named_by_path() {
        assert!(must_be_by_path(&pipeline(Path::new("./t.wasm"))).is_ok());
        let refused = must_be_by_path(&pipeline(Path::new("t@1.0.0"))).unwrap_err().to_string();
        assert!(refused.contains("no registry to take `t@1.0.0` from"), "{refused}");
    }

    #[test]
    fn the_embedded_broker_gets_no_transactions_and_a_topic_for_what_is_rejected() {
        let text = for_embedded_broker(&pipeline(Path::new("t.wasm"))).unwrap();
        let adapted = Pipeline::parse(Path::new("p.toml"), &text).unwrap();
        assert_eq!(adapted.delivery.guarantee, crate::config::Guarantee::AtLeastOnce);
        assert_eq!(adapted.on_error, OnError::DeadLetter("p.rejected".into()));
        assert_eq!(adapted.transforms, pipeline(Path::new("t.wasm")).transforms);
    }
}

//! `cargo xtask plugins`: builds every plugin and every test guest as a WebAssembly component.
//!
//! Which ones there are is read from the workspace: the members in `plugins/` and `tests/guests/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "plugin";

/// A component that was built.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// Name of its package.
    pub(crate) package: String,
    /// The `.wasm`.
    pub(crate) file: PathBuf,
}

/// Builds all and prints where they are and how large.
pub(crate) fn run() -> Result<()> {
    for component in build()? {
        let size = component.file.metadata().with_context(|| format!("read {}", component.file.display()))?.len();
        println!("{:<20} {:>8} bytes  {}", component.package, size, component.file.display());
    }
    Ok(())
}

/// Builds all, after adding the target if it is missing.
pub(crate) fn build() -> Result<Vec<Component>> {
    build_those(|_| true)
}

/// Builds those whose package `wanted` names, after adding the target if it is missing.
pub(crate) fn build_those(wanted: impl Fn(&str) -> bool) -> Result<Vec<Component>> {
    add_target()?;
    let (root, target_folder, mut packages) = workspace()?;
    packages.retain(|package| wanted(package));
    let mut command = cargo();
    command.current_dir(&root).args(["build", "--profile", PROFILE, "--target", TARGET]);
    for package in &packages {
        command.args(["--package", package]);
    }
    let status = command.status().context("run cargo build")?;
    if !status.success() {
        bail!("the plugins do not build ({status})");
    }
    let folder = target_folder.join(TARGET).join(PROFILE);
    let component = |package: String| {
        let file = folder.join(format!("{}.wasm", package.replace('-', "_")));
        Component { package, file }
    };
    Ok(packages.into_iter().map(component).collect())
}

pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn add_target() -> Result<()> {
    let installed = Command::new("rustup").args(["target", "list", "--installed"]).output();
    // Without rustup the toolchain is the system's, and so is its target; cargo says if it is missing.
    let Ok(installed) = installed else { return Ok(()) };
    if String::from_utf8_lossy(&installed.stdout).lines().any(|line| line.trim() == TARGET) {
        return Ok(());
    }
    let status = Command::new("rustup").args(["target", "add", TARGET]).status().context("run rustup")?;
    if !status.success() {
        bail!("`rustup target add {TARGET}` failed ({status})");
    }
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    Ok(workspace()?.1)
}

/// The workspace's root, its target folder, and the packages that are components.
fn workspace() -> Result<(PathBuf, PathBuf, Vec<String>)> {
    let output =
        cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo's metadata")?;
    let text = |value: &Value, key: &str| -> Result<String> {
        Ok(value[key].as_str().with_context(|| format!("cargo's metadata has no {key}"))?.to_owned())
    };
    let root = PathBuf::from(text(&metadata, "workspace_root")?);
    let folders = [root.join("plugins"), root.join("tests/guests")];
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        let parent = manifest.parent().and_then(Path::parent);
        if parent.is_some_and(|parent| folders.iter().any(|folder| folder == parent)) {
            packages.push(text(package, "name")?);
        }
    }
    if packages.is_empty() {
        bail!("there is no package in plugins/ or tests/guests/");
    }
    packages.sort();
    Ok((root, PathBuf::from(text(&metadata, "target_directory")?), packages))
}

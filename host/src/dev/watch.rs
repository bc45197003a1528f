//! Sees files change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::project::{Projects, is_source};

/// Editors write in several steps: a change is over when nothing has happened for so long.
const SETTLED: Duration = Duration::from_millis(150);

/// Watches a pipeline file and the projects of its plugins.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<PathBuf>,
    /// The pipeline file and plugins that are built elsewhere.
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// What has changed, as long as that is not over.
    changed: BTreeSet<PathBuf>,
}

impl Watch {
    pub(super) fn new(pipeline: &Path, projects: &Projects) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let note = move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove() {
                // Nobody listens any more at the end.
                event.paths.into_iter().for_each(|path| drop(sender.send(path)));
            }
        };
        let watcher = notify::recommended_watcher(note).context("watch for changes")?;
        let (files, folders, changed) = Default::default();
        let mut watch = Self { watcher, events, files, folders, changed };
        watch.file(&std::path::absolute(pipeline)?)?;
        watch.follow(projects)?;
        Ok(watch)
    }

    /// Watches the folder of a file: editors replace files, and a watch on the file itself would end with it.
    fn file(&mut self, file: &Path) -> Result<()> {
        if self.files.insert(file.to_path_buf())
            && let Some(folder) = file.parent()
        {
            self.watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("watch {}", folder.display()))?;
        }
        Ok(())
    }

    /// Watches what these projects consist of, too.
    pub(super) fn follow(&mut self, projects: &Projects) -> Result<()> {
        for path in projects.watched() {
            if !path.is_dir() {
                self.file(path)?;
                continue;
            }
            if self.folders.insert(path.clone()) {
                // What lies in the folder itself, and every folder below but the one that is built into: it changes all the time.
                let watch = |watcher: &mut RecommendedWatcher, folder: &Path, mode| {
                    watcher.watch(folder, mode).with_context(|| format!("watch {}", folder.display()))
                };
                watch(&mut self.watcher, path, RecursiveMode::NonRecursive)?;
                for entry in std::fs::read_dir(path)?.flatten() {
                    let hidden = entry.file_name().to_string_lossy().starts_with('.');
                    if entry.path().is_dir() && entry.file_name() != "target" && !hidden {
                        watch(&mut self.watcher, &entry.path(), RecursiveMode::Recursive)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The files that have changed, when that is over. Who stops waiting misses nothing.
    pub(super) async fn changed(&mut self) -> BTreeSet<PathBuf> {
        loop {
            let next = match self.changed.is_empty() {
                true => self.events.recv().await,
                false => match tokio::time::timeout(SETTLED, self.events.recv()).await {
                    Ok(next) => next,
                    Err(_) => return std::mem::take(&mut self.changed),
                },
            };
            let Some(path) = next else { std::future::pending().await };
            if self.files.contains(&path) || self.folders.iter().any(|folder| is_source(folder, &path)) {
                self.changed.insert(path);
            }
        }
    }
}

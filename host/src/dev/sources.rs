//! From files to a pipeline that can be run: plugins are built, the pipeline file is read, and made fit for the broker.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

use super::place::Place;
use super::project::{self, Projects};
use super::until_draining;
use super::watch::Watch;
use crate::config::Pipeline;
use crate::worker::control::Control;

/// Builds a plugin's project: its folder; an error that has been shown already or says everything.
pub type Build = fn(&Path) -> Result<()>;

/// What a pipeline is made of.
pub(super) struct Sources {
    file: PathBuf,
    /// `None` where plugins are taken as they are.
    build: Option<Build>,
    place: Place,
    watch: Watch,
    /// The name of the pipeline, which stays.
    name: String,
}

impl Sources {
    /// Of a pipeline file, with the pipeline that it makes; waits until there is one, unless it is to be there at
    /// `once`. `None` when it is not waited any longer.
    pub(super) async fn first(
        file: PathBuf,
        build: Option<Build>,
        place: Place,
        once: bool,
        control: &Control,
    ) -> Result<Option<(Self, Pipeline)>> {
        let pipeline = Pipeline::load(&file)?;
        let projects = Projects::of(&pipeline);
        let (watch, name) = (Watch::new(&file, &projects)?, pipeline.name.to_string());
        let mut sources = Self { file, build, place, watch, name };
        let mut built = sources.build_all(projects.folders()).await;
        while !built {
            if once {
                bail!("there is no plugin to run");
            }
            eprintln!("waiting for a change");
            tokio::select! {
                files = sources.watch.changed() => built = sources.build_all(projects.touched_by(&files)).await,
                () = until_draining(control) => return Ok(None),
            }
        }
        let pipeline = sources.read()?;
        Ok(Some((sources, pipeline)))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The files that have changed. Who stops waiting misses nothing.
    pub(super) async fn changed(&mut self) -> BTreeSet<PathBuf> {
        self.watch.changed().await
    }

    /// The pipeline after a change of these files; `None` where there is none to go on with, which has been said.
    pub(super) async fn after(&mut self, files: &BTreeSet<PathBuf>) -> Option<Pipeline> {
        match self.made(files).await {
            Ok(Some(pipeline)) => return Some(pipeline),
            Ok(None) => eprintln!("what ran before goes on"),
            Err(error) => eprintln!("error: {error:#}\nwhat ran before goes on"),
        }
        None
    }

    /// Builds what these files belong to. The pipeline then; `None` where a build has said why there is none.
    async fn made(&mut self, files: &BTreeSet<PathBuf>) -> Result<Option<Pipeline>> {
        let projects = Projects::of(&Pipeline::load(&self.file)?);
        self.watch.follow(&projects)?;
        if !self.build_all(projects.touched_by(files)).await {
            return Ok(None);
        }
        self.read().map(Some)
    }

    fn read(&mut self) -> Result<Pipeline> {
        let pipeline = Pipeline::load(&self.file)?;
        project::must_be_by_path(&pipeline)?;
        if pipeline.name.as_str() != self.name {
            bail!("the pipeline was `{}` and is `{}`: end `dev` and start it again for that", self.name, pipeline.name);
        }
        self.place.adapt(pipeline, &self.file)
    }

    /// Builds the plugins of these folders. Whether all are there.
    async fn build_all(&self, folders: BTreeSet<PathBuf>) -> bool {
        let Some(build) = self.build else { return true };
        for folder in folders {
            let (begin, shown) = (Instant::now(), folder.display().to_string());
            eprintln!("building {shown}");
            match tokio::task::spawn_blocking(move || build(&folder)).await {
                Ok(Ok(())) => eprintln!("built {shown} in {:.1} s", begin.elapsed().as_secs_f64()),
                Ok(Err(error)) => {
                    eprintln!("error: {error:#}");
                    return false;
                }
                Err(error) => {
                    eprintln!("error: the build ended by a defect: {error}");
                    return false;
                }
            }
        }
        true
    }
}

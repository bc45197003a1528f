//! `sluicegate plugin check`: whether this host can run a plugin, and whether it fits a pipeline.

mod fit;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use self::fit::Fit;
use super::{Outline, inspect};
use crate::cli::connection::Connection;
use crate::cli::{CommandError, file, table};
use crate::cluster::registry::{Registry, RegistryReference};
use crate::config::{Bound, ClusterArgs, Errors, Pipeline, PluginReference, Transform};
use crate::engine::{self, Engine, EngineOptions, InstanceOptions, OpenError, Plugin};
use crate::manifest::Manifest;
use crate::node::sandbox;

/// Arguments of `plugin check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
It is compiled, and with a pipeline also opened once in the sandbox, with its configuration.
Kafka is not asked; the registry only where other transforms of the pipeline come from there.
Exit code 0 if it fits, 64 if not.

Examples:
  sluicegate plugin check shout.wasm
  sluicegate plugin check shout.wasm --pipeline pipeline.toml
  sluicegate plugin check shout-0.2.0.wasm --pipeline orders.toml --transform shout --json")]
pub(in crate::cli) struct CheckArgs {
    /// The plugin
    file: PathBuf,
    /// A pipeline that uses it, or should
    #[arg(long, value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    /// The transform that it is checked as; those that name this plugin otherwise
    #[arg(long, value_name = "NAME", requires = "pipeline")]
    transform: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    #[serde(flatten)]
    plugin: inspect::Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transforms: Vec<Fit>,
    fits: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Problem>,
}

/// What is wrong, for machines.
#[derive(Serialize)]
struct Problem {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
}

pub(super) async fn run(args: CheckArgs, out: &mut (impl Write + Send)) -> Result<(), CommandError> {
    let bytes = file::read(&args.file)?;
    let plugin = compile(&args.file, bytes.clone()).await?;
    let (transforms, errors) = match &args.pipeline {
        None => (Vec::new(), None),
        Some(path) => against(&args, &Pipeline::load(path)?, &plugin).await?,
    };
    let report = Report {
        plugin: inspect::Report::new(&bytes, Outline::from(plugin.inspection().clone())),
        pipeline: args.pipeline,
        transforms,
        fits: errors.is_none(),
        errors: errors.iter().flat_map(problems).collect(),
    };
    if args.json {
        table::json(out, &report)?
    } else {
        report.write(out)?
    }
    errors.map_or(Ok(()), |errors| Err(errors.into()))
}

async fn compile(path: &Path, bytes: Vec<u8>) -> Result<Arc<Plugin>, CommandError> {
    let compiled = blocking(move || {
        let engine = Engine::new(EngineOptions::default()).map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok::<_, CommandError>(engine.load(&bytes))
    });
    let refused = |error| CommandError::BadInput(format!("{} is no plugin for this host: {error}", path.display()));
    compiled.await??.map_err(refused)
}

/// Work of the engine, on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CommandError> {
    let failed = |error| CommandError::Failed(format!("the plugin could not be checked: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// How the plugin fits each transform that it is meant for, and all that is wrong.
async fn against(
    args: &CheckArgs,
    pipeline: &Pipeline,
    plugin: &Arc<Plugin>,
) -> Result<(Vec<Fit>, Option<Errors>), CommandError> {
    let meant = meant(args, pipeline, plugin)?;
    let manifests = manifests(args, pipeline, plugin, &meant).await?;
    let (bound, mut errors) = match pipeline.bind(&manifests) {
        Ok(bound) => (Some(bound), None),
        Err(errors) => (None, Some(errors)),
    };
    let mut fits = Vec::new();
    for at in meant {
        let options = options(pipeline, at, plugin.manifest(), bound.as_ref());
        let opening = Arc::clone(plugin);
        let opened = blocking(move || opening.instantiate(options).map(|instance| instance.memory_bytes())).await?;
        if let Some(more) = opened.as_ref().err().and_then(|error| not_open(pipeline, at, error)) {
            errors = Some(match errors {
                Some(errors) => errors.and(more),
                None => more,
            });
        }
        fits.push(Fit::new(pipeline, at, plugin.manifest(), bound.as_ref(), &opened));
    }
    Ok((fits, errors))
}

/// The transforms that the plugin is checked as.
fn meant(args: &CheckArgs, pipeline: &Pipeline, plugin: &Plugin) -> Result<Vec<usize>, CommandError> {
    let all = || pipeline.transforms.iter().enumerate();
    let names: Vec<&str> = all().map(|(_, transform)| transform.name.as_str()).collect();
    if let Some(name) = &args.transform {
        let found: Vec<usize> = all().filter(|(_, transform)| transform.name == *name).map(|(at, _)| at).collect();
        if found.is_empty() {
            let what = format!("the pipeline has no transform `{name}`; it has {}", names.join(", "));
            return Err(CommandError::BadInput(what));
        }
        return Ok(found);
    }
    let is_meant = |transform: &Transform| is_named(&transform.plugin, &args.file, plugin);
    let found: Vec<usize> = all().filter(|(_, transform)| is_meant(transform)).map(|(at, _)| at).collect();
    match (found.is_empty(), pipeline.transforms.len()) {
        (false, _) => Ok(found),
        (true, 1) => Ok(vec![0]),
        (true, _) => Err(CommandError::BadInput(format!(
            "no transform of the pipeline uses {}: say with --transform which one it is for, {}",
            args.file.display(),
            names.join(" or ")
        ))),
    }
}

/// Whether a pipeline that says `reference` means this plugin, in whatever version.
fn is_named(reference: &PluginReference, file: &Path, plugin: &Plugin) -> bool {
    match reference {
        PluginReference::Registry { name, .. } => *name == plugin.manifest().name,
        PluginReference::Digest(digest) => digest.hex() == plugin.digest(),
        PluginReference::Path(path) => match (path.canonicalize(), file.canonicalize()) {
            (Ok(path), Ok(file)) => path == file,
            _ => false,
        },
    }
}

/// The manifests of all transforms. Plugins of the others come from where the pipeline says.
async fn manifests(
    args: &CheckArgs,
    pipeline: &Pipeline,
    plugin: &Plugin,
    meant: &[usize],
) -> Result<Vec<Manifest>, CommandError> {
    let mut manifests = Vec::new();
    let mut registry = None;
    for (at, transform) in pipeline.transforms.iter().enumerate() {
        if meant.contains(&at) {
            manifests.push(plugin.manifest().clone());
            continue;
        }
        let refused = |what: String, help: &str| CommandError::from(pipeline.plugin_error(at, &what, help));
        let bytes = match &transform.plugin {
            PluginReference::Path(path) => std::fs::read(path).map_err(|error| {
                refused(format!("cannot read the plugin: {error}"), "build it, or correct the path")
            })?,
            stored => {
                if registry.is_none() {
                    registry = Some(Registry::new(Connection::open(&args.cluster).await?.store));
                }
                let Some(registry) = &registry else { continue };
                let reference: RegistryReference =
                    stored.to_string().parse().expect("the configuration checks references");
                let fetched = async { registry.fetch(&registry.resolve(&reference).await?).await };
                fetched.await.map_err(|error| refused(error.to_string(), "push it first, or name a file"))?
            }
        };
        let found = engine::inspect(&bytes);
        let found = found.map_err(|error| refused(error.to_string(), "build it with the SDK of this version"))?;
        manifests.push(found.manifest);
    }
    Ok(manifests)
}

fn options(pipeline: &Pipeline, at: usize, manifest: &Manifest, bound: Option<&Bound>) -> InstanceOptions {
    let transform = &pipeline.transforms[at];
    let outlets = match bound {
        Some(bound) => bound.transforms[at].outlets.iter().map(|outlet| outlet.name.clone()).collect(),
        None => {
            pipeline.sinks.iter().filter(|sink| sink.transform == at).filter_map(|sink| sink.output.clone()).collect()
        }
    };
    InstanceOptions {
        pipeline: pipeline.name.to_string(),
        transform: transform.name.clone(),
        task: 0,
        inputs: manifest.inputs.iter().map(|input| input.name.clone()).collect(),
        outlets,
        config: transform.config.to_string(),
        limits: sandbox::limits(&transform.limits),
        grants: sandbox::grants(&transform.grants),
        log_level: tracing::Level::WARN,
        now_ms: jiff::Timestamp::now().as_millisecond(),
    }
}

/// What is wrong, at its line; nothing where grants are missing, which [`Pipeline::bind`] has said.
fn not_open(pipeline: &Pipeline, at: usize, error: &OpenError) -> Option<Errors> {
    let not_started = |reason: &str| {
        // What a guest says besides has lines of its own.
        let (first, more) = reason.split_once('\n').unwrap_or((reason, ""));
        pipeline.plugin_error(at, &format!("the plugin does not start: {first}"), more)
    };
    match error {
        OpenError::Grants { .. } => None,
        OpenError::Config { field, message } => Some(pipeline.config_error(at, field, message)),
        OpenError::Failed(reason) => Some(not_started(reason)),
        OpenError::Call(error) => Some(not_started(&error.to_string())),
    }
}

fn problems(errors: &Errors) -> Vec<Problem> {
    let problem = |(diagnostic, line): (&crate::config::Diagnostic, Option<usize>)| Problem {
        message: diagnostic.message.clone(),
        line,
        label: diagnostic.label.clone(),
        help: diagnostic.help.clone(),
    };
    errors.by_line().map(problem).collect()
}

impl Report {
    /// For people. What is wrong is not in it: that is shown at its line.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        inspect::write_text(out, &self.plugin)?;
        if let Some(pipeline) = &self.pipeline {
            for fit in &self.transforms {
                writeln!(out, "as the transform `{}` of {}", fit.transform, pipeline.display())?;
                fit.write(out)?;
            }
        }
        if self.fits { writeln!(out, "ok") } else { Ok(()) }
    }
}

//! `sluicegate plugin`: from a new project to a plugin in the registry.
//!
//! `new`, `build`, `check`, `pack` and `keygen` work on files, `swap`, `promote`, `rollback` and `rollouts` are about what runs; the others are about the registry. Those get everything from their
//! [`Surroundings`], and open the store only when they need it: to look at a file takes no cluster.

mod build;
mod check;
mod inspect;
mod keygen;
mod list;
mod new;
mod pack;
mod progress;
mod pull;
mod push;
mod remove;
mod sign;
mod signatures;
mod swap;

pub(in crate::cli) use self::swap::{DECISION, config, source};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::Result;
use clap::Subcommand;
use futures::future::BoxFuture;
use serde::Serialize;

pub(super) use self::build::components_of;
use super::CommandError;
use crate::cluster::registry::RegistryError;
use crate::config::{ClusterArgs, Errors};
use crate::digest::Digest;
use crate::engine::Inspection;
use crate::manifest::Manifest;
use crate::meta::MetaStore;
use crate::provenance::Provenance;
use crate::signing::TrustedKeys;

/// The commands, in the order in which an author comes to need them.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Make a project of a plugin in Rust, complete and tested
    New(new::NewArgs),
    /// Build a project into a component
    Build(build::BuildArgs),
    /// Check that this host can run a plugin, and that it fits a pipeline
    Check(check::CheckArgs),
    /// Add a manifest to a component made in another language
    Pack(pack::PackArgs),
    /// Make a pair of keys to sign plugins with
    Keygen(keygen::KeygenArgs),
    #[command(flatten)]
    Registry(RegistryCommand),
    /// Let a transform of a running pipeline go over to another plugin or configuration, while records flow
    Swap(swap::SwapArgs),
    /// Let a rollout go on that is held, so that the new version stays
    Promote(swap::PromoteArgs),
    /// Call a rollout off, or take a transform back to what it ran before the last one
    Rollback(swap::RollbackArgs),
    /// Show the rollouts of a pipeline: the one under way, and those that have ended
    Rollouts(swap::RolloutsArgs),
}

/// The commands about the registry.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// Sign a plugin: a file, or one of the registry
    Sign(sign::SignArgs),
    /// Store a plugin in the registry, under the name and version of its manifest
    Push(push::PushArgs),
    /// Write a plugin of the registry to a file
    Pull(pull::PullArgs),
    /// List the plugins of the registry
    List(list::ListArgs),
    /// Show what a plugin is and what it imports, without running it
    Inspect(inspect::InspectArgs),
    /// Remove a version of a plugin from the registry
    Remove(remove::RemoveArgs),
}

/// Runs a command about files or about what runs; hands one about the registry back.
///
/// # Errors
/// In words for whoever typed the command.
pub(super) async fn run_beside_registry(
    command: PluginCommand,
    out: &mut (impl Write + Send),
) -> Result<Option<RegistryCommand>, CommandError> {
    match command {
        PluginCommand::New(args) => new::run(&args, out)?,
        PluginCommand::Build(args) => build::run(&args, out)?,
        PluginCommand::Check(args) => check::run(args, out).await?,
        PluginCommand::Pack(args) => pack::run(&args, out)?,
        PluginCommand::Keygen(args) => keygen::run(&args, out)?,
        PluginCommand::Registry(command) => return Ok(Some(command)),
        PluginCommand::Swap(args) => swap::run(args, out).await?,
        PluginCommand::Promote(args) => swap::promote(args, out).await?,
        PluginCommand::Rollback(args) => swap::roll_back(args, out).await?,
        PluginCommand::Rollouts(args) => swap::rollouts(args, out).await?,
    }
    Ok(None)
}

/// What was typed, or the file that was named, is wrong: the same command again does not work. Context of the errors of
/// [`run`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// As the command line shows it.
pub(super) fn command_error(error: anyhow::Error) -> CommandError {
    match error.downcast::<Errors>() {
        Ok(errors) => errors.into(),
        Err(error) if error.is::<BadInput>() || error.downcast_ref().is_some_and(RegistryError::is_bad_input) => {
            CommandError::BadInput(format!("{error:#}"))
        }
        Err(error) if error.chain().any(is_unread) => CommandError::Unread,
        Err(error) => CommandError::Failed(format!("{error:#}")),
    }
}

/// Whoever reads what is printed has closed it.
fn is_unread(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What a plugin's bytes say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outline {
    /// Its manifest.
    pub(super) manifest: Manifest,
    /// The world that it was built for: what it exports says so.
    pub(super) world: String,
    /// Interfaces that it imports: all that it can do.
    pub(super) imports: Vec<String>,
    /// Where it comes from, as far as it says.
    #[serde(skip_serializing_if = "Provenance::is_empty")]
    pub(super) provenance: Provenance,
}

impl From<Inspection> for Outline {
    fn from(found: Inspection) -> Self {
        Self { manifest: found.manifest, world: found.world, imports: found.imports, provenance: found.provenance }
    }
}

/// Opens the metadata store of a cluster.
pub(super) type OpenStore<'a> = dyn Fn(ClusterArgs) -> BoxFuture<'a, Result<Arc<dyn MetaStore>>> + Send + Sync + 'a;
/// Reads a plugin, and says what is wrong with one that this host could not run.
pub(super) type InspectBytes<'a> = dyn Fn(&[u8]) -> Result<Outline> + Send + Sync + 'a;
/// The keys that a cluster's configuration trusts.
pub(super) type TrustedBy<'a> = dyn Fn(&ClusterArgs) -> Result<TrustedKeys> + Send + Sync + 'a;
/// Says who uses which digest.
pub(super) type UsersOf<'a> =
    dyn Fn(Arc<dyn MetaStore>) -> BoxFuture<'a, Result<BTreeMap<Digest, String>>> + Send + Sync + 'a;

/// What the commands work with.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The metadata store of the cluster.
    pub(super) store: &'a OpenStore<'a>,
    /// Whose signatures are taken.
    pub(super) trusted: &'a TrustedBy<'a>,
    /// Reads a plugin.
    pub(super) inspect: &'a InspectBytes<'a>,
    /// The plugins in use.
    pub(super) users: &'a UsersOf<'a>,
}

/// Runs a command about the registry. What it has to say goes to `out`.
///
/// # Errors
/// In words for whoever typed the command.
pub(super) async fn run(
    command: RegistryCommand,
    around: Surroundings<'_>,
    out: &mut (impl Write + Send),
) -> Result<()> {
    match command {
        RegistryCommand::Sign(args) => sign::run(args, around, out).await,
        RegistryCommand::Pull(args) => pull::run(args, around, out).await,
        RegistryCommand::Push(args) => push::run(args, around, out).await,
        RegistryCommand::List(args) => list::run(args, around, out).await,
        RegistryCommand::Inspect(args) => inspect::run(args, around, out).await,
        RegistryCommand::Remove(args) => remove::run(args, around, out).await,
    }
}

#[cfg(test)]
mod tests;

//! `sluicegate plugin`: what is in the registry, and what a plugin says about itself.
//!
//! The commands get everything from their [`Surroundings`], and open the store only when they need it: to look at a file
//! takes no cluster.

mod inspect;
mod list;
mod push;
mod remove;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::Result;
use clap::Subcommand;
use futures::future::BoxFuture;
use serde::Serialize;

pub use self::inspect::InspectArgs;
pub use self::list::ListArgs;
pub use self::push::PushArgs;
pub use self::remove::RemoveArgs;
use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::meta::MetaStore;

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Store a plugin in the registry, under the name and version of its manifest
    Push(PushArgs),
    /// List the plugins of the registry
    List(ListArgs),
    /// Show what a plugin is and what it imports, without running it
    Inspect(InspectArgs),
    /// Remove a version of a plugin from the registry
    Remove(RemoveArgs),
}

/// What was typed, or the file that was named, is wrong: the same command again does not work. Context of the errors of
/// [`run`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// Whether a command failed because of what it was given.
#[must_use]
pub fn is_bad_input(error: &anyhow::Error) -> bool {
    error.is::<BadInput>()
}

/// What a plugin's bytes say.
#[derive(Clone, Debug, Serialize)]
pub struct Outline {
    /// Its manifest.
    pub manifest: Manifest,
    /// Interfaces that it imports: all that it can do.
    pub imports: Vec<String>,
}

/// Opens the metadata store.
pub type OpenStore<'a> = dyn Fn() -> BoxFuture<'a, Result<Arc<dyn MetaStore>>> + Send + Sync + 'a;
/// Reads a plugin, and says what is wrong with one that this host could not run.
pub type InspectBytes<'a> = dyn Fn(&[u8]) -> Result<Outline> + Send + Sync + 'a;
/// Says who uses which digest.
pub type UsersOf<'a> = dyn Fn(Arc<dyn MetaStore>) -> BoxFuture<'a, Result<BTreeMap<Digest, String>>> + Send + Sync + 'a;

/// What the commands work with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The metadata store of the cluster.
    pub store: &'a OpenStore<'a>,
    /// Reads a plugin.
    pub inspect: &'a InspectBytes<'a>,
    /// The plugins in use.
    pub users: &'a UsersOf<'a>,
}

/// Runs a command. What it has to say goes to `out`.
///
/// # Errors
/// In words for whoever typed the command.
pub async fn run(command: PluginCommand, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    match command {
        PluginCommand::Push(args) => push::run(args, around, out).await,
        PluginCommand::List(args) => list::run(args, around, out).await,
        PluginCommand::Inspect(args) => inspect::run(args, around, out).await,
        PluginCommand::Remove(args) => remove::run(args, around, out).await,
    }
}

#[cfg(test)]
mod tests;

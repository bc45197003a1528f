//! A pipeline file, validated: sources, transforms, sinks, delivery, limits. `docs/pipeline-reference.md` is its manual.
//!
//! Checks what the file alone can tell; what depends on the plugins is checked by `Pipeline::bind` (in `bind`), and
//! where a plugin is stored is the registry's business. Invariant: a `Pipeline` has at least one source and transform,
//! unique names, and indices that lie within its lists.

mod agreement;
mod bind;
mod difference;
mod edit;
mod effective;
mod identity;
mod read;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Errors};
use super::text::{Step, Text};
use crate::digest::Digest;

pub use bind::{Bound, BoundTransform, Outlet};
pub use difference::{Difference, differences};
pub use edit::with_transform;
#[cfg(test)]
pub(super) use read::SHAPES;

/// The name of a pipeline: `^[a-z][a-z0-9-]{0,62}$`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PipelineName(String);

impl PipelineName {
    /// A name, if `name` may be one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        crate::manifest::is_name(name).then(|| Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pipeline as its file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Its name, unique in a namespace.
    pub name: PipelineName,
    /// At least one; topics are unique.
    pub sources: Vec<Source>,
    /// The chain, in order; at least one; names are unique.
    pub transforms: Vec<Transform>,
    /// Where outputs go.
    pub sinks: Vec<Sink>,
    /// Outputs that are thrown away on purpose.
    pub discards: Vec<Discard>,
    /// When and how results are committed.
    pub delivery: Delivery,
    /// What a failing record does.
    pub on_error: OnError,
    /// So many records in a row on which a plugin fails stop the pipeline.
    pub give_up_after: u32,
    /// How records are cut into batches.
    pub batches: BatchLimits,
    text: Text,
}

/// A topic that records come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// A Kafka topic.
    pub topic: String,
    /// Where to begin; only where the pipeline has no offset yet.
    pub start: Start,
    /// The input of the first transform; by order among the inputs left over if none.
    pub input: Option<String>,
}

/// Where a pipeline without offsets begins to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// At the oldest record there is.
    Earliest,
    /// Behind the newest record there is.
    Latest,
    /// At the first record with this timestamp or a later one, in milliseconds since 1970.
    Timestamp(i64),
}

/// One use of a plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// Its name, unique in the pipeline; its state belongs to it.
    pub name: String,
    /// The code.
    pub plugin: PluginReference,
    /// What the plugin is opened with; always an object.
    pub config: Value,
    /// What the plugin may do beyond computing, sorted, each once.
    pub grants: Vec<Grant>,
    /// What it may use.
    pub limits: TransformLimits,
}

/// How a pipeline names a plugin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PluginReference {
    /// `name@version`, in the registry.
    Registry {
        /// Name of the plugin.
        name: String,
        /// Exact semantic version.
        version: String,
    },
    /// A `.wasm` file; a relative path in the pipeline file starts from the folder of that file, and has been joined
    /// to it here.
    Path(PathBuf),
    /// `sha256:` and 64 hexadecimal digits, in the registry.
    Digest(Digest),
}

impl fmt::Display for PluginReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { name, version } => write!(f, "{name}@{version}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// Something that a plugin may do beyond computing.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Grant {
    /// `clocks`: the time of day and a running monotonic clock.
    Clocks,
    /// `env:NAME`: see this environment variable of the host.
    Environment(String),
    /// `random`: real random numbers.
    Random,
}

impl Grant {
    /// Reads the form that pipelines and manifests use.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("env:") {
            Some(name) if !name.is_empty() && !name.contains(['=', '\0']) => Some(Self::Environment(name.to_owned())),
            Some(_) => None,
            None if text == "clocks" => Some(Self::Clocks),
            None if text == "random" => Some(Self::Random),
            None => None,
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clocks => f.write_str("clocks"),
            Self::Random => f.write_str("random"),
            Self::Environment(name) => write!(f, "env:{name}"),
        }
    }
}

/// A topic that records go to.
#[derive(Clone, Debug, PartialEq)]
pub struct Sink {
    /// A Kafka topic.
    pub topic: String,
    /// Index of the transform whose output it is.
    pub transform: usize,
    /// Name of the output; the transform's first one if none.
    pub output: Option<String>,
}

/// An output that is thrown away on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct Discard {
    /// Index of the transform.
    pub transform: usize,
    /// Name of the output.
    pub output: String,
}

/// When and how results are committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What holds after a crash.
    pub guarantee: Guarantee,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Bytes of records after which a worker thread commits sooner.
    pub commit_bytes: u64,
    /// Whether records of the sinks say in headers where they come from.
    pub provenance_headers: bool,
}

/// What holds after a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Guarantee {
    /// Every record takes effect once, in the sinks and in the state. Readers of the sinks have to be `read_committed`.
    ExactlyOnce,
    /// No record is lost and state is exact; outputs may repeat.
    AtLeastOnce,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
        })
    }
}

/// What a record does that a plugin rejects, on which a plugin fails, or whose output Kafka refuses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OnError {
    /// Rolls back to the last commit and stops the pipeline.
    Stop,
    /// Is counted, logged with sampling, and left out.
    Skip,
    /// Goes to this topic, with where it comes from and why, and is left out.
    DeadLetter(String),
}

/// How records are cut into batches.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLimits {
    /// Most records of one batch.
    pub records: usize,
    /// Most bytes of one batch, keys, values and headers together; a larger record makes a batch of its own.
    pub bytes: u64,
}

/// What one instance of a transform may use.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformLimits {
    /// Most bytes of linear memory.
    pub memory: u64,
    /// Longest time for one batch.
    pub time_per_batch: Duration,
    /// Most bytes it may emit for one batch.
    pub output_bytes: u64,
    /// Most bytes of state, keys and values, on one partition.
    pub state_bytes: u64,
}

impl Pipeline {
    /// Reads and checks a pipeline file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        match Text::read(path) {
            Ok(text) => read::pipeline(text),
            Err(problem) => {
                let message = format!("cannot read the pipeline file `{}`: {problem}", path.display());
                Err(Errors::new(&Text::default(), vec![Diagnostic::new(message)]))
            }
        }
    }

    /// Checks a pipeline whose text was read elsewhere; `origin` is shown in errors, and relative paths of plugins
    /// start from its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(origin: &Path, text: &str) -> Result<Self, Errors> {
        read::pipeline(Text::new(origin, text))
    }

    /// Where failing records go, if anywhere.
    #[must_use]
    pub fn dead_letter_topic(&self) -> Option<&String> {
        match &self.on_error {
            OnError::DeadLetter(topic) => Some(topic),
            OnError::Stop | OnError::Skip => None,
        }
    }

    /// Topics that are read, each with where to begin: the sources, and that of the dead letters, in which some may be ordered to be
    /// processed again.
    #[must_use]
    pub fn topics_read(&self) -> Vec<(String, Start)> {
        let sources = self.sources.iter().map(|source| (source.topic.clone(), source.start));
        sources.chain(self.dead_letter_topic().map(|topic| (topic.clone(), Start::Latest))).collect()
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_str()
    }

    /// An error of the plugin of a transform about its configuration, shown at the line of the pipeline file.
    ///
    /// `path` is the way to the value within `config`, such as `paths[2]` or `target.field`; where it leads nowhere,
    /// the nearest value above is shown.
    #[must_use]
    pub fn config_error(&self, transform: usize, path: &str, message: &str) -> Errors {
        let steps = [Step::Key("transform"), Step::Index(transform), Step::Key("config"), Step::Path(path)];
        let name = self.transforms.get(transform).map_or("", |transform| transform.name.as_str());
        let title = match path {
            "" => format!("the plugin of transform `{name}` refuses its configuration"),
            path => format!("the plugin of transform `{name}` refuses `{path}` in its configuration"),
        };
        Errors::new(&self.text, vec![Diagnostic::new(title).at(self.text.place(&steps)).label(message)])
    }

    /// An error about the plugin of a transform, such as that it is not in the registry, shown at its line.
    #[must_use]
    pub fn plugin_error(&self, transform: usize, message: &str, help: &str) -> Errors {
        let steps = [Step::Key("transform"), Step::Index(transform), Step::Key("plugin")];
        Errors::new(&self.text, vec![Diagnostic::new(message).at(self.text.place(&steps)).help(help)])
    }
}

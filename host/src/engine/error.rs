//! How a call into a guest ends when it does not end well, and what to do about it.
//!
//! Nothing is retried or logged here. Whatever the error, the instance is dead, its outputs are dropped, and state and
//! batch are back in the caller's hands: state with what the call had put, to be rolled back.

use std::time::Duration;

use thiserror::Error;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::record::ShapeError;
use crate::state::ENTRY_BYTES_MAX;

/// Why a call failed as a whole.
#[derive(Debug, Error)]
pub enum CallError {
    /// The guest trapped: a panic, an unreachable instruction, a stack that is too deep, an exit.
    #[error("{message}{}", TrapDetails { backtrace, stderr })]
    Trap {
        /// What happened.
        message: String,
        /// Functions of the guest, the innermost first, one a line: `name (file:line)` as far as the plugin keeps them.
        backtrace: Vec<String>,
        /// The last of what the guest wrote to standard error in this instance's life; holds a Rust panic's text.
        stderr: String,
    },
    /// The call took longer than allowed.
    #[error("it ran longer than the {} that a call may take (`time-per-batch`)", humantime::format_duration(*limit))]
    Deadline {
        /// The limit.
        limit: Duration,
    },
    /// The guest wanted more memory than allowed and could not go on without.
    #[error("it needs more than the {} of memory that it may have (`memory`)", bytesize::ByteSize(*limit))]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The plugin says that some record of this batch is to blame.
    #[error("it fails on a record of this batch: {0}")]
    Input(String),
    /// The plugin says that something outside is to blame, which may pass.
    #[error("it cannot go on for now: {0}")]
    Transient(String),
    /// The plugin says that no input will work.
    #[error("it gives up: {0}")]
    Fatal(String),
    /// The guest broke a rule of the interface.
    #[error("it breaks a rule of the plugin interface: {0}")]
    Misuse(#[from] Misuse),
    /// The instance has failed before: make a new one.
    #[error("this instance has failed before and takes no more calls")]
    Dead,
}

/// What the host does about a [`CallError`], with a new instance and the state rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Halve the batch until the record is found; it then goes the way of a rejected one.
    Halve,
    /// Wait and send the same batch again.
    Wait,
    /// Stop the pipeline.
    Stop,
}

impl CallError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Trap { .. } | Self::Deadline { .. } | Self::Memory { .. } | Self::Input(_) => Remedy::Halve,
            Self::Misuse(misuse) if misuse.depends_on_input() => Remedy::Halve,
            Self::Transient(_) => Remedy::Wait,
            Self::Fatal(_) | Self::Misuse(_) | Self::Dead => Remedy::Stop,
        }
    }

    /// What kind of failure it is, in a word that does not change.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "trap",
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } => "memory",
            Self::Input(_) => "failed",
            Self::Transient(_) => "transient",
            Self::Fatal(_) => "fatal",
            Self::Misuse(_) => "misuse",
            Self::Dead => "dead",
        }
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.remedy() == Remedy::Wait
    }
}

struct TrapDetails<'a> {
    backtrace: &'a [String],
    stderr: &'a str,
}

impl std::fmt::Display for TrapDetails<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.stderr.is_empty() {
            // Nobody can set it for a plugin.
            let is_advice = |line: &&str| line.starts_with("note: run with `RUST_BACKTRACE=1`");
            write!(f, "\nstandard error:")?;
            self.stderr.trim().lines().filter(|line| !is_advice(line)).try_for_each(|line| write!(f, "\n  {line}"))?;
        }
        if !self.backtrace.is_empty() {
            write!(f, "\nbacktrace:\n  {}", self.backtrace.join("\n  "))?;
        }
        Ok(())
    }
}

/// A rule of the interface that a guest broke.
#[derive(Debug, Error)]
pub enum Misuse {
    /// Columns that do not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// `emit` or `reject` in `open` or `flush`.
    #[error("`{function}` may be called in `process` only")]
    OutsideProcess {
        /// Which function.
        function: &'static str,
    },
    /// State read or written where there is none.
    #[error("`{function}` may be called in `process` and `flush` only: nothing else may depend on what stores hold")]
    StateOutside {
        /// Which function.
        function: &'static str,
    },
    /// An outlet that is neither in the manifest nor, for dynamic outputs, bound by the pipeline.
    #[error("it opens the output `{name}`, which its manifest does not declare and this pipeline does not bind")]
    UnknownOutlet {
        /// The name it asked for.
        name: String,
    },
    /// A store that the manifest does not declare.
    #[error("it opens the store `{name}`, which its manifest does not declare")]
    UndeclaredStore {
        /// The name it asked for.
        name: String,
    },
    /// A null or inherited key.
    #[error("key {index} given to store `{store}` is null")]
    NullKey {
        /// The store.
        store: String,
        /// Index in the column.
        index: usize,
    },
    /// A record that is not in the batch.
    #[error("it rejects record {index} of a batch of {count}")]
    RejectedIndex {
        /// The index it gave.
        index: u32,
        /// Records in the batch.
        count: u32,
    },
    /// Too much output in one call.
    #[error("it emits more than {} in one call", bytesize::ByteSize(*limit))]
    OutputLimit {
        /// The limit in bytes, inherited contents included.
        limit: u64,
    },
    /// An entry that is too large.
    #[error(
        "it puts an entry of {bytes} bytes, key and value together, into store `{store}`: at most {ENTRY_BYTES_MAX} fit into the metadata store"
    )]
    EntryLimit {
        /// The store.
        store: String,
        /// Bytes of key and value.
        bytes: usize,
    },
    /// Too much state.
    #[error("its state in this task would grow beyond {}", bytesize::ByteSize(*limit))]
    StateLimit {
        /// The limit in bytes of keys and values.
        limit: u64,
    },
    /// One call asks for more than fits into the guest's memory.
    #[error("one call of `{function}` asks for more than {}", bytesize::ByteSize(*limit))]
    ReplyLimit {
        /// Which function.
        function: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Misuse {
    /// Whether a smaller batch may do without: the others are mistakes of the program.
    fn depends_on_input(&self) -> bool {
        match self {
            Self::Shape(_)
            | Self::NullKey { .. }
            | Self::RejectedIndex { .. }
            | Self::OutputLimit { .. }
            | Self::ReplyLimit { .. }
            | Self::EntryLimit { .. }
            | Self::StateLimit { .. } => true,
            Self::OutsideProcess { .. }
            | Self::StateOutside { .. }
            | Self::UnknownOutlet { .. }
            | Self::UndeclaredStore { .. } => false,
        }
    }
}

/// What the store knew when a call failed.
pub(super) struct Scene {
    pub(super) stderr: String,
    pub(super) memory_refused: bool,
    pub(super) memory_limit: u64,
    pub(super) deadline: Duration,
}

/// Makes an error of what wasmtime returned.
pub(super) fn classify(error: wasmtime::Error, scene: Scene) -> CallError {
    let error = match error.downcast::<Misuse>() {
        Ok(misuse) => return CallError::Misuse(misuse),
        Err(error) => error,
    };
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        return CallError::Deadline { limit: scene.deadline };
    }
    if scene.memory_refused {
        return CallError::Memory { limit: scene.memory_limit };
    }
    let message = match (error.downcast_ref::<I32Exit>(), error.downcast_ref::<Trap>()) {
        (Some(exit), _) => format!("it called exit({}), which ends no plugin", exit.0),
        (None, Some(trap)) => format!("it trapped: {trap}"),
        (None, None) => format!("it trapped: {}", error.root_cause()),
    };
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    CallError::Trap { message, backtrace, stderr: scene.stderr }
}

/// Most frames in a backtrace: a stack that overflowed has thousands.
const FRAMES_MAX: usize = 32;

fn frames(backtrace: &WasmBacktrace) -> Vec<String> {
    let frames = backtrace.frames();
    let mut lines = Vec::new();
    for frame in frames.iter().take(FRAMES_MAX) {
        for symbol in frame.symbols() {
            let name = symbol.name().map_or_else(|| "?".into(), readable);
            lines.push(match (symbol.file(), symbol.line()) {
                (Some(file), Some(line)) => format!("{name} ({file}:{line})"),
                _ => name,
            });
        }
        if frame.symbols().is_empty() {
            lines.push(frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), readable));
        }
    }
    if frames.len() > FRAMES_MAX {
        lines.push(format!("and {} more", frames.len() - FRAMES_MAX));
    }
    lines
}

/// A function's name as its author wrote it, where it is Rust's.
fn readable(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

//! The commands: one command, one file. They take their store and their output from the caller; `main` wires them.

pub mod plugin;

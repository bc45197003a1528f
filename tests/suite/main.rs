//! Everything that needs real servers, in one binary: linking it once is what costs. A module is a subject.

mod cases;
mod delivery;
mod deployment;
mod engine;
mod kafka;
mod meta;
mod node;
mod records;
mod restarts;
mod shared;
mod state;

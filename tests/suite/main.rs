//! Everything that needs real servers, in one binary: linking it once is what costs. A module is a subject.

mod engine;
mod kafka;
mod meta;
mod shared;

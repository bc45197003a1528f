//! Everything that needs real servers, in one binary: linking it once is what costs. A module is a subject.

mod cases;
mod chaos;
mod cluster;
mod commands;
mod delivery;
mod deployment;
mod engine;
mod exactly_once;
mod failing;
mod goldens;
mod guests;
mod kafka;
mod meta;
mod node;
mod operators;
mod outages;
mod records;
mod resolve;
mod restarts;
mod security;
mod shared;
mod state;
mod takeover;

//! Everything that needs real servers, in one binary: linking it once is what costs. A module is a subject.

mod authors;
mod cases;
mod chaos;
mod cluster;
mod commands;
mod dead_letters;
mod delivery;
mod deployment;
mod dev;
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

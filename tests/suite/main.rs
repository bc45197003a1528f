//! End-to-end tests against real servers.

mod engine;
mod meta;

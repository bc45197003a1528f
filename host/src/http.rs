//! What a node serves over HTTP.

pub mod meta_api;

//! Where a record of a sink comes from, in two headers of its own: the source record, and the code that made it of that. Pure.
//!
//! Written only where the pipeline asks for it. A record that has such headers already, because its source is a sink of another
//! pipeline, gets new ones in their place: they name the direct cause.

use std::fmt::Write;

use crate::checkpoint::head::TransformIdentity;
use crate::digest;
use crate::record::{Batch, Emission};

/// The source record, as `TOPIC/PARTITION/OFFSET`; names of topics have no slash.
pub const SOURCE: &str = "sluicegate-source";
/// The code, as `PIPELINE/TRANSFORM=PLUGIN:CONFIG,..`: each transform from the first to the one that put the record out, with the
/// beginnings of the digests of its plugin and of its configuration. Any of them may have made a record what it is.
pub const PLUGIN: &str = "sluicegate-plugin";

/// Whether a header is one of these.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    name == SOURCE.as_bytes() || name == PLUGIN.as_bytes()
}

/// What [`PLUGIN`] says of records that the last of these transforms puts out.
#[must_use]
pub fn made_by(pipeline: &str, chain: &[TransformIdentity]) -> String {
    let of =
        |it: &TransformIdentity| format!("{}={}:{}", it.name, digest::short(&it.plugin), digest::short(&it.config));
    format!("{pipeline}/{}", chain.iter().map(of).collect::<Vec<_>>().join(","))
}

/// The pipeline that [`PLUGIN`] names.
#[must_use]
pub fn pipeline(made_by: &str) -> Option<&str> {
    Some(made_by.split_once('/')?.0)
}

/// What [`SOURCE`] names: topic, partition and offset.
#[must_use]
pub fn source(text: &str) -> Option<(&str, i32, i64)> {
    let (rest, offset) = text.rsplit_once('/')?;
    let (topic, partition) = rest.rsplit_once('/')?;
    Some((topic, partition.parse().ok()?, offset.parse().ok()?))
}

/// What was emitted for `batch`, with the headers, in its order. `topics` are those of the inputs.
#[must_use]
pub fn stamped<'a>(
    topics: impl Fn(u32) -> Option<&'a str>,
    made_by: &str,
    batch: &Batch,
    emission: &Emission,
) -> Batch {
    let origins: Vec<_> = batch.origins().collect();
    let (mut stamped, mut source) = (Batch::default(), String::new());
    for record in emission.records(batch) {
        let origin = origins[record.cause as usize];
        let (input, partition, offset) = origin;
        source.clear();
        let topic = topics(input).unwrap_or_default();
        write!(source, "{topic}/{partition}/{offset}").expect("a string takes everything");
        let ours = [(SOURCE.as_bytes(), Some(source.as_bytes())), (PLUGIN.as_bytes(), Some(made_by.as_bytes()))];
        let theirs = record.headers.filter(|(name, _)| !is_ours(name));
        stamped.push(origin, record.timestamp, record.key, record.value, theirs.chain(ours));
    }
    stamped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(source("orders.v2/3/17"), Some(("orders.v2", 3, 17)));
        for wrong in ["", "orders", "orders/3", "orders/x/1", "orders/1/x"] {
            assert_eq!(source(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_transform_that_had_a_hand_in_it_is_named() {
        let of = |name: &str, plugin: char| TransformIdentity {
            name: name.to_owned(),
            plugin: plugin.to_string().repeat(64),
            config: "c".repeat(64),
            stores: Default::default(),
            copies: Default::default(),
            former: Default::default(),
            since: Default::default(),
        };
        let text = made_by("orders", &[of("parse", 'a'), of("mask", 'b')]);
        assert_eq!(text, "orders/parse=aaaaaaaaaaaa:cccccccccccc,mask=bbbbbbbbbbbb:cccccccccccc");
        assert_eq!(pipeline(&text), Some("orders"));
    }
}

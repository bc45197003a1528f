//! The batch of the call that is running, as the guest pulls it.
//!
//! Loading swaps buffers with the caller's [`Batch`], unloading swaps them back: whatever happens in between, the batch
//! comes back as it was.

use std::sync::Arc;

use super::abi::{ColumnOut, HeadersOut, RunOut};
use crate::record::{Batch, Column, INHERIT, NULL, Run};

/// The batch, in buffers that host functions can hand out.
#[derive(Debug, Default)]
pub(super) struct Input {
    runs: Vec<Run>,
    watermark: Option<i64>,
    pub(super) offsets: Arc<Vec<i64>>,
    pub(super) timestamps: Arc<Vec<i64>>,
    pub(super) keys: Arc<ColumnOut>,
    pub(super) values: Arc<ColumnOut>,
    pub(super) headers: Arc<HeadersOut>,
}

impl Input {
    /// Changes contents with a batch: to load it, and to give it back.
    pub(super) fn swap(&mut self, batch: &mut Batch) {
        std::mem::swap(&mut self.runs, &mut batch.runs);
        std::mem::swap(&mut self.watermark, &mut batch.watermark);
        std::mem::swap(own(&mut self.offsets), &mut batch.offsets);
        std::mem::swap(own(&mut self.timestamps), &mut batch.timestamps);
        own(&mut self.keys).swap(&mut batch.keys);
        own(&mut self.values).swap(&mut batch.values);
        let headers = own(&mut self.headers);
        std::mem::swap(&mut headers.counts, &mut batch.headers.counts);
        headers.names.swap(&mut batch.headers.names);
        headers.values.swap(&mut batch.headers.values);
    }

    /// Number of records.
    pub(super) fn count(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn runs(&self) -> Vec<RunOut> {
        self.runs.iter().copied().map(RunOut::from).collect()
    }

    pub(super) fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// The last header called `name` of each record.
    pub(super) fn header(&self, name: &str) -> ColumnOut {
        let mut column = Column::default();
        let mut names = Walk::new(&self.headers.names);
        let mut values = Walk::new(&self.headers.values);
        for &count in &self.headers.counts {
            let mut found = None;
            for _ in 0..count {
                let (header, value) = (names.step(), values.step());
                if header == Some(name.as_bytes()) {
                    found = value;
                }
            }
            column.push(found);
        }
        column.into()
    }
}

/// The contents of an `Arc` that only the engine holds between calls: wasmtime drops what a host function returned as
/// soon as it has been copied into the guest.
fn own<T: Default>(shared: &mut Arc<T>) -> &mut T {
    if Arc::get_mut(shared).is_none() {
        *shared = Arc::default();
    }
    Arc::get_mut(shared).expect("nobody else holds what was made or checked above")
}

/// Entries of a column that the host has made: lengths add up, nothing is inherited.
struct Walk<'a> {
    bytes: &'a [u8],
    lengths: std::slice::Iter<'a, i32>,
}

impl<'a> Walk<'a> {
    fn new(column: &'a ColumnOut) -> Self {
        Self { bytes: &column.bytes, lengths: column.lengths.iter() }
    }

    fn step(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(*self.lengths.next()?).ok()?;
        let (entry, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(entry)
    }
}

/// How many bytes records take over from their causes, for one column. Fast where every record inherits from its own.
///
/// `own`: the emitted lengths, `None` when the whole column is inherited. `causes` have been checked.
pub(super) fn inherited_bytes(source: &ColumnOut, own: Option<&[i32]>, causes: Option<&[u32]>) -> u64 {
    let length =
        |cause: usize| source.lengths.get(cause).map_or(0, |&length| u64::from(length.max(NULL + 1).unsigned_abs()));
    match (own, causes) {
        (None, None) => source.bytes.len() as u64,
        (None, Some(causes)) => causes.iter().map(|&cause| length(cause as usize)).sum(),
        (Some(own), _) if !own.contains(&INHERIT) => 0,
        (Some(own), causes) => own
            .iter()
            .enumerate()
            .filter(|&(_, &own)| own == INHERIT)
            .map(|(index, _)| length(causes.map_or(index, |causes| causes[index] as usize)))
            .sum(),
    }
}

/// Like [`inherited_bytes`], for headers.
pub(super) fn inherited_header_bytes(
    source: &HeadersOut,
    own: Option<&[i32]>,
    causes: Option<&[u32]>,
    count: usize,
) -> u64 {
    let all = (source.names.bytes.len() + source.values.bytes.len()) as u64;
    if all == 0 || own.is_some_and(|own| !own.contains(&INHERIT)) {
        return 0;
    }
    if own.is_none() && causes.is_none() {
        return all;
    }
    let mut names = Walk::new(&source.names);
    let mut values = Walk::new(&source.values);
    let sizes: Vec<u64> = source
        .counts
        .iter()
        .map(|&headers| {
            let entry = |entry: Option<&[u8]>| entry.map_or(0, <[u8]>::len) as u64;
            (0..headers).map(|_| entry(names.step()) + entry(values.step())).sum()
        })
        .collect();
    (0..count)
        .filter(|&index| own.is_none_or(|own| own[index] == INHERIT))
        .filter_map(|index| sizes.get(causes.map_or(index, |causes| causes[index] as usize)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let mut batch = Batch::default();
        let headers = [(&b"a"[..], Some(&b"1"[..])), (b"b", None), (b"a", Some(b"22"))];
        batch.push((0, 3, 7), 70, Some(b"key"), None, headers.into_iter());
        batch.push((0, 3, 8), 80, None, Some(b"value"), std::iter::empty());
        batch.push((1, 3, 1), 90, Some(b"k"), Some(b"v"), [(&b"b"[..], Some(&b"3"[..]))].into_iter());
        batch
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let mut given = batch();
        let mut input = Input::default();
        input.swap(&mut given);
        assert!(given.is_empty());
        assert_eq!(input.count(), 3);
        let pulled = input.keys.clone();
        drop(pulled);
        input.swap(&mut given);
        assert_eq!(given, batch());
    }

    #[test]
    fn the_last_header_of_a_name_counts() {
        let mut input = Input::default();
        input.swap(&mut batch());
        let column = input.header("a");
        assert_eq!((column.bytes.as_slice(), column.lengths.as_slice()), (&b"22"[..], &[2, NULL, NULL][..]));
        assert_eq!(input.header("b").lengths, [NULL, NULL, 1]);
    }

    #[test]
    fn inherited_bytes_are_those_of_the_causes() {
        let mut input = Input::default();
        input.swap(&mut batch());
        assert_eq!(inherited_bytes(&input.values, None, None), 6);
        assert_eq!(inherited_bytes(&input.values, None, Some(&[1, 1, 2])), 11);
        assert_eq!(inherited_bytes(&input.values, Some(&[4, INHERIT, 0]), None), 5);
        assert_eq!(inherited_bytes(&input.values, Some(&[4, 4]), Some(&[1, 1])), 0);
        assert_eq!(inherited_header_bytes(&input.headers, None, None, 3), 8);
        assert_eq!(inherited_header_bytes(&input.headers, None, Some(&[0, 0]), 2), 12);
        assert_eq!(inherited_header_bytes(&input.headers, Some(&[0, INHERIT]), Some(&[0, 2]), 2), 2);
    }
}

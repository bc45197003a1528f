//! A batch as records see it: each column is pulled from the host when it is first read, once.
//!
//! A pulled column keeps the buffers that the host filled; finding an entry in it takes no search and no allocation.

use crate::host::{self, Batch, Column, Headers};
use std::cell::OnceCell;

/// A column with its lengths turned into where entries end.
pub(crate) struct Entries {
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`, with [`NULL_BIT`] for null ones.
    ends: Vec<i32>,
}

const NULL_BIT: i32 = i32::MIN;

impl From<Column> for Entries {
    #[inline]
    fn from(column: Column) -> Self {
        let mut ends = column.lengths;
        let mut end = 0;
        for length in &mut ends {
            *length = if *length < 0 {
                end | NULL_BIT
            } else {
                end += *length;
                end
            };
        }
        Self { bytes: column.bytes, ends }
    }
}

impl Entries {
    /// The entry at `index`; `None` is null.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        if end < 0 {
            return None;
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] & !NULL_BIT };
        self.bytes.get(start as usize..end as usize)
    }
}

/// All headers of all records.
pub(crate) struct HeaderEntries {
    /// Index in `names` behind each record's last header.
    ends: Vec<usize>,
    names: Entries,
    values: Entries,
}

impl From<Headers> for HeaderEntries {
    fn from(headers: Headers) -> Self {
        let mut end = 0;
        let ends = headers.counts.iter().map(|&count| {
            end += usize::try_from(count).unwrap_or(0);
            end
        });
        Self { ends: ends.collect(), names: headers.names.into(), values: headers.values.into() }
    }
}

impl HeaderEntries {
    /// Names and values of one record's headers.
    pub(crate) fn of(&self, index: usize) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        (start..self.ends[index]).map(|at| {
            let name = self.names.get(at).unwrap_or_default();
            // The interface promises UTF-8.
            (std::str::from_utf8(name).unwrap_or_default(), self.values.get(at))
        })
    }
}

/// The column of one header, and the next header that was asked for.
struct HeaderColumn {
    name: String,
    entries: Entries,
    next: OnceCell<Box<HeaderColumn>>,
}

/// Where the records come from.
struct Origins {
    inputs: Vec<String>,
    /// Index behind the last record, input, partition.
    runs: Vec<(u32, u32, i32)>,
}

/// The records of one call.
pub(crate) struct BatchView<'b> {
    batch: &'b Batch,
    count: u32,
    keys: OnceCell<Entries>,
    values: OnceCell<Entries>,
    headers: OnceCell<HeaderEntries>,
    header: OnceCell<Box<HeaderColumn>>,
    timestamps: OnceCell<Vec<i64>>,
    offsets: OnceCell<Vec<i64>>,
    origins: OnceCell<Origins>,
}

impl<'b> BatchView<'b> {
    pub(crate) fn new(batch: &'b Batch) -> Self {
        Self {
            batch,
            count: batch.count(),
            keys: OnceCell::new(),
            values: OnceCell::new(),
            headers: OnceCell::new(),
            header: OnceCell::new(),
            timestamps: OnceCell::new(),
            offsets: OnceCell::new(),
            origins: OnceCell::new(),
        }
    }

    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    #[inline(always)]
    pub(crate) fn keys(&self) -> &Entries {
        self.keys.get_or_init(|| self.batch.keys().into())
    }

    #[inline(always)]
    pub(crate) fn values(&self) -> &Entries {
        self.values.get_or_init(|| self.batch.values().into())
    }

    #[inline]
    pub(crate) fn headers(&self) -> &HeaderEntries {
        self.headers.get_or_init(|| self.batch.headers().into())
    }

    #[inline]
    pub(crate) fn timestamps(&self) -> &[i64] {
        self.timestamps.get_or_init(|| self.batch.timestamps())
    }

    #[inline]
    pub(crate) fn offsets(&self) -> &[i64] {
        self.offsets.get_or_init(|| self.batch.offsets())
    }

    /// The column of the header `name`.
    #[inline]
    pub(crate) fn header(&self, name: &str) -> &Entries {
        let mut cell = &self.header;
        loop {
            let column = cell.get_or_init(|| {
                Box::new(HeaderColumn {
                    name: name.into(),
                    entries: self.batch.header(name).into(),
                    next: OnceCell::new(),
                })
            });
            if column.name == name {
                return &column.entries;
            }
            cell = &column.next;
        }
    }

    /// Index and name of the input, and the partition, of a record.
    pub(crate) fn origin(&self, index: u32) -> (u32, &str, i32) {
        let origins = self.origins.get_or_init(|| {
            let mut end = 0;
            let runs = self.batch.runs();
            let runs = runs.iter().map(|run| {
                end += run.count;
                (end, run.input, run.partition)
            });
            Origins { runs: runs.collect(), inputs: host::inputs() }
        });
        let run = origins.runs.partition_point(|&(end, ..)| end <= index);
        let (_, input, partition) = origins.runs[run];
        (input, origins.inputs.get(input as usize).map_or("", String::as_str), partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_index() {
        let column = Column { bytes: b"abcde".to_vec(), lengths: vec![2, -1, 0, 3, -1] };
        let entries = Entries::from(column);
        let expected: Vec<Option<&[u8]>> = vec![Some(b"ab"), None, Some(b""), Some(b"cde"), None];
        assert_eq!((0..5).map(|index| entries.get(index)).collect::<Vec<_>>(), expected);
        assert_eq!(entries.get(5), None);
    }
}

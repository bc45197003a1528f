//! Records in columns: what the Kafka edge builds, what a transform reads and what it emits.
//!
//! A batch belongs to one task. Nothing here knows Kafka or wasmtime, and nothing here fails on what a guest sends except
//! by a typed [`ShapeError`]: whoever receives columns from a guest calls the checked constructors once, and everything
//! behind them may rely on lengths that add up and causes that exist.

use thiserror::Error;

/// A null entry: Kafka's null key, a tombstone, an absent key, a deletion.
pub const NULL: i32 = -1;
/// An entry that inherits from its cause; only in what a transform emits.
pub const INHERIT: i32 = -2;

/// Byte strings, one after the other, without gaps. The lengths that are not negative add up to `bytes.len()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Contents of all entries, in order. Null and inherited entries take no bytes.
    pub bytes: Vec<u8>,
    /// One length an entry, or [`NULL`], or (in emissions) [`INHERIT`].
    pub lengths: Vec<i32>,
}

/// One entry of a [`Column`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// No value.
    Null,
    /// The cause's entry.
    Inherit,
    /// A value, possibly empty.
    Bytes(&'a [u8]),
}

/// What is wrong with columns that a guest handed over.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// The lengths of a column do not add up to its bytes.
    #[error("lengths of column `{column}` add up to {sum} bytes, but it has {bytes}")]
    Sum {
        /// Which column.
        column: &'static str,
        /// What the lengths add up to.
        sum: u64,
        /// How many bytes there are.
        bytes: usize,
    },
    /// A length below -2, or -2 where nothing can be inherited.
    #[error("column `{column}` has the length {length} at entry {index}, which means nothing here")]
    Length {
        /// Which column.
        column: &'static str,
        /// Index of the entry.
        index: usize,
        /// The length found.
        length: i32,
    },
    /// Columns of one emission have different numbers of entries.
    #[error("column `{column}` has {found} entries, the emission has {expected} records")]
    Count {
        /// Which column.
        column: &'static str,
        /// How many entries it has.
        found: usize,
        /// How many it needs.
        expected: usize,
    },
    /// A cause outside the batch.
    #[error("cause {cause} of record {index} does not exist in a batch of {count} records")]
    Cause {
        /// Index of the emitted record.
        index: usize,
        /// The cause it names.
        cause: u32,
        /// Records in the batch.
        count: usize,
    },
    /// Causes that fall.
    #[error("causes fall from {before} to {cause} at record {index}")]
    CauseOrder {
        /// Index of the emitted record.
        index: usize,
        /// Cause of the record before.
        before: u32,
        /// The smaller cause.
        cause: u32,
    },
    /// A header name that is null or inherited, or not UTF-8.
    #[error("header name {index} is null or not UTF-8")]
    HeaderName {
        /// Index in `names`.
        index: usize,
    },
}

impl Column {
    /// An empty column with room for `entries` entries and `bytes` bytes.
    #[must_use]
    pub fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), lengths: Vec::with_capacity(entries) }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// Appends a value or null. A value of 2 GiB or more cannot occur: Kafka's and the sandbox's limits lie far below.
    #[inline]
    pub fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.bytes.extend_from_slice(value);
                self.lengths.push(i32::try_from(value.len()).expect("records are smaller than 2 GiB"));
            }
            None => self.lengths.push(NULL),
        }
    }

    /// Entries in order.
    #[must_use]
    pub fn iter(&self) -> Entries<'_> {
        Entries { bytes: &self.bytes, lengths: self.lengths.iter() }
    }

    /// Values in order; inherited entries do not occur in batches and state, and show as null.
    pub fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.iter().map(|entry| match entry {
            Entry::Bytes(bytes) => Some(bytes),
            Entry::Null | Entry::Inherit => None,
        })
    }

    /// Checks lengths against bytes; `inherit` says whether [`INHERIT`] is allowed. `name` is for the error.
    ///
    /// # Errors
    /// [`ShapeError::Sum`] and [`ShapeError::Length`].
    pub fn check(&self, name: &'static str, inherit: bool) -> Result<(), ShapeError> {
        let lowest = if inherit { INHERIT } else { NULL };
        let mut sum = 0u64;
        for (index, &length) in self.lengths.iter().enumerate() {
            if length >= 0 {
                sum += length.unsigned_abs() as u64;
            } else if length < lowest {
                return Err(ShapeError::Length { column: name, index, length });
            }
        }
        if sum == self.bytes.len() as u64 {
            Ok(())
        } else {
            Err(ShapeError::Sum { column: name, sum, bytes: self.bytes.len() })
        }
    }
}

impl<'a> FromIterator<Option<&'a [u8]>> for Column {
    fn from_iter<T: IntoIterator<Item = Option<&'a [u8]>>>(values: T) -> Self {
        let mut column = Self::default();
        for value in values {
            column.push(value);
        }
        column
    }
}

/// Iterator over the entries of a [`Column`] that has passed [`Column::check`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    lengths: std::slice::Iter<'a, i32>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let length = *self.lengths.next()?;
        Some(match usize::try_from(length) {
            Ok(length) => {
                let (entry, rest) = self.bytes.split_at(length);
                self.bytes = rest;
                Entry::Bytes(entry)
            }
            Err(_) if length == INHERIT => Entry::Inherit,
            Err(_) => Entry::Null,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.lengths.size_hint()
    }
}

/// Record headers in their order; names are not unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Headers of each record, or [`INHERIT`] in emissions.
    pub counts: Vec<i32>,
    /// Names of all records' headers; never null.
    pub names: Column,
    /// Values of all records' headers, as many as names; may be null.
    pub values: Column,
}

impl Headers {
    /// Forgets the headers and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.clear();
        self.names.clear();
        self.values.clear();
    }

    /// Appends one record's headers.
    pub fn push<'a>(&mut self, headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) {
        let mut count = 0;
        for (name, value) in headers {
            self.names.push(Some(name));
            self.values.push(value);
            count += 1;
        }
        self.counts.push(count);
    }

    /// Checks counts, names and values against each other; inherited counts are allowed where `inherit` says so.
    ///
    /// # Errors
    /// Any [`ShapeError`] but the ones about causes.
    pub fn check(&self, inherit: bool) -> Result<(), ShapeError> {
        self.names.check("header names", false)?;
        self.values.check("header values", false)?;
        let mut sum = 0usize;
        for (index, &count) in self.counts.iter().enumerate() {
            match usize::try_from(count) {
                Ok(count) => sum += count,
                Err(_) if count == INHERIT && inherit => {}
                Err(_) => return Err(ShapeError::Length { column: "header counts", index, length: count }),
            }
        }
        if self.names.len() != sum {
            return Err(ShapeError::Count { column: "header names", found: self.names.len(), expected: sum });
        }
        if self.values.len() != sum {
            return Err(ShapeError::Count { column: "header values", found: self.values.len(), expected: sum });
        }
        for (index, name) in self.names.iter().enumerate() {
            match name {
                Entry::Bytes(name) if std::str::from_utf8(name).is_ok() => {}
                _ => return Err(ShapeError::HeaderName { index }),
            }
        }
        Ok(())
    }

    fn walk(&self) -> HeaderWalk<'_> {
        HeaderWalk { headers: self, record: 0, at: HeaderAt::default() }
    }
}

/// A place among the headers of all records.
#[derive(Clone, Copy, Debug, Default)]
struct HeaderAt {
    entry: usize,
    name_byte: usize,
    value_byte: usize,
}

impl HeaderAt {
    /// The header here; moves past it. The headers have passed [`Headers::check`] or were pushed.
    fn step<'a>(&mut self, headers: &'a Headers) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let name_len = usize::try_from(*headers.names.lengths.get(self.entry)?).unwrap_or(0);
        let name = headers.names.bytes.get(self.name_byte..self.name_byte + name_len)?;
        let value = match usize::try_from(*headers.values.lengths.get(self.entry)?) {
            Ok(len) => {
                let value = headers.values.bytes.get(self.value_byte..self.value_byte + len)?;
                self.value_byte += len;
                Some(value)
            }
            Err(_) => None,
        };
        self.entry += 1;
        self.name_byte += name_len;
        Some((name, value))
    }
}

struct HeaderWalk<'a> {
    headers: &'a Headers,
    record: usize,
    at: HeaderAt,
}

impl<'a> HeaderWalk<'a> {
    /// Headers of the next record, or `None` where it inherits; moves past them.
    #[inline]
    fn step(&mut self) -> Option<HeaderList<'a>> {
        let count = self.headers.counts.get(self.record).copied().unwrap_or(0);
        self.record += 1;
        let count = usize::try_from(count).ok()?;
        let list = HeaderList { headers: self.headers, at: self.at, count };
        for _ in 0..count {
            self.at.step(self.headers);
        }
        Some(list)
    }
}

/// The headers of one record: an iterator of name and value.
#[derive(Clone, Copy, Debug)]
pub struct HeaderList<'a> {
    headers: &'a Headers,
    at: HeaderAt,
    count: usize,
}

static NO_HEADERS: Headers = Headers {
    counts: Vec::new(),
    names: Column { bytes: Vec::new(), lengths: Vec::new() },
    values: Column { bytes: Vec::new(), lengths: Vec::new() },
};

impl HeaderList<'_> {
    /// No headers.
    #[must_use]
    pub fn empty() -> Self {
        Self { headers: &NO_HEADERS, at: HeaderAt::default(), count: 0 }
    }

    /// Whether there is none left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for HeaderList<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        self.at.step(self.headers)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

/// Neighbouring records of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the input.
    pub input: u32,
    /// Partition of the source topic.
    pub partition: i32,
    /// How many records.
    pub count: u32,
}

/// The records of one call: of one task, in processing order. Every column has `len()` entries, none inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Where the records come from; the counts add up to `len()`.
    pub runs: Vec<Run>,
    /// Offsets in the source partitions; behind another transform those of the causes.
    pub offsets: Vec<i64>,
    /// Milliseconds since 1970, or -1.
    pub timestamps: Vec<i64>,
    /// Keys.
    pub keys: Column,
    /// Values.
    pub values: Column,
    /// Headers.
    pub headers: Headers,
    /// The watermark in force before these records, in milliseconds since 1970.
    pub watermark: Option<i64>,
}

/// One record of a batch or an emission, with what it inherits filled in.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Index in the batch of the record it comes from.
    pub cause: u32,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970, or -1.
    pub timestamp: i64,
    /// Headers.
    pub headers: HeaderList<'a>,
}

impl Batch {
    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.offsets.clear();
        self.timestamps.clear();
        self.keys.clear();
        self.values.clear();
        self.headers.clear();
        self.watermark = None;
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.keys.bytes.len()
            + self.values.bytes.len()
            + self.headers.names.bytes.len()
            + self.headers.values.bytes.len()
    }

    /// Appends one record of a source.
    #[inline]
    pub fn push<'a>(
        &mut self,
        origin: (u32, i32, i64),
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) {
        let (input, partition, offset) = origin;
        match self.runs.last_mut() {
            Some(run) if run.input == input && run.partition == partition => run.count += 1,
            _ => self.runs.push(Run { input, partition, count: 1 }),
        }
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
        self.headers.push(headers);
    }

    /// The origin of a record: input, partition and offset. `None` outside the batch.
    #[must_use]
    pub fn origin(&self, index: u32) -> Option<(u32, i32, i64)> {
        let offset = *self.offsets.get(index as usize)?;
        let mut before = 0;
        self.runs.iter().find_map(|run| {
            before += run.count;
            (index < before).then_some((run.input, run.partition, offset))
        })
    }

    /// The origins of all records in order: input, partition and offset.
    pub fn origins(&self) -> impl Iterator<Item = (u32, i32, i64)> {
        let runs = self.runs.iter().flat_map(|run| (0..run.count).map(|_| (run.input, run.partition)));
        runs.zip(&self.offsets).map(|((input, partition), &offset)| (input, partition, offset))
    }

    /// A copy of the records from index `from` to before `to`.
    #[must_use]
    pub fn range(&self, from: usize, to: usize) -> Batch {
        let mut range = Batch { watermark: self.watermark, ..Batch::default() };
        for (origin, record) in self.origins().zip(self.records()).take(to).skip(from) {
            range.push(origin, record.timestamp, record.key, record.value, record.headers);
        }
        range
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'_>> {
        BatchWalk::new(self)
    }
}

impl Batch {
    /// Appends what `emission` made of `batch`, as the next transform of a chain gets it: the origin is that of the causes.
    pub fn append_emitted(&mut self, batch: &Batch, emission: &Emission) {
        let mut origins = Origins::new(batch);
        for record in emission.records(batch) {
            let origin = origins.seek(record.cause);
            self.push(origin, record.timestamp, record.key, record.value, record.headers);
        }
    }

    /// Merges batches of several inputs by timestamp; the order within an input is kept, and among equal timestamps the
    /// earlier batch comes first.
    #[must_use]
    pub fn merge(batches: &[Batch]) -> Batch {
        let mut merged = Batch::default();
        let mut sources: Vec<_> =
            batches.iter().map(|batch| (batch.records().peekable(), Origins::new(batch))).collect();
        loop {
            let heads = sources.iter_mut().enumerate();
            let next = heads.filter_map(|(at, (records, _))| Some((records.peek()?.timestamp, at))).min();
            let Some((_, at)) = next else { return merged };
            let (records, origins) = &mut sources[at];
            if let Some(record) = records.next() {
                merged.push(origins.seek(record.cause), record.timestamp, record.key, record.value, record.headers);
            }
        }
    }
}

/// Walks the origins of a batch forwards.
struct Origins<'a> {
    runs: std::slice::Iter<'a, Run>,
    offsets: &'a [i64],
    run: Run,
    before: u32,
}

impl<'a> Origins<'a> {
    fn new(batch: &'a Batch) -> Self {
        let run = Run { input: 0, partition: 0, count: 0 };
        Self { runs: batch.runs.iter(), offsets: &batch.offsets, run, before: 0 }
    }

    /// The origin of a record of the batch, not before the one asked for last.
    fn seek(&mut self, index: u32) -> (u32, i32, i64) {
        while index >= self.before {
            let Some(run) = self.runs.next() else { break };
            self.run = *run;
            self.before += run.count;
        }
        (self.run.input, self.run.partition, self.offsets[index as usize])
    }
}

/// Walks the records of a batch.
struct BatchWalk<'a> {
    keys: Entries<'a>,
    values: Entries<'a>,
    timestamps: std::slice::Iter<'a, i64>,
    headers: HeaderWalk<'a>,
    next: u32,
}

impl<'a> BatchWalk<'a> {
    fn new(batch: &'a Batch) -> Self {
        Self {
            keys: batch.keys.iter(),
            values: batch.values.iter(),
            timestamps: batch.timestamps.iter(),
            headers: batch.headers.walk(),
            next: 0,
        }
    }
}

impl<'a> Iterator for BatchWalk<'a> {
    type Item = RecordView<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<RecordView<'a>> {
        let plain = |entry| match entry {
            Entry::Bytes(bytes) => Some(bytes),
            Entry::Null | Entry::Inherit => None,
        };
        let timestamp = *self.timestamps.next()?;
        let cause = self.next;
        self.next += 1;
        Some(RecordView {
            cause,
            key: plain(self.keys.next()?),
            value: plain(self.values.next()?),
            timestamp,
            headers: self.headers.step().unwrap_or_else(HeaderList::empty),
        })
    }
}

/// Records that a transform put out in one call to one outlet. Checked: see [`Emission::checked`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emission {
    /// Which outlet, as the engine numbers them.
    pub outlet: u32,
    /// Number of records.
    pub count: usize,
    /// Index in the batch of each record's cause, never falling; `None`: one record from each, in order.
    pub causes: Option<Vec<u32>>,
    /// `None`: inherited.
    pub keys: Option<Column>,
    /// `None`: inherited.
    pub values: Option<Column>,
    /// `None`: inherited.
    pub headers: Option<Headers>,
    /// `None`: inherited.
    pub timestamps: Option<Vec<i64>>,
}

/// A record that a transform rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Index in the batch.
    pub index: u32,
    /// Why, in the plugin's words.
    pub reason: String,
}

/// Everything one call put out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// In the order of the calls.
    pub emissions: Vec<Emission>,
    /// In the order of the calls; an index may occur twice.
    pub rejects: Vec<Reject>,
}

impl Emission {
    /// Checks what a guest emitted against a batch of `batch_count` records and fills in `count`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn checked(mut self, batch_count: usize) -> Result<Self, ShapeError> {
        self.count = self.causes.as_ref().map_or(batch_count, Vec::len);
        if let Some(causes) = &self.causes {
            let mut before = 0;
            for (index, &cause) in causes.iter().enumerate() {
                if cause as usize >= batch_count {
                    return Err(ShapeError::Cause { index, cause, count: batch_count });
                }
                if cause < before {
                    return Err(ShapeError::CauseOrder { index, before, cause });
                }
                before = cause;
            }
        }
        let expect = |column, found: usize| {
            if found == self.count { Ok(()) } else { Err(ShapeError::Count { column, found, expected: self.count }) }
        };
        if let Some(keys) = &self.keys {
            keys.check("keys", true)?;
            expect("keys", keys.len())?;
        }
        if let Some(values) = &self.values {
            values.check("values", true)?;
            expect("values", values.len())?;
        }
        if let Some(headers) = &self.headers {
            headers.check(true)?;
            expect("header counts", headers.counts.len())?;
        }
        if let Some(timestamps) = &self.timestamps {
            expect("timestamps", timestamps.len())?;
        }
        Ok(self)
    }

    /// The records with what they inherit from `batch`, the one they were emitted for.
    #[must_use]
    pub fn records<'a>(&'a self, batch: &'a Batch) -> EmittedRecords<'a> {
        EmittedRecords {
            causes: self.causes.as_deref(),
            index: 0,
            count: self.count,
            keys: self.keys.as_ref().map(Column::iter),
            values: self.values.as_ref().map(Column::iter),
            timestamps: self.timestamps.as_deref(),
            headers: self.headers.as_ref().map(Headers::walk),
            batch: BatchWalk::new(batch),
            cause: None,
        }
    }
}

/// Iterator over the records of an [`Emission`].
pub struct EmittedRecords<'a> {
    causes: Option<&'a [u32]>,
    index: usize,
    count: usize,
    keys: Option<Entries<'a>>,
    values: Option<Entries<'a>>,
    timestamps: Option<&'a [i64]>,
    headers: Option<HeaderWalk<'a>>,
    batch: BatchWalk<'a>,
    /// The record of the batch that the last one came from, where several may come from one.
    cause: Option<RecordView<'a>>,
}

impl<'a> Iterator for EmittedRecords<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        if self.index == self.count {
            return None;
        }
        let index = self.index;
        self.index += 1;
        let mut record = match self.causes {
            None => self.batch.next()?,
            Some(causes) => {
                while self.batch.next <= causes[index] {
                    self.cause = Some(self.batch.next()?);
                }
                self.cause?
            }
        };
        let fill = |entries: &mut Option<Entries<'a>>, inherited| match entries.as_mut().and_then(Iterator::next) {
            Some(Entry::Bytes(bytes)) => Some(bytes),
            Some(Entry::Null) => None,
            Some(Entry::Inherit) | None => inherited,
        };
        record.key = fill(&mut self.keys, record.key);
        record.value = fill(&mut self.values, record.value);
        if let Some(timestamps) = self.timestamps {
            record.timestamp = timestamps[index];
        }
        if let Some(headers) = self.headers.as_mut().and_then(HeaderWalk::step) {
            record.headers = headers;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.index, Some(self.count - self.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(input: u32, records: &[(i64, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (offset, (timestamp, value)) in records.iter().enumerate() {
            let header = [(b"h".as_slice(), Some(value.as_bytes()))];
            batch.push((input, 3, offset as i64), *timestamp, Some(b"key"), Some(value.as_bytes()), header.into_iter());
        }
        batch
    }

    fn values(batch: &Batch) -> Vec<&str> {
        batch.records().map(|record| std::str::from_utf8(record.value.unwrap_or(b"null")).unwrap()).collect()
    }

    #[test]
    fn an_emission_inherits_what_it_leaves_out() {
        let batch = batch(0, &[(1, "a"), (2, "b"), (3, "c")]);
        let emission = Emission {
            causes: Some(vec![0, 2, 2]),
            values: Some(Column { bytes: b"xy".to_vec(), lengths: vec![2, INHERIT, NULL] }),
            ..Emission::default()
        };
        let emission = emission.checked(batch.len()).unwrap();
        let records: Vec<_> = emission.records(&batch).collect();
        let seen: Vec<_> =
            records.iter().map(|record| (record.cause, record.timestamp, record.key, record.value)).collect();
        let key = Some(b"key".as_slice());
        assert_eq!(seen, [(0, 1, key, Some(b"xy".as_slice())), (2, 3, key, Some(b"c")), (2, 3, key, None)]);
        assert_eq!(records[1].headers.clone().next(), Some((b"h".as_slice(), Some(b"c".as_slice()))));
    }

    #[test]
    fn an_emission_may_replace_everything() {
        let batch = batch(0, &[(1, "a")]);
        let mut headers = Headers::default();
        headers.push([(b"n".as_slice(), None)].into_iter());
        let emission = Emission {
            keys: Some([None].into_iter().collect()),
            headers: Some(headers),
            timestamps: Some(vec![99]),
            ..Emission::default()
        };
        let emission = emission.checked(1).unwrap();
        let record = emission.records(&batch).next().unwrap();
        assert_eq!((record.key, record.value, record.timestamp), (None, Some(b"a".as_slice()), 99));
        assert_eq!(record.headers.collect::<Vec<_>>(), [(b"n".as_slice(), None)]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |emission: Emission| emission.checked(2).unwrap_err();
        let causes = |causes: &[u32]| Emission { causes: Some(causes.to_vec()), ..Emission::default() };
        assert!(matches!(refused(causes(&[2])), ShapeError::Cause { cause: 2, .. }));
        assert!(matches!(refused(causes(&[1, 0])), ShapeError::CauseOrder { .. }));
        let values = |bytes: &[u8], lengths: &[i32]| Emission {
            values: Some(Column { bytes: bytes.to_vec(), lengths: lengths.to_vec() }),
            ..Emission::default()
        };
        assert!(matches!(refused(values(b"abc", &[1, 1])), ShapeError::Sum { sum: 2, bytes: 3, .. }));
        assert!(matches!(refused(values(b"", &[-3, 0])), ShapeError::Length { length: -3, .. }));
        assert!(matches!(refused(values(b"", &[i32::MAX, i32::MAX])), ShapeError::Sum { .. }));
        assert!(matches!(refused(values(b"", &[-1])), ShapeError::Count { found: 1, expected: 2, .. }));
        let headers = |counts: &[i32], names: &[Option<&[u8]>]| Emission {
            headers: Some(Headers {
                counts: counts.to_vec(),
                names: names.iter().copied().collect(),
                values: names.iter().copied().collect(),
            }),
            ..Emission::default()
        };
        assert!(matches!(refused(headers(&[1, 1], &[Some(b"a")])), ShapeError::Count { .. }));
        assert!(matches!(refused(headers(&[1, 1], &[Some(b"a"), Some(b"\xff")])), ShapeError::HeaderName { index: 1 }));
        assert!(matches!(refused(headers(&[1, 1], &[Some(b"a"), None])), ShapeError::HeaderName { index: 1 }));
    }

    #[test]
    fn origins_follow_the_causes_down_a_chain() {
        let first = batch(0, &[(1, "a"), (2, "b")]);
        let mut batch = first.clone();
        batch.push((1, 3, 70), 5, None, None, std::iter::empty());
        let emission = Emission { causes: Some(vec![1, 1, 2]), ..Emission::default() }.checked(3).unwrap();
        let mut next = Batch::default();
        next.append_emitted(&batch, &emission);
        let origins: Vec<_> = (0..3).map(|index| next.origin(index).unwrap()).collect();
        assert_eq!(origins, [(0, 3, 1), (0, 3, 1), (1, 3, 70)]);
        assert_eq!(next.origin(3), None);
    }

    #[test]
    fn inputs_are_merged_by_timestamp_and_keep_their_own_order() {
        let left = batch(0, &[(1, "l1"), (9, "l2"), (2, "l3")]);
        let right = batch(1, &[(1, "r1"), (3, "r2")]);
        let merged = Batch::merge(&[left, right]);
        assert_eq!(values(&merged), ["l1", "r1", "r2", "l2", "l3"]);
        assert_eq!(merged.runs.iter().map(|run| (run.input, run.count)).collect::<Vec<_>>(), [(0, 1), (1, 2), (0, 2)]);
    }
}

//! [`Output`]: collects what a transform sends and emits it in columns; [`Outputs`]: outputs that only the pipeline knows.
//!
//! Buffers are kept from call to call. A column exists only when some record changed that part, and causes only when
//! the records are not those of the batch, one each and in order. What a record sent can be taken back until it is settled,
//! which is how a rejected record emits nothing.

use crate::failure::{Failure, Outcome, Unfit, reject};
use crate::host::{Column, Headers, INHERIT, Outlet, Records};
use crate::payload::Payload;
use crate::record::{Emit, Field, HeaderField, Parts, Set};

/// What is held is emitted when it reaches this many bytes: a large result needs no large guest.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// One output. Declared by a field or a parameter of this type.
pub struct Output {
    outlet: Outlet,
    pending: Records,
    keys: Lane,
    values: Lane,
    headers: HeaderColumns,
    headers_change: bool,
    timestamps: Vec<i64>,
    timestamps_change: bool,
    causes: Vec<u32>,
    /// The records so far are those of the batch from the first on, one each; `causes` is empty.
    aligned: bool,
    count: usize,
    settled: Mark,
}

/// A column under construction.
#[derive(Default)]
struct Lane {
    column: Column,
    /// Whether any entry does not inherit. Until then there are no lengths.
    changes: bool,
}

/// Headers under construction.
#[doc(hidden)]
#[derive(Default)]
pub struct HeaderColumns {
    counts: Vec<i32>,
    names: Column,
    values: Column,
}

/// How long everything was when the last record was settled.
#[derive(Clone, Copy, Default)]
struct Mark {
    count: usize,
    key_bytes: usize,
    value_bytes: usize,
    headers: usize,
    header_name_bytes: usize,
    header_value_bytes: usize,
}

impl Lane {
    #[inline(always)]
    fn push<F: Field>(&mut self, before: usize, field: F) -> Outcome {
        if F::CHANGES && !self.changes {
            self.changes = true;
            self.column.lengths.resize(before, INHERIT);
        }
        if self.changes {
            let length = field.write(&mut self.column.bytes)?;
            self.column.lengths.push(length);
        }
        Ok(())
    }

    fn truncate(&mut self, count: usize, bytes: usize) {
        self.column.lengths.truncate(count);
        self.column.bytes.truncate(bytes);
    }

    fn clear(&mut self) {
        self.truncate(0, 0);
        self.changes = false;
    }

    fn lend(&mut self) -> Option<Column> {
        self.changes.then(|| std::mem::take(&mut self.column))
    }

    fn take_back(&mut self, column: Option<Column>) {
        if let Some(column) = column {
            self.column = column;
        }
        self.clear();
    }
}

impl HeaderColumns {
    pub(crate) fn push<P: Payload>(&mut self, name: &str, value: Set<P>) -> Outcome {
        let length =
            i32::try_from(name.len()).map_err(|_| reject("a header name of more than 2 GiB cannot be emitted"))?;
        self.names.bytes.extend_from_slice(name.as_bytes());
        self.names.lengths.push(length);
        let length = value.write(&mut self.values.bytes)?;
        self.values.lengths.push(length);
        Ok(())
    }

    fn truncate(&mut self, mark: &Mark) {
        self.counts.truncate(mark.count);
        self.names.lengths.truncate(mark.headers);
        self.names.bytes.truncate(mark.header_name_bytes);
        self.values.lengths.truncate(mark.headers);
        self.values.bytes.truncate(mark.header_value_bytes);
    }
}

impl Output {
    /// Opens an output of the manifest.
    #[doc(hidden)]
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self {
            outlet: Outlet::new(name),
            pending: Records { causes: None, keys: None, values: None, headers: None, timestamps: None },
            keys: Lane::default(),
            values: Lane::default(),
            headers: HeaderColumns::default(),
            headers_change: false,
            timestamps: Vec::new(),
            timestamps_change: false,
            causes: Vec::new(),
            aligned: true,
            count: 0,
            settled: Mark::default(),
        }
    }

    /// Sends a record on: as it is, or [changed](crate::record::Changed). Any number of records may be sent for one that
    /// came in. They become visible with the next commit, and not at all if the record is rejected.
    ///
    /// # Errors
    /// Rejects the record: a payload could not be written as JSON, or is larger than 2 GiB.
    #[inline(always)]
    pub fn send<'a>(&mut self, record: impl Emit<'a>) -> Outcome {
        let Parts { record, key, value, headers, timestamp } = record.parts();
        let before = self.count;
        let pushed = self.keys.push(before, key).and_then(|()| self.values.push(before, value));
        let pushed = pushed.and_then(|()| self.push_headers(before, headers));
        if let Err(failure) = pushed {
            return Err(self.take_back(failure));
        }
        if timestamp.is_some() || self.timestamps_change {
            self.push_timestamp(before, record.batch.timestamps(), record.index, timestamp);
        }
        self.push_cause(before, record.index);
        self.count += 1;
        if self.keys.column.bytes.len() + self.values.column.bytes.len() + self.headers.values.bytes.len()
            > PENDING_BYTES_MAX
        {
            self.emit(record.batch.count());
        }
        Ok(())
    }

    /// A record that was written in part leaves nothing behind, nor does what was sent before for the same cause: whoever
    /// ignores the failure rejects nothing, but sends nothing crooked either.
    #[cold]
    fn take_back(&mut self, failure: Failure) -> Failure {
        self.undo();
        failure
    }

    #[inline(always)]
    fn push_headers<H: HeaderField>(&mut self, before: usize, headers: H) -> Outcome {
        if H::CHANGES && !self.headers_change {
            self.headers_change = true;
            self.headers.counts.resize(before, INHERIT);
        }
        if self.headers_change {
            let count = headers.write(&mut self.headers)?;
            self.headers.counts.push(count);
        }
        Ok(())
    }

    /// Timestamps have no mark for "inherit": once one is changed, all are written.
    #[inline(never)]
    fn push_timestamp(&mut self, before: usize, inherited: &[i64], cause: u32, timestamp: Option<i64>) {
        if !self.timestamps_change {
            self.timestamps_change = true;
            if self.aligned {
                self.timestamps.extend_from_slice(&inherited[..before]);
            } else {
                self.timestamps.extend(self.causes.iter().map(|&cause| inherited[cause as usize]));
            }
        }
        self.timestamps.push(timestamp.unwrap_or_else(|| inherited[cause as usize]));
    }

    #[inline(always)]
    fn push_cause(&mut self, before: usize, cause: u32) {
        if self.aligned {
            if cause as usize == before {
                return;
            }
            self.misalign(before);
        }
        self.causes.push(cause);
    }

    #[cold]
    fn misalign(&mut self, before: usize) {
        self.aligned = false;
        self.causes.extend((0..).take(before));
    }

    /// Emits what is held to the host.
    fn emit(&mut self, batch_count: u32) {
        if self.count > 0 {
            let whole_batch = self.aligned && self.count == batch_count as usize;
            if self.aligned && !whole_batch {
                self.misalign(self.count);
            }
            self.pending.causes = (!whole_batch).then(|| std::mem::take(&mut self.causes));
            self.pending.keys = self.keys.lend();
            self.pending.values = self.values.lend();
            self.pending.timestamps = self.timestamps_change.then(|| std::mem::take(&mut self.timestamps));
            self.pending.headers = self.headers_change.then(|| Headers {
                counts: std::mem::take(&mut self.headers.counts),
                names: std::mem::take(&mut self.headers.names),
                values: std::mem::take(&mut self.headers.values),
            });
            self.outlet.emit(&self.pending);
            self.recover_buffers();
        }
        self.aligned = true;
        self.causes.clear();
        self.count = 0;
        self.settled = Mark::default();
    }

    fn recover_buffers(&mut self) {
        self.causes = self.pending.causes.take().unwrap_or_default();
        self.keys.take_back(self.pending.keys.take());
        self.values.take_back(self.pending.values.take());
        if let Some(timestamps) = self.pending.timestamps.take() {
            self.timestamps = timestamps;
        }
        if let Some(headers) = self.pending.headers.take() {
            self.headers = HeaderColumns { counts: headers.counts, names: headers.names, values: headers.values };
        }
        self.timestamps.clear();
        self.timestamps_change = false;
        self.headers.truncate(&Mark::default());
        self.headers_change = false;
    }

    /// What was sent stays.
    #[inline(always)]
    pub(crate) fn settle(&mut self) {
        self.settled.count = self.count;
        self.settled.key_bytes = self.keys.column.bytes.len();
        self.settled.value_bytes = self.values.column.bytes.len();
        if self.headers_change {
            self.settled.headers = self.headers.names.lengths.len();
            self.settled.header_name_bytes = self.headers.names.bytes.len();
            self.settled.header_value_bytes = self.headers.values.bytes.len();
        }
    }

    /// Takes back what was sent since the last record was settled. What had to be emitted since is dropped by the host when
    /// the record is rejected.
    pub(crate) fn undo(&mut self) {
        let mark = self.settled;
        self.count = mark.count;
        self.keys.truncate(mark.count, mark.key_bytes);
        self.values.truncate(mark.count, mark.value_bytes);
        self.headers.truncate(&mark);
        self.timestamps.truncate(mark.count);
        self.causes.truncate(mark.count);
    }

    /// The batch is done.
    pub(crate) fn finish(&mut self, batch_count: u32) {
        self.emit(batch_count);
    }
}

/// Outputs that the configuration names, for plugins that may open whatever the pipeline binds. Open each in
/// [`Transform::open`](crate::Transform::open).
#[derive(Default)]
pub struct Outputs {
    named: Vec<(String, Output)>,
}

impl Outputs {
    /// Opens the output `name`, if it is not open yet. The host refuses one that the pipeline does not bind.
    ///
    /// # Errors
    /// The name is empty.
    pub fn open(&mut self, name: &str) -> Result<(), Unfit> {
        if name.is_empty() {
            return Err(Unfit::config("", "the name of an output is empty"));
        }
        if self.named.iter().all(|(known, _)| known != name) {
            self.named.push((name.into(), Output::open(name)));
        }
        Ok(())
    }

    /// The output `name`.
    ///
    /// # Errors
    /// Rejects the record: no such output was opened.
    pub fn get(&mut self, name: &str) -> Result<&mut Output, Failure> {
        let found = self.named.iter_mut().find(|(known, _)| known == name);
        found.map(|(_, output)| output).ok_or_else(|| reject(format_args!("there is no output `{name}`")))
    }

    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Output> {
        self.named.iter_mut().map(|(_, output)| output)
    }
}

//! What the running call has put out so far, within its limit.
//!
//! Emissions are copied out of the guest once, into buffers that earlier calls have used, and checked; what they inherit
//! counts towards the limit, or a few bytes could name gigabytes.

use wasmtime::StoreContextMut;

use super::abi::{ColumnIn, HeadersIn, RecordsIn};
use super::error::Misuse;
use super::guest::Guest;
use super::input::{Input, inherited_bytes, inherited_header_bytes};
use crate::record::{Column, Emission, Headers, Output, Reject};

/// What an emitted record or a reject costs besides its contents.
const RECORD_BYTES: u64 = 16;
/// What an emission costs besides its records.
const EMISSION_BYTES: u64 = 256;
/// Longest reason of a reject that is kept: it travels in a header.
const REASON_BYTES_MAX: usize = 4096;
/// Buffers kept for the next calls. More outlets than this are rare.
const SPARES_MAX: usize = 8;

/// Collects the outputs of a call.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    output: Output,
    bytes: u64,
    limit: u64,
    spare_columns: Vec<Column>,
    spare_causes: Vec<Vec<u32>>,
}

impl Emitter {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes what was put out; the next call starts empty.
    pub(super) fn take(&mut self) -> Output {
        self.bytes = 0;
        std::mem::take(&mut self.output)
    }

    /// Keeps the buffers of an output that nobody needs any more.
    pub(super) fn recycle(&mut self, output: Output) {
        for emission in output.emissions {
            for mut column in [emission.keys, emission.values].into_iter().flatten() {
                if self.spare_columns.len() < SPARES_MAX {
                    column.clear();
                    self.spare_columns.push(column);
                }
            }
            if let Some(mut causes) = emission.causes
                && self.spare_causes.len() < SPARES_MAX
            {
                causes.clear();
                self.spare_causes.push(causes);
            }
        }
    }

    /// Copies records out of the guest, checks them and appends them.
    pub(super) fn emit(
        &mut self,
        guest: &StoreContextMut<'_, Guest>,
        outlet: u32,
        records: &RecordsIn,
    ) -> Result<(), Misuse> {
        let input = &guest.data().input;
        self.charge(EMISSION_BYTES + size_in_guest(records))?;
        let emission = Emission {
            outlet,
            count: 0,
            causes: records.causes.as_ref().map(|causes| {
                let mut copy = self.spare_causes.pop().unwrap_or_default();
                copy.extend_from_slice(causes.as_le_slice(guest));
                copy
            }),
            keys: records.keys.as_ref().map(|column| self.column(guest, column)),
            values: records.values.as_ref().map(|column| self.column(guest, column)),
            headers: records.headers.as_ref().map(|column| headers(guest, column)),
            timestamps: records.timestamps.as_ref().map(|timestamps| timestamps.as_le_slice(guest).to_vec()),
        };
        let emission = emission.checked(input.count())?;
        self.charge(RECORD_BYTES * emission.count as u64 + inherited(&emission, input))?;
        self.output.emissions.push(emission);
        Ok(())
    }

    /// Notes a rejected record. `index` has been checked.
    pub(super) fn reject(&mut self, index: u32, reason: &str) -> Result<(), Misuse> {
        let reason = truncated(reason, REASON_BYTES_MAX);
        self.charge(RECORD_BYTES + reason.len() as u64)?;
        self.output.rejects.push(Reject { index, reason: reason.into() });
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Misuse> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit { Err(Misuse::OutputLimit { limit: self.limit }) } else { Ok(()) }
    }

    fn column(&mut self, guest: &StoreContextMut<'_, Guest>, column: &ColumnIn) -> Column {
        let mut copy = self.spare_columns.pop().unwrap_or_default();
        copy.bytes.extend_from_slice(column.bytes.as_le_slice(guest));
        copy.lengths.extend_from_slice(column.lengths.as_le_slice(guest));
        copy
    }
}

/// `text`, cut at a character boundary to at most `bytes_max` bytes.
pub(super) fn truncated(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn headers(guest: &StoreContextMut<'_, Guest>, headers: &HeadersIn) -> Headers {
    let column = |column: &ColumnIn| Column {
        bytes: column.bytes.as_le_slice(guest).to_vec(),
        lengths: column.lengths.as_le_slice(guest).to_vec(),
    };
    Headers {
        counts: headers.counts.as_le_slice(guest).to_vec(),
        names: column(&headers.names),
        values: column(&headers.values),
    }
}

fn size_in_guest(records: &RecordsIn) -> u64 {
    let column = |column: &ColumnIn| column.bytes.len() + column.lengths.len() * 4;
    let size = records.causes.as_ref().map_or(0, |causes| causes.len() * 4)
        + records.keys.as_ref().map_or(0, column)
        + records.values.as_ref().map_or(0, column)
        + records.timestamps.as_ref().map_or(0, |timestamps| timestamps.len() * 8)
        + records
            .headers
            .as_ref()
            .map_or(0, |headers| headers.counts.len() * 4 + column(&headers.names) + column(&headers.values));
    size as u64
}

fn inherited(emission: &Emission, input: &Input) -> u64 {
    let causes = emission.causes.as_deref();
    inherited_bytes(&input.keys, emission.keys.as_ref().map(|column| column.lengths.as_slice()), causes)
        + inherited_bytes(&input.values, emission.values.as_ref().map(|column| column.lengths.as_slice()), causes)
        + inherited_header_bytes(
            &input.headers,
            emission.headers.as_ref().map(|headers| headers.counts.as_slice()),
            causes,
            emission.count,
        )
}

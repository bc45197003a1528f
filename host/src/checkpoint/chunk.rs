//! The encoding of a chunk: some entries of a task's stores.
//!
//! ```text
//! "SLGC"  format: u8  raw length: u32 LE  CRC-32 of the payload: u32 LE  payload
//! payload: zstd of
//!   number of stores: varint, for each: length and bytes of the transform's name, length and bytes of the store's name
//!   entries: index in those stores: varint, key length: varint, key, value length + 1: varint (0: deleted), value
//! ```
//! A chunk stands for itself: its stores are named in it, so that a pipeline whose transforms changed their places still finds
//! its state.

use thiserror::Error;

use crate::state::StoreName;

/// Version of this encoding.
pub const FORMAT: u8 = 1;

const MAGIC: &[u8; 4] = b"SLGC";
const PREFIX_BYTES: usize = 4 + 1 + 4 + 4;

/// Raw bytes that a chunk may unpack to: far above what is written, far below what would hurt.
const RAW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// zstd's fastest level: state is written far more often than read.
const COMPRESSION_LEVEL: i32 = 1;

/// Why a chunk cannot be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ChunkError {
    /// Not a chunk.
    #[error("it is damaged: it does not begin like a chunk")]
    NotAChunk,
    /// Written by a newer version.
    #[error(
        "it has format version {0}, this version of sluicegate reads up to {FORMAT}: use the version that wrote it, or a newer one"
    )]
    Newer(u8),
    /// Bytes were changed or lost.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// One entry of a chunk; the store is an index into the chunk's stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkEntry<'a> {
    /// Index in [`Decoded::stores`].
    pub store: usize,
    /// Key.
    pub key: &'a [u8],
    /// Value; `None`: deleted.
    pub value: Option<&'a [u8]>,
}

/// What an entry takes before compression, in bytes.
#[must_use]
pub fn entry_bytes(key: &[u8], value: Option<&[u8]>) -> u64 {
    (key.len() + value.map_or(0, <[u8]>::len) + 5) as u64
}

/// Collects entries and encodes them.
#[derive(Debug)]
pub struct ChunkWriter {
    raw: Vec<u8>,
}

impl ChunkWriter {
    /// A chunk for entries of these stores.
    #[must_use]
    pub fn new(stores: &[StoreName]) -> Self {
        let mut raw = Vec::with_capacity(4096);
        put_varint(&mut raw, stores.len());
        for name in stores {
            put_bytes(&mut raw, name.transform.as_bytes());
            put_bytes(&mut raw, name.store.as_bytes());
        }
        Self { raw }
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: ChunkEntry<'_>) {
        put_varint(&mut self.raw, entry.store);
        put_bytes(&mut self.raw, entry.key);
        match entry.value {
            Some(value) => {
                put_varint(&mut self.raw, value.len() + 1);
                self.raw.extend_from_slice(value);
            }
            None => put_varint(&mut self.raw, 0),
        }
    }

    /// Bytes so far, before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw.len() as u64
    }

    /// The bytes to store.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let payload =
            zstd::bulk::compress(&self.raw, COMPRESSION_LEVEL).expect("compressing memory into memory cannot fail");
        let raw_len = u32::try_from(self.raw.len()).expect("chunks are cut far below 4 GiB");
        let mut stored = Vec::with_capacity(PREFIX_BYTES + payload.len());
        stored.extend_from_slice(MAGIC);
        stored.push(FORMAT);
        stored.extend_from_slice(&raw_len.to_le_bytes());
        stored.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        stored.extend_from_slice(&payload);
        stored
    }
}

/// An unpacked chunk. Its entries are checked while they are read.
#[derive(Debug)]
pub struct Decoded {
    /// Stores that the entries refer to.
    pub stores: Vec<StoreName>,
    raw: Vec<u8>,
    entries_at: usize,
}

/// Unpacks a chunk and checks it.
///
/// # Errors
/// When it is damaged or of a newer format.
pub fn decode(stored: &[u8]) -> Result<Decoded, ChunkError> {
    let rest = stored.strip_prefix(MAGIC).ok_or(ChunkError::NotAChunk)?;
    let (&format, rest) = rest.split_first().ok_or(ChunkError::NotAChunk)?;
    if format > FORMAT {
        return Err(ChunkError::Newer(format));
    }
    let (raw_len, rest) = rest.split_first_chunk().ok_or(ChunkError::Damaged("it ends early"))?;
    let (checksum, payload) = rest.split_first_chunk().ok_or(ChunkError::Damaged("it ends early"))?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return Err(ChunkError::Damaged("its checksum does not match"));
    }
    let raw_len = u32::from_le_bytes(*raw_len) as usize;
    if raw_len > RAW_BYTES_MAX {
        return Err(ChunkError::Damaged("it unpacks to too many bytes"));
    }
    let raw = zstd::bulk::decompress(payload, raw_len).map_err(|_| ChunkError::Damaged("it does not unpack"))?;
    let mut reader = Reader(&raw);
    let mut stores = Vec::new();
    for _ in 0..reader.varint()? {
        let (transform, store) = (reader.text()?, reader.text()?);
        stores.push(StoreName { transform, store });
    }
    let entries_at = raw.len() - reader.0.len();
    Ok(Decoded { stores, raw, entries_at })
}

impl Decoded {
    /// The entries, in the order in which they were written.
    pub fn entries(&self) -> impl Iterator<Item = Result<ChunkEntry<'_>, ChunkError>> {
        let mut reader = Reader(&self.raw[self.entries_at..]);
        std::iter::from_fn(move || {
            if reader.0.is_empty() {
                return None;
            }
            let entry = reader.entry(self.stores.len());
            if entry.is_err() {
                reader.0 = &[];
            }
            Some(entry)
        })
    }

    /// Bytes before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw.len() as u64
    }
}

fn put_varint(raw: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        raw.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    raw.push(value as u8);
}

fn put_bytes(raw: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(raw, bytes.len());
    raw.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<usize, ChunkError> {
        let mut value = 0usize;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ChunkError::Damaged("an entry ends early"))?;
            self.0 = rest;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ChunkError::Damaged("a length is not valid"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ChunkError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(ChunkError::Damaged("an entry ends early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], ChunkError> {
        let count = self.varint()?;
        self.take(count)
    }

    fn text(&mut self) -> Result<String, ChunkError> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| ChunkError::Damaged("a store's name is not text"))
    }

    fn entry(&mut self, stores: usize) -> Result<ChunkEntry<'a>, ChunkError> {
        let store = self.varint()?;
        if store >= stores {
            return Err(ChunkError::Damaged("an entry belongs to no store"));
        }
        let key = self.bytes()?;
        let value = match self.varint()? {
            0 => None,
            length => Some(self.take(length - 1)?),
        };
        Ok(ChunkEntry { store, key, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Vec<StoreName> {
        vec![
            StoreName { transform: "count".into(), store: "counts".into() },
            StoreName { transform: "join".into(), store: "left".into() },
        ]
    }

    fn sample() -> Vec<u8> {
        let mut writer = ChunkWriter::new(&names());
        writer.push(ChunkEntry { store: 0, key: b"a", value: Some(b"1") });
        writer.push(ChunkEntry { store: 1, key: b"", value: Some(b"") });
        writer.push(ChunkEntry { store: 0, key: b"b", value: None });
        writer.finish()
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let decoded = decode(&sample()).unwrap();
        assert_eq!(decoded.stores, names());
        let entries: Vec<_> = decoded.entries().map(Result::unwrap).collect();
        let expected = [
            ChunkEntry { store: 0, key: b"a", value: Some(b"1") },
            ChunkEntry { store: 1, key: b"", value: Some(b"") },
            ChunkEntry { store: 0, key: b"b", value: None },
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let mut stored = sample();
        stored[4] = 9;
        assert_eq!(decode(&stored).unwrap_err(), ChunkError::Newer(9));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let stored = sample();
        for index in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[index] ^= 0x20;
            let whole =
                decode(&damaged).and_then(|decoded| decoded.entries().collect::<Result<Vec<_>, _>>().map(|_| ()));
            // Bytes 5 to 8 are the raw length, which is only a limit on what is unpacked.
            assert!(whole.is_err() || (5..9).contains(&index), "byte {index}");
            assert!(decode(&stored[..index]).is_err(), "cut at {index}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stored = Vec::from(MAGIC.as_slice());
            let payload = zstd::bulk::compress(&raw, 1).unwrap();
            stored.push(FORMAT);
            stored.extend_from_slice(&(raw.len() as u32).to_le_bytes());
            stored.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            stored.extend_from_slice(&payload);
            if let Ok(decoded) = decode(&stored) {
                let _ = decoded.entries().count();
            }
        }
    }
}

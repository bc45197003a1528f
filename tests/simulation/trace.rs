//! What happened in a run: a fingerprint of it always, the words if somebody wants to read them.

use std::fmt::{self, Write as _};
use std::hash::Hasher;
use std::time::Duration;

/// Notes of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
    line: String,
    hasher: Fnv,
}

/// The same on every machine and in every version.
#[derive(Clone, Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Trace {
    /// One that keeps the words too.
    pub(crate) fn in_words() -> Self {
        Self { lines: Some(Vec::new()), ..Self::default() }
    }

    pub(crate) fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.line.clear();
        let (seconds, micros) = (at.as_secs(), at.subsec_micros());
        // Into memory.
        let _ = write!(self.line, "{seconds:3}.{micros:06} {what}");
        self.hasher.write(self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
    }

    pub(crate) fn is_in_words(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn detail(&mut self, what: &str) {
        self.lines.iter_mut().for_each(|lines| lines.push(format!("             {what}")));
    }

    /// Two runs with the same fingerprint are the same.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hasher.finish()
    }

    /// The words, if they were kept.
    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

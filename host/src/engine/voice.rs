//! What a guest says: `wasi:logging`, standard output, standard error. All of it goes to tracing, a bounded amount a
//! second; the end of standard error is kept, because it explains a trap.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::{debug, error, info, trace, warn};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::abi::Level;
use super::emission::truncated;

/// How much of standard error is kept for a trap.
const TAIL_BYTES_MAX: usize = 4096;
/// Longest message or line that is passed on whole.
const MESSAGE_BYTES_MAX: usize = 2048;
/// What one write of a guest may hold; longer ones come in pieces.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// After this long the budget is full again.
const WINDOW_MS: i64 = 1000;

/// Who speaks: fields of every event.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub(super) pipeline: String,
    pub(super) transform: String,
    pub(super) task: u32,
}

/// One guest's voice, shared between its store and its streams.
#[derive(Clone, Debug)]
pub(super) struct Voice(Arc<Mutex<Spoken>>);

#[derive(Debug)]
struct Spoken {
    speaker: Speaker,
    budget_max: u64,
    budget: u64,
    window_start_ms: i64,
    dropped: u64,
    tail: VecDeque<u8>,
}

impl Voice {
    pub(super) fn new(speaker: Speaker, bytes_per_second: u64) -> Self {
        Self(Arc::new(Mutex::new(Spoken {
            speaker,
            budget_max: bytes_per_second,
            budget: bytes_per_second,
            window_start_ms: i64::MIN,
            dropped: 0,
            tail: VecDeque::new(),
        })))
    }

    /// Fills the budget again when its time has come, and says what had to be dropped.
    pub(super) fn refill(&self, now_ms: i64) {
        let mut spoken = self.lock();
        if now_ms.saturating_sub(spoken.window_start_ms) < WINDOW_MS {
            return;
        }
        spoken.window_start_ms = now_ms;
        spoken.budget = spoken.budget_max;
        let dropped = std::mem::take(&mut spoken.dropped);
        if dropped > 0 {
            let Speaker { pipeline, transform, task } = &spoken.speaker;
            warn!(pipeline, transform, task, dropped, "plugin logs too much: messages dropped");
        }
    }

    /// A message of `wasi:logging`.
    pub(super) fn log(&self, level: Level, context: &str, message: &str) {
        let mut spoken = self.lock();
        let (context, message) = (truncated(context, MESSAGE_BYTES_MAX), truncated(message, MESSAGE_BYTES_MAX));
        if !spoken.afford(context.len() + message.len()) {
            return;
        }
        let Speaker { pipeline, transform, task } = &spoken.speaker;
        match level {
            Level::Trace => trace!(pipeline, transform, task, context, "{message}"),
            Level::Debug => debug!(pipeline, transform, task, context, "{message}"),
            Level::Info => info!(pipeline, transform, task, context, "{message}"),
            Level::Warn => warn!(pipeline, transform, task, context, "{message}"),
            Level::Error | Level::Critical => error!(pipeline, transform, task, context, "{message}"),
        }
    }

    /// The end of what was written to standard error.
    pub(super) fn stderr_tail(&self) -> String {
        let mut spoken = self.lock();
        String::from_utf8_lossy(spoken.tail.make_contiguous()).into_owned()
    }

    /// A stream for WASI.
    pub(super) fn stream(&self, name: &'static str) -> Stream {
        Stream { voice: self.clone(), name, line: Vec::new() }
    }

    /// A panic while the lock was held cannot leave anything half done that matters here.
    fn lock(&self) -> MutexGuard<'_, Spoken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spoken {
    fn afford(&mut self, bytes: usize) -> bool {
        // A message without text costs something too.
        match self.budget.checked_sub(bytes as u64 + 64) {
            Some(rest) => self.budget = rest,
            None => self.dropped += 1,
        }
        self.dropped == 0
    }
}

/// Standard output or standard error of a guest.
#[derive(Debug)]
pub(super) struct Stream {
    voice: Voice,
    name: &'static str,
    /// The line that has not ended yet.
    line: Vec<u8>,
}

/// Name of the stream whose end is kept.
pub(super) const STDERR: &str = "stderr";

impl Stream {
    fn take(&mut self, bytes: &[u8]) {
        if self.name == STDERR {
            let mut spoken = self.voice.lock();
            let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
            let surplus = (spoken.tail.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
            spoken.tail.drain(..surplus);
            spoken.tail.extend(kept);
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&piece[..piece.len().min(MESSAGE_BYTES_MAX)]);
            if piece.ends_with(b"\n") || self.line.len() >= MESSAGE_BYTES_MAX {
                let line = String::from_utf8_lossy(&self.line);
                self.voice.log(Level::Debug, self.name, line.trim_end());
                self.line.clear();
            }
        }
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.voice.stream(self.name))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.voice.stream(self.name))
    }
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(budget: u64) -> Voice {
        Voice::new(Speaker { pipeline: "p".into(), transform: "t".into(), task: 0 }, budget)
    }

    #[test]
    fn the_end_of_standard_error_is_kept() {
        let voice = voice(100);
        let mut stream = voice.stream(STDERR);
        for index in 0..2000 {
            stream.take(format!("line {index}\n").as_bytes());
        }
        let tail = voice.stderr_tail();
        assert_eq!(tail.len(), TAIL_BYTES_MAX);
        assert!(tail.ends_with("line 1999\n"));
        voice.stream("stdout").take(b"not this");
        assert_eq!(voice.stderr_tail(), tail);
    }

    #[test]
    fn what_exceeds_the_budget_of_a_second_is_dropped() {
        let voice = voice(200);
        voice.refill(0);
        for _ in 0..10 {
            voice.log(Level::Info, "", "a message");
        }
        assert_eq!(voice.lock().dropped, 8);
        voice.refill(500);
        assert_eq!(voice.lock().dropped, 8);
        voice.refill(1000);
        let spoken = voice.lock();
        assert_eq!((spoken.dropped, spoken.budget), (0, 200));
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let voice = voice(100);
        let mut stream = voice.stream("stdout");
        for _ in 0..100 {
            stream.take(&[b'x'; 1000]);
            assert!(stream.line.len() <= MESSAGE_BYTES_MAX + 1000);
        }
    }
}

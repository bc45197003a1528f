//! How far bytes on their way to or from the registry are, for people who wait: shown where stderr is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Less is there before anybody has read the bar.
const LARGE_BYTES: u64 = 1 << 20;

/// A bar that appears with the first step of something large.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// `what` is on its way.
    pub(super) fn new(what: String) -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.expect("the template has known keys only"));
        bar.set_message(what);
        Self(bar)
    }

    /// `bytes` of `total` are there.
    pub(super) fn at(&self, bytes: u64, total: u64) {
        if total >= LARGE_BYTES {
            self.0.set_length(total);
            self.0.set_position(bytes);
        }
    }

    /// Takes the bar away.
    pub(super) fn end(self) {
        self.0.finish_and_clear();
    }
}

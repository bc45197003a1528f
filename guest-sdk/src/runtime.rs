//! What the attribute's code calls: opens a plugin, drives it through a batch, keeps rejected records apart.
//!
//! Everything is generic over the plugin, so that its fields are known where the loop is compiled.

use crate::batch::BatchView;
use crate::failure::{Failure, FailureKind, Outcome, Unfit};
use crate::host::{self, Batch};
use crate::output::{Output, Outputs};
use crate::record::Record;
use crate::state::Want;

/// A transform as a struct: its fields declare what it has, this says what it does.
pub trait Transform: Sized {
    /// Called once, when the fields are made and before the first record. Must not read state.
    ///
    /// # Errors
    /// The plugin does not start. `?` works on any error.
    fn open(&mut self) -> Result<(), Unfit> {
        Ok(())
    }

    /// Names the keys that `record` is going to need, when they are not the record's own: a batch's keys are then fetched in
    /// one call. Called for every record of a batch before the first is processed. A key that is not named is fetched when
    /// it is needed.
    #[inline(always)]
    fn prefetch(&self, record: Record<'_>, want: &mut Want) {
        let _ = (record, want);
    }

    /// Processes one record.
    ///
    /// # Errors
    /// `?` on any error rejects the record; [`fatal`](crate::fatal) and [`transient`](crate::transient) say otherwise.
    fn process(&mut self, record: Record<'_>) -> Outcome;
}

/// A field that takes part in the life of a batch.
#[doc(hidden)]
pub trait Part {
    /// Whether it wants to see records before they are processed.
    const PREFETCHES: bool = false;

    /// Notes what a record is going to need.
    #[inline(always)]
    fn want(&mut self, record: Record<'_>, want: &Want) {
        let _ = (record, want);
    }

    /// Fetches what was noted.
    #[inline(always)]
    fn fetch(&mut self) -> Outcome {
        Ok(())
    }

    /// The record at `index` is next.
    #[inline(always)]
    fn begin(&mut self, index: usize) {
        let _ = index;
    }

    /// The record was processed: what it did stays.
    #[inline(always)]
    fn settle(&mut self) -> Outcome {
        Ok(())
    }

    /// The record was rejected: what it did is taken back.
    fn undo(&mut self) -> Outcome {
        Ok(())
    }

    /// All records were processed.
    fn finish(&mut self, batch_count: u32) {
        let _ = batch_count;
    }

    /// Hands over what is held back.
    fn flush(&mut self) -> Outcome {
        Ok(())
    }
}

impl Part for Output {
    #[inline(always)]
    fn settle(&mut self) -> Outcome {
        Output::settle(self);
        Ok(())
    }

    fn undo(&mut self) -> Outcome {
        Output::undo(self);
        Ok(())
    }

    fn finish(&mut self, batch_count: u32) {
        Output::finish(self, batch_count);
    }
}

impl Part for Outputs {
    #[inline(always)]
    fn settle(&mut self) -> Outcome {
        self.each().for_each(Output::settle);
        Ok(())
    }

    fn undo(&mut self) -> Outcome {
        self.each().for_each(Output::undo);
        Ok(())
    }

    fn finish(&mut self, batch_count: u32) {
        self.each().for_each(|output| output.finish(batch_count));
    }
}

/// Does something with every part of a plugin.
#[doc(hidden)]
pub trait Visit {
    fn part<P: Part>(&mut self, part: &mut P) -> Outcome;
}

/// What the attribute implements.
#[doc(hidden)]
pub trait Plugin: Sized + 'static {
    /// The manifest, JSON.
    const MANIFEST: &'static str;
    /// Whether any part wants to see records before they are processed.
    const PREFETCHES: bool;

    fn open(config: &str) -> Result<Self, Unfit>;
    fn visit<V: Visit>(&mut self, visit: &mut V) -> Outcome;
    fn prefetch(&self, record: Record<'_>, want: &mut Want);
    fn process(&mut self, record: Record<'_>) -> Outcome;
}

struct Wants<'a, 'b>(Record<'a>, &'b Want);
struct Fetch;
struct Begin(usize);
struct Settle;
struct Undo;
struct Finish(u32);
struct Flush;

macro_rules! visits {
    ($($visit:ty: |$this:ident, $part:ident| $body:expr;)+) => {$(
        impl Visit for $visit {
            #[inline(always)]
            fn part<P: Part>(&mut self, $part: &mut P) -> Outcome {
                let $this = self;
                $body
            }
        }
    )+};
}

visits! {
    Wants<'_, '_>: |this, part| {
        part.want(this.0, this.1);
        Ok(())
    };
    Fetch: |_this, part| part.fetch();
    Begin: |this, part| {
        part.begin(this.0);
        Ok(())
    };
    Settle: |_this, part| part.settle();
    Undo: |_this, part| part.undo();
    Finish: |this, part| {
        part.finish(this.0);
        Ok(())
    };
    Flush: |_this, part| part.flush();
}

/// An opened plugin.
pub(crate) struct Runtime<T> {
    plugin: T,
    want: Want,
}

impl<T: Plugin> Runtime<T> {
    pub(crate) fn open(config: &str) -> Result<Self, Unfit> {
        crate::logging::begin_call();
        crate::logging::install();
        Ok(Self { plugin: T::open(config)?, want: Want::default() })
    }

    /// Processes a batch. A failure is never a rejection: those are told to the host record by record.
    pub(crate) fn process(&mut self, batch: &Batch) -> Outcome {
        crate::logging::begin_call();
        let view = BatchView::new(batch);
        let count = view.count();
        if T::PREFETCHES {
            self.prefetch(&view)?;
        }
        for index in 0..count {
            self.plugin.visit(&mut Begin(index as usize))?;
            match self.plugin.process(Record { batch: &view, index }) {
                Ok(()) => self.plugin.visit(&mut Settle)?,
                Err(failure) => self.reject(index, failure)?,
            }
        }
        self.plugin.visit(&mut Finish(count))
    }

    #[inline(never)]
    fn prefetch(&mut self, view: &BatchView<'_>) -> Outcome {
        for index in 0..view.count() {
            let record = Record { batch: view, index };
            self.want.clear();
            self.plugin.prefetch(record, &mut self.want);
            self.plugin.visit(&mut Wants(record, &self.want))?;
        }
        self.plugin.visit(&mut Fetch)
    }

    #[cold]
    fn reject(&mut self, index: u32, failure: Failure) -> Outcome {
        if failure.kind() != FailureKind::Reject {
            return Err(failure);
        }
        // State that could not be read comes before what the plugin made of it.
        self.plugin.visit(&mut Undo)?;
        host::reject(index, failure.reason());
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Outcome {
        crate::logging::begin_call();
        self.plugin.visit(&mut Flush)
    }
}

//! State of one schema version made from that of another, while a task goes on: what a rollout copies before a task goes over, and
//! keeps beside afterwards, so that it can go back.
//!
//! A store of another schema version is another store of the same task ([`StoreName::of`]), so that what is copied is committed
//! like everything else. [`Copying`] makes it beside the running version: all entries once, then those that have changed since, until
//! few are left; those are copied in the switch. [`Mirror`] does the opposite during probation: every commit of the candidate
//! holds both forms of the state, so that going back finds its own. [`OneWay`] takes its place where nothing converts back: the
//! state of the version before stays as it was. None of them decides when to switch.
//!
//! Copying is idempotent: an entry that is there already is not written again. So whatever is not certain is copied once more.

mod mirror;
mod one_way;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::mirror::Mirror;
pub use self::one_way::OneWay;
use super::compatible;
use super::failure::Failure;
use super::plan::{Plan, TransformPlan};
use crate::engine::{Conversion, MigrateError, Migrator};
use crate::ids::TaskId;
use crate::record::Column;
use crate::state::{Slot, StoreName, TaskState};

/// Entries that are converted in one call.
const PAGE_ENTRIES: usize = 1000;
/// Bytes of keys and values that are converted in one call, unless one entry has more.
const PAGE_BYTES: usize = 256 * 1024;
/// Bytes of a task that are copied for one commit, so that no commit grows with the state.
const COMMIT_BYTES: usize = 512 * 1024;
/// So few entries are copied in the switch itself.
pub const FEW: usize = 2000;
/// Commits after which a state that still changes faster than it is copied is given up.
const COMMITS_MAX: u32 = 500;

/// Tells one copying of a task from the next.
static COPYINGS: AtomicU64 = AtomicU64::new(0);

/// From which store to which.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Where entries are.
    pub source: StoreName,
    /// Where they are to be.
    pub target: StoreName,
    /// What converts them.
    pub conversion: Conversion,
    /// Whether the version that is gone over to converts, or the one before: whichever has the higher schema version knows both.
    pub by_next: bool,
}

impl Route {
    /// Between two schema versions of a store; the version of the code that has the higher one converts.
    #[must_use]
    pub fn of(transform: &str, store: &str, from: u32, to: u32) -> Self {
        Self {
            source: StoreName::of(transform, store, from),
            target: StoreName::of(transform, store, to),
            conversion: Conversion { store: store.to_owned(), from, to },
            by_next: to > from,
        }
    }

    /// The other way round.
    #[must_use]
    pub fn back(&self) -> Self {
        let Conversion { store, from, to } = self.conversion.clone();
        Self {
            source: self.target.clone(),
            target: self.source.clone(),
            conversion: Conversion { store, from: to, to: from },
            by_next: self.by_next,
        }
    }
}

/// What has to be copied for a task to go over from one version of a transform to another. A store that only one of them has is left
/// alone: what an earlier version has kept in it is found again.
#[must_use]
pub fn routes(before: &TransformPlan, next: &TransformPlan) -> Vec<Route> {
    let declared = &before.plugin.manifest().stores;
    let route = |store: &crate::manifest::StoreDeclaration| {
        let was = declared.iter().find(|was| was.name == store.name)?.schema;
        (was != store.schema).then(|| Route::of(&next.name, &store.name, was, store.schema))
    };
    next.plugin.manifest().stores.iter().filter_map(route).collect()
}

/// Converts, by one or the other version of a transform.
#[derive(Debug)]
pub struct Converter {
    before: Option<Migrator>,
    next: Option<Migrator>,
}

impl Converter {
    /// For the routes between two versions of a transform. Runs guests: on a thread that may block.
    ///
    /// # Errors
    /// A version that has to convert does not start, or does not say how, in words.
    pub fn open(
        (before, next): (&TransformPlan, &TransformPlan),
        routes: &[Route],
        (pipeline, task): (&str, u32),
        now_ms: i64,
    ) -> Result<Self, String> {
        let open = |plan: &TransformPlan, by_next: bool| {
            let Some(route) = routes.iter().find(|route| route.by_next == by_next) else {
                return Ok(None);
            };
            match plan.migrator(pipeline, task, now_ms) {
                Ok(Some(migrator)) => Ok(Some(migrator)),
                Ok(None) => Err(format!("{}: no version exports `migrate`", route.conversion)),
                Err(error) => Err(format!("{}: {error}", route.conversion)),
            }
        };
        Ok(Self { before: open(before, false)?, next: open(next, true)? })
    }

    /// Converts values of keys.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn convert(
        &mut self,
        route: &Route,
        keys: Column,
        values: Column,
        now_ms: i64,
    ) -> Result<Column, MigrateError> {
        let migrator = if route.by_next { &mut self.next } else { &mut self.before };
        match migrator {
            Some(migrator) => migrator.migrate(&route.conversion, keys, values, now_ms),
            None => Err(MigrateError::Unsupported(route.conversion.clone())),
        }
    }
}

/// Entries that are being converted.
#[derive(Debug)]
pub struct Page {
    /// Of which copying.
    number: u64,
    /// Index of its route.
    pub route: usize,
    /// Keys.
    pub keys: Column,
    /// Values before.
    pub values: Column,
}

/// A route within a task's state.
#[derive(Debug)]
struct Way {
    source: usize,
    target: usize,
    /// Slots of the source before this one have been copied once.
    cursor: Slot,
    /// Keys that have to be copied, again or for the first time.
    changed: BTreeSet<Box<[u8]>>,
}

/// Copies stores of a task beside what runs.
#[derive(Debug)]
pub struct Copying {
    number: u64,
    /// What is copied.
    pub routes: Arc<[Route]>,
    ways: Vec<Way>,
    /// Not here while a page is away.
    converter: Option<Converter>,
    /// The route of the entries that are away to be converted, if any are.
    away: Option<usize>,
    /// Their keys; none when what comes back is of no use.
    keys_away: Vec<Box<[u8]>>,
    bytes_since_commit: usize,
    /// Since fewer entries were left than ever before.
    commits: u32,
    left_min: usize,
    /// What the switch copies.
    last: Option<Vec<Put>>,
}

/// What was put into a store.
#[derive(Debug)]
struct Put {
    target: usize,
    keys: Column,
    values: Column,
}

impl Copying {
    /// Nothing is copied yet.
    pub fn new(routes: Arc<[Route]>, state: &mut TaskState) -> Self {
        let way = |route: &Route| {
            let (source, target) = (state.number(&route.source), state.number(&route.target));
            // What an earlier attempt has left may have no source any more.
            let changed = state.store(target).iter().map(|(key, _)| Box::from(key)).collect();
            Way { source, target, cursor: 0, changed }
        };
        let ways = routes.iter().map(way).collect();
        let number = COPYINGS.fetch_add(1, Ordering::Relaxed);
        Self {
            number,
            routes,
            ways,
            converter: None,
            away: None,
            keys_away: Vec::new(),
            bytes_since_commit: 0,
            commits: 0,
            left_min: usize::MAX,
            last: None,
        }
    }

    /// Before changes are sealed: what has changed is to be copied again.
    pub fn note_changes(&mut self, state: &TaskState) {
        for way in &mut self.ways {
            let source = state.store(way.source);
            way.changed.extend(source.changed().map(|slot| Box::from(source.entry(slot).0)));
        }
        if self.has_walked(state) {
            let left = self.ways.iter().map(|way| way.changed.len()).sum();
            // Few are left: it waits for the switch, however long.
            self.commits = if left < self.left_min || left <= FEW { 0 } else { self.commits + 1 };
            self.left_min = self.left_min.min(left);
        }
    }

    /// What was copied is in the commit that begins.
    pub fn note_seal(&mut self) {
        self.bytes_since_commit = 0;
    }

    /// Before the state is rolled back: what was copied since the last commit is so no more, and what has changed since is as it was.
    pub fn note_roll_back(&mut self, state: &TaskState) {
        for way in &mut self.ways {
            // Also of the source: that a key was gone, or a value the same, may have been why nothing was put.
            for store in [state.store(way.source), state.store(way.target)] {
                way.changed.extend(store.unsettled().map(|slot| Box::from(store.entry(slot).0)));
            }
        }
        self.bytes_since_commit = 0;
        self.take_back_what_is_away();
    }

    fn take_back_what_is_away(&mut self) {
        if let Some(at) = self.away {
            self.ways[at].changed.extend(self.keys_away.drain(..));
        }
    }

    fn has_walked(&self, state: &TaskState) -> bool {
        self.ways.iter().all(|way| way.cursor >= state.store(way.source).slots())
    }

    /// Whether so little is left that it can be copied in the switch.
    #[must_use]
    pub fn is_ready(&self, state: &TaskState) -> bool {
        let changing = |way: &Way| state.store(way.source).changed().len();
        let left: usize = self.ways.iter().map(|way| way.changed.len() + changing(way)).sum();
        self.away.is_none() && self.converter.is_some() && self.has_walked(state) && left <= FEW
    }

    /// Why it will not get ready, if it will not.
    #[must_use]
    pub fn is_outrun(&self) -> bool {
        self.commits > COMMITS_MAX
    }

    /// Entries to be converted next, and what to do that with, if it is here already; `None` while some are away, when nothing is
    /// left, or when enough was copied for one commit. Deletions are copied at once.
    pub fn next_page(&mut self, state: &mut TaskState) -> Option<(Page, Option<Converter>)> {
        if self.away.is_some() || self.bytes_since_commit >= COMMIT_BYTES {
            return None;
        }
        let page = match &self.converter {
            // It is needed on the way back, also where there is nothing to convert on the way there.
            None => Page { number: self.number, route: 0, keys: Column::default(), values: Column::default() },
            Some(_) => (0..self.ways.len()).find_map(|at| self.page_of(at, state))?,
        };
        self.away = Some(page.route);
        self.keys_away = page.keys.values().flatten().map(Box::from).collect();
        Some((page, self.converter.take()))
    }

    fn page_of(&mut self, at: usize, state: &mut TaskState) -> Option<Page> {
        let way = &mut self.ways[at];
        let mut page = Page { number: self.number, route: at, keys: Column::default(), values: Column::default() };
        let is_full = |page: &Page| {
            page.keys.len() >= PAGE_ENTRIES || page.keys.bytes.len() + page.values.bytes.len() >= PAGE_BYTES
        };
        let source = state.store(way.source);
        while way.cursor < source.slots() && !is_full(&page) {
            if let (key, Some(value)) = source.entry(way.cursor) {
                way.changed.remove(key);
                page.keys.push(Some(key));
                page.values.push(Some(value));
            }
            way.cursor += 1;
        }
        let mut gone = Vec::new();
        // What the switch copies, it copies whole.
        while !is_full(&page) && (gone.len() < PAGE_ENTRIES || self.last.is_some()) {
            let Some(key) = way.changed.pop_first() else { break };
            match source.get(&key) {
                Some(value) => {
                    page.keys.push(Some(&key));
                    page.values.push(Some(value));
                }
                None => gone.push(key),
            }
        }
        if !gone.is_empty() {
            let keys: Column = gone.iter().map(|key| Some(&**key)).collect();
            let values = gone.iter().map(|_| None).collect();
            let target = way.target;
            self.put(Put { target, keys, values }, state);
        }
        (!page.keys.is_empty()).then_some(page)
    }

    /// Whether this is what is away.
    #[must_use]
    pub fn awaits(&self, page: &Page) -> bool {
        self.number == page.number && self.away == Some(page.route)
    }

    /// Takes in what was converted. Whether anything was written.
    pub fn take(&mut self, page: Page, converter: Converter, values: Column, state: &mut TaskState) -> bool {
        self.converter = Some(converter);
        self.away = None;
        // Taken back meanwhile.
        if self.keys_away.is_empty() {
            return false;
        }
        self.keys_away.clear();
        let target = self.ways[page.route].target;
        self.put(Put { target, keys: page.keys, values }, state)
    }

    /// What is away cannot be converted. Whether that matters: entries that were taken back meanwhile are no more.
    pub fn failed(&mut self, page: &Page) -> bool {
        self.away = None;
        let was_taken_back = self.keys_away.is_empty() && !page.keys.is_empty();
        self.keys_away.clear();
        !was_taken_back
    }

    fn put(&mut self, put: Put, state: &mut TaskState) -> bool {
        let bytes = put.apply(state);
        self.bytes_since_commit += bytes;
        if let Some(last) = &mut self.last {
            last.push(put);
        }
        bytes > 0
    }

    /// Copies what is left, and goes on copying.
    ///
    /// # Errors
    /// As [`Copying::finish`].
    pub fn catch_up(&mut self, state: &mut TaskState, now_ms: i64) -> Result<(), MigrateError> {
        let copied = self.finish(state, now_ms);
        self.last = None;
        copied
    }

    /// Copies what is left. Everything is committed.
    ///
    /// # Errors
    /// An entry cannot be converted: then this copy is of no use any more.
    pub fn finish(&mut self, state: &mut TaskState, now_ms: i64) -> Result<(), MigrateError> {
        self.finish_while(state, now_ms, &mut || true).map(drop)
    }

    /// The same, page by page while `goes_on` says so. Whether it came to the end.
    fn finish_while(
        &mut self,
        state: &mut TaskState,
        now_ms: i64,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, MigrateError> {
        self.bytes_since_commit = 0;
        self.last = Some(Vec::new());
        while let Some((page, converter)) = self.next_page(state) {
            if !goes_on() {
                return Ok(false);
            }
            let route = self.routes[page.route].clone();
            let Some(mut converter) = converter else { return Err(MigrateError::Unsupported(route.conversion)) };
            let values = converter.convert(&route, page.keys.clone(), page.values.clone(), now_ms)?;
            self.take(page, converter, values, state);
            self.bytes_since_commit = 0;
        }
        Ok(true)
    }

    /// The task has gone over, and nothing converts back.
    #[must_use]
    pub fn into_one_way(self) -> OneWay {
        OneWay::after(self.last.unwrap_or_default())
    }

    /// The task has gone over: from now on the other way round. Nothing if nothing is kept.
    #[must_use]
    pub fn into_mirror(self) -> Option<Mirror> {
        Some(Mirror::after(self.last.unwrap_or_default(), &self.routes, self.converter?))
    }
}

/// Whether anything was put that was not there.
fn put_again(puts: &[Put], state: &mut TaskState) -> bool {
    puts.iter().map(|put| put.apply(state)).sum::<usize>() > 0
}

/// What a task does beside its work because of a rollout.
#[derive(Debug)]
pub enum Migration {
    /// It has not gone over.
    Copying(Box<Copying>),
    /// It has, and keeps the stores of the version before.
    Mirroring {
        /// Index of the transform.
        transform: usize,
        /// What does it.
        mirror: Box<Mirror>,
    },
    /// It has, and stays.
    OneWay(OneWay),
}

/// Converts all of a state at once, for a task that comes up with code of another schema version than made its state: what
/// [`compatible::conversions`] has found, with the same `formers`. Runs guests: on a thread that may block.
///
/// # Errors
/// It cannot be converted.
pub fn convert_all(
    plans: (&Plan, &[Arc<Plan>]),
    task: &TaskId,
    conversions: Vec<(usize, Vec<Route>)>,
    state: &mut TaskState,
    now_ms: i64,
) -> Result<(), Failure> {
    convert_while(plans, task, conversions, state, now_ms, &mut || true).map(drop)
}

/// The same, page by page while `goes_on` says so. Whether it came to the end; the state is of no use otherwise.
///
/// # Errors
/// As [`convert_all`].
pub fn convert_while(
    (plan, formers): (&Plan, &[Arc<Plan>]),
    task: &TaskId,
    conversions: Vec<(usize, Vec<Route>)>,
    state: &mut TaskState,
    now_ms: i64,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<bool, Failure> {
    for (at, routes) in conversions {
        let (transform, routes): (_, Arc<[Route]>) = (&plan.transforms[at], routes.into());
        let is_back = routes.iter().find(|route| !route.by_next);
        let before = is_back
            .and_then(|route| compatible::maker(formers, &transform.name, &route.conversion))
            .unwrap_or(transform);
        let opened = Converter::open((before, transform), &routes, (&plan.pipeline, task.partition), now_ms);
        let converted = opened.and_then(|converter| {
            let mut copying = Copying::new(Arc::clone(&routes), state);
            copying.converter = Some(converter);
            copying.finish_while(state, now_ms, goes_on).map_err(|error| error.to_string())
        });
        let is_converted = converted.map_err(|problem| {
            let problem = format!("could not convert it: {problem}");
            compatible::misread(task, transform, &routes[0].conversion, &problem)
        })?;
        if !is_converted {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Put {
    /// Puts what differs. Returns its bytes.
    fn apply(&self, state: &mut TaskState) -> usize {
        let target = state.store_mut(self.target);
        let mut bytes = 0;
        for (key, value) in self.keys.values().zip(self.values.values()) {
            let key = key.unwrap_or_default();
            if target.get(key) != value {
                target.put(key, value);
                bytes += key.len() + value.map_or(0, <[u8]>::len);
            }
        }
        bytes
    }
}

/// Entries that are deleted for one commit.
const TIDY_ENTRIES: usize = 5000;

/// Deletes some of what is superseded, when no rollout wants it: see [`TaskState::superseded`]; but for what `stays`. Whether there was
/// any.
pub fn tidy(state: &mut TaskState, stays: impl Fn(&StoreName) -> bool) -> bool {
    let Some(number) = state.superseded().find(|number| !stays(&state.names()[*number])) else { return false };
    let keys: Vec<Box<[u8]>> = state.store(number).iter().take(TIDY_ENTRIES).map(|(key, _)| Box::from(key)).collect();
    keys.iter().for_each(|key| state.store_mut(number).put(key, None));
    true
}

#[cfg(test)]
mod tests;

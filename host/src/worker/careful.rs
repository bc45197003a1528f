//! Finds the records that a transform fails on.
//!
//! A task whose plugin failed goes on with care: before each call, the state is marked, and afterwards the guest puts what it holds
//! back, so that a call that fails is taken back by itself, with a new instance. Its records are tried again in halves, until
//! those are found that it fails on alone; they are left out, and the others go on in order.
//!
//! What was found survives going back to the last commit: records are known by where they come from, which does not depend on how
//! they are cut into batches. So a search that takes long, or whose outputs Kafka refuses, goes back, and on from what it knows.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::chain::{self, ChainError, Destination, Unsent};
use super::failure::Failure;
use super::plan::Plan;
use super::runtime::Runtime;
use super::task::{self, Task};
use crate::engine::{CallError, Remedy};
use crate::record::{Batch, Output};

/// So long after the last failure a task goes on without care.
const CALM: Duration = Duration::from_secs(60);
/// A search that has taken this long goes back when it has learnt something: the group and the transaction do not wait for ever.
const SEARCH_MAX: Duration = Duration::from_millis(500);
/// What a failure counts that no record is to blame for, in calls that go well.
const UNEXPLAINED: u32 = 32;
/// The pipeline stops when more has come together: of the calls, about one in [`UNEXPLAINED`] fails.
const UNEXPLAINED_MAX: u32 = 32 * UNEXPLAINED;

const REFUSED: &str = "output-refused";

/// How it went wrong with a record or a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// A word: what dead letters say in `sluicegate.error`.
    pub kind: &'static str,
    /// In words, with the guest's own and its backtrace.
    pub reason: String,
}

impl Trouble {
    /// Of a call.
    #[must_use]
    pub fn of_call(error: &CallError) -> Self {
        Self { kind: error.kind(), reason: error.to_string() }
    }

    /// Kafka does not take the output.
    #[must_use]
    pub fn refused(reason: String) -> Self {
        Self { kind: REFUSED, reason }
    }

    /// The reason in one line, for a log.
    #[must_use]
    pub fn one_line(&self) -> String {
        one_line(&self.reason)
    }

    /// Whether it is that Kafka does not take the output.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.kind == REFUSED
    }
}

/// The beginning of a text of several lines in one.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    if line.len() <= LONGEST { line } else { format!("{}..", &line[..line.floor_char_boundary(LONGEST)]) }
}

/// A record at a transform: the n-th of those made of one source record.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Identity {
    input: u32,
    offset: i64,
    nth: u32,
}

fn identities(batch: &Batch) -> Vec<Identity> {
    let mut counts: HashMap<(u32, i64), u32> = HashMap::new();
    let identity = |(input, _, offset): (u32, i32, i64)| {
        let count = counts.entry((input, offset)).or_default();
        *count += 1;
        Identity { input, offset, nth: *count - 1 }
    };
    batch.origins().map(identity).collect()
}

/// What is known about the failures of a task's plugins.
#[derive(Debug)]
pub struct Careful {
    /// Records that fail, by transform.
    culprits: BTreeMap<(usize, Identity), Trouble>,
    /// Of each of these lists of records, by transform, some record fails, or none by itself.
    suspects: Vec<(usize, Vec<Identity>)>,
    /// A batch has failed and has not got through since.
    searching: bool,
    /// Wait after each call until Kafka has taken its output.
    acknowledge: bool,
    until: Instant,
    /// By transform.
    streaks: BTreeMap<usize, Streak>,
    /// Calls that have to go well before a failure without a culprit is forgotten.
    unexplained: u32,
    found: u64,
}

/// How a transform fares with one record after the other.
#[derive(Debug, Default)]
struct Streak {
    /// Records that failed, with no other one processed since.
    failed: u32,
    /// The last record of each input that was processed. What is done again after going back says nothing.
    passed: BTreeMap<u32, Identity>,
}

/// Why a batch did not get through.
#[derive(Debug)]
pub enum CarefulError<E> {
    /// As without care: the destination, or a failure that no record is to blame for.
    Chain(ChainError<E>),
    /// More is known, and the task has to go back to its last commit to use it.
    Back(Trouble),
    /// Kafka refuses output that was sent before, and it is not known whose.
    Stray {
        /// In librdkafka's words.
        reason: String,
    },
    /// There is no use in going on.
    Failed(Box<Failure>),
}

impl<E> From<ChainError<E>> for CarefulError<E> {
    fn from(error: ChainError<E>) -> Self {
        Self::Chain(error)
    }
}

impl<E> From<Failure> for CarefulError<E> {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// Records that are tried together.
struct Piece {
    batch: Batch,
    identities: Vec<Identity>,
}

impl Piece {
    fn range(&self, from: usize, to: usize) -> Self {
        Self { batch: self.batch.range(from, to), identities: self.identities[from..to].to_vec() }
    }
}

enum Step {
    Try(Box<Piece>),
    /// What failed has been tried again: was there a culprit in it?
    Explained {
        found_before: u64,
    },
}

impl Step {
    fn again(piece: Piece) -> Self {
        Self::Try(Box::new(piece))
    }
}

impl Careful {
    /// From `now` on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            culprits: BTreeMap::new(),
            suspects: Vec::new(),
            searching: true,
            acknowledge: false,
            until: now + CALM,
            streaks: BTreeMap::new(),
            unexplained: 0,
            found: 0,
        }
    }

    /// Whether nothing has failed for long.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Whether the next batch is likely to fail: the one before has.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.searching
    }

    /// A batch has failed again.
    pub fn failed(&mut self, now: Instant) {
        self.until = now + CALM;
        self.searching = true;
    }

    /// Kafka has refused output, and it is not known which.
    pub fn must_acknowledge(&mut self) {
        self.acknowledge = true;
    }

    /// A call with these records failed.
    pub fn suspect(&mut self, transform: usize, batch: &Batch) {
        self.suspects.push((transform, identities(batch)));
    }

    /// Kafka refuses what transform `transform` made of these records of `batch`.
    pub fn refused(&mut self, transform: usize, batch: &Batch, refused: Vec<(u32, String)>) {
        let identities = identities(batch);
        for (cause, reason) in refused {
            self.condemn(transform, identities[cause as usize], Trouble::refused(reason));
        }
    }

    /// There was a failure that no record is to blame for. Whether there are too many of them.
    fn nobody_to_blame(&mut self) -> bool {
        self.unexplained += UNEXPLAINED;
        self.unexplained > UNEXPLAINED_MAX
    }

    /// What is committed is not seen again.
    pub fn forget_before(&mut self, offsets: &[i64]) {
        let comes =
            |identity: &Identity| offsets.get(identity.input as usize).is_none_or(|&next| identity.offset >= next);
        self.culprits.retain(|(_, identity), _| comes(identity));
        self.suspects.retain(|(_, identities)| identities.iter().any(comes));
        self.streaks.values_mut().for_each(|streak| streak.passed.retain(|_, identity| comes(identity)));
    }

    fn condemn(&mut self, transform: usize, identity: Identity, trouble: Trouble) {
        if self.culprits.insert((transform, identity), trouble).is_none() {
            self.found += 1;
            self.streaks.entry(transform).or_default().failed += 1;
            self.unexplained = 0;
        }
    }

    fn passed(&mut self, transform: usize, piece: &Piece) {
        self.unexplained = self.unexplained.saturating_sub(1);
        let streak = self.streaks.entry(transform).or_default();
        for identity in &piece.identities {
            let before = streak.passed.entry(identity.input).or_insert(Identity { offset: -1, ..*identity });
            if identity > before {
                *before = *identity;
                streak.failed = 0;
            }
        }
    }

    /// How many records a transform has failed on, one after the other.
    fn in_a_row(&self, transform: usize) -> u32 {
        self.streaks.get(&transform).map_or(0, |streak| streak.failed)
    }

    /// Cuts a batch where something is known: each culprit by itself, records together that are on the same lists of suspects.
    fn cut(&self, transform: usize, batch: Batch) -> Vec<Piece> {
        let whole = Piece { identities: identities(&batch), batch };
        if !self
            .culprits
            .keys()
            .map(|(at, _)| at)
            .chain(self.suspects.iter().map(|(at, _)| at))
            .any(|at| *at == transform)
        {
            return vec![whole];
        }
        let mut labels: Vec<(bool, Vec<usize>)> = vec![(false, Vec::new()); whole.identities.len()];
        let places: BTreeMap<&Identity, usize> = whole.identities.iter().zip(0..).collect();
        for (at, identity) in self.culprits.keys() {
            if let Some(&place) = places.get(identity).filter(|_| *at == transform) {
                labels[place].0 = true;
            }
        }
        for (number, (at, list)) in self.suspects.iter().enumerate() {
            for &place in list.iter().filter(|_| *at == transform).filter_map(|identity| places.get(identity)) {
                labels[place].1.push(number);
            }
        }
        drop(places);
        let mut pieces = Vec::new();
        let mut from = 0;
        for to in 1..=labels.len() {
            if to == labels.len() || labels[to] != labels[from] || labels[to].0 {
                pieces.push(whole.range(from, to));
                from = to;
            }
        }
        pieces
    }

    /// Whether exactly these have failed together.
    fn has_failed(&self, transform: usize, piece: &Piece) -> bool {
        self.suspects.iter().any(|(at, list)| *at == transform && *list == piece.identities)
    }
}

/// A task and what it runs with.
pub struct Run<'a> {
    plan: &'a Plan,
    runtime: &'a dyn Runtime,
    careful: &'a mut Careful,
    task: &'a mut Task,
    /// The transforms that were called since their instances were made.
    used: Vec<bool>,
    began: Instant,
    last: Trouble,
}

impl<'a> Run<'a> {
    /// For one batch.
    #[must_use]
    pub fn new(plan: &'a Plan, runtime: &'a dyn Runtime, careful: &'a mut Careful, task: &'a mut Task) -> Self {
        let used = plan.transforms.iter().map(|_| true).collect();
        let last = Trouble { kind: "", reason: String::new() };
        Self { plan, runtime, careful, task, used, began: runtime.now(), last }
    }

    /// Runs `batch` through the transforms of the task from that of index `first` on, without the records that they fail on.
    ///
    /// # Errors
    /// Part of the batch may have reached the sinks; the task has to go back to its last commit.
    pub fn through<D: Destination>(
        &mut self,
        first: usize,
        batch: &mut Batch,
        destination: &mut D,
    ) -> Result<(), CarefulError<D::Error>> {
        let mut batch = std::mem::take(batch);
        for at in first..self.plan.transforms.len() {
            if batch.is_empty() {
                break;
            }
            let mut next = Batch { watermark: batch.watermark, ..Batch::default() };
            let mut steps: Vec<Step> = self.careful.cut(at, batch).into_iter().rev().map(Step::again).collect();
            while let Some(step) = steps.pop() {
                match step {
                    Step::Try(piece) => self.piece(at, piece, &mut steps, &mut next, destination)?,
                    Step::Explained { found_before } if found_before == self.careful.found => self.not_explained(at)?,
                    Step::Explained { .. } => {}
                }
            }
            batch = next;
        }
        self.careful.searching = false;
        Ok(())
    }

    fn piece<D: Destination>(
        &mut self,
        at: usize,
        mut piece: Box<Piece>,
        steps: &mut Vec<Step>,
        next: &mut Batch,
        destination: &mut D,
    ) -> Result<(), CarefulError<D::Error>> {
        if let [identity] = piece.identities.as_slice()
            && let Some(trouble) = self.careful.culprits.get(&(at, *identity))
        {
            return Ok(destination.failed(at, &piece.batch, trouble).map_err(ChainError::Destination)?);
        }
        if piece.batch.len() > 1 && self.careful.has_failed(at, &piece) {
            let (middle, end) = (piece.batch.len() / 2, piece.batch.len());
            steps.push(Step::again(piece.range(middle, end)));
            steps.push(Step::again(piece.range(0, middle)));
            return Ok(());
        }
        if self.careful.acknowledge
            && let Some(reason) = destination.acknowledged().map_err(ChainError::Destination)?
        {
            return Err(CarefulError::Stray { reason });
        }
        let trouble = match self.call(at, &mut piece.batch, destination) {
            Ok(output) => {
                let Some(trouble) = self.pass_on(at, &piece, output, next, destination)? else {
                    self.used[at] = true;
                    self.careful.passed(at, &piece);
                    return Ok(());
                };
                // What it put out is on its way.
                self.careful.failed(self.runtime.now());
                self.found(at, &piece, trouble.clone())?;
                return Err(CarefulError::Back(trouble));
            }
            Err(error) if error.remedy() == Remedy::Halve => Trouble::of_call(&error),
            Err(error) => {
                let (batch, error) = (Box::new(piece.batch), Box::new(error));
                return Err(ChainError::Call { transform: at, batch, error }.into());
            }
        };
        self.careful.failed(self.runtime.now());
        self.last = trouble.clone();
        destination.call_failed(at);
        let (partition, now_ms) = (self.task.partition, self.runtime.now_ms());
        let transform = &self.plan.transforms[at];
        self.task.instances[at] = transform
            .open(&self.plan.pipeline, partition, now_ms)
            .map_err(|error| Failure::Open { transform: transform.name.clone(), error })?;
        steps.push(Step::Explained { found_before: self.careful.found });
        if std::mem::take(&mut self.used[at]) && piece.batch.len() == 1 {
            // Perhaps what came before is to blame, in the memory of the instance: it is tried once more in a new one.
            steps.push(Step::Try(piece));
            return Ok(());
        }
        self.found(at, &piece, trouble.clone())?;
        if self.runtime.since(self.began) >= SEARCH_MAX {
            return Err(CarefulError::Back(trouble));
        }
        steps.push(Step::Try(piece));
        Ok(())
    }

    fn call<D: Destination>(&mut self, at: usize, batch: &mut Batch, destination: &mut D) -> Result<Output, CallError> {
        let (instance, state) = (&mut self.task.instances[at], &mut self.task.state.transforms[at]);
        let begin = self.runtime.now();
        let called = instance.process_apart(batch, state, self.runtime.now_ms());
        destination.processed(at, batch.len(), self.runtime.since(begin));
        called
    }

    /// Takes outputs to the sinks. What Kafka refuses of them, if anything.
    fn pass_on<D: Destination>(
        &mut self,
        at: usize,
        piece: &Piece,
        output: Output,
        next: &mut Batch,
        destination: &mut D,
    ) -> Result<Option<Trouble>, CarefulError<D::Error>> {
        let passed = chain::pass_on(self.plan, at, &piece.batch, &output, next, destination);
        self.task.instances[at].recycle(output);
        match passed {
            Ok(()) if self.careful.acknowledge => {
                let refused = destination.acknowledged().map_err(ChainError::Destination)?;
                Ok(refused.map(Trouble::refused))
            }
            Ok(()) => Ok(None),
            Err(Unsent::Failed(error)) => Err(ChainError::Destination(error).into()),
            Err(Unsent::Refused(refused)) => {
                let reason = refused.first().map_or_else(String::new, |(_, reason)| reason.clone());
                self.careful.failed(self.runtime.now());
                self.careful.refused(at, &piece.batch, refused);
                let trouble = Trouble::refused(reason);
                self.is_there_hope(at, &piece.batch, &trouble)?;
                Err(CarefulError::Back(trouble))
            }
        }
    }

    /// A piece fails, in a new instance.
    fn found(&mut self, at: usize, piece: &Piece, trouble: Trouble) -> Result<(), Failure> {
        match piece.identities.as_slice() {
            [identity] => {
                self.careful.condemn(at, *identity, trouble.clone());
                self.is_there_hope(at, &piece.batch, &trouble)
            }
            several => {
                self.careful.suspects.push((at, several.to_vec()));
                Ok(())
            }
        }
    }

    fn is_there_hope(&self, at: usize, batch: &Batch, trouble: &Trouble) -> Result<(), Failure> {
        let count = self.careful.in_a_row(at);
        if count < self.plan.give_up_after {
            return Ok(());
        }
        let transform = self.plan.transforms[at].name.clone();
        let last = u32::try_from(batch.len()).unwrap_or(u32::MAX).saturating_sub(1);
        Err(Failure::Hopeless {
            transform,
            count,
            origin: task::origin(self.plan, batch, last),
            trouble: trouble.clone(),
        })
    }

    fn not_explained(&mut self, at: usize) -> Result<(), Failure> {
        if !self.careful.nobody_to_blame() {
            return Ok(());
        }
        let trouble = self.last.clone();
        Err(Failure::Unexplained { transform: self.plan.transforms[at].name.clone(), trouble })
    }
}

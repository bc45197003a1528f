//! The scheduler: virtual time, and what happens next in it.
//!
//! Everything that a simulated process does happens in fibers (code that blocks, each on a stack of its own) and tasks (futures);
//! what happens in networks and servers are events. One thing runs at a time, on one OS thread, and everything that it may depend
//! on comes from one seeded generator: the same seed gives the same run, on any machine.
//!
//! A fiber gives way in [`Kernel::sleep`] only. A process that crashes loses its tasks, and its fibers end where they stand: they
//! unwind by a private panic. One that is paused goes on later, with what it knew then.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use generator::{Generator, Gn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::trace::Trace;

/// In words. Guests run on it too: they may use half a megabyte.
const STACK: usize = 2 * 1024 * 1024 / size_of::<usize>();

/// A process of the simulation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Pid(pub(crate) u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// How a fiber ends that did not return.
pub(crate) struct Panicked(pub(crate) String);

/// What a fiber unwinds with when its process has crashed.
struct Crash;

type FiberBody = Box<dyn FnOnce() + Send>;
type Event = Box<dyn FnOnce() + Send>;

enum Entry {
    /// A fiber goes on.
    Fiber(Pid, u64),
    /// A task is polled.
    Task(u64),
    /// A fiber is made.
    Start(Pid, FiberBody),
    /// Something happens outside of every process.
    Event(Event),
    /// A timer of a process is through.
    Timer(Pid, Waker),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Process {
    Running,
    Paused(Duration),
    Crashed,
}

struct State {
    now: Duration,
    /// By time; of those at the same time, one at random.
    agenda: BTreeMap<(Duration, u32, u64), Entry>,
    last: u64,
    rng: StdRng,
    processes: BTreeMap<Pid, Process>,
    /// There are processes that have crashed and not been buried.
    crashed: bool,
    tasks: BTreeMap<u64, (Pid, Option<BoxFuture<'static, ()>>)>,
    /// The fiber that runs, and whether it is to unwind.
    running: Option<(Pid, u64, bool)>,
    trace: Trace,
}

/// A handle to the scheduler.
#[derive(Clone)]
pub(crate) struct Kernel(Arc<Mutex<State>>);

/// The fibers of a run; only the loop has them.
#[derive(Default)]
pub(crate) struct Fibers(BTreeMap<u64, (Pid, Generator<'static, (), ()>)>);

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Kernel {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            last: 0,
            rng: StdRng::seed_from_u64(seed),
            processes: BTreeMap::new(),
            crashed: false,
            tasks: BTreeMap::new(),
            running: None,
            trace,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.state().now
    }

    /// Virtual time as production code sees it.
    pub(crate) fn instant(&self) -> Instant {
        *EPOCH + self.now()
    }

    /// From the seeded generator.
    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random(|rng| rng.random_bool(probability.min(1.0)))
    }

    /// A time between two.
    pub(crate) fn between(&self, least: Duration, most: Duration) -> Duration {
        self.random(|rng| rng.random_range(least..=most.max(least)))
    }

    /// Says what happened: goes into the run's fingerprint, and into its trace if that is wanted.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let mut state = self.state();
        let now = state.now;
        state.trace.note(now, what);
    }

    /// Says more about what was just noted, to whoever reads the trace.
    pub(crate) fn detail(&self, what: impl FnOnce() -> String) {
        let mut state = self.state();
        if state.trace.is_in_words() {
            let what = what();
            state.trace.detail(&what);
        }
    }

    /// What was noted.
    pub(crate) fn take_trace(&self) -> Trace {
        std::mem::take(&mut self.state().trace)
    }

    fn enter(&self, after: Duration, entry: Entry) {
        let mut state = self.state();
        let at = state.now + after;
        state.enter(at, entry);
    }

    /// Has `event` happen after a while.
    pub(crate) fn after(&self, time: Duration, event: impl FnOnce() + Send + 'static) {
        self.enter(time, Entry::Event(Box::new(event)));
    }

    /// Begins a process.
    pub(crate) fn begin(&self, pid: Pid) {
        self.state().processes.insert(pid, Process::Running);
    }

    /// Begins a fiber of a process.
    pub(crate) fn start(&self, pid: Pid, body: impl FnOnce() + Send + 'static) {
        self.enter(Duration::ZERO, Entry::Start(pid, Box::new(body)));
    }

    /// Begins a task of a process.
    pub(crate) fn spawn(&self, pid: Pid, work: BoxFuture<'static, ()>) {
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.tasks.insert(id, (pid, Some(work)));
        let at = state.now;
        state.enter(at, Entry::Task(id));
    }

    /// Wakes a waker of a process after a while.
    pub(crate) fn timer(&self, pid: Pid, after: Duration, waker: Waker) {
        self.enter(after, Entry::Timer(pid, waker));
    }

    /// Ends a process: it has done what it has done.
    pub(crate) fn crash(&self, pid: Pid) {
        let mut state = self.state();
        state.processes.insert(pid, Process::Crashed);
        state.crashed = true;
    }

    /// Lets nothing of a process go on for a while.
    pub(crate) fn pause(&self, pid: Pid, time: Duration) {
        let mut state = self.state();
        let until = state.now + time;
        if state.processes.get(&pid) == Some(&Process::Running) {
            state.processes.insert(pid, Process::Paused(until));
        }
    }

    /// Whether a process runs: is neither paused nor at its end.
    pub(crate) fn is_running(&self, pid: Pid) -> bool {
        self.state().is_running(pid)
    }

    /// Whether a process has crashed.
    pub(crate) fn has_crashed(&self, pid: Pid) -> bool {
        self.state().processes.get(&pid) == Some(&Process::Crashed)
    }

    /// Lets the running fiber stand still for a while. Everything else may happen meanwhile, also the end of its process.
    pub(crate) fn sleep(&self, time: Duration) {
        if std::thread::panicking() {
            return;
        }
        {
            let mut state = self.state();
            let (pid, fiber, _) = state.running.expect("only fibers sleep");
            let at = state.now + time;
            state.enter(at, Entry::Fiber(pid, fiber));
        }
        give_way();
        if self.state().running.is_some_and(|(.., dies)| dies) {
            resume_unwind(Box::new(Crash));
        }
    }

    /// Lets the running fiber look at `condition` from time to time, for `wait` at most.
    pub(crate) fn wait_for(&self, wait: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let until = self.now() + wait;
        loop {
            if condition() {
                return true;
            }
            let left = until.saturating_sub(self.now());
            if left.is_zero() {
                return false;
            }
            let look = self.between(Duration::from_micros(100), Duration::from_millis(2));
            self.sleep(look.min(left));
        }
    }

    /// Lets time go by until `over` says so, `limit` is reached, or nothing is left to happen. `panicked` is told of fibers that
    /// end by a panic.
    pub(crate) fn run(
        &self,
        fibers: &mut Fibers,
        limit: Duration,
        over: impl Fn() -> bool,
        mut panicked: impl FnMut(Pid, Panicked),
    ) {
        while !over() {
            self.bury(fibers);
            let (entry, tired) = {
                let mut state = self.state();
                let Some(((at, ..), entry)) = state.agenda.pop_first() else { return };
                state.now = state.now.max(at);
                let tired = state.now > limit;
                match state.postponed(&entry) {
                    Some(until) => {
                        state.enter(until, entry);
                        (None, tired)
                    }
                    None => (Some(entry), tired),
                }
            };
            if tired {
                return;
            }
            match entry {
                None => {}
                Some(Entry::Event(event)) => event(),
                Some(Entry::Timer(_, waker)) => waker.wake(),
                Some(Entry::Task(id)) => self.poll(id),
                Some(Entry::Fiber(_, id)) => self.resume(fibers, id, false, &mut panicked),
                // One whose process has crashed does not begin any more.
                Some(Entry::Start(pid, _)) if self.has_crashed(pid) => {}
                Some(Entry::Start(pid, body)) => {
                    let id = {
                        let mut state = self.state();
                        state.last += 1;
                        state.last
                    };
                    fibers.0.insert(id, (pid, fiber(body)));
                    self.resume(fibers, id, false, &mut panicked);
                }
            }
        }
    }

    /// Ends every process: what is on stacks goes.
    pub(crate) fn end(&self, fibers: &mut Fibers) {
        {
            let mut state = self.state();
            state.processes.values_mut().for_each(|process| *process = Process::Crashed);
            state.crashed = true;
        }
        self.bury(fibers);
        let agenda = std::mem::take(&mut self.state().agenda);
        drop(agenda);
    }

    /// Unwinds the fibers, and drops the tasks, of processes that have crashed.
    fn bury(&self, fibers: &mut Fibers) {
        let dead = |pid: &Pid, state: &State| state.processes.get(pid) == Some(&Process::Crashed);
        let (ids, tasks) = {
            let mut state = self.state();
            if !std::mem::take(&mut state.crashed) {
                return;
            }
            let ids: Vec<u64> = fibers.0.iter().filter(|(_, (pid, _))| dead(pid, &state)).map(|(id, _)| *id).collect();
            let tasks: Vec<u64> =
                state.tasks.iter().filter(|(_, (pid, _))| dead(pid, &state)).map(|(id, _)| *id).collect();
            let tasks: Vec<_> = tasks.into_iter().filter_map(|id| state.tasks.remove(&id)).collect();
            (ids, tasks)
        };
        for id in ids {
            self.resume(fibers, id, true, &mut |_, _| {});
        }
        drop(tasks);
    }

    fn resume(&self, fibers: &mut Fibers, id: u64, dies: bool, panicked: &mut impl FnMut(Pid, Panicked)) {
        let Some((pid, fiber)) = fibers.0.get_mut(&id) else { return };
        let pid = *pid;
        self.state().running = Some((pid, id, dies));
        ENDED.set(None);
        fiber.resume();
        self.state().running = None;
        if fiber.is_done() {
            fibers.0.remove(&id);
            if let Some(Some(panic)) = ENDED.take() {
                panicked(pid, panic);
            }
        } else {
            assert!(!dies, "a fiber that is to unwind does");
        }
    }

    fn poll(&self, id: u64) {
        let Some(mut work) = self.state().tasks.get_mut(&id).and_then(|(_, work)| work.take()) else { return };
        let waker = Waker::from(Arc::new(TaskWaker { kernel: self.clone(), id }));
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => {
                let done = self.state().tasks.remove(&id);
                drop(done);
            }
            Poll::Pending => {
                if let Some((_, place)) = self.state().tasks.get_mut(&id) {
                    *place = Some(work);
                }
            }
        }
    }
}

/// Back to the loop, until it resumes this fiber.
#[expect(
    deprecated,
    reason = "what stands for it hands a value through every function in between, production code too"
)]
fn give_way() {
    generator::yield_with(());
}

thread_local! {
    /// How the fiber that was just resumed ended, if it did: with a panic or without.
    static ENDED: std::cell::Cell<Option<Option<Panicked>>> = const { std::cell::Cell::new(None) };
}

fn fiber(body: FiberBody) -> Generator<'static, (), ()> {
    Gn::new_opt(STACK, move || {
        let result = catch_unwind(AssertUnwindSafe(body));
        let panic = result.err().filter(|payload| !payload.is::<Crash>()).map(|payload| Panicked(text(&*payload)));
        ENDED.set(Some(panic));
    })
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

impl State {
    fn enter(&mut self, at: Duration, entry: Entry) {
        self.last += 1;
        let (lot, number) = (self.rng.random(), self.last);
        self.agenda.insert((at, lot, number), entry);
    }

    fn is_running(&self, pid: Pid) -> bool {
        match self.processes.get(&pid) {
            Some(Process::Running) => true,
            Some(Process::Paused(until)) => *until <= self.now,
            Some(Process::Crashed) | None => false,
        }
    }

    /// Until when an entry of a paused process has to wait.
    fn postponed(&self, entry: &Entry) -> Option<Duration> {
        let pid = match entry {
            Entry::Event(_) => return None,
            Entry::Fiber(pid, _) | Entry::Start(pid, _) | Entry::Timer(pid, _) => *pid,
            Entry::Task(id) => self.tasks.get(id)?.0,
        };
        match self.processes.get(&pid) {
            Some(Process::Paused(until)) if *until > self.now => Some(*until),
            _ => None,
        }
    }
}

struct TaskWaker {
    kernel: Kernel,
    id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.kernel.enter(Duration::ZERO, Entry::Task(self.id));
    }
}

//! Many runs, as many at a time as there are cores; each has a world and a seed of its own.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::breaks::Break;
use crate::faults::Counts;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world;

/// What many runs came to.
#[derive(Default)]
pub(crate) struct Campaign {
    /// The first seed that failed, and what was wrong.
    pub(crate) failed: Option<(u64, Vec<String>)>,
    pub(crate) runs: u64,
    pub(crate) commits: u64,
    pub(crate) virtual_s: f64,
    pub(crate) real_s: f64,
    pub(crate) faults: Counts,
}

impl Campaign {
    /// Runs a scenario under these seeds, until one fails.
    pub(crate) fn run(scenario: Scenario, seeds: std::ops::Range<u64>, broken: Option<Break>) -> Self {
        let begin = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let campaign = Mutex::new(Self::default());
        let work = || loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = world::run(scenario, seed, broken, Trace::default());
            let mut campaign = campaign.lock().unwrap_or_else(PoisonError::into_inner);
            campaign.runs += 1;
            campaign.commits += report.commits;
            campaign.virtual_s += report.took.as_secs_f64();
            for (fault, count) in report.faults {
                *campaign.faults.entry(fault).or_default() += count;
            }
            if !report.violations.is_empty() {
                next.store(seeds.end, Ordering::Relaxed);
                if campaign.failed.as_ref().is_none_or(|(before, _)| seed < *before) {
                    campaign.failed = Some((seed, report.violations));
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
        let mut campaign = campaign.into_inner().unwrap_or_else(PoisonError::into_inner);
        campaign.real_s = begin.elapsed().as_secs_f64();
        campaign
    }

    /// What was run, in words.
    pub(crate) fn summary(&self, scenario: Scenario) -> String {
        let per_second = self.runs as f64 / self.real_s.max(0.001);
        let mut text = format!(
            "{scenario}: {} seeds, {per_second:.0} a second; {} commits, {:.0} s of virtual time",
            self.runs, self.commits, self.virtual_s
        );
        for (fault, count) in &self.faults {
            // Into memory.
            let _ = write!(text, "\n  {count:>7} {fault}");
        }
        text
    }
}

//! A process that is measured: CPU time by thread name and memory, read from `/proc`.
//!
//! Invariant: the process does not outlive the value.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluicegate_harness::process::signal_process;

/// Linux counts a process's CPU time for `/proc` in hundredths of a second, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const SIGTERM: i32 = 15;

/// A child process.
pub struct Measured {
    child: Child,
    name: String,
    log: PathBuf,
    started: Instant,
}

impl Measured {
    /// Starts `command`; what it prints goes to `log`. Its standard input stays open until [`Measured::stop`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start {name}: {:?}", command.get_program()))?;
        Ok(Self { child, name: name.to_owned(), log, started })
    }

    /// When it was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// An error with the end of its log if it has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// What it printed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// The end of what it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        // What cannot be read cannot be shown.
        let text = self.log().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// CPU seconds that it has used since it was started, all threads, user and system.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("read the process's CPU time")?;
        // The command's name, in parentheses, may contain anything.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// CPU seconds of the threads that are alive, by name.
    #[must_use]
    pub fn cpu_by_thread(&self) -> BTreeMap<String, f64> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let ran_ns: f64 = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0);
            *threads.entry(read("comm").trim().to_owned()).or_default() += ran_ns / 1e9;
        }
        threads
    }

    /// A line of `/proc/PID/status` that gives kilobytes, in MiB: `VmRSS`, `VmHWM`.
    #[must_use]
    pub fn memory_mib(&self, line: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib =
            status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
    }

    /// The sum of a metric's values, from the endpoint that the log names.
    ///
    /// # Errors
    /// There is no endpoint, or it does not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let log = self.log()?;
        let named = log.split_once("http endpoint:").and_then(|(_, rest)| rest.split_once("address="));
        let address = named.and_then(|(_, rest)| rest.split_whitespace().next()).context("no endpoint is logged")?;
        let text = ureq::get(format!("http://{address}/metrics")).call()?.body_mut().read_to_string()?;
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Closes its standard input, sends SIGTERM and waits for it.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn stop(mut self, by_signal: bool) -> Result<()> {
        drop(self.child.stdin.take());
        if by_signal {
            signal_process(self.child.id(), SIGTERM)?;
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended badly ({status}):\n{}", self.name, self.log_tail()),
                None if Instant::now() > deadline => bail!("{} did not end:\n{}", self.name, self.log_tail()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A `sluicegate` process: started, watched, signalled, and what it left behind.
//!
//! What it writes to stderr goes to a file; a test that fails shows the end of it. A process ends with its value, and with
//! the test binary.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sluicegate_harness::process::{signal_process, spawn_attached};

use crate::shared::wait_for;

/// The folder of the build: where this test binary and the program lie.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The program under test.
///
/// # Panics
/// It is not built.
pub(crate) fn program() -> Command {
    let path = build_folder().join("sluicegate");
    assert!(path.is_file(), "{} is missing: run the tests with `cargo xtask test`, which builds it", path.display());
    Command::new(path)
}

/// The file of a plugin or test guest.
///
/// # Panics
/// It is not built.
pub(crate) fn plugin(file: &str) -> PathBuf {
    let path = build_folder().parent().unwrap().join("wasm32-wasip2/plugin").join(file);
    assert!(path.is_file(), "{} is missing: run the tests with `cargo xtask test`, which builds it", path.display());
    path
}

/// A process that ended by itself or after a signal.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; `None` after a signal that nobody handled.
    pub(crate) code: Option<i32>,
    /// Everything it wrote to stderr.
    pub(crate) log: String,
}

impl Ended {
    /// Checks how it ended and that it said each of `words`.
    pub(crate) fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "it should have ended with {code}:\n{}", self.log);
        for word in words {
            assert!(self.log.contains(word), "it did not say `{word}`:\n{}", self.log);
        }
    }
}

/// A running process.
pub(crate) struct Node {
    child: Option<Child>,
    log: PathBuf,
}

impl Node {
    /// Starts `command`, whose stderr goes to `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { child: Some(spawn_attached(command).unwrap()), log }
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The name of the file that it logs to.
    pub(crate) fn log_name(&self) -> String {
        self.log.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until it has logged `words`.
    pub(crate) fn wait_for_log(&mut self, words: &str) {
        self.wait_for(&format!("log of `{words}`"), |node| node.log().contains(words).then_some(()));
    }

    /// Waits for something that this process should bring about; sees when it has ended instead.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for(what, || {
            // What it did at its very end counts.
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let found = condition(self);
            assert!(found.is_some() || ended.is_none(), "it ended ({ended:?}) before: {what}");
            found
        })
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn http(&self) -> Option<String> {
        let log = self.log();
        let address = log.split_once("http endpoint:")?.1.split_once("address=")?.1.split_whitespace().next()?;
        Some(address.to_owned())
    }

    /// Status and body of a page; `None` while nobody answers.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .into();
        let mut answer = agent.get(format!("http://{}{path}", self.http()?)).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
    }

    /// Waits until `/readyz` says so.
    pub(crate) fn wait_until_ready(&mut self) {
        self.wait_for("readiness", |node| node.get("/readyz").filter(|(status, _)| *status == 200).map(drop));
    }

    /// The sum of a metric over its labels; 0 while there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").unwrap_or_default().1;
        let samples = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        signal_process(self.id(), signal).unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(libc::SIGTERM);
        self.wait_for_end()
    }

    /// SIGTERM, and sees it end as it should.
    pub(crate) fn stop(self) {
        self.terminate().expect(0, &["everything is committed"]);
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait_for_end(mut self) -> Ended {
        let status = wait_for("end of the process", || self.child.as_mut().unwrap().try_wait().unwrap());
        let log = self.log();
        self.child = None;
        Ended { code: status.code(), log }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let (_, _) = (child.kill(), child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}:\n{}\n---", self.log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

//! A Java server as a child process: start, signals, readiness, log, end.
//!
//! Invariant: an attached server never outlives this process. The kernel's parent-death signal does that, and because it is
//! sent when the *thread* that started the child ends (tests run on short-lived threads), all children are started by one
//! thread that never ends. A detached server (`cargo xtask servers up`) is in a session of its own and outlives everybody.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 40;

/// How a Java program is called.
#[derive(Clone, Debug)]
pub struct JavaCommand {
    /// Class path.
    pub class_path: String,
    /// Flags of the virtual machine.
    pub flags: Vec<String>,
    /// Main class.
    pub main: String,
    /// Arguments.
    pub arguments: Vec<String>,
}

impl JavaCommand {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("java");
        command.args(&self.flags).arg("-cp").arg(&self.class_path).arg(&self.main).args(&self.arguments);
        command
    }

    /// Runs it to its end, with what it printed in the error.
    pub(crate) fn run(&self) -> Result<String> {
        let output = self.command().stdin(Stdio::null()).output().context(JAVA_MISSING)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!(
            "{} failed ({}):\n{}{}",
            self.main,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

const JAVA_MISSING: &str = "run java: version 17 or later is needed (Debian: apt install openjdk-17-jre-headless)";

/// Whether a server ends with its starter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It is killed when the value is dropped or this process ends.
    Attached,
    /// It goes on until somebody ends it by its process id.
    Detached,
}

/// A running, or stopped and restartable, server process.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    command: JavaCommand,
    log: PathBuf,
    attachment: Attachment,
    child: Option<Child>,
}

impl Server {
    /// A server that `launch` will start.
    pub(crate) fn new(name: &'static str, command: JavaCommand, log: PathBuf, attachment: Attachment) -> Self {
        Self { name, command, log, attachment, child: None }
    }

    /// Starts the process, which must not be running, and waits until `ready` says so.
    pub(crate) fn launch(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log).context("open the server's log")?;
        let mut command = self.command.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        tie(&mut command, self.attachment);
        self.child = Some(spawn(command).context(JAVA_MISSING)?);
        let deadline = Instant::now() + START_DEADLINE;
        while !ready() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.child = None;
                bail!("{} ended while it started ({status}):\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!("{} was not ready after {START_DEADLINE:?}:\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn signal(&self, signal: libc::c_int) -> Result<()> {
        let id = self.id().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        signal_process(id, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGTERM, then waits; kills it if it does not end in time.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(libc::SIGTERM)?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while let Some(child) = self.child.as_mut() {
            if child.try_wait()?.is_some() {
                self.child = None;
            } else if Instant::now() > deadline {
                self.kill()?;
                bail!("{} did not end {STOP_DEADLINE:?} after SIGTERM and was killed:\n{}", self.name, self.log_tail());
            } else {
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// SIGKILL, and reaps it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: connections stay open and nobody answers. Returns when every thread stands still, which on a busy machine takes a
    /// moment.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.id().context("it runs")?);
        let stands = |task: &fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let deadline = Instant::now() + STOP_DEADLINE;
        while !fs::read_dir(&tasks)?.flatten().all(|task| stands(&task)) {
            if Instant::now() > deadline {
                bail!("it does not stand still");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Where the server's log is.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines the server wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.attachment == Attachment::Attached {
            // Nothing is left to do about a process that cannot be killed.
            let _ = self.kill();
        }
    }
}

/// Sends `signal` to a process.
///
/// # Errors
/// No such process, or it is not ours.
pub fn signal_process(id: u32, signal: libc::c_int) -> Result<()> {
    let id = libc::pid_t::try_from(id).context("process id")?;
    #[expect(unsafe_code, reason = "kill has no safe form in the standard library")]
    // SAFETY: kill reads its two integers and touches no memory.
    let result = unsafe { libc::kill(id, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).with_context(|| format!("signal process {id}")) }
}

/// Starts a program that is killed when this process ends, however it ends.
///
/// # Errors
/// The program cannot be started.
pub fn spawn_attached(mut command: Command) -> io::Result<Child> {
    tie(&mut command, Attachment::Attached);
    spawn(command)
}

/// Makes the program that `command` will start end with this process, or outlive it.
fn tie(command: &mut Command, attachment: Attachment) {
    #[expect(unsafe_code, reason = "prctl and setsid have no safe form; both are allowed between fork and exec")]
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            let result = match attachment {
                Attachment::Attached => libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
                Attachment::Detached => libc::setsid(),
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

/// Starts `command` on the thread that lives as long as this process.
fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // A caller that has gone drops the child, which then runs until this process ends.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, result) = mpsc::channel();
    starter.send((command, reply)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}

/// Where a server keeps its data, log and configuration.
#[derive(Debug)]
pub(crate) enum Home {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Home {
    /// A new folder in the system's temporary one. Folders that processes killed earlier left there are removed.
    pub(crate) fn temporary() -> Result<Self> {
        const PREFIX: &str = "sluicegate-server-";
        let parent = std::env::temp_dir();
        for entry in fs::read_dir(&parent)?.flatten() {
            let name = entry.file_name();
            let owner =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
                // Another process may remove it at the same time.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let prefix = format!("{PREFIX}{}-", std::process::id());
        Ok(Self::Temporary(tempfile::Builder::new().prefix(&prefix).tempdir().context("create a temporary folder")?))
    }

    /// A folder that stays.
    pub(crate) fn kept(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self::Kept(path))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}

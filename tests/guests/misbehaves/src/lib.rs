//! Fails in every way that an honest plugin can, as `how` says: on records whose value begins with `on`, or on all.
//!
//! Other records are passed on as they are.

use sluicegate_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    how: How,
    #[serde(default)]
    on: String,
    #[serde(default)]
    number: usize,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Never returns.
    Loop,
    /// Allocates without end.
    MemoryHog,
    /// Executes `unreachable`.
    Trap,
    /// Panics with the record's value.
    Panic,
    /// Calls itself without end.
    Recurse,
    /// Exits, as a program would.
    Exit,
    /// Rejects the record.
    Reject,
    /// Sends twice and then rejects the record.
    SendAndReject,
    Fatal,
    Transient,
    /// Asks for patience during one eighth of the time.
    Moody,
    /// Sends 4 GiB for one record.
    BigOutput,
    /// Sends a value of `number` bytes.
    Large,
    /// Executes `unreachable` where key and value both end in 3.
    TrapOnThrees,
    /// Traps on whatever comes when its instance has seen `number` of these records.
    Leak,
    /// Logs a thousand messages and the record's value to stderr.
    Chatter,
    /// `open` fails.
    OpenFails,
    /// `open` says that the field `how` is wrong.
    ConfigFails,
    /// `open` traps.
    OpenTraps,
}

#[transform]
struct Misbehaves {
    #[config]
    config: Config,
    #[output]
    main: Output,
    seen: usize,
}

impl Transform for Misbehaves {
    fn open(&mut self) -> Result<(), Unfit> {
        match self.config.how {
            How::OpenFails => Err(Unfit::Failed("told to fail".into())),
            How::ConfigFails => Err(Unfit::config("how", "told to fail")),
            How::OpenTraps => trap(),
            _ => Ok(()),
        }
    }

    fn process(&mut self, record: Record) -> Outcome {
        if !record.value().is_some_and(|value| value.starts_with(self.config.on.as_bytes())) {
            return self.main.send(record);
        }
        match self.config.how {
            How::Loop => spin(),
            How::MemoryHog => hog(),
            How::Trap => trap(),
            How::Panic => panic!("told to panic on {:?}", record.text()),
            How::Recurse => self.main.send(record.with_value(recurse(1))),
            How::Exit => std::process::exit(3),
            How::Reject => Err(reject("told to reject")),
            How::SendAndReject => {
                self.main.send(record)?;
                self.main.send(record.with_value("never seen"))?;
                Err(reject("told to reject"))
            }
            How::Fatal => Err(fatal("told to stop")),
            How::Transient => Err(transient("told to wait")),
            How::Moody if sluicegate_sdk::now() / 50 % 8 == 0 => Err(transient("not now")),
            How::Moody => self.main.send(record),
            How::BigOutput => (0..4096).try_for_each(|_| self.main.send(record.with_value(vec![b'x'; 1 << 20]))),
            How::Large => self.main.send(record.with_value(vec![b'x'; self.config.number])),
            How::TrapOnThrees => {
                let ends = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| bytes.ends_with(b"3"));
                if ends(record.key()) && ends(record.value()) { trap() } else { self.main.send(record) }
            }
            How::Leak if self.seen >= self.config.number => trap(),
            How::Leak => {
                self.seen += 1;
                self.main.send(record)
            }
            How::Chatter => {
                (0..1000).for_each(|number| info!("message {number}"));
                eprintln!("value {:?}", record.text());
                self.main.send(record)
            }
            How::OpenFails | How::ConfigFails | How::OpenTraps => self.main.send(record),
        }
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn hog() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}

fn trap() -> ! {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort();
}

#[expect(unconditional_recursion, reason = "until the stack is used up")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(depth + 1)) + depth
}

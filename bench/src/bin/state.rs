//! State in ZooKeeper: how long it takes to write, to restore, and to commit a small change of it.
//!
//! In one process, through the host's checkpoint store, in as many tasks as a pipeline of four partitions has. Keys of 16 bytes,
//! values of 100 random letters. Broker and guests take no part. To run it: `cargo xtask bench state`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use futures::future::try_join_all;
use serde_json::json;
use sluicegate::checkpoint::head::{Decider, Manifest};
use sluicegate::checkpoint::ledger::Ledger;
use sluicegate::checkpoint::protocol;
use sluicegate::checkpoint::store::{Claim, Settled, TaskStore, settle};
use sluicegate::ids::{ManifestId, TaskId};
use sluicegate::meta::MetaStore;
use sluicegate::meta::zookeeper::{ZooKeeper, ZooKeeperOptions};
use sluicegate::state::{StoreName, TaskState};
use sluicegate_bench::figures::{median, print_machine};
use sluicegate_bench::records::{KEY_BYTES, Records, VALUE_BYTES};
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::ServerArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &str = "bench";
/// Seconds in which the state has to be restored.
const RESTORE_GOAL_S: f64 = 5.0;

/// Writes, restores and changes state in a ZooKeeper
#[derive(Parser)]
struct Arguments {
    /// Size of the state: keys and values
    #[arg(long, value_name = "MB", default_value_t = 100)]
    megabytes: usize,
    /// Tasks that it is spread over
    #[arg(long, default_value_t = 4)]
    tasks: u32,
    /// Keys that a commit changes
    #[arg(long, default_value_t = 1000)]
    changes: usize,
    /// How often everything but the first write is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

/// A task that has been claimed.
struct Task {
    claim: Claim,
    ledger: Ledger,
    state: TaskState,
    commits: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (connect, _zookeeper) = arguments.servers.start_zookeeper()?;
    let namespace = format!("/bench-state-{}", std::process::id());
    let meta: Arc<dyn MetaStore> = Arc::new(ZooKeeper::connect(ZooKeeperOptions::new(&connect, &namespace)).await?);
    print_machine();

    let mut tasks = try_join_all((0..arguments.tasks).map(|number| begin(&meta, number))).await?;
    let entries = arguments.megabytes * 1_000_000 / (KEY_BYTES + VALUE_BYTES);
    let mut records = Records::default();
    for number in 0..entries {
        let (_, value) = records.make();
        put(&mut tasks, number, value);
    }
    let write = Instant::now();
    let written = commit(&*meta, &mut tasks).await?;
    let write_s = write.elapsed().as_secs_f64();
    println!(
        "{} MB of state, {entries} keys in {} tasks: written in {write_s:.2} s ({:.1} MB stored)",
        arguments.megabytes,
        arguments.tasks,
        written as f64 / 1e6
    );

    let mut changes = Vec::new();
    for _ in 0..arguments.rounds * 4 {
        for _ in 0..arguments.changes {
            let (key, value) = records.make();
            let number = key
                .iter()
                .chain(&value[..8])
                .fold(0usize, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
            put(&mut tasks, number % entries, value);
        }
        let begin = Instant::now();
        let bytes = commit(&*meta, &mut tasks).await?;
        changes.push((begin.elapsed().as_secs_f64() * 1e3, bytes));
    }
    let change_ms = median(changes.iter().map(|(ms, _)| *ms));
    println!(
        "a commit that changes {} keys of it: {change_ms:.1} ms (median of {}, longest {:.1} ms, {:.0} kB written)",
        arguments.changes,
        changes.len(),
        changes.iter().map(|(ms, _)| *ms).fold(0.0, f64::max),
        median(changes.iter().map(|(_, bytes)| *bytes as f64 / 1e3)),
    );
    drop(tasks);

    let mut restores = Vec::new();
    for _ in 0..arguments.rounds {
        let begin_at = Instant::now();
        let restoring = (0..arguments.tasks).map(|number| {
            let meta = Arc::clone(&meta);
            tokio::spawn(async move { begin(&meta, number).await })
        });
        let restored = try_join_all(restoring).await?.into_iter().collect::<Result<Vec<Task>>>()?;
        restores.push(begin_at.elapsed().as_secs_f64());
        let found: usize = restored.iter().map(|task| task.state.len()).sum();
        ensure!(found == entries, "{found} of {entries} keys were restored");
    }
    let restore_s = median(restores.iter().copied());
    println!(
        "restored in {restore_s:.2} s (median of {}, longest {:.2} s); goal: under {RESTORE_GOAL_S} s: {}",
        restores.len(),
        restores.iter().copied().fold(0.0, f64::max),
        if restore_s < RESTORE_GOAL_S { "ok" } else { "MISSED" }
    );
    arguments.report.write(json!({
        "megabytes": arguments.megabytes,
        "tasks": arguments.tasks,
        "keys": entries,
        "write_s": write_s,
        "stored_bytes": written,
        "commit_ms": changes.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(),
        "restore_s": restores,
    }))
}

/// Claims a task and restores it, after its genesis the first time.
async fn begin(meta: &Arc<dyn MetaStore>, partition: u32) -> Result<Task> {
    let task = TaskId { pipeline: "bench".into(), incarnation: 1, stage: 0, partition };
    let store = TaskStore::new(Arc::clone(meta), task);
    let genesis = protocol::genesis(1, [(TOPIC.into(), 0)].into(), [(TOPIC.into(), 1)].into(), Vec::new());
    store.genesis(&genesis).await?;
    let claim = store.claim("bench", tokio::time::sleep).await?;
    let mut state = TaskState::new([vec![StoreName::of("work", "entries", 1)]]);
    let ledger = store.restore(claim.head(), &claim.head().committed, &mut state).await?;
    Ok(Task { claim, ledger, state, commits: 0 })
}

fn put(tasks: &mut [Task], number: usize, value: &[u8]) {
    let at = number % tasks.len();
    tasks[at].state.store_mut(0).put(format!("key-{number:012}").as_bytes(), Some(value));
}

/// Commits what changed, all tasks at once as a worker thread does, and returns the bytes written.
async fn commit(meta: &dyn MetaStore, tasks: &mut [Task]) -> Result<u64> {
    let mut commits = Vec::new();
    for Task { claim, ledger, state, commits: count } in &mut *tasks {
        *count += 1;
        let offset = i64::try_from(*count)?;
        commits.push(claim.commit(Decider::Head, ledger, state, |epoch, chunks| Manifest {
            id: ManifestId { epoch, nonce: epoch.0 },
            chunks,
            offsets: [(TOPIC.to_owned(), offset)].into(),
            watermark: None,
            transforms: Vec::new(),
        }));
    }
    settle(meta, &mut commits).await?;
    let mut bytes = 0;
    for (commit, Task { claim, ledger, state, .. }) in commits.into_iter().zip(tasks) {
        bytes += commit.bytes();
        ensure!(claim.settled(commit, ledger, state) == Settled::Durable, "a commit was lost");
    }
    Ok(bytes)
}

//! WASI 0.2, virtual: everything is there, nothing reaches the world.
//!
//! Empty environment, no directories, no network, closed standard input. Clocks show the call's time and stand still
//! while it runs; waiting for one ends at once, so that no guest can hold a thread in a host call, where no deadline
//! reaches it. Random numbers come from a generator seeded by pipeline, transform and task, so that every instance of a
//! task draws the same ones. Grants replace parts of this by the real thing.

use std::time::Duration;

use rand_of_wasi::SeedableRng;
use rand_of_wasi::rngs::StdRng;
use sha2::{Digest, Sha256};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, async_trait};

use super::grants::Grants;
use super::guest::{Clock, Guest};
use super::voice::{STDERR, Speaker, Voice};

const MONOTONIC_CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";

/// Links all of WASI 0.2.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    clock.func_wrap("subscribe-duration", |store, (_nanoseconds,): (u64,)| Ok((at_once(store)?,)))?;
    clock.func_wrap("subscribe-instant", |store, (_nanoseconds,): (u64,)| Ok((at_once(store)?,)))?;
    linker.allow_shadowing(false);
    Ok(())
}

fn at_once(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<Resource<DynPollable>> {
    let table = &mut store.data_mut().table;
    let ready = table.push(Ready)?;
    subscribe(table, ready)
}

/// Something that a guest waits for, and need not.
struct Ready;

#[async_trait]
impl Pollable for Ready {
    async fn ready(&mut self) {}
}

/// The world as one instance sees it.
pub(super) fn context(speaker: &Speaker, grants: &Grants, clock: &Clock, voice: &Voice) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    builder.stdout(voice.stream("stdout")).stderr(voice.stream(STDERR));
    for name in &grants.env {
        if let Ok(value) = std::env::var(name) {
            builder.env(name, value);
        }
    }
    if !grants.clocks {
        builder.wall_clock(Still(clock.clone())).monotonic_clock(Still(clock.clone()));
    }
    if !grants.random {
        builder.secure_random(generator(speaker, "secure")).insecure_random(generator(speaker, "insecure"));
        let seed = seed(speaker, "seed");
        builder.insecure_random_seed(seed.iter().fold(0, |value, &byte| value << 8 | u128::from(byte)));
    }
    builder.build()
}

fn generator(speaker: &Speaker, purpose: &str) -> StdRng {
    StdRng::from_seed(seed(speaker, purpose))
}

fn seed(Speaker { pipeline, transform, task }: &Speaker, purpose: &str) -> [u8; 32] {
    Sha256::digest(format!("{purpose}\0{pipeline}\0{transform}\0{task}")).into()
}

/// A clock that shows the call's time.
struct Still(Clock);

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.now_ms()).unwrap_or(0))
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.now_ms()).unwrap_or(0).saturating_mul(1_000_000)
    }
}

//! What a pipeline lets a plugin use and have, as the engine takes it. Pure.

use crate::config::{Grant, TransformLimits};
use crate::engine::{Grants, Limits};

/// What an instance may use.
#[must_use]
pub fn limits(limits: &TransformLimits) -> Limits {
    Limits {
        memory_bytes: limits.memory,
        time_per_call: limits.time_per_batch,
        output_bytes: limits.output_bytes,
        state_bytes: limits.state_bytes,
        ..Limits::default()
    }
}

/// What an instance may have of the real world.
#[must_use]
pub fn grants(granted: &[Grant]) -> Grants {
    let mut grants = Grants::default();
    for grant in granted {
        match grant {
            Grant::Clocks => grants.clocks = true,
            Grant::Random => grants.random = true,
            Grant::Environment(name) => grants.env.push(name.clone()),
        }
    }
    grants
}

//! `sluicegate demo`: see [`crate::embedded`].

use std::sync::Arc;

use super::{CommandError, signals};
use crate::embedded::{self, DemoArgs};
use crate::worker::control::Control;

pub(super) async fn run(args: DemoArgs) -> Result<(), CommandError> {
    let stop = Arc::new(Control::default());
    // Without it a signal ends the process, which has nothing to lose.
    if args.keep {
        signals::drain_on_signal(Arc::clone(&stop), std::time::Duration::from_secs(30))?;
    }
    let failed = |error: anyhow::Error| CommandError::Failed(format!("the demo failed: {error:#}"));
    embedded::run(&args.plugins, args.keep, stop, &mut std::io::stdout()).await.map_err(failed)
}

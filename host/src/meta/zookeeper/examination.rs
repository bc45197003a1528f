//! How the ensemble is, as its clients feel it: tried on one ephemeral node, which goes with the session at the latest.
//!
//! Says what was measured and not what to think of it.

use std::time::{Duration, Instant};

use super::{ZooKeeper, creating, error};
use crate::meta::{MetaError, MetaStore as _, REQUEST_BYTES_MAX, Version, Write, layout};

/// So many reads and writes are timed.
const SAMPLES: usize = 15;
/// What a timed write writes: about a head without state.
const SAMPLE_BYTES: usize = 512;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Examination {
    /// How long the session outlives its last contact, as the ensemble has granted it.
    pub session_timeout: Duration,
    /// The median time of a small write, to its answer.
    pub write: Duration,
    /// The median time of a small read.
    pub read: Duration,
    /// How many milliseconds the clock of the leader is ahead of this machine's, within half the time of a write.
    pub clock_ahead_ms: i64,
    /// Whether the largest request that a node may make was taken.
    pub largest_request: Result<(), MetaError>,
}

impl ZooKeeper {
    /// Measures. Leaves nothing behind.
    ///
    /// # Errors
    /// Something as small as what every commit writes is not taken.
    pub async fn examine(&self) -> Result<Examination, MetaError> {
        let path = layout::trial(rand::random());
        let client = self.link.client(&path).await?;
        let refused = |failure| error::of_write(&path, &failure);
        let options = creating(true, self.authenticated);
        let before = jiff::Timestamp::now().as_millisecond();
        let (made, _) = client.create(&path, b"", &options).await.map_err(refused)?;
        let after = jiff::Timestamp::now().as_millisecond();

        let (mut writes, mut reads) = (Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES));
        for _ in 0..SAMPLES {
            let begin = Instant::now();
            client.set_data(&path, &[b' '; SAMPLE_BYTES], None).await.map_err(refused)?;
            writes.push(begin.elapsed());
            let begin = Instant::now();
            client.get_data(&path).await.map_err(|failure| error::of_read(&path, &failure))?;
            reads.push(begin.elapsed());
        }
        let version = i32::try_from(SAMPLES).map_or(Version(0), Version);
        let largest_request = self.try_largest(&path, version).await;
        let session_timeout = client.session_timeout();
        // It would go with the session, if a little later.
        let _ = self.multi(vec![Write::Delete { path: path.clone(), version: None }]).await;
        Ok(Examination {
            session_timeout,
            write: median(writes),
            read: median(reads),
            clock_ahead_ms: made.ctime - before.midpoint(after),
            largest_request,
        })
    }

    async fn try_largest(&self, path: &str, version: Version) -> Result<(), MetaError> {
        let empty = Write::Set { path: path.to_owned(), data: "".into(), version };
        let data = vec![b' '; REQUEST_BYTES_MAX - empty.request_bytes()].into();
        self.multi(vec![Write::Set { path: path.to_owned(), data, version }]).await.map(drop)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

//! The end of a node in two steps: first it asks its routers to leave, then it stops.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Shared by a node's server and whoever ends it.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    drain: CancellationToken,
    stop: CancellationToken,
    streams: TaskTracker,
}

impl Lifecycle {
    /// Refuses new streams, tells the open ones, and waits until they are closed, at most `patience`. Then the server
    /// stops. Returns whether every router had left by itself.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.drain.cancel();
        self.streams.close();
        let left = tokio::time::timeout(patience, self.streams.wait()).await.is_ok();
        self.stop.cancel();
        left
    }

    /// Cancelled when draining begins.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when the server shall stop.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// The streams of router lanes that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn open_stream(&self) -> TaskTrackerToken {
        self.streams.token()
    }
}

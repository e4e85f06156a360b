//! Who may come in: a bounded number of requests, and none while experts are missing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::nodes::Topology;

/// More than any machine can hold.
const MAX_REQUESTS: usize = 1 << 20;

/// Decides whether a request is taken now.
#[derive(Clone)]
pub(crate) struct Admission {
    room: Arc<Semaphore>,
    limit: usize,
    shutdown: CancellationToken,
    /// `None` when experts are computed in this process.
    topology: Option<Arc<ArcSwap<Topology>>>,
}

impl Admission {
    /// Room for `limit` requests, running and waiting.
    pub(crate) fn new(
        limit: usize,
        shutdown: CancellationToken,
        topology: Option<Arc<ArcSwap<Topology>>>,
    ) -> Self {
        let limit = limit.min(MAX_REQUESTS);
        Self { room: Arc::new(Semaphore::new(limit)), limit, shutdown, topology }
    }

    /// Whether requests are taken at all.
    pub(crate) fn takes_traffic(&self) -> bool {
        let complete = self.topology.as_ref().is_none_or(|topology| topology.load().complete);
        complete && !self.shutdown.is_cancelled()
    }

    /// Ends when no request is running or waiting any more.
    pub(crate) async fn emptied(&self) {
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.room.acquire_many(all).await;
    }

    /// A place for one request; dropping it makes room for the next.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.shutdown.is_cancelled() {
            return Err(Status::unavailable("this router is shutting down"));
        }
        if !self.takes_traffic() {
            return Err(Status::unavailable("some experts are on no node that stays"));
        }
        let full = || {
            Status::resource_exhausted(format!("{} requests are running or waiting", self.limit))
        };
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| full())
    }
}

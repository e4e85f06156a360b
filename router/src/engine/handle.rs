//! How other threads talk to the engine.

use tokio::sync::mpsc;

use crate::request::{Chunk, Failure, Request};

/// What a sequence gives, in order. Dropping it ends the sequence before the next step.
pub(crate) type Events = mpsc::Receiver<Result<Chunk, Failure>>;

/// A request on its way to the engine.
pub(super) struct Submission {
    pub(super) request: Request,
    pub(super) events: mpsc::Sender<Result<Chunk, Failure>>,
}

/// Hands requests to the engine.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    submissions: mpsc::Sender<Submission>,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many are on their way; try again later.
    Full,
    /// The engine has ended.
    Stopped,
}

/// Requests between the API and the engine; the engine empties this before each step.
const MAX_SUBMISSIONS: usize = 1024;
/// Chunks that a client may be behind before its sequence is given up.
const MAX_UNREAD_CHUNKS: usize = 4096;

impl EngineHandle {
    pub(super) fn new() -> (Self, mpsc::Receiver<Submission>) {
        let (submissions, received) = mpsc::channel(MAX_SUBMISSIONS);
        (Self { submissions }, received)
    }

    /// Queues a request.
    pub(crate) fn submit(&self, request: Request) -> Result<Events, Refused> {
        let (events, receiver) = mpsc::channel(MAX_UNREAD_CHUNKS);
        match self.submissions.try_send(Submission { request, events }) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refused::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Refused::Stopped),
        }
    }
}

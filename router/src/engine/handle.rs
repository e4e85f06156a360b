//! How other threads talk to the engine.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::EngineStatus;
use crate::request::{Chunk, Failure, Request};

/// What the sequences of a request give, in order. Dropping it ends them before the next step.
pub(crate) type Events = mpsc::Receiver<Result<Chunk, Failure>>;

/// What is on its way to the engine.
pub(super) enum Message {
    Submit(Submission),
    /// Answers with the number of blocks that were forgotten.
    ResetPrefixCache(oneshot::Sender<usize>),
}

/// A request, and what to keep until all of its sequences have begun to run.
pub(super) struct Submission {
    pub(super) request: Arc<Request>,
    pub(super) events: mpsc::Sender<Result<Chunk, Failure>>,
    pub(super) waiting: Arc<dyn Any + Send + Sync>,
    pub(super) arrived: Instant,
}

/// Hands requests to the engine.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    messages: mpsc::Sender<Message>,
    status: EngineStatus,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many are on their way; try again later.
    Full,
    /// The engine has ended.
    Stopped,
}

/// Messages between the API and the engine; the engine empties this before each step.
const MAX_MESSAGES: usize = 1024;
/// Chunks that a client may be behind before its request is given up.
const MAX_UNREAD_CHUNKS: usize = 4096;

impl EngineHandle {
    pub(super) fn new(status: EngineStatus) -> (Self, mpsc::Receiver<Message>) {
        let (messages, received) = mpsc::channel(MAX_MESSAGES);
        (Self { messages, status }, received)
    }

    /// Queues a request; `waiting` is dropped when it is no longer in the queue.
    pub(crate) fn submit(
        &self,
        request: Request,
        waiting: impl Send + Sync + 'static,
    ) -> Result<Events, Refused> {
        let (events, receiver) = mpsc::channel(MAX_UNREAD_CHUNKS);
        let (request, waiting, arrived) = (Arc::new(request), Arc::new(waiting), Instant::now());
        let submission = Submission { request, events, waiting, arrived };
        match self.messages.try_send(Message::Submit(submission)) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refused::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Refused::Stopped),
        }
    }

    /// Forgets what is cached of prompts and not in use; says how many blocks that were.
    pub(crate) async fn reset_prefix_cache(&self) -> Result<usize, Refused> {
        let (answer, answered) = oneshot::channel();
        let message = Message::ResetPrefixCache(answer);
        self.messages.send(message).await.map_err(|_| Refused::Stopped)?;
        answered.await.map_err(|_| Refused::Stopped)
    }

    pub(crate) fn status(&self) -> &EngineStatus {
        &self.status
    }
}

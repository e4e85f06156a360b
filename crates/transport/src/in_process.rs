//! A link to a backend of the same process: no socket and no copy.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{Semaphore, mpsc};

use crate::server::MAX_CALLS_IN_FLIGHT;
use crate::{Call, Endpoint, Error, ExpertBackend, ExpertLink, FrameShape, Handshake, NodeEvent};
use crate::{Refusal, ReplySlot};

/// Hands calls straight to a backend.
pub struct InProcessLink<B> {
    backend: B,
    shape: FrameShape,
    reply_to: mpsc::Sender<NodeEvent>,
    replies: mpsc::Receiver<NodeEvent>,
    in_flight: Arc<Semaphore>,
}

impl<B: ExpertBackend> InProcessLink<B> {
    /// Shakes hands with `backend`.
    ///
    /// # Errors
    /// The backend's refusal.
    pub fn open(backend: B, handshake: &Handshake) -> Result<Self, Refusal> {
        let shape = backend.accept(handshake)?;
        let (reply_to, replies) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        let in_flight = Arc::new(Semaphore::new(MAX_CALLS_IN_FLIGHT));
        Ok(Self { backend, shape, reply_to, replies, in_flight })
    }
}

/// What errors of this link name as the peer.
fn endpoint() -> Endpoint {
    Endpoint::Unix("in-process".into())
}

impl<B: ExpertBackend> ExpertLink for InProcessLink<B> {
    fn send(&mut self, call: Call) -> Result<(), Error> {
        call.check(self.shape).map_err(|e| Error::protocol(&endpoint(), e))?;
        let permit = Arc::clone(&self.in_flight).try_acquire_owned().map_err(|_| {
            Error::TooManyCalls { endpoint: endpoint(), limit: MAX_CALLS_IN_FLIGHT }
        })?;
        self.backend.submit(call, ReplySlot::new(self.reply_to.clone(), permit));
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<NodeEvent, Error>> {
        let event = ready!(self.replies.poll_recv(cx));
        Poll::Ready(event.ok_or_else(|| Error::protocol(&endpoint(), "the backend is gone")))
    }
}

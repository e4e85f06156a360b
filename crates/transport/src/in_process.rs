//! A link to a backend of the same process: no socket and no copy.

use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use crate::server::MAX_CALLS_IN_FLIGHT;
use crate::unanswered::Unanswered;
use crate::{Call, Endpoint, Error, ExpertBackend, ExpertLink, FrameShape, Handshake, NodeEvent};
use crate::{Refusal, ReplySlot};

/// Hands calls straight to a backend.
pub struct InProcessLink<B> {
    backend: B,
    shape: FrameShape,
    reply_to: mpsc::Sender<NodeEvent>,
    replies: mpsc::Receiver<NodeEvent>,
    unanswered: Unanswered,
}

impl<B: ExpertBackend> InProcessLink<B> {
    /// Shakes hands with `backend`.
    ///
    /// # Errors
    /// The backend's refusal.
    pub fn open(backend: B, handshake: &Handshake) -> Result<Self, Refusal> {
        let shape = backend.accept(handshake)?;
        let (reply_to, replies) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        let unanswered = Unanswered::new(shape, MAX_CALLS_IN_FLIGHT);
        Ok(Self { backend, shape, reply_to, replies, unanswered })
    }
}

/// What errors of this link name as the peer.
fn endpoint() -> Endpoint {
    Endpoint::Unix("in-process".into())
}

impl<B: ExpertBackend> ExpertLink for InProcessLink<B> {
    fn send(&mut self, call: Call) -> Result<(), Error> {
        let slot =
            if self.unanswered.is_full() { None } else { ReplySlot::reserve(&self.reply_to) };
        let Some(slot) = slot else {
            let limit = self.unanswered.limit();
            return Err(Error::TooManyCalls { endpoint: endpoint(), limit });
        };
        self.unanswered.add(&call);
        match call.check(self.shape) {
            Ok(()) => self.backend.submit(call, slot),
            Err(message) => slot.refuse(call.id, message),
        }
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<NodeEvent, Error>> {
        let Some(event) = ready!(self.replies.poll_recv(cx)) else {
            return Poll::Ready(Err(Error::protocol(&endpoint(), "the backend is gone")));
        };
        let settled = self.unanswered.settle(&event);
        Poll::Ready(settled.map(|()| event).map_err(|e| Error::protocol(&endpoint(), e)))
    }
}

//! One open stream of a router lane on a node: calls in, events out, no task of its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use guildhall_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Status, Streaming};

use crate::busy_poll::Wakefulness;
use crate::server::MAX_CALLS_IN_FLIGHT;
use crate::{ExpertBackend, FrameShape, Lifecycle, NodeEvent, ReplySlot, wire};

/// Reads calls whenever the response side is polled. It ends when the router has closed its side and every call is
/// answered, or at once when the server stops.
pub(crate) struct ComputeStream<B> {
    calls: Option<Streaming<v1::ComputeRequest>>,
    backend: B,
    shape: FrameShape,
    welcome: Option<v1::Welcome>,
    // Dropped with `calls`, so that `replies` ends after the last answer.
    reply_to: Option<mpsc::Sender<NodeEvent>>,
    replies: mpsc::Receiver<NodeEvent>,
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    awake: Wakefulness,
    _open: TaskTrackerToken,
}

impl<B: ExpertBackend> ComputeStream<B> {
    pub(crate) fn new(
        calls: Streaming<v1::ComputeRequest>,
        backend: B,
        (shape, welcome): (FrameShape, v1::Welcome),
        lifecycle: &Lifecycle,
    ) -> Self {
        let (reply_to, replies) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        Self {
            calls: Some(calls),
            backend,
            shape,
            welcome: Some(welcome),
            reply_to: Some(reply_to),
            replies,
            drain: Some(Box::pin(lifecycle.draining().clone().cancelled_owned())),
            stop: Some(Box::pin(lifecycle.stopping().clone().cancelled_owned())),
            awake: Wakefulness::default(),
            _open: lifecycle.open_stream(),
        }
    }

    /// Notes calls and answers there.
    pub(crate) fn keeping(mut self, awake: Wakefulness) -> Self {
        self.awake = awake;
        self
    }

    /// Takes every call that has arrived.
    fn take_calls(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while let Some(calls) = &mut self.calls {
            match Pin::new(calls).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(request))) => self.submit(request)?,
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(None) => {
                    self.calls = None;
                    self.reply_to = None;
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, request: v1::ComputeRequest) -> Result<(), Status> {
        let Some(v1::compute_request::Message::Call(call)) = request.message else {
            return Err(Status::invalid_argument("after the handshake only calls may follow"));
        };
        let Some(reply_to) = &self.reply_to else { return Ok(()) };
        self.awake.note();
        let slot = ReplySlot::reserve(reply_to).ok_or_else(|| {
            Status::resource_exhausted(format!("{MAX_CALLS_IN_FLIGHT} calls are unanswered"))
        })?;
        let call = match wire::call_from_wire(call) {
            Ok(call) => call,
            Err(failure) => {
                slot.send(NodeEvent::Failure(failure));
                return Ok(());
            }
        };
        match call.check(self.shape) {
            Ok(()) => self.backend.submit(call, slot),
            Err(message) => slot.refuse(call.id, message),
        }
        Ok(())
    }
}

fn fired(
    token: &mut Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cx: &mut Context<'_>,
) -> bool {
    let Some(waiting) = token else { return false };
    let fired = waiting.as_mut().poll(cx).is_ready();
    if fired {
        *token = None;
    }
    fired
}

impl<B: ExpertBackend> Stream for ComputeStream<B> {
    type Item = Result<v1::ComputeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(welcome) = self.welcome.take() {
            let message = Some(v1::compute_response::Message::Welcome(welcome));
            return Poll::Ready(Some(Ok(v1::ComputeResponse { message })));
        }
        if fired(&mut self.stop, cx) {
            return Poll::Ready(Some(Err(Status::unavailable("the node stops"))));
        }
        if fired(&mut self.drain, cx) {
            return Poll::Ready(Some(Ok(wire::event_to_wire(NodeEvent::Draining))));
        }
        if let Err(status) = self.take_calls(cx) {
            return Poll::Ready(Some(Err(status)));
        }
        let event = ready!(self.replies.poll_recv(cx));
        self.awake.note();
        Poll::Ready(event.map(|event| Ok(wire::event_to_wire(event))))
    }
}

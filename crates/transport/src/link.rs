//! A router lane's connection to one node, whatever carries it.

use std::task::{Context, Poll};

use crate::{Call, CallFailure, CallOutputs, Error};

/// What arrives from a node.
#[derive(Debug)]
pub enum NodeEvent {
    /// A call was computed.
    Outputs(CallOutputs),
    /// A call was not computed.
    Failure(CallFailure),
    /// The node leaves soon; calls are still answered.
    Draining,
}

/// An open connection to one node: calls go out, events come back in any order.
///
/// After an error the link is dead and is to be dropped; nothing is lost by asking elsewhere.
pub trait ExpertLink: Send {
    /// Queues a call; it leaves when the runtime is next polled.
    ///
    /// # Errors
    /// [`Error::TooManyCalls`], or [`Error::Unreachable`] when the connection is gone.
    fn send(&mut self, call: Call) -> Result<(), Error>;

    /// The next event. An answer to an unknown call or of a wrong length is an [`Error::Protocol`].
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<NodeEvent, Error>>;
}

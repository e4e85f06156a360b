//! How activations travel between a router and expert nodes, and experts between nodes: the only crate that moves them.
//!
//! A call is a pure function of its content, so the side that asks may repeat it anywhere.

pub use busy_poll::BusyPoll;
pub use endpoint::{Endpoint, Listener};
pub use error::Error;
pub use fetch::fetch;
pub use frame::{
    Call, CallFailure, CallOutputs, FailureReason, FrameShape, MAX_FRAME_BYTES, NodeTimings, Pair,
    max_pairs,
};
pub use grpc::{HealthSwitch, ServerOptions, reflection, server_builder, standard_services};
pub use grpc_link::GrpcLink;
pub use handout::{StoredExpert, StoredMatrix};
pub use in_process::InProcessLink;
pub use lifecycle::Lifecycle;
pub use link::{ExpertLink, NodeEvent};
pub use node::{Handshake, Refusal};
pub use server::{ExpertBackend, ReplySlot, serve};

mod endpoint;
mod error;
mod frame;
mod node;
mod link;
mod busy_poll;
mod unanswered;
mod grpc_link;
mod in_process;
mod lifecycle;
mod server;
mod connection;
mod compute_stream;
mod handout;
mod fetch;
mod grpc;
mod heads_first;
mod wire;

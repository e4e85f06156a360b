//! Why a step, a request or the process cannot go on.

use guildhall_ids::{ExpertId, NodeId};

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No live node holds some experts, and none came in time: the request may be tried again later.
    #[error(
        "no expert node answered for expert {first} and {others} others of its layer within {waited_ms} ms: {why}"
    )]
    ExpertsUnavailable {
        /// One of them.
        first: ExpertId,
        /// How many more the step needed.
        others: usize,
        /// How long the step waited.
        waited_ms: u128,
        /// The last reason that a node gave.
        why: String,
    },
    /// An expert gave NaN or infinity and there is no replica to ask.
    #[error("{node} returned a value that is not finite for expert {expert}")]
    NonFinite {
        /// Who computed it.
        node: NodeId,
        /// What it computed.
        expert: ExpertId,
    },
    /// The device refused an operation.
    #[error("device")]
    Kernels(#[from] guildhall_kernels::Error),
    /// The model cannot be read.
    #[error("model")]
    Checkpoint(#[from] guildhall_checkpoint::Error),
    /// A node cannot be used.
    #[error("expert node")]
    Transport(#[from] guildhall_transport::Error),
    /// The tokenizer cannot be read.
    #[error("tokenizer {path}: {what}")]
    Tokenizer {
        /// Its file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The chat template cannot be read.
    #[error("chat template")]
    Chat(#[from] guildhall_chat::Error),
    /// An address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// It.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings contradict each other or the model.
    #[error("{0}")]
    Config(String),
    /// The gRPC server failed.
    #[error("gRPC server")]
    Serve(#[from] tonic::transport::Error),
    /// The engine thread is gone; nothing can be computed any more.
    #[error("the engine stopped: {0}")]
    Engine(String),
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

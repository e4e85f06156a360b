//! Why a step, a request or the process cannot go on.

use std::time::Duration;

use guildhall_ids::{ExpertId, NodeId};

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable node holds some experts: the sequences that need them have to wait, others can go on.
    #[error(transparent)]
    ExpertsUnavailable(Lacking),
    /// An expert gave NaN or infinity and every replica does: the sequences that need it fail, others can go on.
    #[error("{node} returned a value that is not finite for expert {expert}")]
    NonFinite {
        /// Who computed it.
        node: NodeId,
        /// What it computed.
        expert: ExpertId,
        /// The rows of the step that it was computed for.
        rows: Vec<usize>,
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

/// The experts of a layer that a step could not get from any node.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "no expert node answered for expert {first} and {} others of its layer within {} ms: {why}",
    .others.len(),
    .waited.as_millis()
)]
pub struct Lacking {
    /// One of them.
    pub first: ExpertId,
    /// The other ones.
    pub others: Vec<ExpertId>,
    /// The rows of the step that needed them, ascending.
    pub rows: Vec<usize>,
    /// How long they were waited for.
    pub waited: Duration,
    /// The last reason that a node gave.
    pub why: String,
}

impl Lacking {
    /// All of them.
    pub fn experts(&self) -> impl Iterator<Item = ExpertId> + Clone {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

//! Why an expert node cannot start or go on.

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be read.
    #[error("model")]
    Checkpoint(#[from] guildhall_checkpoint::Error),
    /// An expert does not compute what its weights say.
    #[error("canary")]
    Canary(#[source] Box<crate::canary::CanaryFailure>),
    /// No node that has the model's files gave an expert: perhaps one does soon.
    #[error("expert {expert} is not to be had: {reason}")]
    NoGiver {
        /// The expert.
        expert: guildhall_ids::ExpertId,
        /// What the last one that was asked said.
        reason: String,
    },
    /// An expert would be more than this node may hold: perhaps it forgets others soon.
    #[error("expert {expert} of {bytes} bytes is more than the {free} bytes that are free")]
    NoRoom {
        /// The expert.
        expert: guildhall_ids::ExpertId,
        /// Of its packed weights.
        bytes: u64,
        /// Of the capacity.
        free: u64,
    },
    /// The device refused.
    #[error("device")]
    Kernels(#[from] guildhall_kernels::Error),
    /// The server failed.
    #[error("transport")]
    Transport(#[from] guildhall_transport::Error),
    /// The settings contradict each other.
    #[error("{0}")]
    Config(String),
    /// The store, or another process in it, does not let this node in.
    #[error("cluster")]
    Cluster(#[from] guildhall_cluster::Error),
    /// A part of the process ended while it should serve.
    #[error("{0}")]
    Ended(String),
    /// The system refused a thread, a signal handler or an address.
    #[error("{what}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

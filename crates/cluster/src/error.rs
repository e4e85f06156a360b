//! What can go wrong between a process and the store.

/// A variant exists because a caller treats it differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, or did not answer in time: try again later.
    #[error("store: {0}")]
    Unavailable(String),
    /// The key is not as it was expected: look at it again.
    #[error("the key has changed")]
    Conflict,
    /// The lease has ended: take a new one.
    #[error("the lease has ended")]
    NoLease,
    /// The store has forgotten changes that were asked for: list again.
    #[error("the changes are compacted")]
    Compacted,
    /// Another process writes a key that belongs to this one: both have the same name.
    #[error("another process writes {key}, which belongs to this one; names have to be unique")]
    Taken {
        /// The key.
        key: String,
    },
    /// Something in the store cannot be read: another version wrote it, or something else.
    #[error("{key}: {what}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with its value.
        what: String,
    },
}

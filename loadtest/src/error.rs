//! What ends a load test before it has a result.

use std::path::PathBuf;

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is impossible, or contradicts another: the person who gave it has to change it.
    #[error("{0}")]
    Setting(String),
    /// Nobody answers where the load is to go, or not as expected: is it running?
    #[error("{address}: {what}")]
    Unreachable {
        /// Whom we were talking to.
        address: String,
        /// What it said, or did not.
        what: String,
    },
    /// A file of results could not be written or read.
    #[error("{path}: {what}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

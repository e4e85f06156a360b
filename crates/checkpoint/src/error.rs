//! Why a checkpoint cannot be used, always with the file or tensor in question.

use std::path::PathBuf;

use guildhall_ids::ExpertId;

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in it.
        what: String,
    },
    /// The configuration asks for something that Guildhall does not do.
    #[error("{path}: {what} is not supported")]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key and its value.
        what: String,
    },
    /// A tensor is missing, or is not of the shape or type that the configuration says.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// Its name in the files.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes of an expert are not those that were hashed when this model was first loaded.
    #[error(
        "expert {expert} of {dir} is corrupt: its hash is {found}, but {expected} was recorded in {record}"
    )]
    Corrupt {
        /// The expert.
        expert: ExpertId,
        /// The checkpoint.
        dir: PathBuf,
        /// What its bytes hash to.
        found: String,
        /// What they hashed to before.
        expected: String,
        /// The file with the earlier hash.
        record: PathBuf,
    },
    /// An expert that somebody sent is not the one that was expected: ask somebody else.
    #[error("expert {expert} as it was received: {what}")]
    Received {
        /// The expert.
        expert: ExpertId,
        /// What is wrong.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), what: what.into() }
    }

    pub(crate) fn unsupported(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    pub(crate) fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), what: what.into() }
    }
}

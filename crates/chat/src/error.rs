//! Why a conversation has no prompt, always with the place of the mistake.

use std::path::{Path, PathBuf};

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client's conversation, or what it asks for with it, is not well-formed.
    #[error("{field}: {what}")]
    Conversation {
        /// The place, such as `messages[1].content`.
        field: String,
        /// What is wrong there.
        what: String,
    },
    /// The model's template does not accept this conversation: what it said with `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The model's template, or the file that it stands in, is broken, or rendering it does not end.
    #[error("{path}: {what}")]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line of the template.
        what: String,
    },
    /// A file is missing or cannot be read.
    #[error("{path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no tool format of this name.
    #[error("{0:?} is not a tool format: these are hermes and json")]
    ToolFormat(String),
}

impl Error {
    pub(crate) fn conversation(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Conversation { field: field.into(), what: what.into() }
    }

    pub(crate) fn template(path: &Path, what: impl Into<String>) -> Self {
        Self::Template { path: path.to_owned(), what: what.into() }
    }
}

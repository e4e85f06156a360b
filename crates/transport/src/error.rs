//! What can go wrong between a router and a node.

use crate::Endpoint;

/// A variant exists because a caller treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node cannot be reached or the connection broke: ask a replica, or connect again later.
    #[error("{endpoint}: {what}")]
    Unreachable {
        /// Whom we were talking to.
        endpoint: Endpoint,
        /// What we were doing.
        what: String,
        /// What the connection said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The node answered that it will not work with this router: connecting again is of no use.
    #[error("{endpoint} refused: {reason}")]
    Refused {
        /// Who refused.
        endpoint: Endpoint,
        /// In the node's words.
        reason: String,
    },
    /// The node sent something that no correct node sends: stop using it.
    #[error("{endpoint} broke the protocol: {what}")]
    Protocol {
        /// Who broke it.
        endpoint: Endpoint,
        /// How.
        what: String,
    },
    /// More calls in flight than the node accepts: the caller has a bug.
    #[error("{endpoint}: {limit} calls are unanswered, which is the limit")]
    TooManyCalls {
        /// Whom we were talking to.
        endpoint: Endpoint,
        /// The limit that the node stated.
        limit: usize,
    },
    /// The text is no address.
    #[error("address {text:?}: {reason}")]
    InvalidEndpoint {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A socket could not be opened.
    #[error("cannot listen on {endpoint}")]
    Listen {
        /// Where we tried to listen.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server ended because of an error.
    #[error("gRPC server")]
    Serve(#[source] tonic::transport::Error),
}

impl Error {
    pub(crate) fn unreachable(
        endpoint: &Endpoint,
        what: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = Some(Box::new(source));
        Self::Unreachable { endpoint: endpoint.clone(), what: what.into(), source }
    }

    pub(crate) fn protocol(endpoint: &Endpoint, what: impl Into<String>) -> Self {
        Self::Protocol { endpoint: endpoint.clone(), what: what.into() }
    }

    /// Sorts what a gRPC peer answered into "will never work" and "not now".
    pub(crate) fn from_status(endpoint: &Endpoint, what: &str, status: tonic::Status) -> Self {
        use tonic::Code;
        match status.code() {
            Code::FailedPrecondition
            | Code::Unimplemented
            | Code::InvalidArgument
            | Code::DataLoss => {
                Self::Refused { endpoint: endpoint.clone(), reason: status.message().into() }
            }
            // Without a source it is not from the connection: the message itself could not be read.
            Code::Internal if std::error::Error::source(&status).is_none() => {
                Self::protocol(endpoint, status.message())
            }
            Code::OutOfRange => Self::protocol(endpoint, status.message()),
            _ => Self::unreachable(endpoint, what, status),
        }
    }
}

//! Why a request is refused or ends without an answer, in terms of no protocol, and as a gRPC status.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::request::Failure;

/// A refusal that names the field, or says when to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    pub(crate) message: String,
    /// The field of `guildhall.v1.GenerateRequest` that is wrong.
    pub(crate) field: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

/// What a client can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// Ask for something else.
    Invalid,
    /// Give a key.
    Unauthenticated,
    /// Name another model.
    UnknownModel,
    /// Ask again later, or less.
    Full,
    /// Ask again later, or somebody else.
    Unavailable,
    /// Give more time.
    DeadlineExceeded,
    /// Nothing.
    Internal,
}

/// The domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "guildhall";

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None, retry_after: None }
    }

    /// Something is wrong with a field.
    pub(crate) fn invalid(field: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let field = Some(field.into());
        Self { field, ..Self::new(RefusalKind::Invalid, what.to_string()) }
    }

    pub(crate) fn retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }

    /// The message with the field that it is about.
    pub(crate) fn sentence(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

impl RefusalKind {
    /// In a word, as errors are counted by.
    pub(crate) fn name(self) -> &'static str {
        self.code_and_reason().1
    }

    fn code_and_reason(self) -> (Code, &'static str) {
        match self {
            Self::Invalid => (Code::InvalidArgument, "INVALID_FIELD"),
            Self::Unauthenticated => (Code::Unauthenticated, "INVALID_API_KEY"),
            Self::UnknownModel => (Code::NotFound, "UNKNOWN_MODEL"),
            Self::Full => (Code::ResourceExhausted, "OVERLOADED"),
            Self::Unavailable => (Code::Unavailable, "NOT_READY"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::Internal => (Code::Internal, "INTERNAL"),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(why) => {
                Self::new(RefusalKind::Unavailable, why).retry_after(Duration::from_secs(1))
            }
            Failure::Internal(why) => Self::new(RefusalKind::Internal, why),
            Failure::Constraint(why) => Self::invalid("constraint", why),
            Failure::DeadlineExceeded => {
                Self::new(RefusalKind::DeadlineExceeded, "the request's time is over")
            }
            Failure::SlowReader => {
                Self::new(RefusalKind::Full, "the client did not read what was generated")
            }
        }
    }
}

/// The only place where refusals become gRPC codes; details as in google.rpc.
impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.kind.code_and_reason();
        let message = refusal.sentence();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, []);
        if let Some(field) = refusal.field {
            details.add_bad_request_violation(field, refusal.message);
        }
        if refusal.retry_after.is_some() {
            details.set_retry_info(refusal.retry_after);
        }
        Self::with_error_details(code, message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_details_that_clients_look_for() {
        let status = Status::from(Refusal::invalid("sampling.top_p", "1.5 is not within 0 and 1"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "sampling.top_p: 1.5 is not within 0 and 1");
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "sampling.top_p");
        assert_eq!(details.error_info().unwrap().domain, "guildhall");

        let full = Refusal::new(RefusalKind::Full, "full").retry_after(Duration::from_secs(2));
        let status = Status::from(full);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_error_details().retry_info().unwrap().retry_delay;
        assert_eq!(retry, Some(Duration::from_secs(2)));
    }
}

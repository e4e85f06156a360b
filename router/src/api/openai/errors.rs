//! Refusals as HTTP responses in OpenAI's form.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::refusal::{Refusal, RefusalKind};

/// The body of every response that is no answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    pub(super) error: ErrorObject,
}

/// What is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorObject {
    pub(super) message: String,
    pub(super) r#type: String,
    /// The field that is wrong.
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
}

impl RefusalKind {
    fn status_and_type(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid => (StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_value"),
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key")
            }
            Self::UnknownModel => {
                (StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found")
            }
            Self::Full => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "overloaded"),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", "not_ready")
            }
            Self::DeadlineExceeded => {
                (StatusCode::GATEWAY_TIMEOUT, "timeout_error", "deadline_exceeded")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "internal"),
        }
    }
}

impl ErrorBody {
    pub(super) fn of(refusal: &Refusal) -> Self {
        let (_, r#type, code) = refusal.kind.status_and_type();
        let param = refusal.field.as_deref().map(param);
        let message = match &param {
            Some(param) => format!("{param}: {}", refusal.message),
            None => refusal.message.clone(),
        };
        let (r#type, code) = (r#type.to_owned(), Some(code.to_owned()));
        Self { error: ErrorObject { message, r#type, param, code } }
    }
}

/// The name that HTTP clients know a field of `guildhall.v1.GenerateRequest` by.
fn param(field: &str) -> String {
    match field.split_once('.') {
        Some(("sampling" | "stopping", rest)) => rest.to_owned(),
        Some(("outputs", "top_logprobs")) => "logprobs".to_owned(),
        Some(("outputs", rest)) => rest.to_owned(),
        Some(("constraint", "json_schema")) => "response_format".to_owned(),
        Some(("constraint", _)) => "structured_outputs".to_owned(),
        _ => field.to_owned(),
    }
}

/// The only place where refusals become HTTP status codes.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, ..) = self.kind.status_and_type();
        let mut response = (status, Json(ErrorBody::of(&self))).into_response();
        if let Some(time) = self.retry_after {
            let seconds = time.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.kind == RefusalKind::Unauthenticated {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// What is refused before anybody looks at the body: its path, its method, its size.
pub(super) fn refused(status: StatusCode, what: String) -> Response {
    let error = ErrorObject {
        message: what,
        r#type: "invalid_request_error".into(),
        param: None,
        code: status.canonical_reason().map(|reason| reason.to_lowercase().replace(' ', "_")),
    };
    (status, Json(ErrorBody { error })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_refusal_has_its_status_its_field_and_its_time() {
        let refusal = Refusal::invalid("sampling.top_p", "1.5 is not within 0 and 1");
        let body = ErrorBody::of(&refusal).error;
        assert_eq!(body.param.as_deref(), Some("top_p"));
        assert_eq!(body.message, "top_p: 1.5 is not within 0 and 1");
        assert_eq!(refusal.into_response().status(), StatusCode::BAD_REQUEST);
        let full = Refusal::new(RefusalKind::Full, "full").retry_after(Duration::from_millis(1200));
        let response = full.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}

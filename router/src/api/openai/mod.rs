//! The HTTP port: OpenAI's API, with the extensions that vLLM's users know.

use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use super::ask::Ask;
use super::frontend::Frontend;
use super::keys::ApiKeys;
use super::refusal::{Refusal, RefusalKind};
use super::running::Running;
use crate::Error;

mod requests;
mod translate;
mod chat;
mod completions;
mod tokens;
mod events;
mod tokenize;
mod about;
mod errors;

/// Largest body: a long prompt as token ids.
const MAX_BODY_BYTES: usize = 16 << 20;
/// Routes that need no key: whoever asks for health is a machine that has none.
const OPEN_ROUTES: [&str; 2] = ["/health", "/ready"];
/// The header with the id of a request, given or made.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Guildhall", description = "OpenAI-compatible API of a Guildhall router"),
    paths(
        chat::chat_completions,
        completions::completions,
        about::models,
        about::model,
        tokenize::tokenize,
        tokenize::detokenize,
        about::version,
        about::health,
        about::ready,
        about::openapi
    ),
    components(schemas(chat::ChatCompletionChunk))
)]
struct ApiDocument;

/// Serves until `shutdown`, then until every open request has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    frontend: Frontend,
    keys: ApiKeys,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = listener.tap_io(|io| {
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    axum::serve(listener, routes(frontend, keys))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(|source| Error::System { what: "serving HTTP", source })
}

fn routes(frontend: Frontend, keys: ApiKeys) -> axum::Router {
    axum::Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(about::models))
        .route("/v1/models/{model}", get(about::model))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/version", get(about::version))
        .route("/health", get(about::health))
        .route("/ready", get(about::ready))
        .route("/openapi.json", get(about::openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(keys, require_key))
        .with_state(frontend)
}

/// Lets no request through without a key, whatever its path, but for health.
async fn require_key(State(keys): State<ApiKeys>, request: Request, next: Next) -> Response {
    if !OPEN_ROUTES.contains(&request.uri().path())
        && let Err(refusal) = keys.check(request.headers())
    {
        return refusal.into_response();
    }
    let id = request.headers().get(REQUEST_ID).cloned();
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A whole body, not larger than it may be.
struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = Bytes::from_request(request, state).await;
        read.map(Self).map_err(|e| errors::refused(e.status(), e.body_text()))
    }
}

async fn not_found(uri: Uri) -> Response {
    errors::refused(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let what = format!("{} is not for {method}", uri.path());
    errors::refused(StatusCode::METHOD_NOT_ALLOWED, what)
}

/// What a body asks for on either completion route; nothing where it is refused.
#[cfg(any(test, fuzzing))]
pub(super) fn asks(body: &[u8]) -> Vec<Ask> {
    let completions = requests::CompletionRequest::read(body)
        .and_then(|request| translate::completions(&request))
        .unwrap_or_default();
    let chat = requests::ChatCompletionRequest::read(body).and_then(translate::chat);
    completions.into_iter().chain(chat).collect()
}

/// Begins a request with what its headers say.
async fn begin_with(
    frontend: &Frontend,
    headers: &HeaderMap,
    ask: Ask,
) -> Result<Running, Refusal> {
    let text = |value: &HeaderValue| value.to_str().ok().map(ToOwned::to_owned);
    let mut ask = ask.traced(|name| headers.get(name)?.to_str().ok());
    if ask.wire.request_id.is_empty() {
        ask.wire.request_id = headers.get(REQUEST_ID).and_then(text).unwrap_or_default();
    }
    frontend.begin(ask).await
}

/// Runs what takes milliseconds where it holds nobody up.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Refusal::new(RefusalKind::Internal, e.to_string())))
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

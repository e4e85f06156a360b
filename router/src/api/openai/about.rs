//! What the server is and how it is: `/v1/models`, `/version`, `/health`, `/ready`, `/openapi.json`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::{OpenApi as _, ToSchema};

use super::{ApiDocument, now};
use crate::api::frontend::Frontend;
use crate::api::refusal::{Refusal, RefusalKind};

/// The models that are served: one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`
    object: &'static str,
    data: Vec<ModelCard>,
}

/// A model that is served.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ModelCard {
    id: String,
    /// `model`
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Longest sequence, prompt and answer.
    max_model_len: usize,
}

/// The version of this server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Version {
    version: &'static str,
}

/// How the server is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Requests can be answered.
    ready: bool,
    /// New requests are taken: ready, and not draining.
    takes_traffic: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn card(frontend: &Frontend) -> Result<ModelCard, Refusal> {
    let model = &frontend.serving()?.model;
    let created = now() - frontend.uptime().as_secs();
    let (id, max_model_len) = (model.name.clone(), model.max_model_len);
    Ok(ModelCard { id, object: "model", created, owned_by: "guildhall", max_model_len })
}

/// Lists the models.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList),
    (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn models(State(frontend): State<Frontend>) -> Result<Json<ModelList>, Refusal> {
    Ok(Json(ModelList { object: "list", data: vec![card(&frontend)?] }))
}

/// Describes one model.
#[utoipa::path(get, path = "/v1/models/{model}", params(("model" = String, Path)),
    responses((status = 200, body = ModelCard), (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn model(
    State(frontend): State<Frontend>,
    Path(name): Path<String>,
) -> Result<Json<ModelCard>, Refusal> {
    let card = card(&frontend)?;
    if card.id != name {
        let what = format!("the model {name:?} is not {:?}", card.id);
        return Err(Refusal::new(RefusalKind::UnknownModel, what));
    }
    Ok(Json(card))
}

/// Says which version runs.
#[utoipa::path(get, path = "/version", responses((status = 200, body = Version),
    (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Says that the process lives; needs no key.
#[utoipa::path(get, path = "/health", responses((status = 200)))]
pub(super) async fn health() -> StatusCode {
    StatusCode::OK
}

/// Says whether requests can be answered, and whether new ones are taken; needs no key.
#[utoipa::path(get, path = "/ready",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn ready(State(frontend): State<Frontend>) -> Response {
    let (ready, takes_traffic) = (frontend.health().ready(), frontend.health().takes_traffic());
    // Whoever asks decides where to send traffic.
    let status = match takes_traffic {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let state = Readiness {
        ready: ready.is_ok(),
        takes_traffic: takes_traffic.is_ok(),
        reason: takes_traffic.err(),
    };
    (status, Json(state)).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, body = serde_json::Value),
    (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(ApiDocument::openapi())
}

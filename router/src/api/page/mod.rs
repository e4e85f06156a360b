//! The live page: files that are part of the binary, and what they show as JSON.
//!
//! The files have no secrets and need no key; `/live.json` needs the admin's. The page polls it, because a browser's
//! event streams cannot carry a key in a header.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, Uri};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};

use live::Query;

pub(crate) use recorder::Recorder;

mod recorder;
mod live;
mod roster;
mod changes;
mod history;
mod counts;

/// Nothing from elsewhere, nothing inline, nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Routes with the page and its data.
pub(crate) fn routes(recorder: Arc<Recorder>) -> Router {
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("index.html")))
        .route("/page/page.css", file("text/css; charset=utf-8", include_str!("page.css")))
        .route("/page/icon.svg", file("image/svg+xml", include_str!("icon.svg")))
        .route("/page/page.js", file(SCRIPT, include_str!("page.js")))
        .route("/page/format.js", file(SCRIPT, include_str!("format.js")))
        .route("/page/charts.js", file(SCRIPT, include_str!("charts.js")))
        .route("/page/heatmap.js", file(SCRIPT, include_str!("heatmap.js")))
        .route("/page/panels.js", file(SCRIPT, include_str!("panels.js")))
        .route("/live.json", get(live).with_state(recorder))
}

async fn live(State(recorder): State<Arc<Recorder>>, uri: Uri) -> impl IntoResponse {
    let query = Query::read(uri.query().unwrap_or_default());
    ([(CACHE_CONTROL, "no-store")], Json(recorder.live(query)))
}

fn file(kind: &'static str, text: &'static str) -> MethodRouter {
    get(move || async move { (headers(kind), text) })
}

fn headers(kind: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the router has other files.
        (CACHE_CONTROL, "no-cache"),
    ]
}

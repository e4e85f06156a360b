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
use axum::routing::get;
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

/// Path, kind and text of each file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/page/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/page.js", SCRIPT, include_str!("page.js")),
    ("/page/format.js", SCRIPT, include_str!("format.js")),
    ("/page/charts.js", SCRIPT, include_str!("charts.js")),
    ("/page/heatmap.js", SCRIPT, include_str!("heatmap.js")),
    ("/page/panels.js", SCRIPT, include_str!("panels.js")),
];

/// Routes with the page and its data.
pub(crate) fn routes(recorder: Arc<Recorder>) -> Router {
    let mut routes = Router::new().route("/live.json", get(live).with_state(recorder));
    for &(path, kind, text) in FILES {
        routes = routes.route(path, get(move || async move { (headers(kind), text) }));
    }
    routes
}

async fn live(State(recorder): State<Arc<Recorder>>, uri: Uri) -> impl IntoResponse {
    let query = Query::read(uri.query().unwrap_or_default());
    ([(CACHE_CONTROL, "no-store")], Json(recorder.live(query)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in quotes after each occurrence of a text.
    fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_file_that_a_file_asks_for_is_there() {
        let is_there = |name: &str| FILES.iter().any(|(path, ..)| *path == format!("/page/{name}"));
        let mut asked_for = 0;
        for (path, _, text) in FILES {
            let names = [
                quoted(text, "href=\"page/"),
                quoted(text, "src=\"page/"),
                quoted(text, "from \"./"),
            ];
            for name in names.concat() {
                assert!(is_there(name), "{path} asks for {name}");
                asked_for += 1;
            }
        }
        assert!(asked_for >= 8, "{asked_for}");
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_markup() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            " onclick=",
        ];
        for (path, _, text) in FILES {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://") && !text.contains("<script>"), "{path}");
            let found = forbidden.iter().find(|pattern| text.contains(**pattern));
            assert_eq!(found, None, "{path}");
        }
    }
}

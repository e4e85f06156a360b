//! The port for whoever watches this process: `/health` and `/metrics`.

use std::io::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use guildhall_telemetry::MetricsPage;
use tokio::net::TcpListener;

use crate::service::Node;
use crate::{Error, metrics};

/// Collects metrics from now on, if they are asked for here or exported.
pub(crate) fn collect(asked: bool) -> Result<Option<MetricsPage>, Error> {
    MetricsPage::open_if(asked, metrics::ALL).map_err(Error::Ended)
}

/// Has the page show what the node has at each look.
pub(crate) fn show(page: &MetricsPage, node: &Node) {
    let (shard, waiting) = (Arc::clone(node.shard()), node.waiting());
    page.before_each_look(move || {
        let held = shard.held();
        metrics::QUEUED_CALLS.set(&[], waiting() as f64);
        metrics::RESIDENT_EXPERTS.set(&[], held.ids().len() as f64);
        metrics::RESIDENT_BYTES.set(&[], held.bytes() as f64);
    });
}

/// Opens the port and prints its address; what is returned serves it, for ever.
pub(crate) async fn open(
    address: &str,
    page: MetricsPage,
) -> Result<impl Future<Output = Result<(), Error>> + Send + 'static, Error> {
    let failed = |what: &'static str| move |source| Error::System { what, source };
    let listener =
        TcpListener::bind(address).await.map_err(failed("listening on the probe address"))?;
    let listening = listener.local_addr().map_err(failed("reading the probe address"))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "probes on http://{listening}")
        .and_then(|()| stdout.flush())
        .map_err(failed("printing the probe address"))?;
    let shown = page.clone();
    let show = move || async move { ([(CONTENT_TYPE, MetricsPage::CONTENT_TYPE)], shown.render()) };
    let routes = Router::new().route("/health", get(|| async {})).route("/metrics", get(show));
    Ok(async move {
        let serving = async { axum::serve(listener, routes).await };
        tokio::select! {
            served = serving => served.map_err(failed("serving the probe address")),
            // It does not end.
            () = page.keep_tidy() => Ok(()),
        }
    })
}

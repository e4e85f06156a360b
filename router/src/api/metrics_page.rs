//! `/metrics`: what is counted as it happens, and beside it what is looked up when somebody asks.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use guildhall_cluster::{BalanceReport, Peer as _};
use guildhall_placement::measures::Measures;
use guildhall_telemetry::MetricsPage;

use super::frontend::{Frontend, Serving};
use crate::balancer::{Balancer, LinkState, LoadCounter};
use crate::{Error, RouterConfig, metrics};

/// Collects metrics from now on, if they are asked for here or exported.
pub(crate) fn open(frontend: &Frontend, config: &RouterConfig) -> Result<(), Error> {
    let asked = config.admin_port.is_some();
    let page = MetricsPage::open_if(asked, metrics::ALL).map_err(Error::Engine)?;
    let Some(page) = page else { return Ok(()) };
    let (frontend, per_expert) = (frontend.clone(), config.metrics_per_expert);
    page.before_each_look(move || {
        if let Ok(serving) = frontend.serving() {
            look_at_engine(serving);
        }
        if let Some(cluster) = frontend.cluster() {
            look_at_cluster(cluster);
        }
        if let Some(load) = frontend.load().filter(|_| per_expert) {
            look_at_experts(load);
        }
    });
    Ok(())
}

/// Routes with the page.
pub(crate) fn routes(page: MetricsPage) -> Router {
    let show = move || async move { ([(CONTENT_TYPE, MetricsPage::CONTENT_TYPE)], page.render()) };
    Router::new().route("/metrics", get(show))
}

fn look_at_engine(serving: &Serving) {
    let status = serving.engine.status();
    let seen = status.occupancy();
    metrics::REQUESTS_RUNNING.set(&[], seen.running as f64);
    metrics::REQUESTS_WAITING.set(&[], seen.waiting as f64);
    metrics::KV_CACHE_USAGE.set(&[], seen.blocks_held as f64 / seen.blocks.max(1) as f64);
    metrics::PREFIX_QUERIES.counted(&[], seen.queried_tokens);
    metrics::PREFIX_HITS.counted(&[], seen.hit_tokens);
    metrics::PREEMPTIONS.counted(&[], seen.preemptions);
    metrics::STEPS.counted(&[], status.steps());
    metrics::STEPS_IN_TWO.counted(&[], status.steps_in_two());
}

fn look_at_cluster(cluster: &Balancer) {
    let now = Instant::now();
    for (node, link) in cluster.counter().links().all() {
        for state in LinkState::NAMES {
            let is = f64::from(u8::from(link.name(now) == state));
            metrics::LINKS.set(&[node.as_str(), state], is);
        }
    }
    let seen = cluster.members();
    let refused = seen.fit.refused.len();
    let mut states = BTreeMap::from([("serving", 0), ("leaving", 0), ("refused", refused)]);
    for node in seen.fit.nodes.keys() {
        let leaves = seen.view.nodes.get(node).is_some_and(|record| record.draining);
        *states.entry(if leaves { "leaving" } else { "serving" }).or_default() += 1;
    }
    for (state, nodes) in states {
        metrics::NODES.set(&[state], nodes as f64);
    }
    metrics::MISSING_EXPERTS.set(&[], cluster.missing(&seen) as f64);
    let epoch = seen.view.placement.as_ref().map_or(0, |of| of.placement.epoch.0);
    metrics::EPOCH.set(&[], epoch as f64);
    let report = cluster.balance();
    metrics::IS_LEADER.set(&[], if report.is_some() { 1.0 } else { 0.0 });
    if let Some(report) = report {
        show_balance(&report);
    }
}

fn look_at_experts(load: &LoadCounter) {
    let (grid, tokens) = (load.grid(), load.load().tokens);
    let layers = tokens.chunks(grid.n_experts.max(1) as usize);
    for (layer, experts) in grid.layers.iter().zip(layers) {
        let layer = layer.0.to_string();
        for (expert, &tokens) in experts.iter().enumerate() {
            metrics::EXPERT_LOAD.counted(&[&layer, &expert.to_string()], tokens);
        }
    }
}

fn show_balance(report: &BalanceReport) {
    metrics::LAST_PLACEMENT.set(&[], report.last_change_unix_ms as f64 / 1e3);
    for layer in &report.layers {
        let number = layer.layer.0.to_string();
        show_measures([&number, "experts"], layer.experts);
        show_measures([&number, "nodes"], layer.nodes);
        metrics::DEAD_EXPERTS.set(&[&number], layer.dead.len() as f64);
        metrics::HOT_EXPERTS.set(&[&number], layer.hot.len() as f64);
    }
}

fn show_measures(labels: [&str; 2], measures: Measures) {
    metrics::BALANCEDNESS.set(&labels, measures.balancedness);
    metrics::VARIATION.set(&labels, measures.coefficient_of_variation);
    metrics::ENTROPY.set(&labels, measures.normalised_entropy);
    metrics::EFFECTIVE_SHARE.set(&labels, measures.effective_share);
}

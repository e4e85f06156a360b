//! The life of a router process: listen, load, find the experts, serve, drain, stop.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use guildhall_checkpoint::Checkpoint;
use guildhall_transport::BusyPoll;
use tokio_util::sync::CancellationToken;

use crate::api::{
    Admission, AdmissionLimits, Frontend, Health, Loaded, ServedModel, Serving, metrics_page,
};
use crate::balancer::LoadCounter;
use crate::cluster::{Cluster, grid};
use crate::dispatch::{Caretaker, DispatchOptions, RemoteExperts};
use crate::engine::{EngineHandle, Lane, LaneOptions};
use crate::local_experts::LocalExperts;
use crate::servers::{Servers, print_line};
use crate::{Error, ExpertsMode, RouterConfig, loading};

/// A client has this long to read its last answer and to close an idle connection when the router stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs a router until `shutdown`, then lets running requests end. It listens at once, so that it can say how it is,
/// and prints a line for each port to standard output; the one of the gRPC port, `router listening on ADDRESS`, comes
/// once it takes requests.
///
/// # Errors
/// When the model, the nodes or an address cannot be had, or when the engine breaks.
pub async fn run(config: RouterConfig, shutdown: CancellationToken) -> Result<(), Error> {
    config.check().map_err(Error::Config)?;
    let health = Health::new(shutdown.child_token(), config.stall_timeout);
    let frontend = Frontend::new(health.clone(), config.traces());
    metrics_page::open(&frontend, &config)?;
    let ended = CancellationToken::new();
    let (mut servers, address) =
        Servers::start(&config, &frontend, (shutdown.clone(), ended.clone())).await?;

    let started = tokio::select! {
        started = start(&config, &frontend) => started?,
        served = servers.end() => return served,
        () = shutdown.cancelled() => return Ok(()),
    };
    let limits = AdmissionLimits {
        sequences: config.max_num_seqs.get().saturating_add(config.max_waiting),
        waiting_tokens: config.max_waiting_tokens,
    };
    let admission = Admission::new(limits, health.clone());
    let engine = started.engine.status().clone();
    let topology = started.cluster.as_ref().map(|of| Arc::clone(&of.membership.topology));
    health.set_loaded(Loaded { engine, topology });
    let (model, engine) = (started.model, started.engine);
    tracing::info!(%address, model = model.name, max_len = model.max_model_len, "router ready");
    frontend.serve(Serving { model, admission: admission.clone(), engine });
    print_line(&format!("router listening on http://{address}"))?;

    let (lane, stop_lane) = (started.lane, started.stop_lane);
    let served = tokio::select! {
        served = servers.end() => served,
        () = drained(&shutdown, &admission, config.drain_timeout, &stop_lane) => Ok(()),
        stopped = lane_ended(&lane, &stop_lane) => Err(stopped),
    };
    ended.cancel();
    if let Some(cluster) = started.cluster {
        cluster.leave().await;
    }
    stop_lane.cancel();
    lane.join().map_err(|_| Error::Engine("its thread panicked".into()))?;
    tracing::info!("stopped");
    served
}

/// What a router consists of once its model is loaded and its experts are found.
struct Started {
    model: ServedModel,
    engine: EngineHandle,
    lane: JoinHandle<()>,
    stop_lane: CancellationToken,
    cluster: Option<Cluster>,
}

/// Joins the cluster, loads the model while the nodes load their experts, and starts the lane.
async fn start(config: &RouterConfig, frontend: &Frontend) -> Result<Started, Error> {
    let checkpoint = Arc::new(Checkpoint::open(&config.model)?);
    for key in &checkpoint.config().unknown_keys {
        tracing::warn!(key, "config.json has a key that this version does not know");
    }
    let mut cluster = match config.experts {
        ExpertsMode::Local => None,
        ExpertsMode::Remote => Some(Cluster::join(config, &checkpoint).await?),
    };
    let load = match &cluster {
        Some(cluster) => Arc::clone(&cluster.load),
        None => Arc::new(LoadCounter::new(grid(&checkpoint))),
    };
    frontend.set_load(Arc::clone(&load));
    if let Some(cluster) = &cluster {
        frontend.set_cluster(cluster.balancer.clone());
    }
    let settings = config.clone();
    // Loading computes for seconds; meanwhile others are told that it does.
    let loaded = tokio::task::spawn_blocking(move || {
        let options = loading::lane_options(&settings, &checkpoint)?;
        let model = loading::served_model(&settings, &checkpoint, &options)?;
        let local = settings.experts == ExpertsMode::Local;
        let device = options.model.device();
        let format = settings.expert_format();
        let experts = local.then(|| LocalExperts::load(&checkpoint, device, format));
        Ok::<_, Error>((options, model, experts.transpose()?))
    });
    let loaded = loaded.await.map_err(|e| Error::Engine(format!("loading the model: {e}")))?;
    let (options, model, experts) = loaded?;
    let stop_lane = options.stop.clone();
    let (engine, lane) = match (experts, &mut cluster) {
        (Some(experts), _) => Lane::start(options, move |_| Box::new(experts.counted_by(load)))?,
        (None, Some(cluster)) => start_remote(config, options, cluster).await?,
        (None, None) => return Err(Error::Engine("no experts, neither here nor elsewhere".into())),
    };
    Ok(Started { model, engine, lane, stop_lane, cluster })
}

/// Waits until every expert has a home, and starts a lane that calls them.
async fn start_remote(
    config: &RouterConfig,
    options: LaneOptions,
    cluster: &mut Cluster,
) -> Result<(EngineHandle, JoinHandle<()>), Error> {
    let (device, dtype) = (options.model.device().clone(), config.dtype);
    tracing::info!("waiting for expert nodes");
    cluster.membership.complete().await;
    let timeouts = DispatchOptions {
        call_timeout: config.expert_call_timeout,
        layer_timeout: config.expert_wait_timeout,
        busy_poll: BusyPoll(config.busy_poll),
    };
    let view = (Arc::clone(&cluster.membership.topology), Arc::clone(&cluster.load));
    let who = (cluster.handshake.clone(), cluster.name.clone());
    // Before the lane's thread is: what that one starts stays on its core.
    let caretaker = Caretaker::start()?;
    Lane::start(options, move |runtime| {
        let driven_by = (runtime, caretaker);
        Box::new(RemoteExperts::new(driven_by, (device, dtype), view, who, timeouts))
    })
}

/// After `shutdown`, waits for the running requests, and then a moment for clients to close their connections.
async fn drained(
    shutdown: &CancellationToken,
    admission: &Admission,
    patience: Duration,
    stop_lane: &CancellationToken,
) {
    shutdown.cancelled().await;
    if tokio::time::timeout(patience, admission.emptied()).await.is_err() {
        tracing::warn!("requests were still running when the time to drain was over");
    }
    stop_lane.cancel();
    tokio::time::sleep(FAREWELL).await;
}

/// An engine that ends while clients can still call it is broken.
async fn lane_ended(lane: &JoinHandle<()>, stop_lane: &CancellationToken) -> Error {
    while !lane.is_finished() || stop_lane.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Error::Engine("its thread ended while serving".into())
}

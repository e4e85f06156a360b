//! The life of a router process: listen, load, find the experts, serve, drain, stop.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use guildhall_checkpoint::Checkpoint;
use guildhall_ids::LayerIdx;
use guildhall_placement::ExpertGrid;
use guildhall_proto::EXPERT_PROTOCOL_VERSION;
use guildhall_transport::Handshake;
use tokio_util::sync::CancellationToken;

use crate::api::{Admission, AdmissionLimits, Frontend, Health, Loaded, ServedModel, Serving};
use crate::dispatch::{DispatchOptions, RemoteExperts};
use crate::engine::{EngineHandle, Lane, LaneOptions};
use crate::local_experts::LocalExperts;
use crate::nodes::{NodeWatch, Topology};
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
    let frontend = Frontend::new(health.clone());
    let ended = CancellationToken::new();
    let (mut servers, address) =
        Servers::start(&config, &frontend, (shutdown.clone(), ended.clone())).await?;

    let mut started = tokio::select! {
        started = start(&config) => started?,
        served = servers.end() => return served,
        () = shutdown.cancelled() => return Ok(()),
    };
    let limits = AdmissionLimits {
        sequences: config.max_num_seqs.get().saturating_add(config.max_waiting),
        waiting_tokens: config.max_waiting_tokens,
    };
    let admission = Admission::new(limits, health.clone());
    let engine = started.engine.status().clone();
    health.set_loaded(Loaded { engine, topology: started.topology.take() });
    let (model, engine) = (started.model, started.engine);
    tracing::info!(%address, model = model.name, max_len = model.max_model_len, "router ready");
    frontend.serve(Serving { model, admission: admission.clone(), engine });
    print_line(&format!("router listening on http://{address}"))?;

    let watching = started.watch.map(|watch| tokio::spawn(watch.watch(ended.clone())));
    let (lane, stop_lane) = (started.lane, started.stop_lane);
    let served = tokio::select! {
        served = servers.end() => served,
        () = drained(&shutdown, &admission, config.drain_timeout, &stop_lane) => Ok(()),
        stopped = lane_ended(&lane, &stop_lane) => Err(stopped),
    };
    ended.cancel();
    if let Some(watching) = watching {
        // It ends by itself; a panic in it was already printed.
        let _ = watching.await;
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
    watch: Option<NodeWatch>,
    topology: Option<Arc<ArcSwap<Topology>>>,
}

/// Loads the model, finds or loads the experts, and starts the lane.
async fn start(config: &RouterConfig) -> Result<Started, Error> {
    let settings = config.clone();
    // Loading computes for seconds; meanwhile others are told that it does.
    let loaded = tokio::task::spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&settings.model)?;
        for key in &checkpoint.config().unknown_keys {
            tracing::warn!(key, "config.json has a key that this version does not know");
        }
        let options = loading::lane_options(&settings, &checkpoint)?;
        let model = loading::served_model(&settings, &checkpoint, &options)?;
        let local = settings.experts == ExpertsMode::Local;
        let device = options.model.device();
        let experts = local.then(|| LocalExperts::load(&checkpoint, device, settings.dtype));
        Ok::<_, Error>((checkpoint, options, model, experts.transpose()?))
    });
    let loaded = loaded.await.map_err(|e| Error::Engine(format!("loading the model: {e}")))?;
    let (checkpoint, options, model, experts) = loaded?;
    let stop_lane = options.stop.clone();
    let (engine, lane, watch) = match experts {
        Some(experts) => {
            let (engine, lane) = Lane::start(options, move |_| Box::new(experts))?;
            (engine, lane, None)
        }
        None => {
            let (engine, lane, watch) = start_remote(config, &checkpoint, options).await?;
            (engine, lane, Some(watch))
        }
    };
    let topology = watch.as_ref().map(NodeWatch::topology);
    Ok(Started { model, engine, lane, stop_lane, watch, topology })
}

/// Waits for the expert nodes, and starts a lane that calls them.
async fn start_remote(
    config: &RouterConfig,
    checkpoint: &Checkpoint,
    options: LaneOptions,
) -> Result<(EngineHandle, JoinHandle<()>, NodeWatch), Error> {
    let model = checkpoint.config();
    let layers: Vec<LayerIdx> = model.moe_layers().collect();
    let grid = ExpertGrid { layers, n_experts: model.moe.n_experts as u32 };
    let (device, dtype) = (options.model.device().clone(), config.dtype);
    let handshake = Handshake {
        protocol_version: EXPERT_PROTOCOL_VERSION,
        model_fingerprint: checkpoint.fingerprint().0.to_vec(),
        dtype: dtype.to_string(),
        hidden_size: u32::try_from(model.hidden_size).unwrap_or(u32::MAX),
    };
    let mut watch =
        NodeWatch::new(grid, handshake.clone(), &config.nodes, config.min_replicas.get());
    tracing::info!(nodes = config.nodes.len(), "waiting for expert nodes");
    watch.wait_until_complete().await?;
    let view = watch.topology();
    let router_id = format!("router-{:08x}", rand::random::<u32>());
    let timeouts = DispatchOptions {
        call_timeout: config.expert_call_timeout,
        layer_timeout: config.expert_wait_timeout,
    };
    let (engine, lane) = Lane::start(options, move |runtime| {
        let who = (handshake, router_id);
        Box::new(RemoteExperts::new(runtime, (device, dtype), view, who, timeouts))
    })?;
    Ok((engine, lane, watch))
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

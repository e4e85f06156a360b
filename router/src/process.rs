//! The life of a router process: load, find the experts, serve, drain, stop.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use guildhall_checkpoint::{Checkpoint, ModelConfig};
use guildhall_ids::LayerIdx;
use guildhall_kernels::{CpuOptions, Device, KvShape};
use guildhall_placement::ExpertGrid;
use guildhall_proto::EXPERT_PROTOCOL_VERSION;
use guildhall_transport::Handshake;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Admission, ServedModel};
use crate::dispatch::{DispatchOptions, RemoteExperts};
use crate::engine::{EngineHandle, Lane, LaneOptions};
use crate::local_experts::LocalExperts;
use crate::model::Model;
use crate::nodes::NodeWatch;
use crate::scheduler::{BlockPool, Limits, Scheduler};
use crate::tokenizer::Tokenizer;
use crate::{Error, ExpertsMode, RouterConfig};

/// A client has this long to read its last answer and to close an idle connection when the router stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// Tokens of a block of the KV cache.
const BLOCK_TOKENS: usize = 16;

/// Runs a router until `shutdown`, then lets running requests end. Prints one line to standard output once it takes
/// requests: `router listening on ADDRESS`.
///
/// # Errors
/// When the model, the nodes or the address cannot be had, or when the engine breaks.
pub async fn run(config: RouterConfig, shutdown: CancellationToken) -> Result<(), Error> {
    config.check().map_err(Error::Config)?;
    let checkpoint = Checkpoint::open(&config.model)?;
    for key in &checkpoint.config().unknown_keys {
        tracing::warn!(key, "config.json has a key that this version does not know");
    }
    let address = (config.host.as_str(), config.grpc_port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::System { what: "listening for gRPC clients", source })?;

    let options = load(&config, &checkpoint)?;
    let model = served_model(&config, &checkpoint, &options);
    let stop_lane = options.stop.clone();
    let (engine, lane, admission, watch) = tokio::select! {
        started = start(&config, &checkpoint, options, shutdown.clone()) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    announce(&listener, &model)?;

    let ended = CancellationToken::new();
    let watching = watch.map(|watch| tokio::spawn(watch.watch(ended.clone())));
    let serving = api::serve(listener, (model, engine), admission.clone(), shutdown.clone());
    let served = tokio::select! {
        served = serving => served,
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

/// Everything that a lane needs but its experts.
fn load(config: &RouterConfig, checkpoint: &Checkpoint) -> Result<LaneOptions, Error> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = config.threads.unwrap_or(cores);
    let device = Device::cpu(CpuOptions { threads, instruction_set: config.instruction_set })?;
    let shape = kv_shape(config, checkpoint.config())?;
    let capacity = shape.blocks * BLOCK_TOKENS;
    let limits = Limits {
        max_running: config.max_num_seqs.get(),
        max_batched_tokens: config.max_num_batched_tokens.get(),
    };
    let blocks = u32::try_from(shape.blocks)
        .map_err(|_| Error::Config(format!("{} KV blocks are too many", shape.blocks)))?;
    let max_positions = max_model_len(config, checkpoint.config(), capacity)?;
    Ok(LaneOptions {
        model: Model::load(checkpoint, &device, config.dtype, max_positions)?,
        cache: device.kv_cache(shape, config.dtype)?,
        scheduler: Scheduler::new(limits, BlockPool::new(blocks, BLOCK_TOKENS)),
        tokenizer: Tokenizer::open(checkpoint.dir())?,
        max_positions,
        stop: CancellationToken::new(),
    })
}

/// As many blocks as the memory holds, but no more than the running sequences can fill.
fn kv_shape(config: &RouterConfig, model: &ModelConfig) -> Result<KvShape, Error> {
    let attention = &model.attention;
    let with = |blocks| KvShape {
        layers: model.layers.len(),
        blocks,
        block_tokens: BLOCK_TOKENS,
        kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
    };
    let block_bytes = with(1).bytes(config.dtype);
    let longest = config.max_model_len.map_or(model.max_position_embeddings, NonZeroUsize::get);
    let useful = longest.div_ceil(BLOCK_TOKENS).saturating_mul(config.max_num_seqs.get());
    let blocks = (config.kv_cache_memory.0 / block_bytes).min(useful);
    if blocks == 0 {
        let memory = config.kv_cache_memory;
        return Err(Error::Config(format!(
            "--kv-cache-memory {memory} does not hold one block of {block_bytes} bytes"
        )));
    }
    Ok(with(blocks))
}

fn max_model_len(
    config: &RouterConfig,
    model: &ModelConfig,
    capacity: usize,
) -> Result<usize, Error> {
    let trained = model.max_position_embeddings;
    match config.max_model_len.map(NonZeroUsize::get) {
        None => Ok(trained.min(capacity)),
        Some(asked) if asked > trained => Err(Error::Config(format!(
            "--max-model-len {asked} is over the model's max_position_embeddings {trained}"
        ))),
        Some(asked) if asked > capacity => Err(Error::Config(format!(
            "--max-model-len {asked} is over the {capacity} tokens that --kv-cache-memory holds"
        ))),
        Some(asked) => Ok(asked),
    }
}

fn served_model(
    config: &RouterConfig,
    checkpoint: &Checkpoint,
    options: &LaneOptions,
) -> ServedModel {
    let model = checkpoint.config();
    ServedModel {
        name: config.model_name(),
        tokenizer: options.tokenizer.clone(),
        vocab_size: model.vocab_size,
        eos_token_ids: checkpoint.generation().eos_token_ids.clone(),
        max_model_len: options.max_positions,
        moe_layers: model.moe_layers().map(|layer| layer.0).collect(),
        top_k: model.moe.top_k as u32,
    }
}

type Started = (EngineHandle, std::thread::JoinHandle<()>, Admission, Option<NodeWatch>);

/// Finds or loads the experts and starts the lane.
async fn start(
    config: &RouterConfig,
    checkpoint: &Checkpoint,
    options: LaneOptions,
    shutdown: CancellationToken,
) -> Result<Started, Error> {
    let room = config.max_num_seqs.get().saturating_add(config.max_waiting);
    let device = options.model.device().clone();
    let dtype = config.dtype;
    if config.experts == ExpertsMode::Local {
        let experts = LocalExperts::load(checkpoint, &device, dtype)?;
        let (engine, lane) = Lane::start(options, move |_| Box::new(experts))?;
        return Ok((engine, lane, Admission::new(room, shutdown, None), None));
    }
    let model = checkpoint.config();
    let layers: Vec<LayerIdx> = model.moe_layers().collect();
    let grid = ExpertGrid { layers, n_experts: model.moe.n_experts as u32 };
    let handshake = Handshake {
        protocol_version: EXPERT_PROTOCOL_VERSION,
        model_fingerprint: checkpoint.fingerprint().0.to_vec(),
        dtype: dtype.to_string(),
        hidden_size: u32::try_from(model.hidden_size).unwrap_or(u32::MAX),
    };
    let mut watch = NodeWatch::new(grid, handshake.clone(), &config.nodes);
    tracing::info!(nodes = config.nodes.len(), "waiting for expert nodes");
    watch.wait_until_complete().await?;
    let topology = watch.topology();
    let router_id = format!("router-{:08x}", rand::random::<u32>());
    let timeouts = DispatchOptions {
        call_timeout: config.expert_call_timeout,
        layer_timeout: config.expert_wait_timeout,
    };
    let view = Arc::clone(&topology);
    let (engine, lane) = Lane::start(options, move |runtime| {
        let who = (handshake, router_id);
        Box::new(RemoteExperts::new(runtime, (device, dtype), view, who, timeouts))
    })?;
    Ok((engine, lane, Admission::new(room, shutdown, Some(topology)), Some(watch)))
}

fn announce(listener: &TcpListener, model: &ServedModel) -> Result<(), Error> {
    let print = || -> std::io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!(%address, model = model.name, max_len = model.max_model_len, "router ready");
        let mut stdout = std::io::stdout();
        writeln!(stdout, "router listening on http://{address}")?;
        stdout.flush()
    };
    print().map_err(|source| Error::System { what: "printing the own address", source })
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
async fn lane_ended(lane: &std::thread::JoinHandle<()>, stop_lane: &CancellationToken) -> Error {
    while !lane.is_finished() || stop_lane.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Error::Engine("its thread ended while serving".into())
}

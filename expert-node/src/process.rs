//! The life of an expert-node process: open, listen, join the cluster, leave it, drain, stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guildhall_checkpoint::{Fingerprint, ModelConfig, has_weights};
use guildhall_cluster::{Key, NodeRecord, Session, SessionOptions, View};
use guildhall_kernels::{CpuOptions, memory_of_machine};
use guildhall_transport::{BusyPoll, Endpoint, Lifecycle, Listener, serve};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::membership::Membership;
use crate::peers::Peers;
use crate::probe;
use crate::service::{Node, NodeOptions};
use crate::shard::Shard;
use crate::supply::Supply;
use crate::{Error, ExpertNodeConfig};

/// A name that another process has is free after this time, if that process has ended: twice the time after which the
/// store forgets it.
const NAME_PATIENCE: Duration = Duration::from_secs(8);

/// Runs a node until `shutdown`, then leaves the cluster and drains. Prints one line to standard output once it listens:
/// `expert-node NAME listening on ADDRESS`.
///
/// The caller's runtime should be single-threaded: the network side of a node is one task per stream, and a
/// multi-threaded runtime makes every round trip slower.
///
/// # Errors
/// When the model, the device or the address cannot be had, or another process has this one's name.
pub async fn run(config: ExpertNodeConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let store = config.store.open().map_err(Error::Config)?;
    let (session, task) =
        Session::new(store, &config.store.store_prefix, SessionOptions::default());
    let end_session = CancellationToken::new();
    let mut following = tokio::spawn(task.run(end_session.clone()));
    let ended = serve_experts(&config, session, &mut following, &shutdown).await;
    end_session.cancel();
    if !following.is_finished() {
        // It ends its lease; nothing depends on how that goes.
        let _ = following.await;
    }
    tracing::info!("stopped");
    ended
}

type Following = JoinHandle<Result<(), guildhall_cluster::Error>>;

/// The node itself, from its model to its last call; the session is followed meanwhile.
async fn serve_experts(
    config: &ExpertNodeConfig,
    session: Session,
    following: &mut Following,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let supply = tokio::select! {
        supply = open_supply(config, &session) => supply?,
        followed = &mut *following => return Err(ended_early(followed.map(|of| of.map_err(Error::from)))),
        () = shutdown.cancelled() => return Ok(()),
    };
    let page = probe::collect(config.probe.is_some())?;
    let lifecycle = Lifecycle::default();
    let (node, compute) = Node::start(supply, node_options(config), lifecycle.clone())?;
    let listener = Listener::bind(&config.listen).await?;
    let address = listener.endpoint().map_err(system("reading the own address"))?;
    print_address(config, &address)?;

    let record = node_record(config, &node, &address);
    let shard = node.shard().clone();
    if let Some(page) = &page {
        probe::show(page, &node);
    }
    let probing = match (&config.probe, page) {
        (Some(address), Some(page)) => Some(tokio::spawn(probe::open(address, page).await?)),
        _ => None,
    };
    let mut serving =
        tokio::spawn(serve(listener, node, lifecycle.clone(), BusyPoll(config.busy_poll)));
    let mut ended = tokio::select! {
        belonged = belong(config, (session, record), shard, shutdown) => belonged,
        followed = following => Err(ended_early(followed.map(|of| of.map_err(Error::from)))),
        served = &mut serving => Err(ended_early(served.map(|of| of.map_err(Error::from)))),
    };
    if !serving.is_finished() {
        if !lifecycle.drain(farewell(config.drain_timeout)).await {
            tracing::warn!("routers were still connected when the time to drain was over");
        }
        ended = ended.and(serving.await.map_or(Ok(()), |served| served.map_err(Error::from)));
    }
    if let Some(probing) = probing {
        probing.abort();
    }
    // The server has dropped the last sender of the queue, so the thread ends after its current batch.
    if compute.join().is_err() {
        tracing::error!("the compute thread panicked");
    }
    ended
}

/// The model's files, or, where there are none, whoever in the cluster has them.
async fn open_supply(config: &ExpertNodeConfig, session: &Session) -> Result<Supply, Error> {
    let model = if has_weights(&config.model) {
        return Supply::open(&config.model, config.hash_cache.as_deref()).inspect(warn_of_unknown);
    } else {
        ModelConfig::from_file(&config.model.join("config.json"))?
    };
    let (session, prefix) = (session.clone(), config.store.store_prefix.clone());
    tracing::info!("there are no weights here: experts will come from nodes that have the files");
    let fingerprint = fingerprint_of_cluster(session.clone(), &prefix).await;
    let max_bytes = 3 * model.hidden_size * model.moe.expert_width * size_of::<f32>();
    let (own, runtime) = (config.node_id.clone(), Handle::current());
    let supply =
        Supply::Peers(model, Peers { own, fingerprint, max_bytes, session, prefix, runtime });
    warn_of_unknown(&supply);
    Ok(supply)
}

fn warn_of_unknown(supply: &Supply) {
    for key in &supply.config().unknown_keys {
        tracing::warn!(key, "config.json has a key that this version does not know");
    }
}

/// Waits for a placement, and says which model's it is.
async fn fingerprint_of_cluster(mut session: Session, prefix: &str) -> Fingerprint {
    loop {
        let placement = View::read(&session.mirror(), prefix).placement;
        let known = placement.and_then(|of| of.model_fingerprint.try_into().ok());
        if let Some(fingerprint) = known {
            return Fingerprint(fingerprint);
        }
        if !session.changed().await {
            // The session has ended, and says why itself.
            std::future::pending::<()>().await;
        }
    }
}

/// The part of the time for an end that is kept for routers to leave; the rest goes by until others hold the experts.
fn farewell(drain_timeout: Duration) -> Duration {
    drain_timeout / 4
}

/// Belongs to the cluster until `shutdown`, and then until nobody depends on this node.
async fn belong(
    config: &ExpertNodeConfig,
    (session, record): (Session, NodeRecord),
    shard: Arc<Shard>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let prefix = config.store.store_prefix.clone();
    let name = config.node_id.clone();
    let key = Key::Node(name.clone()).under(&prefix);
    tokio::select! {
        free = wait_for_name(session.clone(), &key, &record) => free?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let mut leaving = Membership::new(name, record, shard, (session, prefix)).start();
    shutdown.cancelled().await;
    tracing::info!("leaving the cluster");
    if !leaving.announce(config.drain_timeout - farewell(config.drain_timeout)).await {
        tracing::warn!("leaving although others still depend on this node");
    }
    Ok(())
}

/// Waits until no other process has this node's name. One that had the same address is gone: this process has the
/// address now.
async fn wait_for_name(mut session: Session, key: &str, own: &NodeRecord) -> Result<(), Error> {
    let mut deadline = None;
    loop {
        let mirror = session.mirror();
        let other = mirror.get(key).and_then(|known| NodeRecord::decode(&known.value).ok());
        let other = other.filter(|other| other.address != own.address);
        let now = Instant::now();
        match other {
            None if mirror.connected => return Ok(()),
            Some(other) if deadline.is_some_and(|deadline| now >= deadline) => {
                let key = format!("{key} (it listens on {})", other.address);
                return Err(guildhall_cluster::Error::Taken { key }.into());
            }
            // The store has not been reached yet, or still shows the other one.
            None => {}
            Some(_) => {
                deadline.get_or_insert(now + NAME_PATIENCE);
            }
        }
        let wait = tokio::time::timeout(Duration::from_secs(1), session.changed()).await;
        if wait == Ok(false) {
            // The session has ended, and says why itself.
            std::future::pending::<()>().await;
        }
    }
}

/// Why a task ended that should not have.
fn ended_early(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::Ended("a task ended by itself".into()),
        Err(panic) => Error::Ended(panic.to_string()),
    }
}

fn node_options(config: &ExpertNodeConfig) -> NodeOptions {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NodeOptions {
        node_id: config.node_id.clone(),
        dtype: config.dtype,
        expert_weights: config.expert_weights,
        device: CpuOptions {
            threads: config.threads.unwrap_or(cores),
            instruction_set: config.instruction_set,
            pin_threads: config.pin_threads,
        },
        capacity: capacity(config),
        max_queued_calls: config.max_queued_calls.get(),
        max_batch_pairs: config.max_batch_pairs.get(),
        busy_poll: BusyPoll(config.busy_poll),
    }
}

fn node_record(config: &ExpertNodeConfig, node: &Node, listening: &Endpoint) -> NodeRecord {
    let identity = node.identity();
    let handshake = &identity.handshake;
    NodeRecord {
        instance: identity.instance,
        address: advertised(config, listening).to_string(),
        protocol_version: handshake.protocol_version,
        model_fingerprint: handshake.model_fingerprint.clone(),
        dtype: handshake.dtype.clone(),
        hidden_size: handshake.hidden_size,
        expert_weights: handshake.expert_weights.clone(),
        has_files: node.shard().supply().has_files(),
        instruction_set: identity.instruction_set.clone(),
        device: "cpu".into(),
        capacity_bytes: capacity(config),
        speed: config.speed,
        zone: config.zone.clone(),
        draining: false,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Bytes of experts that this node may hold.
fn capacity(config: &ExpertNodeConfig) -> u64 {
    config.capacity.of(memory_of_machine()) as u64
}

/// Where routers connect: as told, or where it listens.
fn advertised(config: &ExpertNodeConfig, listening: &Endpoint) -> Endpoint {
    if let Some(advertise) = &config.advertise {
        return advertise.clone();
    }
    let Endpoint::Tcp(authority) = listening else { return listening.clone() };
    let Ok(address) = authority.parse::<SocketAddr>() else { return listening.clone() };
    Endpoint::Tcp(config.store.address_for_others(address).to_string())
}

fn print_address(config: &ExpertNodeConfig, address: &Endpoint) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "expert-node {} listening on {address}", config.node_id)
        .and_then(|()| stdout.flush())
        .map_err(system("printing the own address"))?;
    tracing::info!(node = %config.node_id, %address, dtype = %config.dtype, "expert node ready");
    Ok(())
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

//! The life of an expert-node process: open, listen, drain, stop.

use std::io::Write as _;
use std::num::NonZeroUsize;

use guildhall_checkpoint::Checkpoint;
use guildhall_kernels::CpuOptions;
use guildhall_transport::{Lifecycle, Listener, serve};
use tokio_util::sync::CancellationToken;

use crate::service::{Node, NodeOptions};
use crate::{Error, ExpertNodeConfig};

/// Runs a node until `shutdown`, then drains it. Prints one line to standard output once it listens:
/// `expert-node NAME listening on ADDRESS`.
///
/// The caller's runtime should be single-threaded: the network side of a node is one task per stream, and a
/// multi-threaded runtime makes every round trip slower.
///
/// # Errors
/// When the model, the device or the address cannot be had.
pub async fn run(config: ExpertNodeConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(&config.model)?;
    for key in &checkpoint.config().unknown_keys {
        tracing::warn!(key, "config.json has a key that this version does not know");
    }
    let lifecycle = Lifecycle::default();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let options = NodeOptions {
        node_id: config.node_id.clone(),
        dtype: config.dtype,
        device: CpuOptions {
            threads: config.threads.unwrap_or(cores),
            instruction_set: config.instruction_set,
        },
        hash_cache: config.hash_cache.as_deref(),
        max_queued_calls: config.max_queued_calls.get(),
        max_batch_pairs: config.max_batch_pairs.get(),
    };
    let (node, compute) = Node::start(checkpoint, options, lifecycle.draining().clone())?;
    let listener = Listener::bind(&config.listen).await?;
    let system = |what| move |source| Error::System { what, source };
    let address = listener.endpoint().map_err(system("reading the own address"))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "expert-node {} listening on {address}", config.node_id)
        .and_then(|()| stdout.flush())
        .map_err(system("printing the own address"))?;
    tracing::info!(node = %config.node_id, %address, dtype = %config.dtype, "expert node ready");

    let serving = serve(listener, node, lifecycle.clone());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.map_err(Error::from),
        () = shutdown.cancelled() => {}
    }
    tracing::info!("draining");
    let draining = async {
        if !lifecycle.drain(config.drain_timeout).await {
            tracing::warn!("routers were still connected when the time to drain was over");
        }
    };
    let ended = tokio::join!(draining, serving).1;
    // The server has dropped the last sender of the queue, so the thread ends after its current batch.
    if compute.join().is_err() {
        tracing::error!("the compute thread panicked");
    }
    tracing::info!("stopped");
    ended.map_err(Error::from)
}

//! Settings of an expert node, from flags or from environment variables with the prefix `GUILDHALL_`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use guildhall_cluster::StoreConfig;
use guildhall_ids::NodeId;
use guildhall_kernels::{Dtype, InstructionSet, MemorySize, WeightFormat};
use guildhall_transport::Endpoint;

/// Everything that an expert node can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct ExpertNodeConfig {
    /// Model directory (config.json, safetensors); only the assigned experts are read. Without safetensors they come from
    /// nodes that have them.
    #[arg(long, env = "GUILDHALL_MODEL", value_name = "DIR")]
    pub model: PathBuf,

    /// Where routers connect: host:port (port 0: any free one) or unix:/path.
    #[arg(long, env = "GUILDHALL_LISTEN", default_value = "127.0.0.1:50061", value_name = "ADDR")]
    pub listen: Endpoint,

    /// Where this node shows /health and /metrics: host:port, without a key; default: nowhere.
    #[arg(long, env = "GUILDHALL_PROBE", value_name = "ADDR")]
    pub probe: Option<String>,

    /// Where the cluster's state is.
    #[command(flatten)]
    pub store: StoreConfig,

    /// Where routers shall connect, if not where this node listens; for 0.0.0.0 it is the address from which this
    /// machine reaches the store.
    #[arg(long, env = "GUILDHALL_ADVERTISE", value_name = "ADDR")]
    pub advertise: Option<Endpoint>,

    /// Memory for experts: bytes, or with KiB, MiB, GiB, or a share of the machine's memory.
    #[arg(long, env = "GUILDHALL_CAPACITY", default_value = "80%", value_name = "SIZE")]
    pub capacity: MemorySize,

    /// How fast this node is, relative to the others.
    #[arg(long, env = "GUILDHALL_SPEED", default_value = "1", value_name = "FACTOR",
          value_parser = speed)]
    pub speed: f64,

    /// What fails together with this node, such as a rack; replicas of an expert spread over zones.
    #[arg(long, env = "GUILDHALL_ZONE", default_value = "", value_name = "NAME")]
    pub zone: String,

    /// Name of this node, unique in the cluster and the same after a restart.
    #[arg(long, env = "GUILDHALL_NODE_ID", default_value = "expert-node-0", value_name = "NAME")]
    pub node_id: NodeId,

    /// What weights are kept and activations travel in; the same as the router's: f32 or bf16.
    #[arg(long, env = "GUILDHALL_DTYPE", default_value = "bf16")]
    pub dtype: Dtype,

    /// What experts are kept in: as --dtype, or int8 or int4, which are made as they are loaded; the same on all nodes.
    #[arg(long, env = "GUILDHALL_EXPERT_WEIGHTS", value_name = "FORMAT")]
    pub expert_weights: Option<WeightFormat>,

    /// Threads that compute; default: one for each core.
    #[arg(long, env = "GUILDHALL_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Keep each thread that computes on a core of its own, of those that this process may use (taskset, cpuset).
    #[arg(long, env = "GUILDHALL_PIN_THREADS")]
    pub pin_threads: bool,

    /// Microseconds that a thread looks for calls before it sleeps, in the middle of a step: to wake it takes longer than a
    /// round trip. It offers its core to others meanwhile; where these need it, 0 is better.
    #[arg(long, env = "GUILDHALL_BUSY_POLL", default_value = "1000", value_name = "MICROSECONDS",
          value_parser = microseconds)]
    pub busy_poll: Duration,

    /// portable, avx2, avx512, avx512-bf16 or amx; default: the fastest here.
    #[arg(long, env = "GUILDHALL_INSTRUCTION_SET", value_name = "NAME")]
    pub instruction_set: Option<InstructionSet>,

    /// Folder for the recorded expert hashes; default: beside the weights.
    #[arg(long, env = "GUILDHALL_HASH_CACHE", value_name = "DIR")]
    pub hash_cache: Option<PathBuf>,

    /// Calls that may wait for the device; one more is refused as overloaded.
    #[arg(long, env = "GUILDHALL_MAX_QUEUED_CALLS", default_value = "256", value_name = "N")]
    pub max_queued_calls: NonZeroUsize,

    /// (token, expert) pairs computed as one batch at most; a single larger call is a batch of its own.
    #[arg(long, env = "GUILDHALL_MAX_BATCH_PAIRS", default_value = "16384", value_name = "N")]
    pub max_batch_pairs: NonZeroUsize,

    /// Seconds until this node ends after SIGTERM, at most: three quarters for the cluster to hold its experts elsewhere,
    /// the rest for routers to leave.
    #[arg(long, env = "GUILDHALL_DRAIN_TIMEOUT", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    pub drain_timeout: Duration,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| format!("{text:?} is no number above 0"))
}

fn microseconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_micros)
        .map_err(|_| format!("{text:?} is no number of microseconds"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

//! Settings of a router, from flags or from environment variables with the prefix `GUILDHALL_`.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use guildhall_chat::ToolFormat;
use guildhall_cluster::StoreConfig;
use guildhall_kernels::{Dtype, InstructionSet, MemorySize, WeightFormat};

use crate::engine::PingPongMode;
use crate::traces::TraceSettings;

/// Everything that a router can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct RouterConfig {
    /// Model directory (config.json, safetensors, tokenizer.json).
    #[arg(long, env = "GUILDHALL_MODEL", value_name = "DIR")]
    pub model: PathBuf,

    /// Name that requests may call the model by; default: the name of its directory.
    #[arg(long, env = "GUILDHALL_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Address to listen on.
    #[arg(long, env = "GUILDHALL_HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port of the gRPC API; 0: any free one.
    #[arg(long, env = "GUILDHALL_GRPC_PORT", default_value_t = 50051)]
    pub grpc_port: u16,

    /// Port of the OpenAI-compatible HTTP API; 0: any free one.
    #[arg(long, env = "GUILDHALL_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Port of the admin API (gRPC), which needs a key of its own; default: no admin API.
    #[arg(long, env = "GUILDHALL_ADMIN_PORT")]
    pub admin_port: Option<u16>,

    /// Show how often each expert was used among the metrics: layers × experts series, thousands for a large model.
    #[arg(long, env = "GUILDHALL_METRICS_PER_EXPERT")]
    pub metrics_per_expert: bool,

    /// API keys, separated by commas; every call but for health needs one. Default: none is needed.
    #[arg(long, env = "GUILDHALL_API_KEY", value_delimiter = ',', hide_env_values = true)]
    pub api_key: Vec<String>,

    /// File with an API key on each line; it is watched.
    #[arg(long, env = "GUILDHALL_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Keys of the admin API, separated by commas.
    #[arg(long, env = "GUILDHALL_ADMIN_API_KEY", value_delimiter = ',', hide_env_values = true)]
    pub admin_api_key: Vec<String>,

    /// File with a key of the admin API on each line; it is watched.
    #[arg(long, env = "GUILDHALL_ADMIN_API_KEY_FILE", value_name = "FILE")]
    pub admin_api_key_file: Option<PathBuf>,

    /// Chat template (Jinja) in place of the model's own.
    #[arg(long, env = "GUILDHALL_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,

    /// How the model writes tool calls, hermes or json; default: as its chat template looks.
    #[arg(long, env = "GUILDHALL_TOOL_CALL_PARSER", value_name = "NAME")]
    pub tool_call_parser: Option<ToolFormat>,

    /// Where experts are computed: remote (on expert nodes) or local (in this process).
    #[arg(long, env = "GUILDHALL_EXPERTS", default_value_t = ExpertsMode::Remote, value_enum)]
    pub experts: ExpertsMode,

    /// Where the cluster's state is.
    #[command(flatten)]
    pub store: StoreConfig,

    /// Address of the cluster port. Only this cluster's own processes should be able to reach it.
    #[arg(long, env = "GUILDHALL_CLUSTER_HOST", default_value = "127.0.0.1")]
    pub cluster_host: String,

    /// Port for the cluster's other processes: other routers and, without --store, the cluster's state; 0: any free one.
    #[arg(long, env = "GUILDHALL_CLUSTER_PORT", default_value_t = 50052)]
    pub cluster_port: u16,

    /// Place no experts before so many nodes have come; default: until no more come for a second.
    #[arg(long, env = "GUILDHALL_MIN_NODES", value_name = "N")]
    pub min_nodes: Option<NonZeroUsize>,

    /// Nodes that hold each expert, as far as there are so many: with 2, any one may die without a pause.
    #[arg(long, env = "GUILDHALL_MIN_REPLICAS", default_value = "2", value_name = "N")]
    pub min_replicas: NonZeroUsize,

    /// Replicas of hot experts in each layer beyond these, as far as there is room.
    #[arg(long, env = "GUILDHALL_SPARE_REPLICAS", default_value = "2", value_name = "N")]
    pub spare_replicas: usize,

    /// Seconds between two looks at how evenly nodes are used; 0: experts move only when nodes come and go.
    #[arg(long, env = "GUILDHALL_BALANCE_INTERVAL", default_value = "10", value_name = "SECONDS",
          value_parser = seconds)]
    pub balance_interval: Duration,

    /// Seconds that a node may be away before what others hold too is loaded elsewhere.
    #[arg(long, env = "GUILDHALL_REPLACE_AFTER", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    pub replace_after: Duration,

    /// What weights are kept and multiplied in: f32 or bf16.
    #[arg(long, env = "GUILDHALL_DTYPE", default_value = "bf16")]
    pub dtype: Dtype,

    /// What experts are kept in: as --dtype, or int8 or int4, which are made as they are loaded; the same on all nodes.
    #[arg(long, env = "GUILDHALL_EXPERT_WEIGHTS", value_name = "FORMAT")]
    pub expert_weights: Option<WeightFormat>,

    /// The same for everything else: attention, output head, shared experts, feed-forward networks without experts.
    #[arg(long, env = "GUILDHALL_DENSE_WEIGHTS", value_name = "FORMAT")]
    pub dense_weights: Option<WeightFormat>,

    /// Threads that compute; default: one for each core.
    #[arg(long, env = "GUILDHALL_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Keep each thread that computes on a core of its own, of those that this process may use (taskset, cpuset).
    #[arg(long, env = "GUILDHALL_PIN_THREADS")]
    pub pin_threads: bool,

    /// Microseconds that a thread looks for answers before it sleeps, in the middle of a step: to wake it takes longer than a
    /// round trip. It offers its core to others meanwhile; where these need it, 0 is better.
    #[arg(long, env = "GUILDHALL_BUSY_POLL", default_value = "1000", value_name = "MICROSECONDS",
          value_parser = microseconds)]
    pub busy_poll: Duration,

    /// Whether a step goes through the model in two halves, one computed while the experts of the other are away: auto
    /// (when that was faster for steps of its size), on or off. It changes no bit.
    #[arg(long, env = "GUILDHALL_PING_PONG", default_value_t = PingPongMode::Auto, value_enum)]
    pub ping_pong: PingPongMode,

    /// portable, avx2, avx512, avx512-bf16 or amx; default: the fastest here.
    #[arg(long, env = "GUILDHALL_INSTRUCTION_SET", value_name = "NAME")]
    pub instruction_set: Option<InstructionSet>,

    /// Longest sequence, prompt and answer; default: what the model was trained for, if the KV cache holds it.
    #[arg(long, env = "GUILDHALL_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub max_model_len: Option<NonZeroUsize>,

    /// Sequences that run at a time.
    #[arg(long, env = "GUILDHALL_MAX_NUM_SEQS", default_value = "256", value_name = "N")]
    pub max_num_seqs: NonZeroUsize,

    /// Tokens of one step, of all its sequences; at least max-num-seqs, so that each gets its token.
    #[arg(long, env = "GUILDHALL_MAX_NUM_BATCHED_TOKENS", default_value = "512", value_name = "N")]
    pub max_num_batched_tokens: NonZeroUsize,

    /// Requests that may wait; one more is refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "GUILDHALL_MAX_WAITING", default_value = "1024", value_name = "N")]
    pub max_waiting: usize,

    /// Tokens of prompts that may wait; a prompt that would make it more is refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "GUILDHALL_MAX_WAITING_TOKENS", default_value = "1000000", value_name = "N")]
    pub max_waiting_tokens: usize,

    /// Memory of the KV cache: bytes, or with KiB, MiB, GiB, or a share of the machine's memory: 20%.
    #[arg(long, env = "GUILDHALL_KV_CACHE_MEMORY", default_value = "1GiB", value_name = "SIZE")]
    pub kv_cache_memory: MemorySize,

    /// Seconds after which an expert call without an answer is sent to another node.
    #[arg(long, env = "GUILDHALL_EXPERT_CALL_TIMEOUT", default_value = "10",
          value_name = "SECONDS", value_parser = seconds)]
    pub expert_call_timeout: Duration,

    /// Seconds that a request waits for experts that no node can compute before it fails.
    #[arg(long, env = "GUILDHALL_EXPERT_WAIT_TIMEOUT", default_value = "30",
          value_name = "SECONDS", value_parser = seconds)]
    pub expert_wait_timeout: Duration,

    /// Seconds without a finished step, with work waiting, after which the router is not ready.
    #[arg(long, env = "GUILDHALL_STALL_TIMEOUT", default_value = "15", value_name = "SECONDS",
          value_parser = seconds)]
    pub stall_timeout: Duration,

    /// Seconds that running requests get to end after SIGTERM.
    #[arg(long, env = "GUILDHALL_DRAIN_TIMEOUT", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    pub drain_timeout: Duration,

    /// Share of the traced requests of which every step is traced too, down to the calls of each layer. A client asks for
    /// it with the header x-guildhall-deep-trace: 1.
    #[arg(long, env = "GUILDHALL_DEEP_TRACE_RATIO", default_value = "0.01", value_name = "RATIO",
          value_parser = ratio)]
    pub deep_trace_ratio: f64,

    /// Milliseconds from which on a step is traced like that, whosever it is; default: never for that alone.
    #[arg(long, env = "GUILDHALL_DEEP_TRACE_SLOW_STEP", value_name = "MILLISECONDS",
          value_parser = milliseconds)]
    pub deep_trace_slow_step: Option<Duration>,
}

/// Where experts are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExpertsMode {
    /// On expert nodes.
    Remote,
    /// In this process.
    Local,
}

impl fmt::Display for ExpertsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote => "remote",
            Self::Local => "local",
        })
    }
}

impl RouterConfig {
    /// The name of the model in requests.
    #[must_use]
    pub fn model_name(&self) -> String {
        let of_dir = || {
            let dir = self.model.canonicalize().unwrap_or_else(|_| self.model.clone());
            dir.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into())
        };
        self.served_model_name.clone().unwrap_or_else(of_dir)
    }

    /// How deeply is traced.
    pub(crate) fn traces(&self) -> TraceSettings {
        TraceSettings { deep_ratio: self.deep_trace_ratio, slow_step: self.deep_trace_slow_step }
    }

    /// What experts are kept in.
    #[must_use]
    pub fn expert_format(&self) -> WeightFormat {
        self.expert_weights.unwrap_or(self.dtype.into())
    }

    /// What all other matrices are kept in.
    #[must_use]
    pub fn dense_format(&self) -> WeightFormat {
        self.dense_weights.unwrap_or(self.dtype.into())
    }

    /// Looks for settings that contradict each other.
    ///
    /// # Errors
    /// A sentence that names the flags.
    pub fn check(&self) -> Result<(), String> {
        for (flag, format) in
            [("--expert-weights", self.expert_weights), ("--dense-weights", self.dense_weights)]
        {
            WeightFormat::choose(format, self.dtype).map_err(|e| format!("{flag}: {e}"))?;
        }
        if self.experts == ExpertsMode::Local && !self.store.store.is_empty() {
            return Err("--store and --experts local contradict each other".into());
        }
        let admin_keys = !self.admin_api_key.is_empty() || self.admin_api_key_file.is_some();
        if self.admin_port.is_some() != admin_keys {
            return Err("--admin-port and --admin-api-key (or its file) need each other".into());
        }
        if self.api_key.iter().chain(&self.admin_api_key).any(|key| key.trim().is_empty()) {
            return Err("--api-key and --admin-api-key must not be empty".into());
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            let (tokens, seqs) = (self.max_num_batched_tokens, self.max_num_seqs);
            return Err(format!(
                "--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}"
            ));
        }
        Ok(())
    }
}

fn microseconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_micros)
        .map_err(|_| format!("{text:?} is no number of microseconds"))
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds: f64 =
        text.parse().map_err(|_| format!("{text:?} is no number of milliseconds"))?;
    Duration::try_from_secs_f64(milliseconds / 1e3).map_err(|e| e.to_string())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("{text:?} is no number from 0 to 1"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

//! The command line: subcommands, flags, and the environment variables behind them.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use guildhall_expert_node::ExpertNodeConfig;
use guildhall_loadtest::{LoadtestConfig, Screen};
use guildhall_router::{ExpertsMode, RouterConfig, WeightFormat};
use guildhall_telemetry::{LogFormat, OtlpConfig};

use crate::simulate::SimulateOptions;

/// Serves mixture-of-experts language models across machines.
#[derive(Debug, Parser)]
#[command(name = "guildhall", version, about, max_term_width = 100)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) logs: LogOptions,
}

/// What every process logs.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// How log lines look: pretty or json.
    #[arg(long, global = true, env = "GUILDHALL_LOG_FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,

    /// Which log lines appear, as in info,guildhall_router=debug.
    #[arg(
        long,
        global = true,
        env = "GUILDHALL_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take requests and run the dense part of a model.
    Router(Box<Role<RouterConfig>>),
    /// Hold experts and compute them.
    ExpertNode(Box<Role<ExpertNodeConfig>>),
    /// Start a router and expert nodes on this machine, and stop them together.
    Up(Box<UpOptions>),
    /// Run a program that ends with this process, however it ends.
    #[command(hide = true)]
    Guard(GuardOptions),
    /// Stream a completion to the terminal.
    Generate(GenerateOptions),
    /// Say how large a model is, by part, and what each process needs.
    Inspect(InspectOptions),
    /// Say what this machine can do: which instructions compute rightly, how fast, and what a model would get.
    Doctor(DoctorOptions),
    /// Compare placements on expert loads, without a cluster.
    Simulate(Box<SimulateOptions>),
    /// Say what quantising a model costs on a text: perplexity, and how far predictions move.
    Evaluate(EvaluateOptions),
    /// Put load on a router, and say how the cluster bore it: latencies, throughput, the use of every expert.
    Loadtest(Box<LoadtestOptions>),
    /// Show who is in a cluster, who holds what, and how evenly it is used.
    Status(StatusOptions),
    /// Have a node's experts loaded elsewhere, and leave it without any.
    Drain(DrainOptions),
    /// Solve a placement for the load of now, and roll it out.
    Rebalance(RebalanceOptions),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LoadtestOptions {
    #[command(subcommand)]
    pub(crate) command: Option<LoadtestCommand>,

    #[command(flatten)]
    pub(crate) config: LoadtestConfig,

    #[command(flatten)]
    pub(crate) runtime: RuntimeOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LoadtestCommand {
    /// Show two runs beside each other.
    Compare {
        /// What --json wrote of the first.
        first: PathBuf,
        /// What it wrote of the second.
        second: PathBuf,
    },
}

/// Columns of a terminal that does not say: it clips what is wider.
const MOST_COLUMNS: usize = 160;

/// What standard error can show; absent where it is no terminal. NO_COLOR (any text) leaves colours out.
pub(crate) fn terminal() -> Option<Screen> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let columns = std::env::var("COLUMNS").ok();
    let width = columns.and_then(|columns| columns.parse().ok()).unwrap_or(MOST_COLUMNS);
    let colours = std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    Some(Screen { width, colours })
}

/// How to reach the admin API of a router; any router of the cluster will do.
#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    /// Address of the admin API; default: that of `guildhall up`, unless another key is given: then http://127.0.0.1:50053.
    #[arg(long, env = "GUILDHALL_ADMIN", value_name = "URL")]
    pub(crate) admin: Option<String>,

    /// Its key; default: that of `guildhall up`.
    #[arg(long, env = "GUILDHALL_ADMIN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) admin_api_key: Option<String>,

    #[command(flatten)]
    pub(crate) runtime: RuntimeOptions,
}

/// Where `guildhall up` says how to reach it.
#[derive(Debug, Args)]
pub(crate) struct RuntimeOptions {
    /// Folder of this user where `guildhall up` leaves its addresses and its admin key for the other commands; default:
    /// one among the temporary files.
    #[arg(long, env = "XDG_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: Option<OsString>,
}

impl RuntimeOptions {
    pub(crate) fn folder(&self) -> PathBuf {
        let among_temporary = || {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("guildhall-{user}"))
        };
        let given = self.runtime_dir.clone().filter(|folder| !folder.is_empty());
        given.map_or_else(among_temporary, PathBuf::from)
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Show instead how often the router has used each expert, and which nodes hold it.
    #[arg(long)]
    pub(crate) experts: bool,

    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    /// Name of the node.
    pub(crate) node: String,

    /// Let the node hold experts again.
    #[arg(long)]
    pub(crate) undo: bool,

    /// Do not wait until the node is empty.
    #[arg(long)]
    pub(crate) no_wait: bool,

    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

#[derive(Debug, Args)]
pub(crate) struct RebalanceOptions {
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

/// A process and how it ends.
#[derive(Debug, Args)]
pub(crate) struct Role<C: Args> {
    #[command(flatten)]
    pub(crate) config: C,

    #[command(flatten)]
    pub(crate) otlp: OtlpConfig,

    /// Stop when standard input is closed, so as not to outlive the process that started this one.
    #[arg(long, hide = true)]
    pub(crate) stop_on_stdin_close: bool,
}

/// Other settings of the processes can be given as their environment variables (GUILDHALL_…).
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// Model directory (config.json, safetensors, tokenizer.json).
    #[arg(long, env = "GUILDHALL_MODEL", default_value = "models/demo", value_name = "DIR")]
    pub(crate) model: PathBuf,

    /// Expert-node processes, which share the experts.
    #[arg(long, env = "GUILDHALL_EXPERT_NODES", default_value = "4", value_name = "N")]
    pub(crate) expert_nodes: NonZeroUsize,

    /// Nodes that hold each expert, as far as there are so many.
    #[arg(long, env = "GUILDHALL_MIN_REPLICAS", default_value = "2", value_name = "N")]
    pub(crate) min_replicas: NonZeroUsize,

    /// What weights are kept and multiplied in: f32 or bf16.
    #[arg(long, env = "GUILDHALL_DTYPE", default_value = "bf16")]
    pub(crate) dtype: String,

    /// What experts are kept in: as --dtype, or int8 or int4, which are made as they are loaded.
    #[arg(long, env = "GUILDHALL_EXPERT_WEIGHTS", value_name = "FORMAT")]
    pub(crate) expert_weights: Option<WeightFormat>,

    /// The same for everything else: attention, output head, shared experts, feed-forward networks without experts.
    #[arg(long, env = "GUILDHALL_DENSE_WEIGHTS", value_name = "FORMAT")]
    pub(crate) dense_weights: Option<WeightFormat>,

    /// --busy-poll of the router and the nodes; default: theirs, or 0 if there are more processes than cores.
    #[arg(long, env = "GUILDHALL_BUSY_POLL", value_name = "MICROSECONDS")]
    pub(crate) busy_poll: Option<u64>,

    /// Port of the gRPC API; 0: any free one.
    #[arg(long, env = "GUILDHALL_GRPC_PORT", default_value_t = 50051)]
    pub(crate) grpc_port: u16,

    /// Port of the OpenAI-compatible HTTP API; 0: any free one.
    #[arg(long, env = "GUILDHALL_PORT", default_value_t = 8000)]
    pub(crate) port: u16,

    /// Port of the admin API; 0: any free one.
    #[arg(long, env = "GUILDHALL_ADMIN_PORT", default_value_t = 0)]
    pub(crate) admin_port: u16,

    /// --metrics-per-expert of the router.
    #[arg(long, env = "GUILDHALL_METRICS_PER_EXPERT")]
    pub(crate) metrics_per_expert: bool,

    /// Key of the admin API; default: a new one, which is printed with the address of the live page.
    #[arg(long, env = "GUILDHALL_ADMIN_API_KEY", hide_env_values = true)]
    pub(crate) admin_api_key: Option<String>,

    /// Where experts are computed: remote (on expert nodes) or local (in the router).
    #[arg(long, env = "GUILDHALL_EXPERTS", default_value_t = ExpertsMode::Remote, value_enum)]
    pub(crate) experts: ExpertsMode,

    /// Keep the cluster's state in an etcd of its own, which is started with this program; its data goes with the cluster.
    #[arg(long, env = "GUILDHALL_ETCD", value_name = "PROGRAM")]
    pub(crate) etcd: Option<PathBuf>,

    /// Unix socket where `loadtest --chaos` asks for faults; default: in the cluster's folder, and printed.
    #[arg(long, env = "GUILDHALL_CONTROL", value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) runtime: RuntimeOptions,

    #[command(flatten)]
    pub(crate) otlp: OtlpConfig,
}

/// A program that is to end with this process.
#[derive(Debug, Args)]
pub(crate) struct GuardOptions {
    /// The program.
    pub(crate) program: PathBuf,

    /// What it is told.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateOptions {
    /// The prompt; without it, standard input is read.
    pub(crate) prompt: Option<String>,

    /// Address of a router; default: that of `guildhall up`.
    #[arg(long, env = "GUILDHALL_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,

    #[command(flatten)]
    pub(crate) runtime: RuntimeOptions,

    /// Tokens to generate at most.
    #[arg(long, default_value_t = 128)]
    pub(crate) max_tokens: u32,

    /// 0 takes the most probable token each time.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f32,

    /// Only the k most probable tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: u32,

    /// Only the smallest set of tokens with this much probability.
    #[arg(long)]
    pub(crate) top_p: Option<f32>,

    /// The same seed gives the same text.
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// End at this text; may be given several times.
    #[arg(long)]
    pub(crate) stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateOptions {
    /// Model directory (config.json, safetensors, tokenizer.json).
    #[arg(long, env = "GUILDHALL_MODEL", default_value = "models/demo", value_name = "DIR")]
    pub(crate) model: PathBuf,

    /// File with the text, in UTF-8.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,

    /// What experts are kept in; default: the usual choices, one after another.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) expert_weights: Option<WeightFormat>,

    /// The same for everything else.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) dense_weights: Option<WeightFormat>,

    /// Tokens of a window; each window is predicted from its own beginning.
    #[arg(long, default_value_t = 256, value_name = "TOKENS")]
    pub(crate) window: usize,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Model directory; only its config.json is read.
    #[arg(long, env = "GUILDHALL_MODEL", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,

    /// Threads that compute; default: one for each core.
    #[arg(long, env = "GUILDHALL_THREADS", value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// What the weights that are tried are kept in: f32, bf16, int8 or int4.
    #[arg(long, default_value = "bf16", value_name = "FORMAT")]
    pub(crate) weights: WeightFormat,
}

#[derive(Debug, Args)]
pub(crate) struct InspectOptions {
    /// Model directory, or a config.json alone.
    pub(crate) model: PathBuf,

    /// Expert nodes that share the experts.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) expert_nodes: NonZeroUsize,

    /// Nodes that hold each expert, as far as there are so many.
    #[arg(long, default_value = "2", value_name = "N")]
    pub(crate) min_replicas: NonZeroUsize,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

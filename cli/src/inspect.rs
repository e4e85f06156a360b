//! What a planner asks of a model: parameters by part, bytes by type, and what each process needs.

use std::io::Write;

use anyhow::Context as _;
use guildhall_checkpoint::{
    Checkpoint, ModelConfig, NodeBytes, Parameters, StorageType, has_weights,
};
use serde::Serialize;

use crate::config::InspectOptions;

#[derive(Serialize)]
struct Report {
    family: &'static str,
    layers: usize,
    moe_layers: usize,
    hidden_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    n_experts: usize,
    top_k: usize,
    expert_width: usize,
    parameters: Parameters,
    total_parameters: u64,
    active_parameters: u64,
    router_parameters: u64,
    kv_bytes_per_token: KvBytes,
    expert_nodes: usize,
    min_replicas: usize,
    storage: Vec<Storage>,
    /// Only when the weights are there.
    fingerprint: Option<String>,
    unknown_config_keys: Vec<String>,
}

#[derive(Serialize)]
struct KvBytes {
    f32: u64,
    bf16: u64,
}

#[derive(Serialize)]
struct Storage {
    dtype: &'static str,
    total_bytes: u64,
    router_bytes: u64,
    node: NodeBytes,
}

pub(crate) fn run(options: &InspectOptions) -> anyhow::Result<()> {
    let (config, fingerprint) = open(options)?;
    let nodes = (options.expert_nodes.get(), options.min_replicas.get());
    let report = report(&config, nodes, fingerprint);
    let mut stdout = std::io::stdout();
    if options.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        return Ok(writeln!(stdout)?);
    }
    print(&report, &mut stdout).context("printing")
}

/// The configuration, and the fingerprint if there are weights.
fn open(options: &InspectOptions) -> anyhow::Result<(ModelConfig, Option<String>)> {
    let path = &options.model;
    if path.is_file() {
        return Ok((ModelConfig::from_file(path)?, None));
    }
    if !has_weights(path) {
        return Ok((ModelConfig::from_file(&path.join("config.json"))?, None));
    }
    let checkpoint = Checkpoint::open(path)?;
    let fingerprint = checkpoint.fingerprint().to_string();
    Ok((checkpoint.config().clone(), Some(fingerprint)))
}

fn report(
    config: &ModelConfig,
    (expert_nodes, min_replicas): (usize, usize),
    fingerprint: Option<String>,
) -> Report {
    let parameters = Parameters::of(config);
    let storage = |storage: StorageType| Storage {
        dtype: storage.name(),
        total_bytes: parameters.total_bytes(storage),
        router_bytes: parameters.router_bytes(storage),
        node: NodeBytes::of(config, storage, (expert_nodes, min_replicas)),
    };
    Report {
        family: config.family.model_type(),
        layers: config.layers.len(),
        moe_layers: config.moe_layers().count(),
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.max_position_embeddings,
        n_experts: config.moe.n_experts,
        top_k: config.moe.top_k,
        expert_width: config.moe.expert_width,
        parameters,
        total_parameters: parameters.total(),
        active_parameters: parameters.active(),
        router_parameters: parameters.router(),
        kv_bytes_per_token: KvBytes {
            f32: config.kv_bytes_per_token(4),
            bf16: config.kv_bytes_per_token(2),
        },
        expert_nodes,
        min_replicas,
        storage: StorageType::ALL.into_iter().map(storage).collect(),
        fingerprint,
        unknown_config_keys: config.unknown_keys.clone(),
    }
}

fn print(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    let shape = format!(
        "{} layers ({} with experts), hidden {}, {} experts of width {}, top-{}, vocabulary {}",
        report.layers,
        report.moe_layers,
        report.hidden_size,
        report.n_experts,
        report.expert_width,
        report.top_k,
        report.vocab_size,
    );
    writeln!(out, "{}: {shape}", report.family)?;
    if let Some(fingerprint) = &report.fingerprint {
        writeln!(out, "fingerprint {fingerprint}")?;
    }
    for key in &report.unknown_config_keys {
        writeln!(out, "warning: config.json has the unknown key {key}")?;
    }
    print_parameters(report, out)?;

    writeln!(out, "\n{:<16}{:>12}{:>12}{:>24}", "bytes", "model", "router", "fullest expert node")?;
    for storage in &report.storage {
        let (total, router) = (bytes(storage.total_bytes), bytes(storage.router_bytes));
        let node = bytes(storage.node.bytes);
        writeln!(out, "{:<16}{total:>12}{router:>12}{node:>24}", storage.dtype)?;
    }
    let experts = report.storage.first().map_or(0, |storage| storage.node.experts);
    let nodes = report.expert_nodes;
    let kv = &report.kv_bytes_per_token;
    let replicas = report.min_replicas.min(nodes);
    writeln!(out, "\n{nodes} expert nodes: at most {experts} experts on one, each on {replicas}")?;
    writeln!(out, "KV cache: {} per token in bf16, {} in f32", bytes(kv.bf16), bytes(kv.f32))
}

fn print_parameters(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    let parts = &report.parameters;
    let rows = [
        ("embedding", parts.embedding, parts.embedding),
        ("output head", parts.head, parts.head),
        ("attention", parts.attention, parts.attention),
        ("norms", parts.norms, parts.norms),
        ("gates", parts.gates, parts.gates),
        ("dense layers", parts.dense_ffn, parts.dense_ffn),
        ("shared experts", parts.shared_experts, parts.shared_experts),
        ("experts", parts.experts, parts.experts_per_token),
        ("total", report.total_parameters, report.active_parameters),
    ];
    writeln!(out, "\n{:<16}{:>12}{:>12}", "parameters", "all", "per token")?;
    for (name, all, active) in rows.into_iter().filter(|(_, all, _)| *all > 0) {
        writeln!(out, "{name:<16}{:>12}{:>12}", count(all), count(active))?;
    }
    Ok(())
}

/// A number of things with its decimal prefix.
fn count(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} B", n / 1e9),
        _ if n >= 1e6 => format!("{:.2} M", n / 1e6),
        _ if n >= 1e3 => format!("{:.1} k", n / 1e3),
        _ => n.to_string(),
    }
}

/// A number of bytes with its binary prefix.
fn bytes(n: u64) -> String {
    let n = n as f64;
    let (kib, mib, gib) = (1024.0, 1048576.0, 1073741824.0);
    match n {
        _ if n >= gib => format!("{:.2} GiB", n / gib),
        _ if n >= mib => format!("{:.2} MiB", n / mib),
        _ if n >= kib => format!("{:.1} KiB", n / kib),
        _ => format!("{n} B"),
    }
}

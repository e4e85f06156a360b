//! Who may use which crate, ours and others'.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Each of our crates with the ones that it may use: only ones that stand above it.
const LAYERS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("proto", &[]),
    ("kernels", &[]),
    ("telemetry", &[]),
    ("chat", &[]),
    ("placement", &["ids"]),
    ("checkpoint", &["ids"]),
    ("cluster", &["ids", "placement", "proto"]),
    ("transport", &["ids", "proto", "telemetry"]),
    (
        "router",
        &[
            "ids",
            "proto",
            "kernels",
            "telemetry",
            "chat",
            "placement",
            "checkpoint",
            "transport",
            "cluster",
        ],
    ),
    (
        "expert-node",
        &["ids", "proto", "kernels", "telemetry", "checkpoint", "transport", "cluster"],
    ),
    ("loadtest", &["proto", "telemetry", "placement"]),
    (
        "cli",
        &[
            "ids",
            "proto",
            "kernels",
            "telemetry",
            "placement",
            "checkpoint",
            "router",
            "expert-node",
            "loadtest",
        ],
    ),
    ("testkit", &["proto", "cluster"]),
    ("tidy", &[]),
];

/// Crates of others that only some of ours may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("candle-core", &["kernels", "checkpoint"]),
    ("cudarc", &["kernels"]),
    ("etcd-client", &["cluster"]),
    ("safetensors", &["checkpoint"]),
    ("memmap2", &["checkpoint"]),
    ("rayon", &["kernels"]),
    ("prost", &["proto", "transport", "cluster", "telemetry", "testkit"]),
    (
        "tonic",
        &["proto", "transport", "cluster", "router", "loadtest", "cli", "telemetry", "testkit"],
    ),
    ("tonic-health", &["transport", "router", "cli"]),
    ("tonic-reflection", &["transport", "cli"]),
    ("tonic-types", &["router", "cli"]),
    ("tokenizers", &["router"]),
    ("llguidance", &["router"]),
    ("axum", &["router", "expert-node"]),
    ("hyper", &["loadtest"]),
    ("hdrhistogram", &["loadtest"]),
    ("minijinja", &["chat"]),
    ("minijinja-contrib", &["chat"]),
    ("metrics", &["telemetry"]),
    ("metrics-exporter-prometheus", &["telemetry"]),
    ("metrics-process", &["telemetry"]),
    ("metrics-util", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry-otlp", &["telemetry"]),
    ("opentelemetry-proto", &["telemetry", "testkit"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("reqwest", &["telemetry"]),
    ("tracing-subscriber", &["telemetry"]),
    ("anyhow", &["cli"]),
    ("clap", &["cli", "router", "expert-node", "cluster", "loadtest", "telemetry"]),
    ("cargo_metadata", &["tidy"]),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["core", "common", "utils", "util", "helpers", "types", "shared"];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().unwrap()
}

fn short(name: &str) -> &str {
    name.strip_prefix("guildhall-").unwrap_or(name)
}

/// What a crate uses outside of its tests and benchmarks.
fn uses(package: &Package) -> impl Iterator<Item = &str> {
    let dependencies = package.dependencies.iter();
    let real = dependencies.filter(|dependency| dependency.kind != DependencyKind::Development);
    real.map(|dependency| dependency.name.as_str())
}

#[test]
fn our_crates_use_only_the_ones_above_them() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    for package in &metadata().packages {
        let name = short(&package.name);
        let allowed = layers.get(name).unwrap_or_else(|| panic!("{name} is not in LAYERS"));
        for used in uses(package).filter(|used| used.starts_with("guildhall-")) {
            assert!(allowed.contains(&short(used)), "{name} may not use {used}");
        }
    }
}

#[test]
fn layers_have_no_cycles() {
    let mut above = BTreeSet::new();
    for (name, allowed) in LAYERS {
        assert!(allowed.iter().all(|used| above.contains(used)), "{name} uses what is below it");
        above.insert(name);
    }
}

#[test]
fn reserved_crates_stay_where_they_belong() {
    let reserved: BTreeMap<&str, &[&str]> = RESERVED.iter().copied().collect();
    for package in &metadata().packages {
        let name = short(&package.name);
        let build_only = |used: &str| name == "proto" && used == "prost";
        for used in uses(package).filter(|used| !build_only(used)) {
            if let Some(owners) = reserved.get(used) {
                assert!(owners.contains(&name), "{name} may not use {used}, only {owners:?}");
            }
        }
    }
}

#[test]
fn crates_are_named_after_their_folder_and_inherit_the_workspace() {
    for package in &metadata().packages {
        let folder = package.manifest_path.parent().unwrap();
        assert_eq!(format!("guildhall-{}", folder.file_name().unwrap()), *package.name);
        assert!(!EMPTY_NAMES.contains(&short(&package.name)), "{} says nothing", package.name);
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder}: no lints");
        let pinned = manifest.lines().find(|line| line.contains("version = \""));
        assert_eq!(pinned, None, "{folder}: versions belong into the root manifest");
    }
}

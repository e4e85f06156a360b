//! `guildhall simulate`: what placements are worth on loads that no one has to serve.

mod policy;
mod report;
mod trace;

use std::collections::BTreeMap;

use anyhow::ensure;
use guildhall_ids::{LayerIdx, NodeId};
use guildhall_placement::{CostModel, ExpertGrid, NodeSpec, Problem};

use policy::{Placed, Policy, StepModel, with_load};
use report::Row;
use trace::{Shape, Trace};

/// What to simulate. Without a trace: the three cases that the project holds itself to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimulateOptions {
    /// uniform, zipf, hot-set, rotating, drifting, bursts, or a JSON file with [window][layer][expert] tokens.
    #[arg(long)]
    trace: Option<Trace>,

    /// Policies to compare.
    #[arg(long, value_delimiter = ',', default_value = "none,eplb,guildhall")]
    policy: Vec<Policy>,

    /// Layers with experts.
    #[arg(long, default_value = "1", value_name = "N")]
    layers: usize,

    /// Experts of a layer.
    #[arg(long, default_value = "256", value_name = "N")]
    experts: usize,

    /// Expert nodes.
    #[arg(long, default_value = "32", value_name = "N")]
    nodes: usize,

    /// Speeds of the nodes relative to each other, given to them in turn.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "X,...")]
    speeds: Vec<f64>,

    /// Experts of each layer that the nodes have room for, given to them in turn; default: even shares.
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    room: Vec<usize>,

    /// Replicas that each expert has at least.
    #[arg(long, default_value = "1", value_name = "N")]
    min_replicas: usize,

    /// Replicas in each layer beyond these.
    #[arg(long, default_value = "64", value_name = "N")]
    spare_replicas: usize,

    /// Share of the replicas that may move in one window.
    #[arg(long, default_value = "0.1", value_name = "SHARE")]
    max_moves: f64,

    /// Balance a layer no further than this.
    #[arg(long, default_value = "0.98", value_name = "SHARE")]
    goal: f64,

    /// Times at which the load is looked at.
    #[arg(long, default_value = "4", value_name = "N")]
    windows: usize,

    /// Exponent of Zipf's law.
    #[arg(long, default_value = "1.0", value_name = "S")]
    zipf_exponent: f64,

    /// Standard deviation of the logarithm of an expert's load from one window to the next.
    #[arg(long, default_value = "0.1", value_name = "SIGMA")]
    drift: f64,

    /// Of the random numbers.
    #[arg(long, default_value = "1", value_name = "N")]
    seed: u64,

    /// (token, expert) pairs of a step in each layer: tokens times experts per token.
    #[arg(long, default_value = "4096", value_name = "N")]
    pairs: f64,

    /// Bytes of one expert; default: bf16, hidden size 7168, intermediate size 2048.
    #[arg(long, default_value = "88080384", value_name = "BYTES")]
    expert_bytes: u64,

    /// Memory bandwidth of a node of speed 1, in GB/s.
    #[arg(long, default_value = "4800", value_name = "GB/S")]
    bandwidth: f64,

    /// Arithmetic rate of a node of speed 1, in TFLOP/s.
    #[arg(long, default_value = "400", value_name = "TFLOP/S")]
    arithmetic: f64,

    /// Microseconds of an empty expert call.
    #[arg(long, default_value = "100", value_name = "US")]
    call: f64,

    /// Print JSON, one object for each line of the table.
    #[arg(long)]
    json: bool,
}

impl SimulateOptions {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.layers > 0 && self.experts > 0, "there are no experts to place");
        ensure!(self.nodes > 0 && self.windows > 0, "there is nothing to do");
        ensure!(self.speeds.iter().all(|s| s.is_finite() && *s > 0.0), "a speed is not above 0");
        Ok(())
    }

    fn step(&self) -> StepModel {
        // Two bytes a value, a multiplication and an addition for each.
        let operations = self.expert_bytes as f64;
        StepModel {
            cost: CostModel {
                fixed_seconds: self.call * 1e-6,
                seconds_per_expert: self.expert_bytes as f64 / (self.bandwidth * 1e9),
                seconds_per_pair: operations / (self.arithmetic * 1e12),
            },
            pairs: self.pairs,
        }
    }

    /// The problem of a model of this shape, without its load.
    fn problem(&self, layers: usize, experts: usize) -> Problem {
        let slots = experts * self.min_replicas + self.spare_replicas;
        let even = slots.div_ceil(self.nodes);
        let node = |n: usize| {
            let room = if self.room.is_empty() { even } else { self.room[n % self.room.len()] };
            let spec = NodeSpec {
                capacity_bytes: (room * layers) as u64 * self.expert_bytes,
                speed: self.speeds[n % self.speeds.len()],
                zone: String::new(),
            };
            let id: NodeId = format!("n{n:04}").parse()?;
            anyhow::Ok((id, spec))
        };
        let nodes: BTreeMap<NodeId, NodeSpec> = (0..self.nodes).flat_map(node).collect();
        Problem {
            grid: ExpertGrid {
                layers: (0..layers as u32).map(LayerIdx).collect(),
                n_experts: experts as u32,
            },
            load: Vec::new(),
            nodes,
            expert_bytes: self.expert_bytes,
            min_replicas: self.min_replicas,
            spare_replicas: self.spare_replicas,
            max_moves: (slots as f64 * self.max_moves) as usize,
            goal: self.goal,
        }
    }
}

/// Simulates and prints a table.
///
/// # Errors
/// Settings that contradict themselves, or a recording that cannot be used.
pub(crate) fn run(config: &SimulateOptions) -> anyhow::Result<()> {
    let rows = match &config.trace {
        Some(trace) => simulate(config, trace)?,
        None => standard(config)?,
    };
    report::print(&rows, config.json)
}

/// The cases of the project's promise: skew, then drift; and a large model on many nodes.
fn standard(config: &SimulateOptions) -> anyhow::Result<Vec<Row>> {
    let skew = SimulateOptions { windows: 2, ..config.clone() };
    let large = SimulateOptions { layers: 61, nodes: 320, windows: 1, ..config.clone() };
    let large = SimulateOptions { policy: vec![Policy::Eplb, Policy::Guildhall], ..large };
    let mut rows = simulate(&skew, &Trace::Drifting)?;
    rows.extend(simulate(&large, &Trace::Zipf)?);
    Ok(rows)
}

fn simulate(config: &SimulateOptions, trace: &Trace) -> anyhow::Result<Vec<Row>> {
    config.check()?;
    let shape = Shape {
        layers: config.layers,
        experts: config.experts,
        windows: config.windows,
        zipf_exponent: config.zipf_exponent,
        drift: config.drift,
        seed: config.seed,
    };
    let windows = trace::windows(trace, shape)?;
    let (layers, experts) = (windows[0].len(), windows[0][0].len());
    let problem = config.problem(layers, experts);
    let mut placed: Vec<(Policy, Placed)> =
        config.policy.iter().map(|&policy| (policy, Placed::new(policy))).collect();
    let mut rows = Vec::new();
    for (window, load) in windows.iter().enumerate() {
        let problem = with_load(&problem, load);
        for (policy, placed) in &mut placed {
            rows.push(Row {
                trace: trace.to_string(),
                shape: format!("{layers} × {experts} on {}", config.nodes),
                window,
                policy: policy.to_string(),
                outcome: placed.place(&problem, config.step()),
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Command, Options};

    fn rows(args: &[&str]) -> Vec<Row> {
        let all = ["guildhall", "simulate", "--policy", "guildhall"];
        let Command::Simulate(options) = Options::parse_from(all.iter().chain(args)).command else {
            panic!("not the subcommand");
        };
        match &options.trace {
            Some(trace) => simulate(&options, trace).unwrap(),
            None => standard(&options).unwrap(),
        }
    }

    #[test]
    fn skewed_load_is_spread_and_drift_is_followed_with_few_moves() {
        for seed in 0..20 {
            let rows =
                rows(&["--trace", "drifting", "--windows", "5", "--seed", &seed.to_string()]);
            assert!(rows[0].outcome.balancedness >= 0.98, "seed {seed}: {:?}", rows[0]);
            for row in &rows[1..] {
                let of = row.outcome;
                assert!(of.balancedness >= 0.95, "seed {seed}: {row:?}");
                assert!(of.moved * 10 <= of.replicas, "seed {seed}: {row:?}");
                assert_eq!(of.duplicates, 0, "seed {seed}: {row:?}");
            }
        }
    }

    #[test]
    fn unequal_nodes_carry_unequal_shares() {
        let rows = rows(&["--trace", "zipf", "--speeds", "1,2", "--room", "20", "--windows", "1"]);
        assert!(rows[0].outcome.balancedness >= 0.98, "{rows:?}");
    }

    #[test]
    fn a_recording_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("load.json");
        let path = file.to_str().unwrap();
        for (text, expected) in [
            ("[[[1, 2], [3, 4]], [[2, 1], [4, 3]]]", None),
            ("[[[1, 2], [3]]]", Some("not every layer has the same experts")),
            ("[[[1, 2]], [[1]]]", Some("window 1 has another shape")),
            ("[[[1, -2]]]", Some("a load that is none")),
            ("{}", Some("is no recorded load")),
            ("[]", Some("not every layer")),
        ] {
            std::fs::write(&file, text).unwrap();
            let shape = Shape {
                layers: 1,
                experts: 1,
                windows: 1,
                zipf_exponent: 1.0,
                drift: 0.1,
                seed: 1,
            };
            let error = trace::windows(&path.parse().unwrap(), shape).err();
            let error = error.map(|error| format!("{error:#}"));
            let fits = match (&error, expected) {
                (Some(error), Some(expected)) => error.contains(expected),
                (error, expected) => error.is_none() && expected.is_none(),
            };
            assert!(fits, "{text}: {error:?}");
        }
    }
}

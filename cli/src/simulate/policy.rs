//! The ways to place experts that stand side by side, and what each one's placement is worth.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guildhall_ids::{ExpertId, NodeId};
use guildhall_placement::{
    Assignments, CostModel, EplbShape, Problem, eplb, measures::balancedness, solve, spread_evenly,
};

use super::trace::Load;

/// Where replicas are: for each layer and node its experts, twice if it holds an expert twice.
type Held = Vec<Vec<Vec<usize>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Policy {
    /// Each expert once, in equal contiguous shares.
    None,
    /// EPLB, from scratch in each window, for nodes that are all alike.
    Eplb,
    /// The solver of this cluster, from the placement before.
    Guildhall,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Eplb => "EPLB",
            Self::Guildhall => "guildhall",
        })
    }
}

/// A policy and what it has placed so far.
pub(crate) struct Placed {
    policy: Policy,
    held: Held,
    assignments: Assignments,
}

/// What a policy did in one window.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Outcome {
    /// Mean over the layers, of mean over maximum of the nodes: with the placement of the window before.
    pub(crate) balancedness_before: f64,
    pub(crate) balancedness: f64,
    pub(crate) replicas: usize,
    /// Replicas on a node that holds the same expert already.
    pub(crate) duplicates: usize,
    /// Replicas that a node has to load.
    pub(crate) moved: usize,
    pub(crate) moved_bytes: u64,
    pub(crate) solve_seconds: f64,
    pub(crate) step_seconds_before: f64,
    pub(crate) step_seconds: f64,
}

/// What a step is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepModel {
    pub(crate) cost: CostModel,
    /// (token, expert) pairs in each layer of a step.
    pub(crate) pairs: f64,
}

impl Placed {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, held: Held::new(), assignments: Assignments::new() }
    }

    /// Places for the load of `problem`.
    pub(crate) fn place(&mut self, problem: &Problem, step: StepModel) -> Outcome {
        let before = std::mem::take(&mut self.held);
        let started = Instant::now();
        self.held = match self.policy {
            Policy::None => {
                let nodes = problem.nodes.keys().cloned().collect();
                let even = spread_evenly(&problem.grid, &nodes, guildhall_ids::Epoch(1));
                held(problem, &even.assignments)
            }
            Policy::Eplb => eplb_held(problem),
            Policy::Guildhall => {
                self.assignments = solve(problem, &self.assignments).assignments;
                held(problem, &self.assignments)
            }
        };
        let took = started.elapsed();
        outcome(problem, step, (&before, &self.held), took)
    }
}

fn held(problem: &Problem, assignments: &Assignments) -> Held {
    let nodes: BTreeMap<&NodeId, usize> = problem.nodes.keys().zip(0..).collect();
    let mut held = vec![vec![Vec::new(); nodes.len()]; problem.grid.layers.len()];
    for (node, experts) in assignments {
        for ExpertId { layer, expert } in experts {
            held[layer.0 as usize][nodes[node]].push(expert.0 as usize);
        }
    }
    held
}

/// EPLB wants as many slots on each device as on the others.
fn eplb_held(problem: &Problem) -> Held {
    let devices = problem.nodes.len();
    let experts = problem.grid.n_experts as usize;
    let slots = (experts * problem.min_replicas + problem.spare_replicas).max(devices);
    let slots = slots.div_ceil(devices) * devices;
    let shape = EplbShape { slots, groups: 1, nodes: 1, devices };
    let layer = |load: &Vec<f64>| {
        eplb(load, shape).chunks(slots / devices).map(<[usize]>::to_vec).collect()
    };
    problem.load.iter().map(layer).collect()
}

fn outcome(
    problem: &Problem,
    step: StepModel,
    (before, after): (&Held, &Held),
    took: Duration,
) -> Outcome {
    let mut moved = 0;
    let mut duplicates = 0;
    for (layer, nodes) in after.iter().enumerate() {
        for (node, experts) in nodes.iter().enumerate() {
            let mut distinct = experts.clone();
            distinct.sort_unstable();
            distinct.dedup();
            duplicates += experts.len() - distinct.len();
            let had = before.get(layer).map(|nodes| &nodes[node]);
            let new = |expert: &&usize| had.is_none_or(|had| !had.contains(expert));
            moved += distinct.iter().filter(new).count();
        }
    }
    let (balancedness_before, step_seconds_before) = worth(problem, step, before);
    let (balancedness, step_seconds) = worth(problem, step, after);
    Outcome {
        balancedness_before,
        balancedness,
        replicas: after.iter().flatten().map(Vec::len).sum(),
        duplicates,
        moved,
        moved_bytes: moved as u64 * problem.expert_bytes,
        solve_seconds: took.as_secs_f64(),
        step_seconds_before,
        step_seconds,
    }
}

/// Mean balancedness of the layers, in the time that nodes take, and the seconds of a step.
fn worth(problem: &Problem, step: StepModel, held: &Held) -> (f64, f64) {
    if held.is_empty() {
        return (0.0, 0.0);
    }
    let mut even = 0.0;
    let mut seconds = 0.0;
    for (load, nodes) in problem.load.iter().zip(held) {
        let all: f64 = load.iter().sum();
        let mut replicas = vec![0.0; load.len()];
        for &expert in nodes.iter().flatten() {
            replicas[expert] += 1.0;
        }
        let share = |expert: usize| load[expert] / replicas[expert];
        let mut times = Vec::with_capacity(nodes.len());
        let mut slowest = 0f64;
        for (experts, spec) in nodes.iter().zip(problem.nodes.values()) {
            let carried: f64 = experts.iter().map(|&expert| share(expert)).sum();
            times.push(carried / spec.speed);
            let pairs = experts.iter().map(|&expert| share(expert) / all * step.pairs);
            slowest = slowest.max(step.cost.layer_seconds(pairs, spec.speed));
        }
        even += if problem.nodes.values().all(|spec| spec.speed == 1.0) {
            balancedness(&times)
        } else {
            let speed: f64 = problem.nodes.values().map(|spec| spec.speed).sum();
            all / speed / times.iter().copied().fold(0.0, f64::max)
        };
        seconds += slowest;
    }
    (even / problem.load.len() as f64, seconds)
}

/// The loads of a window as a problem's.
pub(crate) fn with_load(problem: &Problem, load: &Load) -> Problem {
    Problem { load: load.clone(), ..problem.clone() }
}

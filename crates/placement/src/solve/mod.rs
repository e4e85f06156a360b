//! From load and nodes to a placement, near the one before.
//!
//! Starts from EPLB's two steps (replicate the heaviest, pack the heaviest first) where nothing is placed yet, and
//! changes a placement step by step where there is one. Layers do not depend on one another.

mod change;
mod fill;
mod layer;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{ExpertId, NodeId};

use crate::problem::Problem;
use crate::reason::{Reason, Why};
use change::{Limits, best_change};
use fill::{fill, place, quotas, replicate};
use layer::{Layer, Node};
use rooms::rooms;

/// What each node should hold.
pub type Assignments = BTreeMap<NodeId, BTreeSet<ExpertId>>;

/// A placement and what can be said for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Solution {
    /// An entry for each node of the problem.
    pub assignments: Assignments,
    /// What is loaded and dropped, by expert and node.
    pub reasons: Vec<Reason>,
    /// Per layer of the grid: the time of perfectly divided work over that of the slowest node, before and after. A
    /// layer that was not whole has 0 before.
    pub balancedness: Vec<(f64, f64)>,
    /// Experts with fewer replicas than they should have, for want of room, and how many they have.
    pub short: Vec<(ExpertId, usize)>,
    /// Whether anything was loaded for another reason than balance, so that waiting is not an option.
    pub urgent: bool,
}

impl Solution {
    /// Replicas to load.
    #[must_use]
    pub fn loads(&self) -> usize {
        self.reasons.iter().filter(|reason| reason.loads).count()
    }
}

/// Solves each layer. `previous` may name nodes and experts that are gone.
#[must_use]
pub fn solve(problem: &Problem, previous: &Assignments) -> Solution {
    let ids: Vec<&NodeId> = problem.nodes.keys().collect();
    let before = by_layer(problem, previous, &ids);
    let mut solution = Solution::default();
    solution.assignments.extend(ids.iter().map(|&id| (id.clone(), BTreeSet::new())));
    if ids.is_empty() {
        solution.short = problem.grid.iter().map(|id| (id, 0)).collect();
        return solution;
    }
    let rooms = rooms(problem, &before);
    let zones = zone_numbers(problem);
    for (index, layer_idx) in problem.grid.layers.iter().enumerate() {
        let node = |(n, spec): (usize, &crate::NodeSpec)| Node {
            room: rooms[index][n],
            speed: spec.speed,
            zone: zones[n],
        };
        let nodes: Vec<Node> = problem.nodes.values().enumerate().map(node).collect();
        let solved = solve_layer(problem, &problem.load[index], &nodes, &before[index]);
        let id = |expert: usize| ExpertId::new(layer_idx.0, expert as u32);
        for (n, experts) in solved.held.iter().enumerate() {
            if let Some(held) = solution.assignments.get_mut(ids[n]) {
                held.extend(experts.iter().map(|&expert| id(expert)));
            }
        }
        let reasons = solved.reasons.into_iter().map(|((expert, n), (loads, why))| Reason {
            expert: id(expert),
            node: ids[n].clone(),
            loads,
            why,
        });
        solution.reasons.extend(reasons);
        solution.short.extend(solved.short.into_iter().map(|(expert, has)| (id(expert), has)));
        solution.balancedness.push(solved.balancedness);
        solution.urgent |= solved.urgent;
    }
    solution
}

/// [layer of the grid][node] → experts that the node had and still may have.
fn by_layer(problem: &Problem, previous: &Assignments, ids: &[&NodeId]) -> Vec<Vec<Vec<usize>>> {
    let layers = &problem.grid.layers;
    let mut before = vec![vec![Vec::new(); ids.len()]; layers.len()];
    for (n, id) in ids.iter().enumerate() {
        for expert in previous.get(*id).into_iter().flatten() {
            let Ok(layer) = layers.binary_search(&expert.layer) else { continue };
            if expert.expert.0 < problem.grid.n_experts {
                before[layer][n].push(expert.expert.0 as usize);
            }
        }
    }
    before
}

fn zone_numbers(problem: &Problem) -> Vec<usize> {
    let names: BTreeSet<&str> = problem.nodes.values().map(|spec| spec.zone.as_str()).collect();
    let number = |zone: &str| names.iter().position(|name| *name == zone).unwrap_or(0);
    problem.nodes.values().map(|spec| number(&spec.zone)).collect()
}

struct SolvedLayer {
    held: Vec<Vec<usize>>,
    /// (expert, node) → whether it is loaded, and why.
    reasons: BTreeMap<(usize, usize), (bool, Why)>,
    balancedness: (f64, f64),
    short: Vec<(usize, usize)>,
    urgent: bool,
}

fn solve_layer(
    problem: &Problem,
    load: &[f64],
    nodes: &[Node],
    before: &[Vec<usize>],
) -> SolvedLayer {
    let mut layer = Layer::new(load, nodes);
    let least = problem.least_replicas();
    let room: usize = nodes.iter().map(|node| node.room.min(load.len())).sum();
    let slots = problem.most_slots().min(room).min(load.len() * nodes.len());
    let first = before.iter().all(Vec::is_empty);
    let mut why = BTreeMap::new();
    let mut balancedness = 0.0;
    if first {
        let quotas = quotas(&layer, slots);
        fill(&mut layer, &replicate(load, least, slots, nodes.len()), &quotas);
    } else {
        keep(&mut layer, before, &mut why);
        let whole = (0..load.len()).all(|expert| layer.replicas(expert) > 0);
        balancedness = if whole { layer.balancedness() } else { 0.0 };
        repair(&mut layer, least, slots, &mut why);
        drop_surplus(&mut layer, least, slots, &mut why);
    }
    let loads = if first { usize::MAX } else { problem.max_moves };
    balance(
        &mut layer,
        Limits { least_replicas: least, most_slots: slots, loads },
        problem.goal,
        &mut why,
    );
    let reasons = differences(&layer, before, &why);
    let is_repair = |(loads, why): &(bool, Why)| *loads && !matches!(why, Why::Balance { .. });
    let short = (0..load.len()).filter(|&expert| layer.replicas(expert) < least);
    SolvedLayer {
        short: short.map(|expert| (expert, layer.replicas(expert))).collect(),
        urgent: reasons.values().any(is_repair),
        reasons,
        balancedness: (balancedness, layer.balancedness()),
        held: (0..nodes.len()).map(|node| layer.held(node).to_vec()).collect(),
    }
}

type Whys = BTreeMap<(usize, usize), Why>;

/// Takes over what was there, as far as each node still has room for it.
fn keep(layer: &mut Layer<'_>, before: &[Vec<usize>], why: &mut Whys) {
    for (node, experts) in before.iter().enumerate() {
        for &expert in experts {
            layer.add(expert, node);
        }
    }
    for node in 0..before.len() {
        while layer.held(node).len() > layer.nodes[node].room {
            // What others hold too, and carries little.
            let key = |&expert: &usize| {
                let replicas = layer.replicas(expert);
                (replicas == 1, layer.share(expert, replicas))
            };
            let order = |a: &usize, b: &usize| {
                let (a, b) = (key(a), key(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            };
            let Some(expert) = layer.held(node).iter().copied().min_by(order) else { break };
            layer.remove(expert, node);
            why.insert((expert, node), Why::NoRoom);
        }
    }
}

/// Gives each expert its least replicas: first one to each that has none, then a second, always the heaviest first.
/// Where room is short, those that have more than that give way.
fn repair(layer: &mut Layer<'_>, least: usize, slots: usize, why: &mut Whys) {
    let quotas = quotas(layer, slots);
    for wanted in 1..=least {
        let short = |&expert: &usize| layer.replicas(expert) < wanted;
        let mut experts: Vec<usize> = (0..layer.n_experts()).filter(short).collect();
        experts.sort_by(|&a, &b| layer.share(b, 1).total_cmp(&layer.share(a, 1)));
        for expert in experts {
            let has = layer.replicas(expert);
            let placed = place(layer, expert, wanted, &quotas)
                || (drop_spare(layer, Some(expert), wanted, why)
                    && place(layer, expert, wanted, &quotas));
            if placed && let Some(&node) = layer.holders(expert).last() {
                why.insert((expert, node), Why::Short { has, least });
            }
        }
    }
}

/// Drops replicas until there are no more than there may be.
fn drop_surplus(layer: &mut Layer<'_>, least: usize, slots: usize, why: &mut Whys) {
    while layer.slots() > slots && drop_spare(layer, None, least, why) {}
}

/// Drops the replica that carries the least of those that can be spared, from the slowest of its nodes; `for_expert`
/// needs a node that does not hold it yet.
fn drop_spare(
    layer: &mut Layer<'_>,
    for_expert: Option<usize>,
    least: usize,
    why: &mut Whys,
) -> bool {
    let can_go = |expert: usize, node: usize| {
        for_expert.is_none_or(|wanting| !layer.holds(node, wanting))
            && layer.keeps_zones(expert, node, None, least)
    };
    let experts = (0..layer.n_experts()).filter(|&expert| layer.replicas(expert) > least);
    let spare = experts.filter_map(|expert| {
        let nodes = layer.holders(expert).iter().copied().filter(|&node| can_go(expert, node));
        let node = nodes.max_by(|&a, &b| layer.cost(a).total_cmp(&layer.cost(b)))?;
        Some((layer.share(expert, layer.replicas(expert)), expert, node))
    });
    let Some((_, expert, node)) = spare.min_by(|a, b| a.0.total_cmp(&b.0)) else { return false };
    layer.remove(expert, node);
    why.insert((expert, node), Why::Spare);
    true
}

/// Takes load off the slowest node again and again, as long as that helps and may be done.
fn balance(layer: &mut Layer<'_>, mut limits: Limits, goal: f64, why: &mut Whys) {
    // Each change makes the slowest node faster and no other as slow, so this ends; the bound is for rounding.
    for _ in 0..4 * layer.slots().max(16) {
        let balancedness = layer.balancedness();
        let Some(slowest) = layer.slowest() else { return };
        if balancedness >= goal {
            return;
        }
        let Some(change) = best_change(layer, slowest, limits) else { return };
        limits.loads = limits.loads.saturating_sub(change.loads());
        change.apply(layer);
        for (expert, node) in change.loaded() {
            why.insert((expert, node), Why::Balance { slowest, times: 1.0 / balancedness });
        }
    }
}

/// What to load (true) and to drop, with the reason that was noted last.
fn differences(
    layer: &Layer<'_>,
    before: &[Vec<usize>],
    why: &Whys,
) -> BTreeMap<(usize, usize), (bool, Why)> {
    let mut differences = BTreeMap::new();
    for (node, before) in before.iter().enumerate() {
        let came = layer.held(node).iter().filter(|expert| !before.contains(expert));
        for &expert in came {
            // One that made way in the course of a repair has no reason of its own.
            let why = why.get(&(expert, node)).copied().unwrap_or(Why::First);
            differences.insert((expert, node), (true, why));
        }
        for &expert in before.iter().filter(|&&expert| !layer.holds(node, expert)) {
            let noted = why.get(&(expert, node)).copied();
            let noted = noted.filter(|why| matches!(why, Why::NoRoom | Why::Spare));
            differences.insert((expert, node), (false, noted.unwrap_or(Why::MakesWay)));
        }
    }
    differences
}

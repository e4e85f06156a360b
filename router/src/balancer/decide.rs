//! What the leader does next: a function of what is published, what the nodes hold, who is there, and the load. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_cluster::View;
use guildhall_cluster::store::Expected;
use guildhall_ids::{Epoch, NodeId};
use guildhall_placement::{
    Assignments, ExpertGrid, LiveNode, NodeSpec, Placement, Problem, Reason, Solution, Step,
    next_step, solve,
};

use crate::nodes::Fit;

/// At first, experts are placed once no node has come for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A layer is balanced no further than to this mean over maximum.
const GOAL: f64 = 0.98;
/// Balancing begins above this gain of a step's predicted time.
pub(crate) const LEAST_GAIN: f64 = 0.05;
/// Replicas that a node loads at a time while nothing is missing.
const LOADS_AT_A_TIME: usize = 2;
/// The share of a layer's experts that balancing may load at a time: one in so many.
const MOVES_PART: usize = 10;
/// Every expert counts for at least this share of the mean, since what was never asked for may be.
const LEAST_SHARE: f64 = 0.01;
/// A node that takes so many times as long as its speed lets expect is slow. Below, on a busy machine, it may be chance.
const SLOW_FROM: f64 = 3.0;
/// Balancing needs this many (token, expert) pairs in each layer: fewer say nothing.
const LEAST_PAIRS: f64 = 500.0;

/// Whether there is load to go by.
fn is_loaded(seen: Seen<'_>) -> bool {
    seen.load.iter().all(|layer| layer.iter().sum::<f64>() >= LEAST_PAIRS)
}

/// How the leader places experts.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) grid: ExpertGrid,
    /// Bytes of one expert on a node.
    pub(crate) expert_bytes: u64,
    /// Place nothing before there are so many nodes; where it is not said, until no more come.
    pub(crate) min_nodes: Option<usize>,
    pub(crate) min_replicas: usize,
    /// Replicas in each layer beyond these.
    pub(crate) spare_replicas: usize,
    /// A node that is gone may come back for so long before its experts are loaded elsewhere, if others hold them too.
    pub(crate) replace_after: Duration,
    /// Time between two looks at the balance; zero: never.
    pub(crate) interval: Duration,
}

/// How a node stands in the eyes of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It may hold experts.
    Stays,
    /// It is gone or about to go, and may be back soon: what others hold too is not loaded elsewhere yet.
    Away,
    /// It shall hold nothing, or has been away for too long.
    Out,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Nothing; in words, why.
    Wait(String),
    /// Publish this. The reasons are those of the placement that it leads to, when it was solved just now.
    Publish(Placement, Vec<Reason>),
}

/// The leader's memory. A new leader begins with none, and comes to the same.
#[derive(Debug)]
pub(crate) struct Leader {
    policy: Policy,
    /// When each node was first seen, and since when it has been away.
    nodes: BTreeMap<NodeId, (Instant, Option<Instant>)>,
    wanted: Option<Wanted>,
    balanced: Instant,
}

#[derive(Debug)]
struct Wanted {
    assignments: Assignments,
    /// For these nodes.
    standings: BTreeMap<NodeId, Standing>,
    /// Experts with fewer replicas than they should have, for want of room.
    short: usize,
}

/// What the leader looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) view: &'a View,
    pub(crate) fit: &'a Fit,
    /// [layer of the grid][expert] tokens
    pub(crate) load: &'a [Vec<f64>],
    /// How long each node takes for a call, over the node in the middle, as far as it is known.
    pub(crate) slowness: &'a BTreeMap<NodeId, f64>,
    pub(crate) now: Instant,
}

impl Leader {
    pub(crate) fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, nodes: BTreeMap::new(), wanted: None, balanced: now }
    }

    /// Decides the next step.
    pub(crate) fn decide(&mut self, seen: Seen<'_>) -> Decision {
        let published = published(seen.view);
        let standings = self.standings(seen, &published);
        if let Some(reason) = self.waits(seen, &standings) {
            return Decision::Wait(reason);
        }
        let mut reasons = Vec::new();
        if !is_loaded(seen) {
            // When load comes, it is looked at for an interval first: its first half second says little.
            self.balanced = seen.now;
        }
        if self.wanted.as_ref().is_none_or(|wanted| wanted.standings != standings) {
            reasons = self.repair(seen, &published, standings);
        } else if self.is_due(seen, &published) {
            self.balanced = seen.now;
            reasons = self.balance(seen, &published);
        }
        let Some(wanted) = &self.wanted else { return Decision::Wait("no nodes".into()) };
        let is_lost = seen.view.placement_key.0 == Expected::Absent;
        if is_lost && seen.view.placement.is_some() {
            // The store was emptied while it was away: say it again before anybody forgets it.
            let epoch = Epoch(published.epoch.0 + 1);
            return Decision::Publish(Placement { epoch, ..published }, Vec::new());
        }
        match next_step(&published, &wanted.assignments, &self.live(seen), LOADS_AT_A_TIME) {
            Step::Publish(placement) => Decision::Publish(placement, reasons),
            Step::Wait { loading } => {
                Decision::Wait(format!("{loading} replicas are being loaded or forgotten"))
            }
            Step::Stuck { node } => {
                Decision::Wait(format!("{node} has no room to exchange experts"))
            }
            Step::Done if wanted.short > 0 => Decision::Wait(format!(
                "{} experts have too few replicas for want of room",
                wanted.short
            )),
            Step::Done => Decision::Wait("steady".into()),
        }
    }

    /// What a balancing now would change, and by how much the predicted time of a step would fall.
    pub(crate) fn preview(&self, seen: Seen<'_>) -> (Vec<Reason>, f64) {
        let solution = self.solve_balanced(seen, &published(seen.view));
        let gain = gain(&solution);
        (solution.reasons, gain)
    }

    /// Balances at the next decision, whatever the gain.
    pub(crate) fn rebalance(&mut self, seen: Seen<'_>) -> (Vec<Reason>, f64) {
        let published = published(seen.view);
        let solution = self.solve_balanced(seen, &published);
        let (gain, reasons) = (gain(&solution), solution.reasons.clone());
        if let Some(wanted) = &mut self.wanted {
            wanted.assignments = solution.assignments;
        }
        self.balanced = seen.now;
        (reasons, gain)
    }

    pub(crate) fn standings(
        &mut self,
        seen: Seen<'_>,
        published: &Placement,
    ) -> BTreeMap<NodeId, Standing> {
        let known: BTreeSet<&NodeId> =
            seen.fit.nodes.keys().chain(published.assignments.keys()).collect();
        self.nodes.retain(|id, _| known.contains(id));
        let mut standings = BTreeMap::new();
        for id in known {
            let leaves = seen.view.nodes.get(id).is_none_or(|node| node.draining);
            let (_, away) = self.nodes.entry(id.clone()).or_insert((seen.now, None));
            let gone = leaves || !seen.fit.nodes.contains_key(id);
            let since = gone.then(|| *away.get_or_insert(seen.now));
            *away = since;
            // A node whose copy of the weights is broken is not trusted with more of them.
            let unwell = seen.view.resident.get(id).is_some_and(|of| !of.unloadable.is_empty());
            let patience = self.policy.replace_after;
            let standing = match since {
                _ if seen.view.drains.contains(id) || unwell => Standing::Out,
                None => Standing::Stays,
                Some(since) if seen.now < since + patience => Standing::Away,
                Some(_) => Standing::Out,
            };
            standings.insert(id.clone(), standing);
        }
        standings
    }

    /// Why nothing is placed yet.
    fn waits(&self, seen: Seen<'_>, standings: &BTreeMap<NodeId, Standing>) -> Option<String> {
        let staying = standings.values().filter(|standing| **standing == Standing::Stays).count();
        if staying == 0 {
            return Some("there is no node that may hold experts".into());
        }
        if seen.view.placement.is_some() || self.wanted.is_some() {
            return None;
        }
        match self.policy.min_nodes {
            Some(least) if staying < least => Some(format!("{staying} of {least} nodes are there")),
            Some(_) => None,
            None => {
                let last = self.nodes.values().map(|(came, _)| *came).max()?;
                let settled = seen.now >= last + SETTLED_AFTER;
                (!settled).then(|| "nodes are still coming".into())
            }
        }
    }

    /// Solves anew because nodes have come, gone or changed; loads what is missing, and gives a new node its share.
    fn repair(
        &mut self,
        seen: Seen<'_>,
        published: &Placement,
        standings: BTreeMap<NodeId, Standing>,
    ) -> Vec<Reason> {
        let away = |id: &NodeId| standings.get(id) == Some(&Standing::Away);
        let mut problem = self.problem(seen, &standings);
        let is_new = |id: &NodeId| published.assignments.get(id).is_none_or(BTreeSet::is_empty);
        if problem.nodes.keys().any(is_new) {
            problem.max_moves = problem.grid.n_experts as usize;
        }
        if standings.values().any(|standing| *standing == Standing::Away) {
            // Only what is nowhere any more; nothing is dropped, for those who are away will be back.
            let kept = problem.min_replicas.saturating_sub(1) * problem.grid.n_experts as usize;
            problem.spare_replicas += kept + problem.grid.n_experts as usize;
            problem.min_replicas = 1;
            problem.max_moves = 0;
        }
        let mut solution = solve(&problem, &previous(seen.view, published));
        for (id, held) in &published.assignments {
            if away(id) {
                solution.assignments.insert(id.clone(), held.clone());
            }
        }
        let short = solution.short.len();
        self.wanted = Some(Wanted { assignments: solution.assignments, standings, short });
        solution.reasons
    }

    /// Whether it is time to look at the balance: nothing is under way, and there has been load to go by for an interval.
    fn is_due(&self, seen: Seen<'_>, published: &Placement) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        let all_stay = wanted.standings.values().all(|standing| *standing == Standing::Stays);
        !self.policy.interval.is_zero()
            && seen.now >= self.balanced + self.policy.interval
            && all_stay
            && wanted.assignments == published.assignments
    }

    fn balance(&mut self, seen: Seen<'_>, published: &Placement) -> Vec<Reason> {
        let solution = self.solve_balanced(seen, published);
        if gain(&solution) < LEAST_GAIN {
            return Vec::new();
        }
        if let Some(wanted) = &mut self.wanted {
            wanted.assignments = solution.assignments;
        }
        solution.reasons
    }

    fn solve_balanced(&self, seen: Seen<'_>, published: &Placement) -> Solution {
        let Some(wanted) = &self.wanted else { return Solution::default() };
        let mut problem = self.problem(seen, &wanted.standings);
        problem.max_moves = (self.policy.grid.n_experts as usize).div_ceil(MOVES_PART).max(2);
        solve(&problem, &published.assignments)
    }

    fn problem(&self, seen: Seen<'_>, standings: &BTreeMap<NodeId, Standing>) -> Problem {
        let policy = &self.policy;
        let slow = slow_nodes(seen);
        let spec = |id: &NodeId| {
            let node = seen.view.nodes.get(id)?;
            let speed = node.speed / slow.get(id).unwrap_or(&1.0);
            // A roll-out needs room for one expert more than a node shall hold.
            let capacity_bytes = node.capacity_bytes.saturating_sub(policy.expert_bytes);
            Some(NodeSpec { capacity_bytes, speed, zone: node.zone.clone() })
        };
        let staying = standings.iter().filter(|(_, standing)| **standing == Standing::Stays);
        Problem {
            grid: policy.grid.clone(),
            load: seen.load.iter().map(|layer| smoothed(layer)).collect(),
            nodes: staying.filter_map(|(id, _)| Some((id.clone(), spec(id)?))).collect(),
            expert_bytes: policy.expert_bytes,
            min_replicas: policy.min_replicas,
            spare_replicas: policy.spare_replicas,
            max_moves: 0,
            goal: GOAL,
        }
    }

    fn live(&self, seen: Seen<'_>) -> BTreeMap<NodeId, LiveNode> {
        let live = |id: &NodeId| {
            let node = seen.view.nodes.get(id)?;
            // One that has not said yet what it holds may be full.
            let held = seen.view.resident.get(id)?;
            let room = node.capacity_bytes / self.policy.expert_bytes.max(1);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let resident = held.resident.keys().copied().collect();
            let unloadable = held.unloadable.keys().copied().collect();
            Some((id.clone(), LiveNode { resident, unloadable, room }))
        };
        seen.fit.nodes.keys().filter_map(live).collect()
    }
}

/// Nodes that take much longer for a call than their speed lets expect, and how many times as long. One that is a little
/// slow or fast is what it says.
pub(crate) fn slow_nodes(seen: Seen<'_>) -> BTreeMap<NodeId, f64> {
    let speed = |id: &NodeId| seen.view.nodes.get(id).map(|node| node.speed);
    let times: BTreeMap<&NodeId, f64> =
        seen.slowness.iter().filter_map(|(id, times)| Some((id, times * speed(id)?))).collect();
    let mut ascending: Vec<f64> = times.values().copied().collect();
    ascending.sort_unstable_by(f64::total_cmp);
    let Some(middle) = ascending.get(ascending.len().saturating_sub(1) / 2) else {
        return BTreeMap::new();
    };
    let times = times.into_iter().map(|(id, times)| (id.clone(), times / middle));
    times.filter(|(_, times)| *times >= SLOW_FROM).collect()
}

/// What is published; an empty placement before the first.
fn published(view: &View) -> Placement {
    let none = || Placement { epoch: Epoch(0), assignments: BTreeMap::new() };
    view.placement.as_ref().map_or_else(none, |of| of.placement.clone())
}

/// What a solution stays near: what is published, or, where a store has lost it, what the nodes hold.
fn previous(view: &View, published: &Placement) -> Assignments {
    if !published.assignments.is_empty() {
        return published.assignments.clone();
    }
    let held = |(id, of): (&NodeId, &guildhall_cluster::ResidentRecord)| {
        (id.clone(), of.resident.keys().copied().collect())
    };
    view.resident.iter().map(held).collect()
}

/// A load in which no expert counts for nothing.
fn smoothed(layer: &[f64]) -> Vec<f64> {
    let mean = layer.iter().sum::<f64>() / layer.len().max(1) as f64;
    let least = if mean > 0.0 { LEAST_SHARE * mean } else { 1.0 };
    layer.iter().map(|load| load + least).collect()
}

/// By how much the time of a step falls: a step waits in each layer for its slowest node.
fn gain(solution: &Solution) -> f64 {
    let time = |of: fn(&(f64, f64)) -> f64| -> f64 {
        solution.balancedness.iter().map(|pair| 1.0 / of(pair).max(1e-9)).sum()
    };
    let after = time(|pair| pair.1);
    if after > 0.0 { time(|pair| pair.0) / after - 1.0 } else { 0.0 }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

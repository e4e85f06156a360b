//! What a placement has to serve, and what it has to respect.

use std::collections::BTreeMap;

use guildhall_ids::NodeId;

use crate::ExpertGrid;

/// A node as the solver sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Bytes of expert weights that it may hold.
    pub capacity_bytes: u64,
    /// Tokens per second relative to the other nodes; above 0.
    pub speed: f64,
    /// What fails together with it, such as a rack; nodes without a zone are one zone.
    pub zone: String,
}

/// Everything that a placement follows from, besides the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The experts.
    pub grid: ExpertGrid,
    /// [layer of the grid][expert] tokens, in any unit.
    pub load: Vec<Vec<f64>>,
    /// The nodes that may hold experts.
    pub nodes: BTreeMap<NodeId, NodeSpec>,
    /// Bytes of one expert on a node.
    pub expert_bytes: u64,
    /// Replicas that each expert should have, as far as there are nodes.
    pub min_replicas: usize,
    /// Replicas in each layer beyond these, as far as there is room.
    pub spare_replicas: usize,
    /// Replicas of each layer that may be loaded to balance it. What is missing is always loaded.
    pub max_moves: usize,
    /// Balance a layer no further than to this mean over maximum.
    pub goal: f64,
}

impl Problem {
    /// Replicas of each expert that there can be.
    pub(crate) fn least_replicas(&self) -> usize {
        self.min_replicas.clamp(1, self.nodes.len().max(1))
    }

    /// Replicas that a layer may have in all.
    pub(crate) fn most_slots(&self) -> usize {
        self.grid.n_experts as usize * self.least_replicas() + self.spare_replicas
    }
}

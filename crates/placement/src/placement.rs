//! The placement: what each node should hold.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{Epoch, ExpertId, LayerIdx, NodeId};

/// The experts of a model: the same number in each of some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertGrid {
    /// The layers that have experts, ascending.
    pub layers: Vec<LayerIdx>,
    /// Experts in each of them.
    pub n_experts: u32,
}

impl ExpertGrid {
    /// Every expert of the model, layer by layer.
    pub fn iter(&self) -> impl Iterator<Item = ExpertId> + '_ {
        let of_layer =
            |layer: LayerIdx| (0..self.n_experts).map(move |expert| ExpertId::new(layer.0, expert));
        self.layers.iter().flat_map(move |&layer| of_layer(layer))
    }
}

/// What every node should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Grows with each change.
    pub epoch: Epoch,
    /// The assignment of each node.
    pub assignments: BTreeMap<NodeId, BTreeSet<ExpertId>>,
}

/// Gives each node an equal, contiguous share of every layer's experts (the first ones get one more when it does not
/// divide), one replica each. The order of `nodes` does not matter.
#[must_use]
pub fn spread_evenly(grid: &ExpertGrid, nodes: &BTreeSet<NodeId>, epoch: Epoch) -> Placement {
    let mut assignments: BTreeMap<NodeId, BTreeSet<ExpertId>> =
        nodes.iter().map(|node| (node.clone(), BTreeSet::new())).collect();
    let n_nodes = nodes.len() as u64;
    for (index, held) in assignments.values_mut().enumerate() {
        // Node i of N holds the experts e with floor(e·N / E) = i.
        let share = |expert: &ExpertId| {
            u64::from(expert.expert.0) * n_nodes / u64::from(grid.n_experts) == index as u64
        };
        held.extend(grid.iter().filter(share));
    }
    Placement { epoch, assignments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(n: usize) -> BTreeSet<NodeId> {
        (0..n).map(|i| format!("n{i}").parse().unwrap()).collect()
    }

    #[test]
    fn three_nodes_share_sixteen_experts() {
        let grid = ExpertGrid { layers: vec![LayerIdx(2)], n_experts: 16 };
        let placement = spread_evenly(&grid, &nodes(3), Epoch(1));
        let of = |node: &str| -> Vec<u32> {
            placement.assignments[&node.parse().unwrap()].iter().map(|e| e.expert.0).collect()
        };
        assert_eq!(of("n0"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of("n1"), [6, 7, 8, 9, 10]);
        assert_eq!(of("n2"), [11, 12, 13, 14, 15]);
    }

    proptest! {
        #[test]
        fn every_expert_has_one_home_and_shares_differ_by_one(
            layers in 0u32..5, n_experts in 1u32..70, n_nodes in 1usize..40
        ) {
            let grid = ExpertGrid { layers: (0..layers).map(LayerIdx).collect(), n_experts };
            let placement = spread_evenly(&grid, &nodes(n_nodes), Epoch(7));
            let mut all: Vec<_> = placement.assignments.values().flatten().copied().collect();
            all.sort();
            prop_assert_eq!(all, grid.iter().collect::<Vec<_>>());
            for layer in &grid.layers {
                let sizes: Vec<usize> = placement.assignments.values()
                    .map(|held| held.iter().filter(|e| e.layer == *layer).count()).collect();
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{sizes:?}");
            }
        }
    }
}

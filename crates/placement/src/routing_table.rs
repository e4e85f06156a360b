//! The routing table: placement ∩ resident ∩ alive.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{Epoch, ExpertId, LayerIdx, NodeId};

use crate::{ExpertGrid, Placement};

/// A node's place in [`RoutingTable::nodes`].
pub type NodeSlot = usize;

/// Where each expert can be computed right now. A snapshot: it never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingTable {
    /// The placement it was made from.
    pub epoch: Epoch,
    /// The nodes that hold at least one expert, ascending.
    pub nodes: Vec<NodeId>,
    // [layer][expert] → slots, ascending; empty for dense layers.
    replicas: Vec<Vec<Vec<NodeSlot>>>,
    missing: Vec<ExpertId>,
}

impl RoutingTable {
    /// Keeps of `placement` what the live nodes really hold. `resident` has an entry for each live node.
    #[must_use]
    pub fn build(
        grid: &ExpertGrid,
        placement: &Placement,
        resident: &BTreeMap<NodeId, BTreeSet<ExpertId>>,
    ) -> Self {
        let held = |node: &NodeId, assigned: &BTreeSet<ExpertId>| -> Option<BTreeSet<ExpertId>> {
            let held = resident.get(node)?.intersection(assigned).copied().collect::<BTreeSet<_>>();
            (!held.is_empty()).then_some(held)
        };
        let usable: Vec<(NodeId, BTreeSet<ExpertId>)> = placement
            .assignments
            .iter()
            .filter_map(|(node, assigned)| Some((node.clone(), held(node, assigned)?)))
            .collect();

        let n_layers = grid.layers.iter().map(|layer| layer.0 as usize + 1).max().unwrap_or(0);
        let mut replicas = vec![Vec::new(); n_layers];
        for layer in &grid.layers {
            replicas[layer.0 as usize] = vec![Vec::new(); grid.n_experts as usize];
        }
        for (slot, (_, held)) in usable.iter().enumerate() {
            for id in held {
                let of_layer = replicas.get_mut(id.layer.0 as usize);
                if let Some(slots) = of_layer.and_then(|l| l.get_mut(id.expert.0 as usize)) {
                    slots.push(slot);
                }
            }
        }
        let missing = grid.iter().filter(|id| slots_of(&replicas, *id).is_empty()).collect();
        let nodes = usable.into_iter().map(|(node, _)| node).collect();
        Self { epoch: placement.epoch, nodes, replicas, missing }
    }

    /// The nodes that hold this expert, ascending; empty if none does.
    #[must_use]
    pub fn replicas(&self, id: ExpertId) -> &[NodeSlot] {
        slots_of(&self.replicas, id)
    }

    /// Experts that no live node holds. Serving needs this to be empty.
    #[must_use]
    pub fn missing(&self) -> &[ExpertId] {
        &self.missing
    }

    /// The layers and how many of each one's experts a node holds, for people.
    #[must_use]
    pub fn held_by(&self, slot: NodeSlot) -> BTreeMap<LayerIdx, usize> {
        let mut held = BTreeMap::new();
        for (layer, experts) in (0..).map(LayerIdx).zip(&self.replicas) {
            let n = experts.iter().filter(|slots| slots.contains(&slot)).count();
            if n > 0 {
                held.insert(layer, n);
            }
        }
        held
    }
}

fn slots_of(replicas: &[Vec<Vec<NodeSlot>>], id: ExpertId) -> &[NodeSlot] {
    let of_layer = replicas.get(id.layer.0 as usize);
    of_layer.and_then(|layer| layer.get(id.expert.0 as usize)).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread_evenly;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn only_what_is_placed_resident_and_alive_is_routed() {
        let grid = ExpertGrid { layers: vec![LayerIdx(1)], n_experts: 4 };
        let nodes = [node("a"), node("b")].into();
        let placement = spread_evenly(&grid, &nodes, Epoch(3));
        let mut resident = placement.assignments.clone();
        // "a" also holds an expert that is not assigned to it, and lost one that is.
        resident.insert(node("a"), [ExpertId::new(1, 0), ExpertId::new(1, 3)].into());

        let table = RoutingTable::build(&grid, &placement, &resident);
        assert_eq!(table.epoch, Epoch(3));
        assert_eq!(table.replicas(ExpertId::new(1, 0)), [0]);
        assert_eq!(table.replicas(ExpertId::new(1, 3)), [1]);
        assert_eq!(table.missing(), [ExpertId::new(1, 1)]);
        assert_eq!(table.held_by(1), [(LayerIdx(1), 2)].into());

        resident.remove(&node("b"));
        let table = RoutingTable::build(&grid, &placement, &resident);
        assert_eq!(table.nodes, [node("a")]);
        assert_eq!(table.missing().len(), 3);
    }

    #[test]
    fn an_unknown_layer_or_expert_has_no_replicas() {
        let table = RoutingTable::default();
        assert!(table.replicas(ExpertId::new(9, 9)).is_empty());
    }
}

//! How evenly a load uses the experts of each layer, and the nodes that hold them.

use std::collections::BTreeMap;

use guildhall_cluster::{LayerBalance, View};
use guildhall_ids::{ExpertId, LayerIdx, NodeId};
use guildhall_placement::ExpertGrid;
use guildhall_placement::measures::{Measures, dead, hot};

/// An expert with more than this many times the mean is hot.
const HOT_ABOVE: f64 = 4.0;

/// Measures `load`, [layer of the grid][expert] tokens, layer by layer.
pub(super) fn measure(grid: &ExpertGrid, view: &View, load: &[Vec<f64>]) -> Vec<LayerBalance> {
    let layers = grid.layers.iter().zip(load);
    layers.map(|(&layer, load)| measure_layer(layer, load, view)).collect()
}

fn measure_layer(layer: LayerIdx, load: &[f64], view: &View) -> LayerBalance {
    let pairs = load.iter().sum();
    let numbers = |experts: Vec<usize>| experts.into_iter().map(|e| e as u32).collect();
    // Without load nothing is dead.
    let dead = if pairs > 0.0 { numbers(dead(load)) } else { Vec::new() };
    LayerBalance {
        layer,
        experts: Measures::of(load),
        nodes: Measures::of(&node_loads(layer, load, view)),
        dead,
        hot: numbers(hot(load, HOT_ABOVE)),
        pairs,
    }
}

/// What each node carries if every replica has an equal share of its expert.
fn node_loads(layer: LayerIdx, load: &[f64], view: &View) -> Vec<f64> {
    let Some(placement) = view.placement.as_ref().map(|of| &of.placement) else {
        return Vec::new();
    };
    let holds = |node: &NodeId, id: &ExpertId| {
        view.resident.get(node).is_some_and(|of| of.resident.contains_key(id))
    };
    let mut nodes: BTreeMap<&NodeId, f64> = BTreeMap::new();
    for (expert, &load) in (0..).zip(load) {
        let id = ExpertId::new(layer.0, expert);
        let assigned = placement.assignments.iter().filter(|(_, held)| held.contains(&id));
        let holders: Vec<&NodeId> =
            assigned.map(|(node, _)| node).filter(|node| holds(node, &id)).collect();
        for node in &holders {
            *nodes.entry(node).or_default() += load / holders.len() as f64;
        }
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guildhall_cluster::{PlacementRecord, ResidentRecord};
    use guildhall_ids::Epoch;
    use guildhall_placement::Placement;

    #[test]
    fn replicas_share_their_experts_load() {
        let mut view = View::default();
        let id = |expert: u32| ExpertId::new(2, expert);
        let mut assignments = BTreeMap::new();
        for (name, experts) in [("a", &[0, 1][..]), ("b", &[1, 2])] {
            let node: NodeId = name.parse().unwrap();
            let resident = experts.iter().map(|&e| (id(e), [0; 32])).collect();
            let resident = ResidentRecord { resident, ..ResidentRecord::default() };
            view.resident.insert(node.clone(), resident);
            assignments.insert(node, experts.iter().map(|&e| id(e)).collect());
        }
        let placement = Placement { epoch: Epoch(1), assignments };
        view.placement = Some(PlacementRecord { placement, ..PlacementRecord::default() });
        let grid = ExpertGrid { layers: vec![LayerIdx(2)], n_experts: 3 };
        let measured = measure(&grid, &view, &[vec![0.0, 20.0, 1.0]]);
        // Nodes carry 10 and 11.
        assert!((measured[0].nodes.balancedness - 10.5 / 11.0).abs() < 1e-9);
        assert!((measured[0].experts.balancedness - 7.0 / 20.0).abs() < 1e-9);
        assert_eq!((&measured[0].dead[..], measured[0].hot.len()), (&[0][..], 0));
        assert!(measure(&grid, &view, &[vec![0.0; 3]])[0].dead.is_empty());
    }
}

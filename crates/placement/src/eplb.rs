//! The EPLB algorithm, as it was published: the policy that others use, to start from and to be measured against.
//!
//! Source: deepseek-ai/EPLB, `rebalance_experts`. A layer's `load` is spread over physical slots, which stand node by
//! node and, within a node, device by device; each slot gets one expert. It knows neither unequal nodes nor what was
//! there before, and may put two replicas of an expert on one device.

/// How many of each there are. `groups` must divide the experts, `nodes` the devices, and `devices` the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EplbShape {
    /// Replicas that are placed, of all experts together.
    pub slots: usize,
    /// Expert groups of the model; 1 if it has none.
    pub groups: usize,
    /// Machines.
    pub nodes: usize,
    /// Devices of all machines together.
    pub devices: usize,
}

/// Assigns an expert to each slot: hierarchically if the groups can be divided among the nodes, else globally.
#[must_use]
pub fn eplb(load: &[f64], shape: EplbShape) -> Vec<usize> {
    if shape.groups.is_multiple_of(shape.nodes) {
        hierarchical(load, shape)
    } else {
        hierarchical(load, EplbShape { groups: 1, nodes: 1, ..shape })
    }
}

/// Groups to nodes, replicas within each node, replicas to its devices.
fn hierarchical(load: &[f64], shape: EplbShape) -> Vec<usize> {
    let group_size = load.len() / shape.groups;
    let group_load: Vec<f64> = load.chunks(group_size).map(|group| group.iter().sum()).collect();
    let mut slots = Vec::with_capacity(shape.slots);
    for groups in balanced_packing(&group_load, shape.nodes) {
        let experts: Vec<usize> = groups
            .into_iter()
            .flat_map(|group| group * group_size..(group + 1) * group_size)
            .collect();
        let of_node: Vec<f64> = experts.iter().map(|&expert| load[expert]).collect();
        let replicas = replicate(&of_node, shape.slots / shape.nodes);
        let mut count = vec![0.0; of_node.len()];
        for &replica in &replicas {
            count[replica] += 1.0;
        }
        let carried: Vec<f64> = replicas.iter().map(|&r| of_node[r] / count[r]).collect();
        for device in balanced_packing(&carried, shape.devices / shape.nodes) {
            slots.extend(device.into_iter().map(|slot| experts[replicas[slot]]));
        }
    }
    slots
}

/// Packs n weights into m packs of n/m each: the heaviest first, each into the lightest pack that has room. Returns
/// the items of each pack in the order in which they came.
fn balanced_packing(weights: &[f64], packs: usize) -> Vec<Vec<usize>> {
    let room = weights.len() / packs;
    let mut packed: Vec<(f64, Vec<usize>)> = vec![(0.0, Vec::with_capacity(room)); packs];
    for item in heaviest_first(weights) {
        let open = packed.iter_mut().filter(|(_, items)| items.len() < room);
        if let Some((sum, items)) = open.min_by(|a, b| a.0.total_cmp(&b.0)) {
            *sum += weights[item];
            items.push(item);
        }
    }
    packed.into_iter().map(|(_, items)| items).collect()
}

/// Item numbers, the heaviest first, equal ones in ascending order.
fn heaviest_first(weights: &[f64]) -> Vec<usize> {
    let mut items: Vec<usize> = (0..weights.len()).collect();
    items.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    items
}

/// One replica of each, then each further one for the expert whose replicas carry the most. Returns the expert of each
/// replica.
fn replicate(load: &[f64], slots: usize) -> Vec<usize> {
    let mut replicas: Vec<usize> = (0..load.len()).collect();
    let mut count = vec![1.0; load.len()];
    for _ in load.len()..slots {
        let carried = |&expert: &usize| load[expert] / count[expert];
        // The last of several equal ones is the lowest number.
        let most = (0..load.len()).rev().max_by(|a, b| carried(a).total_cmp(&carried(b)));
        let Some(most) = most else { break };
        replicas.push(most);
        count[most] += 1.0;
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::balancedness;

    const LOAD: [f64; 12] =
        [90.0, 132.0, 40.0, 61.0, 104.0, 165.0, 39.0, 4.0, 73.0, 56.0, 183.0, 86.0];
    const SHAPE: EplbShape = EplbShape { slots: 16, groups: 4, nodes: 2, devices: 8 };

    fn check(slots: &[usize], expected: [usize; 16], expected_balancedness: f64) {
        assert_eq!(slots, expected);
        let count = |expert| slots.iter().filter(|&&other| other == expert).count() as f64;
        let carried = |device: &[usize]| device.iter().map(|&e| LOAD[e] / count(e)).sum();
        let devices: Vec<f64> = slots.chunks(2).map(carried).collect();
        assert!((balancedness(&devices) - expected_balancedness).abs() < 5e-4, "{devices:?}");
    }

    #[test]
    fn the_published_example_hierarchical_and_global() {
        let hierarchical = [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1];
        check(&eplb(&LOAD, SHAPE), hierarchical, 0.828);
        let global = [10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1];
        check(&eplb(&LOAD, EplbShape { groups: 1, nodes: 1, ..SHAPE }), global, 0.932);
        // Four groups cannot be divided among eight nodes.
        check(&eplb(&LOAD, EplbShape { nodes: 8, ..SHAPE }), global, 0.932);
    }
}

//! Finding a node for a replica: the first placement of a layer, and replicas that got lost.

use std::collections::BinaryHeap;

use super::layer::Layer;

/// Replicas per node that would be even for their speeds; a node takes more only if no other can.
pub(super) fn quotas(layer: &Layer<'_>, slots: usize) -> Vec<usize> {
    let speed: f64 = layer.nodes.iter().map(|node| node.speed).sum();
    layer.nodes.iter().map(|node| (slots as f64 * node.speed / speed).ceil() as usize).collect()
}

/// How many replicas each expert gets of `slots`: the least, then always one more for the one whose replicas carry the
/// most, as in EPLB, but never more than there are nodes. Where that is not enough for the least of all, the heaviest
/// come first.
pub(super) fn replicate(load: &[f64], least: usize, slots: usize, n_nodes: usize) -> Vec<usize> {
    let all = slots / load.len();
    let (base, most) = if all < least { (all, all + 1) } else { (least, n_nodes) };
    let mut count = vec![base; load.len()];
    let key = |expert: usize, count: usize| {
        // Loads are finite and not negative, so their bits are in order.
        let carried = (load[expert] / count.max(1) as f64).to_bits();
        (carried, std::cmp::Reverse(count), std::cmp::Reverse(expert))
    };
    let mut heap: BinaryHeap<_> = (0..load.len()).map(|expert| key(expert, base)).collect();
    let mut left = slots - base * load.len();
    while left > 0
        && let Some((.., std::cmp::Reverse(expert))) = heap.pop()
    {
        if count[expert] < most {
            count[expert] += 1;
            left -= 1;
            heap.push(key(expert, count[expert]));
        }
    }
    count
}

/// Fills an empty layer: experts by what a replica carries, the most first, all replicas of one after another.
pub(super) fn fill(layer: &mut Layer<'_>, count: &[usize], quotas: &[usize]) {
    let mut experts: Vec<usize> = (0..layer.n_experts()).collect();
    let share = |expert: usize| layer.share(expert, count[expert].max(1));
    experts.sort_by(|&a, &b| share(b).total_cmp(&share(a)));
    for expert in experts {
        for _ in 0..count[expert] {
            place(layer, expert, count[expert], quotas);
        }
    }
}

/// Puts one more replica somewhere: into a zone that has none, on a node below its quota, on the node that is then
/// done first. Where every node that has room holds the expert, another expert makes way. False if there is no way.
pub(super) fn place(
    layer: &mut Layer<'_>,
    expert: usize,
    replicas: usize,
    quotas: &[usize],
) -> bool {
    let share = layer.share(expert, replicas);
    let key = |node: usize| {
        let full = layer.held(node).len() >= quotas[node];
        (layer.zone_taken(expert, node), full, layer.cost_with(node, share))
    };
    let order = |&a: &usize, &b: &usize| {
        let (a, b) = (key(a), key(b));
        (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))
    };
    let free = |&node: &usize| layer.has_room(node) && !layer.holds(node, expert);
    if let Some(node) = (0..layer.nodes.len()).filter(free).min_by(order) {
        layer.add(expert, node);
        return true;
    }
    let Some((node, moved, to)) = make_way(layer, expert) else { return false };
    layer.remove(moved, node);
    layer.add(moved, to);
    layer.add(expert, node);
    true
}

/// A node that does not hold the expert, with one of its experts that can move to a node that has room: the lightest
/// one, for it may be one of many.
fn make_way(layer: &Layer<'_>, expert: usize) -> Option<(usize, usize, usize)> {
    let nodes = || 0..layer.nodes.len();
    let open: Vec<usize> = nodes().filter(|&node| layer.has_room(node)).collect();
    let mut ways = Vec::new();
    for node in nodes().filter(|&node| !layer.holds(node, expert)) {
        for &moved in layer.held(node) {
            let fits = |&&to: &&usize| !layer.holds(to, moved);
            if let Some(&to) = open.iter().find(fits) {
                ways.push((node, moved, to));
            }
        }
    }
    let share = |moved: usize| layer.share(moved, layer.replicas(moved));
    ways.into_iter().min_by(|a, b| share(a.1).total_cmp(&share(b.1)))
}

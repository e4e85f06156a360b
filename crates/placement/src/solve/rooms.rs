//! How a node's capacity is divided among the layers.

use crate::problem::Problem;

/// [layer of the grid][node] → experts of that layer that the node may hold; over all layers never more than fit.
///
/// Each layer gets an equal part. What does not divide goes first to layers in which the node holds more already, then
/// to the layers that have the least room on all nodes together, so that none is short while another has plenty.
pub(super) fn rooms(problem: &Problem, before: &[Vec<Vec<usize>>]) -> Vec<Vec<usize>> {
    let n_layers = before.len();
    let mut rooms = vec![Vec::with_capacity(problem.nodes.len()); n_layers];
    let mut totals = vec![0; n_layers];
    for (node, spec) in problem.nodes.values().enumerate() {
        let experts = spec.capacity_bytes / problem.expert_bytes.max(1);
        let experts = usize::try_from(experts).unwrap_or(usize::MAX);
        let base = experts / n_layers;
        let held_more = |layer: usize| before[layer][node].len() > base;
        let mut by_need: Vec<usize> = (0..n_layers).collect();
        by_need.sort_by_key(|&layer| (!held_more(layer), totals[layer], layer));
        let mut room = vec![base; n_layers];
        for &layer in &by_need[..experts % n_layers] {
            room[layer] += 1;
        }
        for (layer, room) in room.into_iter().enumerate() {
            let room = room.min(problem.grid.n_experts as usize);
            totals[layer] += room;
            rooms[layer].push(room);
        }
    }
    rooms
}

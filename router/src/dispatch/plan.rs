//! Decides which node computes which pairs of a layer: a pure function of routes and routing table.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{ExpertId, ExpertIdx, LayerIdx};
use guildhall_placement::{NodeSlot, RoutingTable};
use guildhall_transport::Pair;

/// The (token, expert) pairs of a layer that are still to be computed.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) layer: LayerIdx,
    pub(crate) top_k: usize,
    /// [tokens * top_k]
    pub(crate) experts: &'a [u32],
    /// Indices into `experts`, ascending.
    pub(crate) pairs: &'a [usize],
}

/// What one node is asked for in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeCall {
    pub(crate) slot: NodeSlot,
    /// The tokens whose activations travel, ascending.
    pub(crate) tokens: Vec<usize>,
    /// By expert, then by token; `token` counts within `tokens`.
    pub(crate) pairs: Vec<Pair>,
    /// For each of `pairs` its index in [`Wanted::experts`].
    pub(crate) pair_indices: Vec<usize>,
}

/// Calls for every pair that some usable node can compute, and the experts that none can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DispatchPlan {
    pub(crate) calls: Vec<NodeCall>,
    /// Pairs whose experts no usable node holds.
    pub(crate) unplaced: Vec<usize>,
}

/// Sends all tokens of an expert to one replica, because a decoding step costs what its distinct experts weigh.
///
/// Experts with a single replica come first, then the others, most tokens first, each to the node with the fewest
/// experts so far (then the fewest pairs, then the lowest slot). No call has more than `max_pairs` pairs.
pub(crate) fn plan(
    wanted: &Wanted<'_>,
    table: &RoutingTable,
    usable: impl Fn(NodeSlot) -> bool,
    max_pairs: usize,
) -> DispatchPlan {
    let mut by_expert: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &pair in wanted.pairs {
        by_expert.entry(wanted.experts[pair]).or_default().push(pair);
    }
    let replicas = |expert: u32| -> Vec<NodeSlot> {
        let all = table.replicas(ExpertId { layer: wanted.layer, expert: ExpertIdx(expert) });
        all.iter().copied().filter(|&slot| usable(slot)).collect()
    };
    let mut choices: Vec<(u32, Vec<usize>, Vec<NodeSlot>)> =
        by_expert.into_iter().map(|(expert, pairs)| (expert, pairs, replicas(expert))).collect();
    choices.sort_by_key(|(expert, pairs, slots)| {
        (slots.len() > 1, std::cmp::Reverse(pairs.len()), *expert)
    });

    let mut unplaced = Vec::new();
    let mut chosen: BTreeMap<NodeSlot, Vec<(u32, Vec<usize>)>> = BTreeMap::new();
    for (expert, pairs, slots) in choices {
        let load = |slot: &NodeSlot| {
            let experts = chosen.get(slot).map_or(&[][..], Vec::as_slice);
            (experts.len(), experts.iter().map(|(_, pairs)| pairs.len()).sum::<usize>(), *slot)
        };
        match slots.into_iter().min_by_key(load) {
            Some(slot) => chosen.entry(slot).or_default().push((expert, pairs)),
            None => unplaced.extend(pairs),
        }
    }
    unplaced.sort_unstable();
    let calls = chosen.into_iter().flat_map(|(slot, mut experts)| {
        experts.sort_unstable();
        let pairs: Vec<usize> = experts.into_iter().flat_map(|(_, pairs)| pairs).collect();
        let parts: Vec<NodeCall> =
            pairs.chunks(max_pairs).map(|part| node_call(slot, part, wanted)).collect();
        parts
    });
    DispatchPlan { calls: calls.collect(), unplaced }
}

fn node_call(slot: NodeSlot, pairs: &[usize], wanted: &Wanted<'_>) -> NodeCall {
    let token_of = |pair: usize| pair / wanted.top_k;
    let tokens: BTreeSet<usize> = pairs.iter().map(|&pair| token_of(pair)).collect();
    let tokens: Vec<usize> = tokens.into_iter().collect();
    let on_wire = |&pair: &usize| Pair {
        // Every token of a pair is among `tokens`.
        token: tokens.partition_point(|&token| token < token_of(pair)) as u32,
        expert: ExpertIdx(wanted.experts[pair]),
    };
    let on_wire = pairs.iter().map(on_wire).collect();
    NodeCall { slot, tokens, pairs: on_wire, pair_indices: pairs.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guildhall_ids::{Epoch, NodeId};
    use guildhall_placement::{ExpertGrid, Placement};
    use proptest::prelude::*;

    /// A table over one layer; `held[n]` are the experts of node n.
    fn table(n_experts: u32, held: &[&[u32]]) -> RoutingTable {
        let grid = ExpertGrid { layers: vec![LayerIdx(0)], n_experts };
        let names = (0..held.len()).map(|n| format!("n{n:02}").parse::<NodeId>().unwrap());
        let experts = |held: &&[u32]| held.iter().map(|&e| ExpertId::new(0, e)).collect();
        let assignments: BTreeMap<_, BTreeSet<_>> = names.zip(held.iter().map(experts)).collect();
        let placement = Placement { epoch: Epoch(1), assignments };
        RoutingTable::build(&grid, &placement, &placement.assignments)
    }

    fn plan_all(
        experts: &[u32],
        top_k: usize,
        table: &RoutingTable,
        down: &[usize],
    ) -> DispatchPlan {
        let pairs: Vec<usize> = (0..experts.len()).collect();
        let wanted = Wanted { layer: LayerIdx(0), top_k, experts, pairs: &pairs };
        plan(&wanted, table, |slot| !down.contains(&slot), usize::MAX)
    }

    #[test]
    fn each_token_travels_once_to_each_node() {
        let table = table(4, &[&[0, 1], &[2, 3]]);
        let plan = plan_all(&[0, 1, 1, 3], 2, &table, &[]);
        let pair = |token, expert| Pair { token, expert: ExpertIdx(expert) };
        assert_eq!(
            plan.calls,
            [
                NodeCall {
                    slot: 0,
                    tokens: vec![0, 1],
                    pairs: vec![pair(0, 0), pair(0, 1), pair(1, 1)],
                    pair_indices: vec![0, 1, 2],
                },
                NodeCall {
                    slot: 1,
                    tokens: vec![1],
                    pairs: vec![pair(0, 3)],
                    pair_indices: vec![3],
                },
            ]
        );
    }

    #[test]
    fn replicated_experts_go_to_the_node_with_the_fewest_experts() {
        // Node 0 alone holds experts 0 and 1; expert 2 is on both.
        let table = table(3, &[&[0, 1, 2], &[2]]);
        let plan = plan_all(&[0, 1, 2], 1, &table, &[]);
        let slots: Vec<_> = plan.calls.iter().map(|c| (c.slot, c.pair_indices.clone())).collect();
        assert_eq!(slots, [(0, vec![0, 1]), (1, vec![2])]);
    }

    #[test]
    fn a_node_that_is_down_leaves_its_single_experts_unplaced() {
        let table = table(3, &[&[0, 1, 2], &[2]]);
        let plan = plan_all(&[0, 2, 1], 1, &table, &[0]);
        assert_eq!(plan.unplaced, [0, 2]);
        assert_eq!(plan.calls.len(), 1);
        assert_eq!((plan.calls[0].slot, &plan.calls[0].pair_indices[..]), (1, &[1][..]));
    }

    proptest! {
        #[test]
        fn every_pair_is_asked_of_one_node_that_holds_its_expert(
            experts in prop::collection::vec(0u32..8, 1..60),
            held in prop::collection::vec(prop::collection::btree_set(0u32..8, 0..8), 1..5),
            down in prop::collection::vec(0usize..5, 0..3),
            max_pairs in 1usize..9,
        ) {
            let held: Vec<Vec<u32>> = held.into_iter().map(|h| h.into_iter().collect()).collect();
            let table = table(8, &held.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let pairs: Vec<usize> = (0..experts.len()).collect();
            let wanted = Wanted { layer: LayerIdx(0), top_k: 1, experts: &experts, pairs: &pairs };
            let plan = plan(&wanted, &table, |slot| !down.contains(&slot), max_pairs);
            let mut seen = plan.unplaced.clone();
            for call in &plan.calls {
                prop_assert!(!down.contains(&call.slot) && call.pairs.len() <= max_pairs);
                for (pair, &index) in call.pairs.iter().zip(&call.pair_indices) {
                    prop_assert_eq!(call.tokens[pair.token as usize], index);
                    prop_assert_eq!(pair.expert.0, experts[index]);
                    let id = ExpertId { layer: LayerIdx(0), expert: pair.expert };
                    prop_assert!(table.replicas(id).contains(&call.slot));
                }
                seen.extend(&call.pair_indices);
            }
            for &pair in &plan.unplaced {
                let slots = table.replicas(ExpertId::new(0, experts[pair]));
                prop_assert!(slots.iter().all(|slot| down.contains(slot)));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, pairs);
        }
    }
}

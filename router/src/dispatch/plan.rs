//! Decides which node computes which pairs of a layer: a pure function of routes and routing table.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{ExpertId, ExpertIdx, LayerIdx};
use guildhall_placement::{NodeSlot, RoutingTable};
use guildhall_transport::Pair;

use super::split::{Shares, even_out};

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

/// Sends all tokens of an expert to one replica, because a decoding step costs what its distinct experts weigh; only
/// of experts with many tokens some go to others, where the slowest node gains by it (`split.rs`).
///
/// No call has more than `max_pairs` pairs.
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
    let replicas: BTreeMap<u32, Vec<NodeSlot>> =
        by_expert.keys().map(|&expert| (expert, replicas(expert))).collect();
    let (mut shares, unplaced) = whole(by_expert, &replicas);
    even_out(&mut shares, |expert| replicas.get(&expert).map_or(&[], Vec::as_slice));
    let calls = shares.into_iter().flat_map(|(slot, experts)| {
        let pairs: Vec<usize> = experts.into_values().flatten().collect();
        let parts: Vec<NodeCall> =
            pairs.chunks(max_pairs).map(|part| node_call(slot, part, wanted)).collect();
        parts
    });
    DispatchPlan { calls: calls.collect(), unplaced }
}

/// Chooses one replica for each expert; returns also the pairs whose experts have none.
///
/// Experts with a single replica come first, then the others, most tokens first, each to the node with the fewest
/// experts so far (then the fewest pairs, then the lowest slot).
fn whole(
    by_expert: BTreeMap<u32, Vec<usize>>,
    replicas: &BTreeMap<u32, Vec<NodeSlot>>,
) -> (Shares, Vec<usize>) {
    let slots = |expert: u32| replicas.get(&expert).map_or(&[][..], Vec::as_slice);
    let mut choices: Vec<(u32, Vec<usize>)> = by_expert.into_iter().collect();
    choices.sort_by_key(|(expert, pairs)| {
        (slots(*expert).len() > 1, std::cmp::Reverse(pairs.len()), *expert)
    });
    let mut unplaced = Vec::new();
    let mut shares = Shares::new();
    for (expert, pairs) in choices {
        let load = |slot: &NodeSlot| {
            let share = shares.get(slot);
            let pairs = share.map_or(0, |share| share.values().map(Vec::len).sum::<usize>());
            (share.map_or(0, BTreeMap::len), pairs, *slot)
        };
        match slots(expert).iter().copied().min_by_key(load) {
            Some(slot) => {
                shares.entry(slot).or_default().insert(expert, pairs);
            }
            None => unplaced.extend(pairs),
        }
    }
    unplaced.sort_unstable();
    (shares, unplaced)
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
    use crate::dispatch::split::{EXPERT_ROWS, cost};
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

    /// A line for each call: its node, and each of its experts with the number of its tokens.
    fn in_words(plan: &DispatchPlan) -> String {
        let mut lines = Vec::new();
        for call in &plan.calls {
            let mut experts: BTreeMap<u32, usize> = BTreeMap::new();
            for pair in &call.pairs {
                *experts.entry(pair.expert.0).or_default() += 1;
            }
            let experts = experts.iter().map(|(expert, tokens)| format!("{expert}x{tokens}"));
            lines.push(format!("n{}: {}", call.slot, experts.collect::<Vec<_>>().join(" ")));
        }
        lines.join("; ")
    }

    /// Plans so many tokens for each expert.
    fn check(tokens: &[usize], held: &[&[u32]], expected: &str) {
        let experts: Vec<u32> =
            (0..).zip(tokens).flat_map(|(expert, &n)| vec![expert; n]).collect();
        let table = table(tokens.len() as u32, held);
        assert_eq!(in_words(&plan_all(&experts, 1, &table, &[])), expected, "{tokens:?}");
    }

    #[test]
    fn an_expert_with_many_tokens_is_split_where_that_helps_the_slowest_node() {
        let both: &[&[u32]] = &[&[0, 1, 2], &[0, 1, 2]];
        check(&[31, 0, 0], both, "n0: 0x31");
        // Two parts of 16 rows cost 32 each; the whole costs 48, just one expert more.
        check(&[32, 0, 0], both, "n0: 0x16; n1: 0x16");
        check(&[100, 0, 0], both, "n0: 0x50; n1: 0x50");
        // Each node has an expert of its own: nothing is gained.
        check(&[100, 100, 0], both, "n0: 0x100; n1: 1x100");
        check(&[100, 100, 100], both, "n0: 0x50 2x100; n1: 0x50 1x100");
        check(&[300, 20, 20], both, "n0: 0x186; n1: 0x114 1x20 2x20");
        // What only the slowest node holds stays there.
        check(&[0, 200, 20], &[&[0, 1, 2], &[2]], "n0: 1x200; n1: 2x20");
        check(&[300, 0, 0], &[&[0], &[0], &[0, 1, 2]], "n0: 0x112; n1: 0x94; n2: 0x94");
    }

    proptest! {
        #[test]
        fn splitting_keeps_every_pair_and_never_makes_the_slowest_node_slower(
            tokens in prop::collection::vec(0usize..150, 1..8),
            held in prop::collection::vec(prop::collection::btree_set(0u32..8, 0..8), 1..6),
        ) {
            let mut replicas: BTreeMap<u32, Vec<NodeSlot>> = BTreeMap::new();
            for (slot, held) in held.iter().enumerate() {
                for &expert in held { replicas.entry(expert).or_default().push(slot); }
            }
            let mut next = 0..;
            let by_expert: BTreeMap<u32, Vec<usize>> =
                (0..).zip(&tokens).map(|(e, &n)| (e, next.by_ref().take(n).collect())).collect();
            let (before, unplaced) = whole(by_expert, &replicas);
            let mut after = before.clone();
            even_out(&mut after, |expert| replicas.get(&expert).map_or(&[], Vec::as_slice));
            let slowest = |shares: &Shares| shares.values().map(cost).max();
            prop_assert!(slowest(&after) <= slowest(&before));
            let mut seen = unplaced;
            for (slot, share) in &after {
                for (expert, pairs) in share {
                    let all = tokens[*expert as usize];
                    prop_assert!(replicas[expert].contains(slot) && pairs.is_sorted());
                    prop_assert!(pairs.len() == all || pairs.len() >= EXPERT_ROWS);
                    prop_assert!(pairs.len() == all || all >= 2 * EXPERT_ROWS);
                    seen.extend(pairs);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tokens.iter().sum()).collect::<Vec<_>>());
            if tokens.iter().all(|&tokens| tokens < 2 * EXPERT_ROWS) {
                prop_assert_eq!(after, before);
            }
        }

        #[test]
        fn every_pair_is_asked_of_one_node_that_holds_its_expert(
            experts in prop::collection::vec(0u32..8, 1..400),
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

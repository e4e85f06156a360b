//! From the placement that is published to the one that is wanted, a few experts at a time: load, verify, cut over,
//! drain, drop.
//!
//! ```text
//! published   n0: a b      n0: a b      n0: a        routers stop sending b to n0 as soon as they see the third
//!             n1: c        n1: c b      n1: c b      placement; n0 forgets b once nobody can be asking for it
//!                          └─ n1 loads and verifies b, says so
//! ```
//!
//! An expert leaves a node only when every node that shall hold it does, so that nothing is ever between two places.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{Epoch, ExpertId, NodeId};

use crate::{Assignments, Placement};

/// What is known of a live node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveNode {
    /// What it has loaded and verified.
    pub resident: BTreeSet<ExpertId>,
    /// What it was asked to load and cannot.
    pub unloadable: BTreeSet<ExpertId>,
    /// Experts that it can hold at a time, including those on their way in or out.
    pub room: usize,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The published placement is the one that is wanted.
    Done,
    /// So many replicas are being loaded.
    Wait {
        /// Of which nothing is known yet.
        loading: usize,
    },
    /// Publish this.
    Publish(Placement),
    /// Nothing can go on: a node is full of experts that have no other home.
    Stuck {
        /// That node.
        node: NodeId,
    },
}

/// Decides the next step. `wanted` names only live nodes; `loads_at_a_time` bounds each node's replicas on their way in
/// while every expert is somewhere. While one is nowhere, all loads begin at once: nothing runs that they could delay.
#[must_use]
pub fn next_step(
    published: &Placement,
    wanted: &Assignments,
    live: &BTreeMap<NodeId, LiveNode>,
    loads_at_a_time: usize,
) -> Step {
    let mut next: Assignments = BTreeMap::new();
    for (node, held) in &published.assignments {
        // A node that is gone leaves the placement when it is no longer wanted.
        if live.contains_key(node) || wanted.contains_key(node) {
            next.insert(node.clone(), held.clone());
        }
    }
    for node in wanted.keys() {
        next.entry(node.clone()).or_default();
    }
    cut_over(&mut next, wanted, live);
    let urgent = wanted.values().flatten().any(|expert| serving(published, live, *expert) == 0);
    let at_a_time = if urgent { usize::MAX } else { loads_at_a_time };
    begin_loads(&mut next, wanted, live, at_a_time);
    next.retain(|node, held| wanted.contains_key(node) || !held.is_empty());
    if next != published.assignments {
        let epoch = Epoch(published.epoch.0 + 1);
        return Step::Publish(Placement { epoch, assignments: next });
    }
    match (loading(&next, live), blocked(&next, wanted)) {
        (0, None) => Step::Done,
        (0, Some(node)) => Step::Stuck { node },
        (loading, _) => Step::Wait { loading },
    }
}

/// Live nodes on which an expert is placed and resident.
fn serving(placement: &Placement, live: &BTreeMap<NodeId, LiveNode>, expert: ExpertId) -> usize {
    let holds = |(node, held): &(&NodeId, &BTreeSet<ExpertId>)| {
        held.contains(&expert)
            && live.get(*node).is_some_and(|live| live.resident.contains(&expert))
    };
    placement.assignments.iter().filter(holds).count()
}

/// Takes experts from nodes that shall not have them, once all that shall do.
fn cut_over(next: &mut Assignments, wanted: &Assignments, live: &BTreeMap<NodeId, LiveNode>) {
    let mut ready: BTreeMap<ExpertId, bool> = BTreeMap::new();
    for (node, experts) in wanted {
        for expert in experts {
            let placed = next.get(node).is_some_and(|held| held.contains(expert));
            let there = live.get(node).is_some_and(|live| live.resident.contains(expert));
            *ready.entry(*expert).or_insert(true) &= placed && there;
        }
    }
    let none = BTreeSet::new();
    for (node, held) in next {
        let keep = wanted.get(node).unwrap_or(&none);
        // What is on its way may have arrived unseen and would take room that nobody knows of: first it is seen.
        let comes = |expert: &ExpertId| {
            live.get(node).is_some_and(|live| {
                !live.resident.contains(expert) && !live.unloadable.contains(expert)
            })
        };
        // An expert that is wanted nowhere stays: that is a mistake of whoever wants, and no reason to lose it.
        held.retain(|expert| {
            keep.contains(expert) || ready.get(expert) != Some(&true) || comes(expert)
        });
    }
}

fn begin_loads(
    next: &mut Assignments,
    wanted: &Assignments,
    live: &BTreeMap<NodeId, LiveNode>,
    at_a_time: usize,
) {
    for (node, wanted) in wanted {
        let (Some(state), Some(held)) = (live.get(node), next.get_mut(node)) else { continue };
        // What is still there takes no more room, and would be forgotten only once it is elsewhere.
        held.extend(wanted.intersection(&state.resident));
        let loading = held.difference(&state.resident).count();
        // What was dropped takes room until the node has forgotten it.
        let leaving = state.resident.difference(held).count();
        let room = state.room.saturating_sub(held.len() + leaving);
        let begin = at_a_time.saturating_sub(loading).min(room);
        let new: Vec<ExpertId> = wanted.difference(held).copied().take(begin).collect();
        held.extend(new);
    }
}

fn loading(next: &Assignments, live: &BTreeMap<NodeId, LiveNode>) -> usize {
    let of = |(node, held): (&NodeId, &BTreeSet<ExpertId>)| {
        live.get(node).map_or(0, |live| {
            held.difference(&live.resident).count() + live.resident.difference(held).count()
        })
    };
    next.iter().map(of).sum()
}

/// A node that still lacks something.
fn blocked(next: &Assignments, wanted: &Assignments) -> Option<NodeId> {
    let lacks = |(node, wanted): &(&NodeId, &BTreeSet<ExpertId>)| {
        next.get(*node).is_none_or(|held| !wanted.is_subset(held))
    };
    wanted.iter().find(lacks).map(|(node, _)| node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(n: usize) -> NodeId {
        format!("n{n}").parse().unwrap()
    }

    fn assignments(held: &[&[u32]]) -> Assignments {
        let experts = |held: &&[u32]| held.iter().map(|&e| ExpertId::new(0, e)).collect();
        (0..held.len()).map(node).zip(held.iter().map(experts)).collect()
    }

    fn live(resident: &[&[u32]], room: usize) -> BTreeMap<NodeId, LiveNode> {
        let held = assignments(resident).into_iter();
        held.map(|(node, held)| (node, live_node(&held, room))).collect()
    }

    fn live_node(resident: &BTreeSet<ExpertId>, room: usize) -> LiveNode {
        LiveNode { resident: resident.clone(), room, ..LiveNode::default() }
    }

    fn step(published: &[&[u32]], wanted: &[&[u32]], resident: &[&[u32]], room: usize) -> Step {
        let published = Placement { epoch: Epoch(7), assignments: assignments(published) };
        next_step(&published, &assignments(wanted), &live(resident, room), 1)
    }

    fn publish(held: &[&[u32]]) -> Step {
        Step::Publish(Placement { epoch: Epoch(8), assignments: assignments(held) })
    }

    #[test]
    fn an_expert_is_loaded_then_cut_over_then_dropped() {
        let (before, wanted): ([&[u32]; 2], [&[u32]; 2]) = ([&[0, 1], &[2]], [&[0], &[1, 2]]);
        assert_eq!(step(&before, &wanted, &before, 3), publish(&[&[0, 1], &[1, 2]]));
        let both: [&[u32]; 2] = [&[0, 1], &[1, 2]];
        assert_eq!(step(&both, &wanted, &before, 3), Step::Wait { loading: 1 });
        assert_eq!(step(&both, &wanted, &both, 3), publish(&wanted));
        // The first node has not forgotten it yet.
        assert_eq!(step(&wanted, &wanted, &both, 3), Step::Wait { loading: 1 });
        assert_eq!(step(&wanted, &wanted, &wanted, 3), Step::Done);
    }

    #[test]
    fn at_first_everything_is_loaded_at_once() {
        let wanted: [&[u32]; 2] = [&[0, 1, 2], &[2, 3]];
        assert_eq!(step(&[], &wanted, &[&[], &[]], 3), publish(&wanted));
    }

    #[test]
    fn a_few_are_loaded_at_a_time_but_what_is_missing_all_at_once() {
        let before: [&[u32]; 2] = [&[0, 1, 2, 3], &[]];
        let wanted: [&[u32]; 2] = [&[0, 1], &[2, 3]];
        assert_eq!(step(&before, &wanted, &before, 9), publish(&[&[0, 1, 2, 3], &[2]]));
        assert_eq!(step(&before, &wanted, &[&[0, 1], &[]], 9), publish(&[&[0, 1, 2, 3], &[2, 3]]));
    }

    #[test]
    fn what_is_on_its_way_is_dropped_only_once_it_is_seen() {
        let (before, wanted): ([&[u32]; 2], [&[u32]; 2]) = ([&[0, 1], &[0, 1]], [&[0, 2], &[1]]);
        // The first node may have loaded 1 by now, so with room for two it has none for 2.
        let first = step(&before, &wanted, &[&[0], &[0, 1]], 2);
        assert_eq!(first, publish(&[&[0, 1], &[1]]));
        let Step::Publish(placement) = first else { panic!("{first:?}") };
        let mut nodes = live(&[&[0], &[1]], 2);
        let waits = next_step(&placement, &assignments(&wanted), &nodes, 1);
        assert_eq!(waits, Step::Wait { loading: 1 });
        // One that cannot be loaded does not come.
        nodes.get_mut(&node(0)).unwrap().unloadable.insert(ExpertId::new(0, 1));
        let next = next_step(&placement, &assignments(&wanted), &nodes, 1);
        let Step::Publish(next) = next else { panic!("{next:?}") };
        assert_eq!(next.assignments, assignments(&[&[0, 2], &[1]]));
    }

    #[test]
    fn what_a_full_node_still_has_is_placed_there_again() {
        let (before, wanted): ([&[u32]; 1], [&[u32]; 1]) = ([&[0, 1]], [&[0, 1, 3]]);
        assert_eq!(step(&before, &wanted, &[&[0, 1, 2, 3]], 4), publish(&[&[0, 1, 3]]));
    }

    #[test]
    fn full_nodes_exchange_nothing() {
        let before: [&[u32]; 2] = [&[0, 1], &[2, 3]];
        let wanted: [&[u32]; 2] = [&[0, 2], &[1, 3]];
        assert_eq!(step(&before, &wanted, &before, 2), Step::Stuck { node: node(0) });
    }

    #[test]
    fn a_node_that_is_gone_leaves_the_placement() {
        let before: [&[u32]; 2] = [&[0], &[1]];
        let wanted = assignments(&[&[0, 1]]);
        let published = Placement { epoch: Epoch(7), assignments: assignments(&before) };
        let step = next_step(&published, &wanted, &live(&[&[0]], 3), 1);
        assert_eq!(step, publish(&[&[0, 1]]));
    }

    proptest! {
        /// From any placement to any other: whatever nodes do first, no expert is ever without a node that serves it,
        /// no node holds more than fits, and it ends.
        #[test]
        fn every_roll_out_keeps_every_expert_served(
            before in prop::collection::vec(prop::collection::btree_set(0u32..6, 0..6), 1..5),
            after in prop::collection::vec(prop::collection::btree_set(0u32..6, 0..6), 1..5),
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
            at_a_time in 1usize..4,
        ) {
            let n = before.len().max(after.len());
            let place = |sets: &[BTreeSet<u32>]| -> Assignments {
                let mut held: Assignments = (0..n).map(|i| (node(i), BTreeSet::new())).collect();
                for (i, set) in sets.iter().enumerate() {
                    held.get_mut(&node(i)).unwrap().extend(set.iter().map(|&e| ExpertId::new(0, e)));
                }
                // Expert e that is nowhere goes to node 0.
                for e in 0..6 {
                    let id = ExpertId::new(0, e);
                    if !held.values().any(|held| held.contains(&id)) {
                        held.get_mut(&node(0)).unwrap().insert(id);
                    }
                }
                held
            };
            let (before, wanted) = (place(&before), place(&after));
            // One more than it has and than it shall have.
            let room = |id: &NodeId| before[id].len().max(wanted[id].len()) + 1;
            let mut live: BTreeMap<NodeId, LiveNode> = before.iter()
                .map(|(id, held)| (id.clone(), live_node(held, room(id)))).collect();
            let mut published = Placement { epoch: Epoch(1), assignments: before.clone() };
            let mut order = order.iter().cycle();
            for _ in 0..2000 {
                match next_step(&published, &wanted, &live, at_a_time) {
                    Step::Done => break,
                    Step::Stuck { node } => prop_assert!(false, "stuck at {node}: {published:?} {wanted:?}"),
                    Step::Publish(next) => {
                        prop_assert_eq!(next.epoch.0, published.epoch.0 + 1);
                        published = next;
                    }
                    // One node loads one expert, or forgets one.
                    Step::Wait { .. } => {
                        let mut changes = Vec::new();
                        for (id, held) in &published.assignments {
                            let resident = &live[id].resident;
                            changes.extend(held.difference(resident).map(|&e| (id.clone(), e, true)));
                            changes.extend(resident.difference(held).map(|&e| (id.clone(), e, false)));
                        }
                        let (id, expert, loads) = order.next().unwrap().get(&changes).clone();
                        let resident = &mut live.get_mut(&id).unwrap().resident;
                        if loads { resident.insert(expert); } else { resident.remove(&expert); }
                    }
                }
                for (id, state) in &live {
                    let held = published.assignments.get(id).cloned().unwrap_or_default();
                    prop_assert!(state.resident.union(&held).count() <= state.room);
                }
                for e in 0..6 {
                    prop_assert!(serving(&published, &live, ExpertId::new(0, e)) > 0, "{e} {published:?}");
                }
            }
            prop_assert_eq!(&published.assignments, &wanted);
        }
    }
}

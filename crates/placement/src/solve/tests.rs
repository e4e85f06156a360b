//! Cases to read, and rules that hold for all problems.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use guildhall_ids::{ExpertId, LayerIdx, NodeId};
use proptest::prelude::*;

use super::*;
use crate::{ExpertGrid, NodeSpec};

fn node(n: usize) -> NodeId {
    format!("n{n:03}").parse().unwrap()
}

fn spec(capacity: u64) -> NodeSpec {
    NodeSpec { capacity_bytes: capacity, speed: 1.0, zone: String::new() }
}

/// Nodes of equal size; one expert weighs one byte.
fn problem(load: &[f64], nodes: usize, capacity: u64) -> Problem {
    Problem {
        grid: ExpertGrid { layers: vec![LayerIdx(0)], n_experts: load.len() as u32 },
        load: vec![load.to_vec()],
        nodes: (0..nodes).map(|n| (node(n), spec(capacity))).collect(),
        expert_bytes: 1,
        min_replicas: 1,
        spare_replicas: 0,
        max_moves: usize::MAX,
        goal: 1.0,
    }
}

/// A line for each node with its experts.
fn drawn(assignments: &Assignments) -> String {
    let mut text = String::new();
    for (node, held) in assignments {
        let experts: Vec<String> = held.iter().map(|id| id.expert.to_string()).collect();
        writeln!(text, "{node}: {}", experts.join(" ")).unwrap();
    }
    text
}

fn reasons(solution: &Solution) -> Vec<String> {
    solution.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn a_hot_expert_gets_the_spare_replicas() {
    let problem = Problem { spare_replicas: 2, ..problem(&[9.0, 2.0, 2.0, 2.0], 3, 2) };
    let solution = solve(&problem, &Assignments::new());
    assert_eq!(drawn(&solution.assignments), "n000: 0 1\nn001: 0 2\nn002: 0 3\n");
    assert_eq!(solution.balancedness, [(0.0, 1.0)]);
}

#[test]
fn a_lost_node_is_made_up_for_and_nothing_else_moves() {
    let problem = Problem { min_replicas: 2, ..problem(&[4.0, 4.0, 4.0, 4.0], 4, 3) };
    let before = solve(&problem, &Assignments::new()).assignments;
    assert_eq!(drawn(&before), "n000: 0 2\nn001: 0 2\nn002: 1 3\nn003: 1 3\n");
    let mut fewer = problem.clone();
    fewer.nodes.remove(&node(1));
    let after = solve(&Problem { max_moves: 0, ..fewer }, &before);
    assert_eq!(drawn(&after.assignments), "n000: 0 2\nn002: 0 1 3\nn003: 1 2 3\n");
    assert_eq!(
        reasons(&after),
        ["load 0/0 on n002: it has 1 of 2 replicas", "load 0/2 on n003: it has 1 of 2 replicas"]
    );
    assert!(after.urgent && after.short.is_empty());
}

#[test]
fn where_there_is_no_room_some_experts_stay_short() {
    let problem = Problem { min_replicas: 2, ..problem(&[3.0, 2.0, 1.0], 2, 2) };
    let solution = solve(&problem, &Assignments::new());
    assert_eq!(drawn(&solution.assignments), "n000: 0 1\nn001: 0 2\n");
    assert_eq!(solution.short, [(ExpertId::new(0, 1), 1), (ExpertId::new(0, 2), 1)]);
}

#[test]
fn replicas_lie_in_different_zones() {
    let mut problem = Problem { min_replicas: 2, ..problem(&[5.0, 1.0, 1.0, 1.0], 4, 4) };
    for (n, spec) in problem.nodes.values_mut().enumerate() {
        spec.zone = ["east", "west"][n / 2].into();
    }
    let solution = solve(&problem, &Assignments::new());
    for expert in 0..4 {
        let zones = |(node, held): (&NodeId, &BTreeSet<ExpertId>)| {
            held.contains(&ExpertId::new(0, expert)).then(|| problem.nodes[node].zone.clone())
        };
        let zones: BTreeSet<String> = solution.assignments.iter().filter_map(zones).collect();
        assert_eq!(zones.len(), 2, "{}", drawn(&solution.assignments));
    }
}

#[test]
fn a_fast_node_carries_more() {
    let mut problem = problem(&[1.0; 30], 3, 30);
    problem.nodes.get_mut(&node(2)).unwrap().speed = 2.0;
    problem.nodes.get_mut(&node(0)).unwrap().speed = 0.75;
    let held: Vec<usize> =
        solve(&problem, &Assignments::new()).assignments.values().map(BTreeSet::len).collect();
    assert_eq!(held, [6, 8, 16]);
}

#[test]
fn a_node_that_joins_takes_load_within_the_moves_allowed() {
    let load: Vec<f64> = (0..12).map(|i| f64::from(i % 4) + 1.0).collect();
    let start = problem(&load, 2, 12);
    let before = solve(&start, &Assignments::new());
    let mut joined = Problem { max_moves: 2, ..start };
    joined.nodes.insert(node(9), spec(12));
    let after = solve(&joined, &before.assignments);
    assert_eq!(after.loads(), 2, "{:?}", reasons(&after));
    assert!(!after.urgent);
    let (was, is) = after.balancedness[0];
    assert!(is > was, "{was} {is}");
}

#[test]
fn a_smaller_capacity_is_kept() {
    let start = Problem { min_replicas: 2, ..problem(&[4.0, 3.0, 2.0, 1.0], 3, 4) };
    let before = solve(&start, &Assignments::new());
    let mut smaller = start;
    smaller.nodes.insert(node(0), spec(1));
    let after = solve(&smaller, &before.assignments);
    assert_eq!(after.assignments[&node(0)].len(), 1);
    assert!(after.short.is_empty(), "{:?}", after.short);
}

#[test]
fn the_zipf_case_is_even_without_a_duplicate_and_stays_so_under_drift() {
    let load: Vec<f64> = (1..=256).map(|rank| 1.0 / f64::from(rank)).collect();
    let problem = Problem { spare_replicas: 64, goal: 0.99, ..problem(&load, 32, 10) };
    let before = solve(&problem, &Assignments::new());
    assert!(before.balancedness[0].1 >= 0.98, "{:?}", before.balancedness);
    // Irrational multiples stand in for random numbers; 1.1 is about one standard deviation of 0.1.
    let drifted = (0..256).map(|e| load[e] * 1.1f64.powf((e as f64 * 0.618).fract() * 4.0 - 2.0));
    let drifted = Problem { load: vec![drifted.collect()], max_moves: 32, goal: 0.97, ..problem };
    let after = solve(&drifted, &before.assignments);
    assert!(after.balancedness[0].0 < 0.95, "the case has drifted: {:?}", after.balancedness);
    assert!(after.balancedness[0].1 >= 0.95, "{:?}", after.balancedness);
    assert!(after.loads() <= 32, "{}", after.loads());
}

fn any_problem() -> impl Strategy<Value = Problem> {
    let nodes = prop::collection::vec((0u64..40, 1u32..5, 0usize..3), 1..9);
    let load = (1usize..4, 1usize..14).prop_flat_map(|(layers, experts)| {
        prop::collection::vec(prop::collection::vec(0.0f64..100.0, experts), layers)
    });
    (nodes, load, 1usize..4, 0usize..8).prop_map(|(nodes, load, min_replicas, spare_replicas)| {
        Problem {
            grid: ExpertGrid {
                layers: (0..load.len() as u32).map(LayerIdx).collect(),
                n_experts: load[0].len() as u32,
            },
            load,
            nodes: (0..nodes.len())
                .map(|n| {
                    let (capacity, speed, zone) = nodes[n];
                    let zone = format!("z{zone}");
                    let speed = f64::from(speed);
                    (node(n), NodeSpec { capacity_bytes: capacity, speed, zone })
                })
                .collect(),
            expert_bytes: 1,
            min_replicas,
            spare_replicas,
            max_moves: usize::MAX,
            goal: 1.0,
        }
    })
}

/// Replicas of each expert.
fn counts(assignments: &Assignments) -> BTreeMap<ExpertId, usize> {
    let mut counts = BTreeMap::new();
    for id in assignments.values().flatten() {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

fn check(problem: &Problem, solution: &Solution) -> Result<(), TestCaseError> {
    let counts = counts(&solution.assignments);
    for (node, held) in &solution.assignments {
        let room = problem.nodes[node].capacity_bytes;
        prop_assert!(held.len() as u64 <= room, "{node} holds {} of {room}", held.len());
    }
    let least = problem.min_replicas.min(problem.nodes.len());
    for id in problem.grid.iter() {
        let has = counts.get(&id).copied().unwrap_or(0);
        let reported = solution.short.iter().find(|(short, _)| *short == id);
        prop_assert_eq!(reported.map(|(_, has)| *has), (has < least).then_some(has));
    }
    // Layers share a node's capacity as evenly as they can, so a layer has all experts if a fair part is enough.
    let experts = problem.grid.n_experts as usize;
    let fair: usize = problem
        .nodes
        .values()
        .map(|spec| (spec.capacity_bytes as usize / problem.load.len()).min(experts))
        .sum();
    if fair >= experts {
        prop_assert!(problem.grid.iter().all(|id| counts.contains_key(&id)), "{solution:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_solution_keeps_every_rule(problem in any_problem()) {
        let solution = solve(&problem, &Assignments::new());
        check(&problem, &solution)?;
        // There is nothing left to say: the same again, from the same.
        let again = solve(&problem, &solution.assignments);
        prop_assert_eq!(&again.assignments, &solution.assignments, "{:?} {:?}", reasons(&again), solution.short);
        prop_assert!(again.reasons.is_empty());
    }

    #[test]
    fn a_change_of_anything_keeps_every_rule(
        (before, mut after) in (any_problem(), any_problem()), max_moves in 0usize..9,
    ) {
        let first = solve(&before, &Assignments::new());
        after.max_moves = max_moves;
        let solution = solve(&after, &first.assignments);
        check(&after, &solution)?;
        // The reasons are exactly the difference.
        let mut replayed: Assignments = after.nodes.keys()
            .map(|id| (id.clone(), first.assignments.get(id).cloned().unwrap_or_default())).collect();
        for held in replayed.values_mut() {
            held.retain(|id| after.grid.iter().any(|of| of == *id));
        }
        for reason in &solution.reasons {
            let held = replayed.get_mut(&reason.node).unwrap();
            let changed =
                if reason.loads { held.insert(reason.expert) } else { held.remove(&reason.expert) };
            prop_assert!(changed, "{reason}");
        }
        prop_assert_eq!(replayed, solution.assignments);
    }

    #[test]
    fn balancing_never_makes_a_layer_worse(problem in any_problem(), factors in prop::collection::vec(0.5f64..2.0, 42)) {
        let first = solve(&problem, &Assignments::new());
        let mut drifted = problem;
        for (load, factor) in drifted.load.iter_mut().flatten().zip(factors) {
            *load *= factor;
        }
        for (was, is) in solve(&drifted, &first.assignments).balancedness {
            prop_assert!(is >= was - 1e-9, "{was} {is}");
        }
    }
}

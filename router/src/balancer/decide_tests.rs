//! What a leader does, told as short histories of a cluster of up to four nodes.

use guildhall_cluster::store::Revision;
use guildhall_cluster::{ExpectedKey, NodeRecord, PlacementRecord, ResidentRecord};
use guildhall_ids::{ExpertId, LayerIdx};
use guildhall_transport::Endpoint;
use proptest::prelude::*;

use super::*;

const N_EXPERTS: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster without processes: nodes do at once what the placement says.
struct Model {
    view: View,
    fit: Fit,
    leader: Leader,
    load: Vec<Vec<f64>>,
    slowness: BTreeMap<NodeId, f64>,
    now: Instant,
}

fn id(node: &str) -> NodeId {
    node.parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        grid: ExpertGrid { layers: vec![LayerIdx(0)], n_experts: N_EXPERTS },
        expert_bytes: 10,
        min_nodes: None,
        min_replicas: 2,
        spare_replicas: 1,
        replace_after: PATIENCE,
        interval: Duration::from_secs(10),
    }
}

impl Model {
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        Self {
            view: View::default(),
            fit: Fit::default(),
            leader: Leader::new(policy, now),
            load: vec![vec![0.0; N_EXPERTS as usize]],
            slowness: BTreeMap::new(),
            now,
        }
    }

    fn with_nodes(nodes: &[&str]) -> Self {
        let mut model = Self::new(policy());
        for node in nodes {
            model.join(node, 10_000);
        }
        model.decide();
        model.pass(SETTLED_AFTER);
        model.settle();
        model
    }

    fn join(&mut self, node: &str, capacity_bytes: u64) {
        let record = NodeRecord { capacity_bytes, speed: 1.0, ..NodeRecord::default() };
        self.view.nodes.insert(id(node), record);
        self.view.resident.insert(id(node), ResidentRecord::default());
        self.fit.nodes.insert(id(node), "127.0.0.1:1".parse::<Endpoint>().unwrap());
    }

    fn lose(&mut self, node: &str) {
        self.view.nodes.remove(&id(node));
        self.view.resident.remove(&id(node));
        self.fit.nodes.remove(&id(node));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn decide(&mut self) -> Decision {
        let Self { view, fit, load, slowness, now, .. } = self;
        self.leader.decide(Seen { view, fit, load, slowness, now: *now })
    }

    /// Publishes and has the nodes follow until nothing happens; says what is waited for then.
    fn settle(&mut self) -> String {
        for _ in 0..200 {
            self.follow();
            match self.decide() {
                Decision::Publish(placement, _) => {
                    let none = PlacementRecord::default();
                    self.view.placement = Some(PlacementRecord { placement, ..none });
                    self.view.placement_key = ExpectedKey(Expected::Revision(Revision(1)));
                }
                Decision::Wait(why) => return why,
            }
        }
        panic!("it never settles: {:?}", self.view.placement);
    }

    /// Every node holds what is published.
    fn follow(&mut self) {
        let Some(of) = &self.view.placement else { return };
        for (node, held) in &mut self.view.resident {
            let assigned = of.placement.assignments.get(node).into_iter().flatten();
            held.resident = assigned.map(|id| (*id, [0; 32])).collect();
        }
    }

    /// Every expert is on a live node, as long as one has room.
    fn check_served(&self) {
        for expert in 0..N_EXPERTS {
            assert!(self.replicas(expert) > 0, "{expert} is nowhere: {:?}", self.view.placement);
        }
    }

    fn replicas(&self, expert: u32) -> usize {
        let held = self.view.resident.values();
        held.filter(|of| of.resident.contains_key(&ExpertId::new(0, expert))).count()
    }

    fn on(&self, node: &str) -> usize {
        self.view.resident.get(&id(node)).map_or(0, |of| of.resident.len())
    }

    fn epoch(&self) -> u64 {
        self.view.placement.as_ref().map_or(0, |of| of.placement.epoch.0)
    }
}

#[test]
fn at_first_the_leader_waits_until_no_more_nodes_come() {
    let mut model = Model::new(policy());
    assert_eq!(model.decide(), Decision::Wait("there is no node that may hold experts".into()));
    model.join("a", 10_000);
    assert_eq!(model.decide(), Decision::Wait("nodes are still coming".into()));
    model.pass(SETTLED_AFTER / 2);
    model.join("b", 10_000);
    model.decide();
    model.pass(SETTLED_AFTER / 2);
    assert_eq!(model.decide(), Decision::Wait("nodes are still coming".into()));
    model.pass(SETTLED_AFTER / 2);
    assert_eq!(model.settle(), "steady");
    assert_eq!((model.on("a"), model.on("b")), (6, 6));
}

#[test]
fn with_a_least_number_of_nodes_it_waits_for_just_these() {
    let mut model = Model::new(Policy { min_nodes: Some(2), ..policy() });
    model.join("a", 10_000);
    model.pass(10 * SETTLED_AFTER);
    assert_eq!(model.decide(), Decision::Wait("1 of 2 nodes are there".into()));
    model.join("b", 10_000);
    assert_eq!(model.settle(), "steady");
}

#[test]
fn a_node_that_is_back_soon_finds_its_experts() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    let (before, epoch) = (model.view.placement.clone(), model.epoch());
    model.lose("b");
    model.settle();
    model.pass(PATIENCE / 2);
    model.settle();
    assert_eq!(model.epoch(), epoch, "each expert has a node, so nothing moves");
    model.join("b", 10_000);
    let held = &before.unwrap().placement.assignments[&id("b")];
    assert_eq!(model.view.placement.as_ref().unwrap().placement.assignments[&id("b")], *held);
}

#[test]
fn a_node_that_stays_away_is_replaced() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    model.lose("b");
    model.settle();
    model.pass(PATIENCE);
    assert_eq!(model.settle(), "steady");
    assert_eq!((model.on("a"), model.on("c")), (6, 6));
    assert!(!model.view.placement.unwrap().placement.assignments.contains_key(&id("b")));
}

#[test]
fn an_expert_that_is_nowhere_is_placed_at_once() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    model.lose("b");
    model.settle();
    model.lose("c");
    model.settle();
    model.check_served();
    assert_eq!(model.on("a"), 6);
}

#[test]
fn a_drained_node_gives_everything_away_first() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    model.view.drains.insert(id("a"));
    assert_eq!(model.settle(), "steady");
    assert_eq!((model.on("a"), model.on("b"), model.on("c")), (0, 6, 6));
    model.view.drains.clear();
    assert_eq!(model.settle(), "steady");
    assert!(model.on("a") >= 3, "it takes its share again");
}

#[test]
fn a_new_node_takes_its_share() {
    let mut model = Model::with_nodes(&["a", "b"]);
    model.join("c", 10_000);
    assert_eq!(model.settle(), "steady");
    assert!((4..=5).contains(&model.on("c")), "{}", model.on("c"));
    assert!(model.on("a") + model.on("b") + model.on("c") <= 13);
}

#[test]
fn a_node_that_is_about_to_leave_hands_over_what_only_it_has() {
    let mut model = Model::new(Policy { min_replicas: 1, spare_replicas: 0, ..policy() });
    model.join("a", 10_000);
    model.join("b", 10_000);
    model.decide();
    model.pass(SETTLED_AFTER);
    model.settle();
    assert_eq!((model.on("a"), model.on("b")), (3, 3));
    model.view.nodes.get_mut(&id("a")).unwrap().draining = true;
    model.settle();
    assert_eq!(model.on("b"), 6);
}

#[test]
fn a_node_with_broken_weights_is_not_trusted_with_more() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    let broken = model.view.resident.get_mut(&id("a")).unwrap();
    broken.unloadable.insert(ExpertId::new(0, 1), "it is corrupt".into());
    model.settle();
    assert_eq!((model.on("a"), model.on("b"), model.on("c")), (0, 6, 6));
}

#[test]
fn a_node_that_has_not_said_what_it_holds_is_asked_for_nothing() {
    let mut model = Model::with_nodes(&["a", "b"]);
    model.join("c", 10_000);
    let said = model.view.resident.remove(&id("c")).unwrap();
    model.settle();
    let assigned = |model: &Model| {
        let placement = &model.view.placement.as_ref().unwrap().placement;
        placement.assignments.get(&id("c")).map_or(0, BTreeSet::len)
    };
    assert_eq!(assigned(&model), 0);
    model.view.resident.insert(id("c"), said);
    assert_eq!(model.settle(), "steady");
    assert!(assigned(&model) > 0);
}

#[test]
fn experts_that_do_not_fit_are_said() {
    let mut model = Model::new(policy());
    // Room for four experts each, one of which is for exchanging.
    model.join("a", 40);
    model.join("b", 40);
    model.decide();
    model.pass(SETTLED_AFTER);
    let why = model.settle();
    assert_eq!(why, "6 experts have too few replicas for want of room");
    assert_eq!((model.on("a"), model.on("b")), (3, 3));
}

#[test]
fn a_hot_expert_gets_another_replica_and_little_else_moves() {
    let mut model = Model::with_nodes(&["a", "b", "c", "d"]);
    let epoch = model.epoch();
    model.load = vec![vec![6000.0, 500.0, 500.0, 500.0, 500.0, 500.0]];
    assert_eq!(model.settle(), "steady");
    assert_eq!(model.epoch(), epoch, "it is not time to look");
    model.pass(Duration::from_secs(10));
    assert_eq!(model.settle(), "steady");
    assert_eq!(model.replicas(0), 3);
    // The same load again: nothing is to be gained.
    let epoch = model.epoch();
    model.pass(Duration::from_secs(10));
    model.settle();
    assert_eq!(model.epoch(), epoch);
}

/// What three nodes with an even load hold after three rounds of balancing, when c takes so many times as long.
fn with_c_slow(times: f64, speed: f64) -> [usize; 3] {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    model.view.nodes.get_mut(&id("c")).unwrap().speed = speed;
    model.load = vec![vec![1000.0; N_EXPERTS as usize]];
    model.slowness = [("a", 1.0), ("b", 1.1), ("c", times)].map(|(n, times)| (id(n), times)).into();
    for _ in 0..3 {
        model.pass(policy().interval);
        assert_eq!(model.settle(), "steady");
        model.check_served();
    }
    ["a", "b", "c"].map(|node| model.on(node))
}

#[test]
fn a_node_that_is_slow_loses_load() {
    let [a, b, c] = with_c_slow(10.0, 1.0);
    assert!(c <= 2 && a + b >= 11, "{a} {b} {c}");
    // A little is chance, and what was to be expected is no news.
    let even = with_c_slow(1.0, 1.0);
    assert_eq!(with_c_slow(2.5, 1.0), even);
    assert_eq!(with_c_slow(8.0, 0.25), with_c_slow(1.0, 0.25));
}

#[test]
fn little_load_says_nothing() {
    let mut model = Model::with_nodes(&["a", "b", "c", "d"]);
    let epoch = model.epoch();
    model.load = vec![vec![60.0, 5.0, 5.0, 5.0, 5.0, 5.0]];
    model.pass(Duration::from_secs(10));
    model.settle();
    assert_eq!(model.epoch(), epoch);
}

#[test]
fn load_is_looked_at_for_an_interval_before_anything_moves() {
    let mut model = Model::with_nodes(&["a", "b", "c", "d"]);
    let epoch = model.epoch();
    model.load = vec![vec![0.0; N_EXPERTS as usize]];
    model.pass(10 * policy().interval);
    model.settle();
    model.load = vec![vec![500.0, 500.0, 500.0, 500.0, 500.0, 6000.0]];
    model.settle();
    assert_eq!(model.epoch(), epoch);
    model.pass(policy().interval);
    model.settle();
    assert!(model.epoch() > epoch);
}

#[test]
fn a_new_leader_changes_nothing() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    let epoch = model.epoch();
    model.leader = Leader::new(policy(), model.now);
    assert_eq!(model.settle(), "steady");
    assert_eq!(model.epoch(), epoch);
}

#[test]
fn a_placement_that_only_routers_remember_is_published_again() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    let before = model.view.placement.clone().unwrap().placement;
    model.view.placement_key = ExpectedKey::default();
    assert_eq!(model.settle(), "steady");
    let after = model.view.placement.clone().unwrap().placement;
    assert_eq!((after.epoch.0, &after.assignments), (before.epoch.0 + 1, &before.assignments));
}

#[test]
fn a_lost_placement_is_made_again_from_what_the_nodes_hold() {
    let mut model = Model::with_nodes(&["a", "b", "c"]);
    let before = model.view.placement.take().unwrap().placement.assignments;
    model.view.placement_key = ExpectedKey::default();
    model.leader = Leader::new(policy(), model.now);
    model.decide();
    model.pass(SETTLED_AFTER);
    assert_eq!(model.settle(), "steady");
    assert_eq!(model.view.placement.unwrap().placement.assignments, before);
}

#[derive(Clone, Debug)]
enum Event {
    Lose(usize),
    Join(usize),
    Leave(usize),
    Drain(usize),
    Undo,
    Pass(u64),
    NewLeader,
    Load(Vec<f64>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..4).prop_map(Event::Lose),
        (0usize..4).prop_map(Event::Join),
        (0usize..4).prop_map(Event::Leave),
        (0usize..4).prop_map(Event::Drain),
        Just(Event::Undo),
        (0u64..40).prop_map(Event::Pass),
        Just(Event::NewLeader),
        prop::collection::vec(0.0f64..5000.0, N_EXPERTS as usize).prop_map(Event::Load),
    ]
}

proptest! {
    /// Whatever comes, it settles, and while a node is there that may hold experts, each expert is on one.
    #[test]
    fn every_history_ends_with_every_expert_served(events in prop::collection::vec(event(), 1..30)) {
        let names = ["a", "b", "c", "d"];
        let mut model = Model::with_nodes(&names);
        for event in events {
            match event {
                Event::Lose(n) if model.view.nodes.len() > 1 => model.lose(names[n]),
                Event::Join(n) => model.join(names[n], 10_000),
                Event::Leave(n) => {
                    if let Some(node) = model.view.nodes.get_mut(&id(names[n])) {
                        node.draining = true;
                    }
                }
                Event::Drain(n) => drop(model.view.drains.insert(id(names[n]))),
                Event::Undo => model.view.drains.clear(),
                Event::Pass(seconds) => model.pass(Duration::from_secs(seconds)),
                Event::NewLeader => model.leader = Leader::new(policy(), model.now),
                Event::Load(load) => model.load = vec![load],
                Event::Lose(_) => {}
            }
            let stays = |(id, node): (&NodeId, &NodeRecord)| {
                !node.draining && !model.view.drains.contains(id)
            };
            let any = model.view.nodes.iter().any(stays);
            // A whole cluster of new nodes has nothing to lose.
            let held = model.view.resident.values().any(|of| !of.resident.is_empty());
            if any && held {
                model.settle();
                model.check_served();
            }
        }
    }
}

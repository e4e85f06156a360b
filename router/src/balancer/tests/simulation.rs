//! Whole clusters without processes: real mirrors, views, tables and leaders, over the real store's state, in an order of
//! events that a seed decides. What must always hold is checked after each event; what must come, once all faults end.

mod checks;
mod client;
mod faults;
mod node;
mod router;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use guildhall_cluster::Key;
use guildhall_cluster::store::{LeaseId, State};
use guildhall_placement::Placement;
use guildhall_transport::Handshake;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use client::{Client, PREFIX, Store};
use faults::Faults;
use node::Node;
use router::{Put, Router};

const N_EXPERTS: u32 = 8;
/// Histories of each kind in a run.
const SEEDS: u64 = 300;
/// The history that [`replay`] goes through.
const REPLAYED: (u64, Faults) = (0, Faults::ANY);
/// Events with faults in each history.
const EVENTS: usize = 1200;
/// What must come has come after so many fair rounds.
const ROUNDS: usize = 400;
/// Of time in a fair round.
const ROUND: Duration = Duration::from_millis(250);
/// Events that a failure tells.
const TOLD: usize = 40;

fn handshake() -> Handshake {
    Handshake {
        protocol_version: 1,
        model_fingerprint: vec![7; 32],
        dtype: "bf16".into(),
        hidden_size: 8,
        expert_weights: "bf16".into(),
    }
}

/// Everything there is.
struct World {
    rng: ChaCha8Rng,
    faults: Faults,
    began: Instant,
    now: Instant,
    store: Store,
    nodes: Vec<Node>,
    routers: Vec<Router>,
    /// Placements on their way to the store, which may come late and in any order.
    puts: Vec<Put>,
    /// What the store has.
    placement: Placement,
    load: Vec<Vec<f64>>,
    log: VecDeque<String>,
    /// What must not be, if it is.
    broken: Option<String>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let now = Instant::now();
        // No node has room for all, and three have room for two replicas of each, and one expert each for exchanging.
        let room = |rng: &mut ChaCha8Rng| rng.random_range(7..9);
        Self {
            nodes: (0..rng.random_range(3..5)).map(|i| Node::new(i, room(&mut rng))).collect(),
            routers: (0..rng.random_range(2..4)).map(Router::new).collect(),
            rng,
            faults,
            began: now,
            now,
            store: Store { state: State::new(LeaseId(0)), away: false },
            puts: Vec::new(),
            placement: Placement::default(),
            load: vec![vec![1000.0; N_EXPERTS as usize]],
            log: VecDeque::new(),
            broken: None,
        }
    }

    fn tell(&mut self, what: String) {
        if self.log.len() == TOLD {
            self.log.pop_front();
        }
        let at = self.now - self.began;
        self.log.push_back(format!("{:8.3} {what}", at.as_secs_f64()));
    }

    fn n_clients(&self) -> usize {
        self.nodes.len() + self.routers.len()
    }

    /// A client with the store that it talks to; nothing for a node that is down.
    fn client(&mut self, index: usize) -> Option<(&mut Client, &mut Store)> {
        let client = match index.checked_sub(self.nodes.len()) {
            Some(router) => &mut self.routers[router].client,
            None => {
                Some(&mut self.nodes[index]).filter(|node| node.up).map(|node| &mut node.client)?
            }
        };
        Some((client, &mut self.store))
    }

    fn name(&self, index: usize) -> String {
        match index.checked_sub(self.nodes.len()) {
            Some(router) => self.routers[router].name.clone(),
            None => self.nodes[index].id.to_string(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if !self.store.away {
            self.store.state.expire(self.now);
        }
    }

    fn any_client(&mut self) -> usize {
        let n = self.n_clients();
        self.rng.random_range(0..n)
    }

    fn any_node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes.len())
    }

    /// One event.
    fn step(&mut self) {
        let millis = self.rng.random_range(0..15);
        self.pass(Duration::from_millis(millis));
        match self.rng.random_range(0..100) {
            0..28 => {
                let (index, most) = (self.any_client(), self.rng.random_range(1..4));
                self.hear(index, most);
            }
            28..42 => {
                let index = self.any_client();
                self.publish(index);
            }
            42..56 => {
                let (index, now) = (self.any_client(), self.now);
                if let Some((client, store)) = self.client(index) {
                    client.beat(store, now);
                }
            }
            56..67 => {
                let index = self.any_node();
                self.load(index);
            }
            67..72 => {
                let index = self.any_node();
                self.look(index);
            }
            72..85 => {
                let index = self.rng.random_range(0..self.routers.len());
                self.route(index);
            }
            85..92 if !self.puts.is_empty() => {
                let index = self.rng.random_range(0..self.puts.len());
                self.land(index);
            }
            92..96 => {
                let millis = self.rng.random_range(50..self.faults.longest_pause);
                self.pass(Duration::from_millis(millis));
            }
            96.. => self.fault(),
            _ => {}
        }
        self.check();
    }

    fn hear(&mut self, index: usize, most: usize) {
        let now = self.now;
        let Some((client, store)) = self.client(index) else { return };
        client.connect(store, now);
        client.deliver(store, most);
    }

    fn publish(&mut self, index: usize) {
        let now = self.now;
        if let Some((client, store)) = self.client(index) {
            client.publish(store, now);
        }
    }

    fn load(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.up
            && let Some(expert) = node.load()
        {
            let what = format!("{} loads {expert}", node.id);
            self.tell(what);
        }
    }

    fn look(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !node.up {
            return;
        }
        for expert in node.look(self.now) {
            let what = format!("{} forgets {expert}", self.nodes[index].id);
            self.tell(what);
            self.check_forgotten(index, expert);
        }
    }

    fn route(&mut self, index: usize) {
        let router = &mut self.routers[index];
        // A leader waits for the answer to its last write.
        let waits = self.puts.iter().any(|put| put.by == router.name);
        let put = router.act(&self.load, self.now).filter(|_| !waits);
        self.check_table(index);
        if let Some(put) = put {
            self.tell(format!("{} writes {}", put.by, text(&put.record.placement)));
            self.puts.push(put);
        }
    }

    /// A write reaches the store.
    fn land(&mut self, index: usize) {
        let Put { by, record, expected } = self.puts.swap_remove(index);
        if self.store.away {
            return;
        }
        let key = Key::Placement.under(PREFIX);
        let epoch = record.placement.epoch;
        let result = self.store.state.put(&key, &record.encode(), None, expected);
        self.tell(format!("the write of {by}, epoch {epoch}: {result:?}"));
        if result.is_err() {
            return;
        }
        if epoch <= self.placement.epoch {
            self.fail(format!("epoch {epoch} follows {}", self.placement.epoch));
        }
        self.placement = record.placement;
    }

    /// Everything that can happen without a fault happens once.
    fn fair_round(&mut self) {
        self.pass(ROUND);
        let now = self.now;
        for index in 0..self.n_clients() {
            self.hear(index, usize::MAX);
            if let Some((client, store)) = self.client(index) {
                client.beat(store, now);
                client.publish(store, now);
            }
        }
        for index in 0..self.nodes.len() {
            self.load(index);
            self.look(index);
        }
        for index in 0..self.routers.len() {
            self.route(index);
        }
        while !self.puts.is_empty() {
            self.land(0);
        }
        self.check();
    }

    fn wipe(&mut self) {
        self.store.state = State::new(LeaseId(self.rng.random_range(0..1 << 40)));
        self.placement = Placement::default();
        for index in 0..self.n_clients() {
            if let Some((client, _)) = self.client(index) {
                client.disconnect();
            }
        }
    }
}

/// As `epoch 3: a 1 2, b 3`.
fn text(placement: &Placement) -> String {
    let held = placement.assignments.iter().map(|(node, held)| {
        let experts: Vec<String> = held.iter().map(|id| id.expert.to_string()).collect();
        format!("{node} {}", experts.join(" "))
    });
    format!("epoch {}: {}", placement.epoch, held.collect::<Vec<_>>().join(", "))
}

/// One history: faults, then none until all is well.
fn run(seed: u64, faults: Faults) -> Result<(), String> {
    let mut world = World::new(seed, faults);
    for _ in 0..EVENTS {
        world.step();
        world.told(seed)?;
    }
    world.heal();
    let mut why = String::new();
    for _ in 0..ROUNDS {
        world.fair_round();
        world.told(seed)?;
        match world.unsettled() {
            None => return Ok(()),
            Some(reason) => why = reason,
        }
    }
    world.fail(format!("it does not settle: {why}; {}", text(&world.placement)));
    world.told(seed)
}

fn check_all(faults: Faults) {
    let failures: Vec<String> = (0..SEEDS).filter_map(|seed| run(seed, faults).err()).collect();
    if let Some(first) = failures.first() {
        panic!("{} of {SEEDS} histories fail; the first:\n{first}", failures.len());
    }
}

#[test]
fn a_cluster_without_crashes_loses_nothing() {
    check_all(Faults::NONE);
}

#[test]
fn a_cluster_with_gaps_comes_back() {
    check_all(Faults::GAPS);
}

#[test]
fn a_cluster_with_crashes_comes_back() {
    check_all(Faults::CRASHES);
}

#[test]
fn a_cluster_with_crashes_and_gaps_comes_back() {
    check_all(Faults::ANY);
}

/// Tells one history; see [`REPLAYED`].
#[test]
fn replay() {
    let (seed, faults) = REPLAYED;
    run(seed, faults).unwrap_or_else(|history| panic!("{history}"));
}

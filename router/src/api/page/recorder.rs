//! Looks at the router once a second and remembers the last minutes; answers the live page from that and from now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guildhall_cluster::{BalanceReport, Peer as _, PeerClients};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_telemetry::MetricsPage;

use super::changes::Changes;
use super::counts;
use super::history::{History, Sample};
use super::live::{
    BalanceNow, EngineNow, ExpertsNow, Holders, LATENCY_WINDOW, Live, NodeLine, Query, RouterNow,
    latencies, sample_lines,
};
use super::roster::{Known, Roster, Seen, progress};
use crate::api::frontend::Frontend;
use crate::balancer::{Balancer, LoadCounter};
use crate::membership::Members;
use crate::nodes::Topology;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A leader that does not answer in this time says nothing of this second.
const LEADER_TIMEOUT: Duration = Duration::from_millis(500);
/// With fewer (token, expert) pairs in the leader's window a layer's balancedness is chance.
const LEAST_PAIRS: f64 = 20.0;

/// What the page is made of.
pub(crate) struct Recorder {
    frontend: Frontend,
    metrics: MetricsPage,
    started: Instant,
    started_unix_ms: u64,
    /// What is remembered; held for no longer than an answer takes to be put together.
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    history: History,
    roster: Roster,
    changes: Changes,
    report: Option<BalanceReport>,
    topology: Arc<Topology>,
    /// Of `topology`.
    version: u64,
}

impl Recorder {
    pub(crate) fn new(frontend: Frontend, metrics: MetricsPage) -> Self {
        let (started, started_unix_ms) = (Instant::now(), unix_ms());
        Self { frontend, metrics, started, started_unix_ms, memory: Mutex::default() }
    }

    /// Records for ever.
    pub(crate) async fn run(&self) {
        let mut peers = PeerClients::default();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let report = match self.frontend.cluster() {
                Some(cluster) => balance(cluster, &mut peers).await,
                None => None,
            };
            self.record(report);
        }
    }

    fn record(&self, report: Option<BalanceReport>) {
        let mut sample = self.sample();
        let pairs = self.frontend.load().map(|load| load.load().tokens);
        let mut memory = self.memory();
        memory.report = report;
        sample.balancedness = balancedness(memory.report.as_ref());
        if let Some(cluster) = self.frontend.cluster() {
            memory.look_at(cluster, sample.unix_ms);
            memory.note_placement(cluster, sample.unix_ms);
        }
        if let Some(pairs) = pairs {
            memory.history.add_pairs(sample.at, &pairs);
        }
        memory.history.add(sample);
    }

    /// What the router is doing now.
    fn sample(&self) -> Sample {
        let mut counts = counts::read(&self.metrics.render());
        for (node, layers) in self.frontend.load().map(LoadCounter::asked).unwrap_or_default() {
            counts.nodes.entry(node.to_string()).or_default().pairs = layers.iter().sum();
        }
        let engine =
            self.frontend.serving().ok().map(|serving| serving.engine.status().occupancy());
        let (running, waiting) = engine.map_or((0, 0), |seen| (seen.running, seen.waiting));
        let (at, unix_ms) = (self.started.elapsed(), unix_ms());
        Sample { at, unix_ms, running, waiting, counts, balancedness: Vec::new() }
    }

    /// Everything that a page asks for. Nodes are looked at anew, so that a page knows at once what the router knows.
    pub(super) fn live(&self, query: Query) -> Live {
        let now = self.sample();
        let router = self.router(now.unix_ms);
        let mut memory = self.memory();
        let mut nodes = Vec::new();
        if let Some(cluster) = self.frontend.cluster() {
            memory.look_at(cluster, now.unix_ms);
            nodes = memory.node_lines(cluster, &now);
        }
        memory.follow(self.frontend.health().topology());
        let none = Sample::default();
        let before = memory.history.before(now.at, LATENCY_WINDOW).unwrap_or(&none);
        Live {
            router,
            engine: self.engine(),
            latencies: latencies(&now, before),
            ended: now.counts.ended.clone(),
            next: memory.history.next(),
            samples: sample_lines(&memory.history, query.since),
            nodes,
            experts: self.frontend.load().map(|load| memory.experts(load, now.at, query)),
            balance: memory.report.as_ref().map(BalanceNow::of),
            changes: memory.changes.iter().cloned().collect(),
        }
    }

    fn router(&self, unix_ms: u64) -> RouterNow {
        let takes_traffic = self.frontend.health().takes_traffic();
        let cluster = self.frontend.cluster();
        let seen = cluster.map(Balancer::members).unwrap_or_default();
        let topology = self.frontend.health().topology().unwrap_or_default();
        RouterNow {
            started_unix_ms: self.started_unix_ms,
            unix_ms,
            uptime_seconds: self.frontend.uptime().as_secs(),
            version: env!("CARGO_PKG_VERSION"),
            name: cluster.map(|cluster| cluster.router().to_owned()),
            leader: seen.view.leader.clone(),
            routers: seen.view.routers.len(),
            connected: seen.view.connected,
            epoch: topology.table.epoch.0,
            missing_experts: topology.table.missing().len(),
            takes_traffic: takes_traffic.is_ok(),
            reason: takes_traffic.err().unwrap_or_default(),
        }
    }

    fn engine(&self) -> Option<EngineNow> {
        let serving = self.frontend.serving().ok()?;
        let seen = serving.engine.status().occupancy();
        Some(EngineNow {
            model: serving.model.name.clone(),
            family: serving.model.family.clone(),
            requests: serving.admission.taken(),
            running: seen.running,
            waiting: seen.waiting,
            kv_blocks: seen.blocks,
            kv_blocks_used: seen.blocks_held,
            preemptions: seen.preemptions,
            prefix_queried_tokens: seen.queried_tokens,
            prefix_hit_tokens: seen.hit_tokens,
        })
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Takes in how nodes and placement are.
    fn look_at(&mut self, cluster: &Balancer, unix_ms: u64) {
        let (members, links) = (cluster.members(), cluster.counter().links().all());
        let none = BalanceReport::default();
        let report = self.report.as_ref().unwrap_or(&none);
        let (slow, now) = (&report.slow_nodes, Instant::now());
        let turns =
            self.roster.update(&Seen { members: &members, links: &links, slow, now, unix_ms });
        self.changes.note_turns(turns, unix_ms);
    }

    /// Takes in the placement; right after the report, so that the two fit each other.
    fn note_placement(&mut self, cluster: &Balancer, unix_ms: u64) {
        let members = cluster.members();
        let epoch = members.view.placement.as_ref().map_or(0, |of| of.placement.epoch.0);
        let reasons = self.report.as_ref().map_or(&[][..], |report| &report.reasons);
        self.changes.note_placement(epoch, reasons, unix_ms);
    }

    /// Takes over where experts are.
    fn follow(&mut self, topology: Option<Arc<Topology>>) {
        if let Some(topology) = topology.filter(|now| !Arc::ptr_eq(now, &self.topology)) {
            (self.topology, self.version) = (topology, self.version + 1);
        }
    }

    fn node_lines(&self, cluster: &Balancer, now: &Sample) -> Vec<NodeLine> {
        let (members, slowness) = (cluster.members(), cluster.counter().load().slowness);
        let (seconds, recent) = self.history.of_nodes(now);
        let line = |(node, known): (&NodeId, &Known)| {
            let counted = now.counts.nodes.get(node.as_str()).cloned().unwrap_or_default();
            let recent = recent.get(node.as_str()).cloned().unwrap_or_default();
            let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
            let mean = |sum: f64| sum / recent.calls as f64 * 1e3;
            let parts = [recent.queue, recent.compute, recent.network];
            NodeLine {
                slowness: slowness.get(node).copied(),
                pairs_per_second: rate(recent.pairs),
                calls_per_second: rate(recent.calls),
                call_ms: (recent.calls > 0).then(|| parts.map(mean)),
                failures: counted.failures,
                hedges: counted.hedges,
                ..node_line(&members, node, known)
            }
        };
        self.roster.nodes.iter().map(line).collect()
    }

    fn experts(&self, load: &LoadCounter, now: Duration, query: Query) -> ExpertsNow {
        let grid = load.grid();
        let per_layer = grid.n_experts.max(1) as usize;
        let recent = self.history.recent(now, &load.load().tokens, query.window);
        let index = query.expert.and_then(|(layer, expert)| {
            let place = grid.layers.iter().position(|of| of.0 == layer)?;
            (expert < grid.n_experts).then_some(place * per_layer + expert as usize)
        });
        ExpertsNow {
            layers: grid.layers.iter().map(|layer| layer.0).collect(),
            n_experts: grid.n_experts,
            seconds: recent.time.as_secs_f64(),
            pairs: recent.pairs.chunks(per_layer).map(<[u32]>::to_vec).collect(),
            holders: (self.version != query.holders).then(|| self.holders(load)),
            over_time: index.map(|index| self.history.of_expert(index)),
        }
    }

    fn holders(&self, load: &LoadCounter) -> Holders {
        let (grid, table) = (load.grid(), &self.topology.table);
        let of_layer = |layer: u32| -> Vec<Vec<usize>> {
            let experts = 0..grid.n_experts;
            experts.map(|expert| table.replicas(ExpertId::new(layer, expert)).to_vec()).collect()
        };
        Holders {
            version: self.version,
            nodes: table.nodes.iter().map(ToString::to_string).collect(),
            of: grid.layers.iter().map(|layer| of_layer(layer.0)).collect(),
        }
    }
}

/// What is known of a node without its calls.
fn node_line(members: &Members, node: &NodeId, known: &Known) -> NodeLine {
    let Known { record, state, reason, since_unix_ms, .. } = known;
    let (assigned_experts, resident_experts) = progress(members, node);
    NodeLine {
        node: node.to_string(),
        state: *state,
        reason: reason.clone(),
        since_unix_ms: *since_unix_ms,
        address: record.address.clone(),
        device: record.device.clone(),
        zone: record.zone.clone(),
        instruction_set: record.instruction_set.clone(),
        version: record.version.clone(),
        assigned_experts,
        resident_experts,
        resident_bytes: members.view.resident.get(node).map_or(0, |of| of.resident_bytes),
        capacity_bytes: record.capacity_bytes,
        speed: record.speed,
        slowness: None,
        pairs_per_second: 0.0,
        calls_per_second: 0.0,
        call_ms: None,
        failures: 0,
        hedges: 0,
    }
}

/// What the leader says, which may be this router.
async fn balance(cluster: &Balancer, peers: &mut PeerClients) -> Option<BalanceReport> {
    if let Some(own) = cluster.balance() {
        return Some(own);
    }
    let seen = cluster.members();
    let leader = seen.view.routers.get(seen.view.leader.as_ref()?)?;
    tokio::time::timeout(LEADER_TIMEOUT, peers.balance(leader)).await.ok()?.ok()
}

fn balancedness(report: Option<&BalanceReport>) -> Vec<Option<f32>> {
    let layers = report.into_iter().flat_map(|report| &report.layers);
    let of = |layer: &guildhall_cluster::LayerBalance| {
        (layer.pairs >= LEAST_PAIRS).then_some(layer.nodes.balancedness as f32)
    };
    layers.map(of).collect()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

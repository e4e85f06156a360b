//! Whoever leads the routers places experts: reads the load, decides, publishes, a step at a time. Serving never waits
//! for it.

mod decide;
mod link_states;
mod load;
mod measure;

pub(crate) use decide::Policy;
pub(crate) use link_states::{LinkState, LinkStates};
pub(crate) use load::LoadCounter;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guildhall_cluster::store::{Expected, Store};
use guildhall_cluster::{
    BalanceReport, Key, Peer, PeerClients, PlacementRecord, Rebalanced, RouterLoad, encode_drain,
};
use guildhall_ids::NodeId;
use guildhall_placement::{Placement, Reason};
use tokio::sync::{mpsc, oneshot, watch};

use crate::membership::Members;
use crate::metrics;
use crate::nodes::Topology;
use decide::{Decision, Leader, Seen, slow_nodes};
use load::{LoadWindow, slowness};
use measure::measure;

/// Time between two looks when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Wishes of admins that may wait.
const MAX_REQUESTS: usize = 16;
/// Reasons that are kept to be shown.
pub(crate) const KEPT_REASONS: usize = 200;

/// What the leader does, for whoever asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Balancer(Arc<Shared>);

struct Shared {
    router: String,
    prefix: String,
    fingerprint: Vec<u8>,
    policy: Policy,
    counter: Arc<LoadCounter>,
    members: watch::Receiver<Arc<Members>>,
    requests: mpsc::Sender<Request>,
    /// Guards the leader's memory; held for no longer than a decision.
    leading: Mutex<Leading>,
}

/// Something that an admin wants to be written into the store.
pub(crate) struct Request {
    node: NodeId,
    /// Whether the node shall hold nothing, or may hold experts again.
    drain: bool,
    answer: oneshot::Sender<Result<(), String>>,
}

struct Leading {
    leader: Option<Leader>,
    window: LoadWindow,
    /// How long each node takes for a call, over the node in the middle.
    slowness: BTreeMap<NodeId, f64>,
    report: BalanceReport,
}

impl Balancer {
    pub(crate) fn new(
        router: String,
        (prefix, fingerprint): (String, Vec<u8>),
        policy: Policy,
        counter: Arc<LoadCounter>,
        members: watch::Receiver<Arc<Members>>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let window = LoadWindow::new(&policy.grid);
        let (slowness, report) = (BTreeMap::new(), BalanceReport::default());
        let leading = Mutex::new(Leading { leader: None, window, slowness, report });
        let (requests, received) = mpsc::channel(MAX_REQUESTS);
        let shared =
            Shared { router, prefix, fingerprint, policy, counter, members, requests, leading };
        (Self(Arc::new(shared)), received)
    }

    /// Leads while this router is the leader; ends when the members are not followed any more.
    pub(crate) async fn run<S: Store>(self, store: S, mut requests: mpsc::Receiver<Request>) {
        let mut members = self.0.members.clone();
        let mut peers = PeerClients::default();
        loop {
            let seen = Arc::clone(&members.borrow_and_update());
            if seen.leader_is(&self.0.router) {
                let others = seen.view.routers.iter().filter(|(name, _)| **name != self.0.router);
                let loads = peers.loads(others.map(|(_, router)| router)).await;
                self.lead(&store, loads).await;
            } else {
                self.leading(|leading| leading.leader = None);
            }
            tokio::select! {
                // Nodes have come, gone or loaded something, or somebody else leads.
                changed = members.changed() => if changed.is_err() { return },
                Some(request) = requests.recv() => self.write(&store, request).await,
                // The load changes without a sign.
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// One look and, if something is to be published, one attempt to do so. Whatever comes of it, the next look starts
    /// from what is published then.
    async fn lead<S: Store>(&self, store: &S, mut loads: Vec<RouterLoad>) {
        let seen = Arc::clone(&self.0.members.borrow());
        loads.push(self.load());
        let decision = self.leading(|leading| {
            leading.window.update(&loads, Instant::now());
            leading.slowness = slowness(&loads);
            let (leader, load, slowness) = leading.leader(&self.0.policy);
            let look = look(&seen, &load, &slowness);
            let decision = leader.decide(look);
            let slow = slow_nodes(look);
            leading.report.layers = measure(&self.0.policy.grid, &seen.view, &load);
            leading.note_slow(slow);
            decision
        });
        let (placement, reasons) = match decision {
            Decision::Wait(state) => {
                self.leading(|leading| leading.report.state = state);
                return;
            }
            Decision::Publish(placement, reasons) => (placement, reasons),
        };
        let record = PlacementRecord {
            model_fingerprint: self.0.fingerprint.clone(),
            placement: placement.clone(),
        };
        let key = Key::Placement.under(&self.0.prefix);
        let expected = seen.view.placement_key.0;
        match store.put(&key, &record.encode(), None, expected).await {
            Ok(_) => self.published(&placement, reasons),
            // Somebody else has published: look again.
            Err(guildhall_cluster::Error::Conflict) => {}
            Err(error) => self.failed(&error.to_string()),
        }
        // Until the mirror shows it, the next attempt would only conflict.
        let mut members = self.0.members.clone();
        let shown = members.wait_for(|seen| {
            seen.view.placement.as_ref().is_some_and(|of| of.placement.epoch >= placement.epoch)
        });
        let _ = tokio::time::timeout(TICK, shown).await;
    }

    /// Says in the store that a node shall hold nothing, or that it may.
    async fn write<S: Store>(&self, store: &S, request: Request) {
        let Request { node, drain, answer } = request;
        let key = Key::Drain(node.clone()).under(&self.0.prefix);
        let written = match drain {
            true => store.put(&key, &encode_drain(&self.0.router), None, Expected::Anything).await,
            false => store.delete(&key, Expected::Anything).await,
        };
        tracing::info!(%node, drain, "an admin wants it");
        // Whoever asked may have gone.
        let _ = answer.send(written.map(|_| ()).map_err(|error| error.to_string()));
    }

    /// Asks for a node to hold nothing, or lets it hold experts again.
    ///
    /// # Errors
    /// Why that cannot be written down.
    pub(crate) async fn drain_node(&self, node: NodeId, drain: bool) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let stopped = || "this router is shutting down".to_owned();
        let request = Request { node, drain, answer };
        self.0.requests.send(request).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    fn published(&self, placement: &Placement, reasons: Vec<Reason>) {
        for reason in reasons.iter().take(KEPT_REASONS) {
            tracing::debug!("{reason}");
        }
        let (loads, drops) = (reasons.iter().filter(|r| r.loads).count(), reasons.len());
        tracing::info!(
            epoch = %placement.epoch, loads, drops = drops - loads, "placement published"
        );
        metrics::PLACEMENTS.add(&[], 1);
        metrics::MOVES.add(&["load"], loads as u64);
        metrics::MOVES.add(&["drop"], (drops - loads) as u64);
        self.leading(|leading| {
            leading.report.last_change_unix_ms = unix_ms();
            leading.report.state = "rolling out".into();
            if !reasons.is_empty() {
                let texts = reasons.iter().take(KEPT_REASONS).map(ToString::to_string);
                leading.report.reasons = texts.collect();
            }
        });
    }

    fn failed(&self, error: &str) {
        tracing::warn!(error, "the placement could not be published; trying again");
        self.leading(|leading| {
            leading.report.last_failure_unix_ms = unix_ms();
            leading.report.last_failure = error.to_owned();
        });
    }

    /// Whether this router leads.
    pub(crate) fn leads(&self) -> bool {
        self.0.members.borrow().leader_is(&self.0.router)
    }

    /// The name of this router.
    pub(crate) fn router(&self) -> &str {
        &self.0.router
    }

    /// What this router has counted.
    pub(crate) fn counter(&self) -> &LoadCounter {
        &self.0.counter
    }

    /// How many experts of the model can be computed nowhere.
    pub(crate) fn missing(&self, seen: &Members) -> usize {
        Topology::build(&self.0.policy.grid, &seen.view, &seen.fit).table.missing().len()
    }

    /// What the members of the cluster are, as this router sees them.
    pub(crate) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.0.members.borrow())
    }

    fn leading<T>(&self, look: impl FnOnce(&mut Leading) -> T) -> T {
        look(&mut self.0.leading.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Peer for Balancer {
    fn load(&self) -> RouterLoad {
        self.0.counter.load()
    }

    fn balance(&self) -> Option<BalanceReport> {
        self.leads().then(|| self.leading(|leading| leading.report.clone()))
    }

    /// Lets the next steps lead to the new placement unless it is only to be shown.
    fn rebalance(&self, dry_run: bool) -> Option<Rebalanced> {
        let seen = self.members();
        if !seen.leader_is(&self.0.router) {
            return None;
        }
        let (reasons, gain) = self.leading(|leading| {
            let (leader, load, slowness) = leading.leader(&self.0.policy);
            let look = look(&seen, &load, &slowness);
            if dry_run { leader.preview(look) } else { leader.rebalance(look) }
        });
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        if !dry_run {
            tracing::info!(changes = reasons.len(), gain, "rebalancing, because an admin said so");
            self.leading(|leading| {
                leading.report.reasons = reasons.iter().take(KEPT_REASONS).cloned().collect();
            });
        }
        Some(Rebalanced { reasons, gain })
    }
}

impl Leading {
    /// The leader, and what it goes by: the load, and how slow the nodes are.
    fn leader(&mut self, policy: &Policy) -> (&mut Leader, Vec<Vec<f64>>, BTreeMap<NodeId, f64>) {
        let (load, slowness) = (self.window.layers(), self.slowness.clone());
        let leader = self.leader.get_or_insert_with(|| Leader::new(policy.clone(), Instant::now()));
        (leader, load, slowness)
    }

    /// Says which nodes are slow, each once.
    fn note_slow(&mut self, slow: BTreeMap<NodeId, f64>) {
        for (node, times) in &slow {
            if !self.report.slow_nodes.contains_key(node) {
                tracing::warn!(%node, times, "expert node is slow: it shall hold less");
            }
        }
        self.report.slow_nodes = slow;
    }
}

fn look<'a>(
    seen: &'a Members,
    load: &'a [Vec<f64>],
    slowness: &'a BTreeMap<NodeId, f64>,
) -> Seen<'a> {
    Seen { view: &seen.view, fit: &seen.fit, load, slowness, now: Instant::now() }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "tests/simulation.rs"]
mod simulation;

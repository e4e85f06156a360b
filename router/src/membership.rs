//! This router's place in the cluster: says who it is, stands for leader, and follows nodes and placement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use guildhall_cluster::store::Store;
use guildhall_cluster::{Key, RouterRecord, Session, SessionOptions, View};
use guildhall_placement::ExpertGrid;
use guildhall_transport::Handshake;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nodes::{Fit, NodeGate, Topology};

/// What is known of the cluster at one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Members {
    pub(crate) view: View,
    pub(crate) fit: Fit,
}

impl Members {
    /// Whether this router leads, as far as can be known.
    pub(crate) fn leader_is(&self, router: &str) -> bool {
        self.view.connected && self.view.leader.as_deref() == Some(router)
    }
}

/// A router that follows the cluster.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) members: watch::Receiver<Arc<Members>>,
}

/// What a router is to the others.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) record: RouterRecord,
    pub(crate) handshake: Handshake,
    pub(crate) grid: ExpertGrid,
    pub(crate) prefix: String,
}

impl Membership {
    /// Joins the cluster of a store until `stop`; `tasks` end with it.
    pub(crate) fn start<S: Store>(
        store: S,
        identity: Identity,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (session, task) = Session::new(store, &identity.prefix, SessionOptions::default());
        let key = Key::Router(identity.name.clone()).under(&identity.prefix);
        session.publish(key, identity.record.encode());
        let key = Key::Leader.under(&identity.prefix);
        session.claim(key, identity.name.clone().into_bytes());
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = task.run(stop).await {
                tracing::error!(%error, "the cluster is not followed any more");
            }
        });
        let topology = Arc::new(ArcSwap::from_pointee(Topology::default()));
        let (publish, members) = watch::channel(Arc::default());
        tasks.spawn(follow(identity, session, Arc::clone(&topology), publish));
        Self { topology, members }
    }

    /// Waits until every expert has a home.
    pub(crate) async fn complete(&mut self) {
        while !self.topology.load().complete {
            // The sender lives as long as the process follows the cluster.
            if self.members.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Publishes each change of what is known as a new snapshot, until the session ends.
async fn follow(
    identity: Identity,
    mut session: Session,
    topology: Arc<ArcSwap<Topology>>,
    members: watch::Sender<Arc<Members>>,
) {
    let mut gate = NodeGate::new(identity.handshake);
    let mut before = Arc::new(Members::default());
    loop {
        let view = View::read(&session.mirror(), &identity.prefix);
        let now = Arc::new(Members { fit: gate.look(&view), view });
        let next = Topology::build(&identity.grid, &now.view, &now.fit);
        report_nodes(&before, &now);
        report_cluster(&before, &now);
        let last = topology.load_full();
        if *last != next {
            report_topology(&last, &next);
            topology.store(Arc::new(next));
        }
        members.send_replace(Arc::clone(&now));
        before = now;
        if !session.changed().await {
            return;
        }
        // Nodes that load say so often; a table for each time would be for nobody.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Logs which nodes have come, gone, and why one is not used.
fn report_nodes(before: &Members, now: &Members) {
    for (node, reason) in &now.fit.refused {
        if before.fit.refused.get(node) != Some(reason) {
            tracing::error!(%node, reason, "expert node refused");
        }
    }
    for node in before.view.nodes.keys().filter(|id| !now.view.nodes.contains_key(id)) {
        tracing::warn!(%node, "expert node lost");
    }
    for (node, record) in &now.view.nodes {
        let known = before.view.nodes.get(node);
        if known.is_none_or(|known| known.instance != record.instance) {
            let (address, device) = (&record.address, &record.device);
            tracing::info!(%node, address, device, zone = record.zone, "expert node joined");
        }
        if record.draining && known.is_some_and(|known| !known.draining) {
            tracing::info!(%node, "expert node is about to leave");
        }
    }
    for (node, held) in &now.view.resident {
        let known = before.view.resident.get(node).map(|of| &of.unloadable);
        for (expert, reason) in &held.unloadable {
            if known.is_none_or(|known| !known.contains_key(expert)) {
                tracing::error!(%node, %expert, reason, "an expert cannot be loaded");
            }
        }
    }
}

/// Logs what else has changed.
fn report_cluster(before: &Members, now: &Members) {
    if before.view.unreadable != now.view.unreadable {
        for error in &now.view.unreadable {
            tracing::warn!(%error, "a record in the store cannot be read");
        }
    }
    if before.view.leader != now.view.leader {
        tracing::info!(leader = now.view.leader, "leader");
    }
    let sets = |of: &Members| -> BTreeSet<String> {
        let fits = of.view.nodes.iter().filter(|(id, _)| of.fit.nodes.contains_key(id));
        fits.map(|(_, node)| node.instruction_set.clone()).collect()
    };
    let instruction_sets = sets(now);
    if instruction_sets.len() > 1 && instruction_sets != sets(before) {
        tracing::warn!(?instruction_sets, "nodes differ: an expert's bits depend on its node");
    }
}

/// Logs what a new topology means.
fn report_topology(last: &Topology, next: &Topology) {
    for (slot, node) in next.table.nodes.iter().enumerate() {
        if !last.table.nodes.contains(node) {
            let experts: usize = next.table.held_by(slot).values().sum();
            tracing::info!(%node, experts, epoch = %next.table.epoch, "in the routing table");
        }
    }
    let missing = next.table.missing().len();
    if missing > 0 && last.table.missing().is_empty() && !last.table.nodes.is_empty() {
        tracing::warn!(missing, "some experts are on no live node");
    }
    if missing == 0 && !last.table.missing().is_empty() {
        tracing::info!(epoch = %next.table.epoch, "every expert is on a live node");
    }
}

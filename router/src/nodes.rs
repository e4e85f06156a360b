//! The expert nodes of this router: a fixed list, told what to hold and watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use guildhall_ids::{Epoch, ExpertId, NodeId};
use guildhall_placement::{
    Assignments, ExpertGrid, NodeSpec, Placement, Problem, RoutingTable, solve,
};
use guildhall_telemetry::error_chain;
use guildhall_transport::{
    Endpoint, Error, ExpertHash, Handshake, NodeControl, NodeDescription, Refusal,
};
use tokio_util::sync::CancellationToken;

/// How often nodes are asked what they hold.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A node that leaves this many questions unanswered is taken out of the routing table. A lane that notices a broken
/// stream does not wait for this.
const MAX_SILENCE: u32 = 3;

/// Where each expert is and how its node is reached. A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) table: RoutingTable,
    endpoints: BTreeMap<NodeId, Endpoint>,
    /// Whether new sequences may begin: every expert is on some node that is not draining.
    pub(crate) complete: bool,
}

impl Topology {
    /// Where a node listens.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`] for a node that is not in the table.
    pub(crate) fn endpoint(&self, node: &NodeId) -> Result<&Endpoint, Error> {
        self.endpoints.get(node).ok_or_else(|| Error::InvalidEndpoint {
            text: node.to_string(),
            reason: "no such node in the routing table",
        })
    }
}

/// Keeps the nodes of a static list doing what they should, and publishes what they do.
pub(crate) struct NodeWatch {
    grid: ExpertGrid,
    handshake: Handshake,
    members: Vec<Member>,
    /// Replicas of each expert, as far as there are nodes.
    min_replicas: usize,
    placement: Option<Placement>,
    hashes: BTreeMap<ExpertId, ExpertHash>,
    topology: Arc<ArcSwap<Topology>>,
}

/// One entry of the list.
struct Member {
    endpoint: Endpoint,
    control: Option<NodeControl>,
    last: Option<NodeDescription>,
    silent: u32,
}

impl NodeWatch {
    pub(crate) fn new(
        grid: ExpertGrid,
        handshake: Handshake,
        endpoints: &[Endpoint],
        min_replicas: usize,
    ) -> Self {
        let member = |endpoint: &Endpoint| Member {
            endpoint: endpoint.clone(),
            control: None,
            last: None,
            silent: 0,
        };
        Self {
            grid,
            handshake,
            members: endpoints.iter().map(member).collect(),
            min_replicas,
            placement: None,
            hashes: BTreeMap::new(),
            topology: Arc::new(ArcSwap::from_pointee(Topology::default())),
        }
    }

    pub(crate) fn topology(&self) -> Arc<ArcSwap<Topology>> {
        Arc::clone(&self.topology)
    }

    /// Looks at the nodes again and again until every expert has a home.
    ///
    /// # Errors
    /// When a node on the list can never work with this router: another model, dtype or protocol, or corrupt weights.
    pub(crate) async fn wait_until_complete(&mut self) -> Result<(), Error> {
        loop {
            self.round().await?;
            if self.topology.load().complete {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL / 5).await;
        }
    }

    /// Goes on watching until `stop`.
    pub(crate) async fn watch(mut self, stop: CancellationToken) {
        let mut last_failure = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            let failure = self.round().await.err().map(|error| error_chain(&error));
            if let Some(error) = failure.as_ref().filter(|_| failure != last_failure) {
                tracing::error!(error, "expert node refused");
            }
            last_failure = failure;
        }
    }

    /// Asks every node what it is, assigns what is missing, and publishes the result. A node that is refused is out of
    /// the routing table for this round; the others are served by.
    ///
    /// # Errors
    /// Why a node was refused.
    async fn round(&mut self) -> Result<(), Error> {
        join_all(self.members.iter_mut().map(Member::look)).await;
        let mut refused = self.refuse_misfits();
        refused.extend(self.refuse_other_weights());
        // Before anything is loaded: a node that was started again must not be called by its old entry while it loads
        // what nobody has compared yet.
        self.publish();
        if self.placement.is_none() {
            self.placement = self.place();
        }
        if let Some(placement) = &self.placement {
            let fingerprint = &self.handshake.model_fingerprint;
            // All nodes read their weights at the same time.
            let assigning = self.members.iter_mut().map(|m| m.assign(placement, fingerprint));
            refused.extend(join_all(assigning).await.into_iter().filter_map(Result::err));
        }
        refused.extend(self.refuse_other_weights());
        self.publish();
        refused.into_iter().next().map_or(Ok(()), Err)
    }

    /// Refuses nodes that do not fit this router, and a second node of one name.
    fn refuse_misfits(&mut self) -> Vec<Error> {
        let mut names: BTreeMap<NodeId, Endpoint> = BTreeMap::new();
        let mut refused = Vec::new();
        for member in &mut self.members {
            let Some(node) = &member.last else { continue };
            let mut stated = node.handshake.clone();
            stated.hidden_size = self.handshake.hidden_size;
            let taken = names.get(&node.node);
            let reason = match (stated.accept(&self.handshake), taken) {
                (Err(Refusal::Mismatch(reason)), _) => reason,
                (_, Some(other)) => format!("{other} has the same name {}", node.node),
                _ => {
                    names.insert(node.node.clone(), member.endpoint.clone());
                    continue;
                }
            };
            refused.push(member.refuse(reason));
        }
        refused
    }

    /// Refuses a node whose copy of an expert differs from the first one seen.
    fn refuse_other_weights(&mut self) -> Vec<Error> {
        let mut refused = Vec::new();
        for member in &mut self.members {
            let Some(node) = &member.last else { continue };
            let known = &mut self.hashes;
            let differs = |(expert, hash): &(&ExpertId, &ExpertHash)| {
                known.entry(**expert).or_insert(**hash) != *hash
            };
            if let Some((expert, _)) = node.resident.iter().find(differs) {
                let reason = format!("its expert {expert} differs from an earlier copy");
                refused.push(member.refuse(reason));
            }
        }
        refused
    }

    /// An even placement over all nodes of the list, once each has said its name: every expert is taken for as heavy as
    /// the others, and every node for as large and fast.
    fn place(&self) -> Option<Placement> {
        let node = |member: &Member| {
            let spec = NodeSpec { capacity_bytes: u64::MAX, speed: 1.0, zone: String::new() };
            Some((member.last.as_ref()?.node.clone(), spec))
        };
        let problem = Problem {
            load: vec![vec![1.0; self.grid.n_experts as usize]; self.grid.layers.len()],
            grid: self.grid.clone(),
            nodes: self.members.iter().map(node).collect::<Option<_>>()?,
            expert_bytes: 1,
            min_replicas: self.min_replicas,
            spare_replicas: 0,
            max_moves: 0,
            goal: 1.0,
        };
        let assignments = solve(&problem, &Assignments::new()).assignments;
        Some(Placement { epoch: Epoch(1), assignments })
    }

    fn publish(&self) {
        let Some(placement) = &self.placement else { return };
        let alive =
            || self.members.iter().filter_map(|member| Some((member, member.last.as_ref()?)));
        let resident = |staying_only: bool| -> BTreeMap<NodeId, BTreeSet<ExpertId>> {
            let nodes = alive().filter(|(_, node)| !(staying_only && node.draining));
            nodes.map(|(_, n)| (n.node.clone(), n.resident.keys().copied().collect())).collect()
        };
        let staying = RoutingTable::build(&self.grid, placement, &resident(true));
        let topology = Topology {
            table: RoutingTable::build(&self.grid, placement, &resident(false)),
            endpoints: alive().map(|(m, n)| (n.node.clone(), m.endpoint.clone())).collect(),
            complete: staying.missing().is_empty(),
        };
        if **self.topology.load() != topology {
            report(&topology, &alive().map(|(_, node)| node.instruction_set.as_str()).collect());
            self.topology.store(Arc::new(topology));
        }
    }
}

/// Logs what a new topology means.
fn report(topology: &Topology, instruction_sets: &BTreeSet<&str>) {
    for (slot, node) in topology.table.nodes.iter().enumerate() {
        let experts: usize = topology.table.held_by(slot).values().sum();
        tracing::info!(%node, experts, epoch = %topology.table.epoch, "in the routing table");
    }
    if instruction_sets.len() > 1 {
        tracing::warn!(?instruction_sets, "nodes differ: an expert's bits depend on its node");
    }
    if !topology.table.missing().is_empty() {
        let missing = topology.table.missing().len();
        tracing::warn!(missing, "some experts are on no live node");
    }
}

impl Member {
    /// Takes the node out until it is asked again.
    fn refuse(&mut self, reason: String) -> Error {
        self.last = None;
        Error::Refused { endpoint: self.endpoint.clone(), reason }
    }

    /// Asks the node what it is; forgets it after some silence.
    async fn look(&mut self) {
        match self.describe().await {
            Ok(node) => {
                self.silent = 0;
                self.last = Some(node);
            }
            Err(error) => {
                self.silent += 1;
                if self.silent == MAX_SILENCE && self.last.take().is_some() {
                    tracing::warn!(endpoint = %self.endpoint, %error, "expert node lost");
                }
            }
        }
    }

    async fn describe(&mut self) -> Result<NodeDescription, Error> {
        let control = match &mut self.control {
            Some(control) => control,
            None => self.control.insert(NodeControl::connect(&self.endpoint).await?),
        };
        control.describe().await
    }

    /// Tells the node what to hold, if it does not hold it already.
    async fn assign(&mut self, placement: &Placement, fingerprint: &[u8]) -> Result<(), Error> {
        let (Some(node), Some(control)) = (&mut self.last, &mut self.control) else {
            return Ok(());
        };
        let Some(assigned) = placement.assignments.get(&node.node) else { return Ok(()) };
        if node.draining || node.resident.keys().eq(assigned) {
            return Ok(());
        }
        match control.assign(fingerprint, placement.epoch, assigned.iter().copied()).await {
            Ok(resident) => node.resident = resident,
            Err(Error::Refused { reason, .. }) => return Err(self.refuse(reason)),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(node = %node.node, error, "experts not assigned");
            }
        }
        Ok(())
    }
}

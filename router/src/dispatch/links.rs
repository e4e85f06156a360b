//! A lane's links: one for each node of the routing table, opened beside the work, and how each node does.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use guildhall_ids::{ExpertId, NodeId};
use guildhall_telemetry::{TraceContext, trace_ids};
use guildhall_transport::{
    Call, Endpoint, Error, ExpertLink, FrameShape, GrpcLink, Handshake, NodeEvent,
};

use super::health::{Health, QUARANTINE, patience, slowness};
use crate::balancer::LinkStates;
use crate::nodes::Topology;

type Opening = Pin<Box<dyn Future<Output = Result<GrpcLink, Error>> + Send>>;

pub(crate) struct Links {
    handshake: Handshake,
    router_id: String,
    shape: FrameShape,
    open: BTreeMap<NodeId, OpenLink>,
    opening: BTreeMap<NodeId, Opening>,
    health: BTreeMap<NodeId, Health>,
    /// Whose health it is.
    instances: BTreeMap<NodeId, u64>,
    /// Where it is shown how the links are.
    shown: Arc<LinkStates>,
    /// The trace of the step whose calls are on the links, for logs.
    trace: Option<TraceContext>,
}

struct OpenLink {
    link: Box<dyn ExpertLink>,
    draining: bool,
    /// Calls without an answer: their pairs, and when they were sent.
    unanswered: BTreeMap<u64, (usize, Instant)>,
}

/// What happens on a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Calls can go to the node now.
    Opened,
    /// The node said something.
    Said(NodeEvent),
}

impl Links {
    pub(crate) fn new(
        (handshake, router_id): (Handshake, String),
        shape: FrameShape,
        shown: Arc<LinkStates>,
    ) -> Self {
        Self {
            handshake,
            router_id,
            shape,
            open: BTreeMap::new(),
            opening: BTreeMap::new(),
            health: BTreeMap::new(),
            instances: BTreeMap::new(),
            shown,
            trace: None,
        }
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, node: NodeId, link: Box<dyn ExpertLink>) {
        self.open.insert(node, OpenLink { link, draining: false, unanswered: BTreeMap::new() });
    }

    /// What follows is for a step in this trace, or for none.
    pub(crate) fn serve(&mut self, trace: Option<TraceContext>) {
        self.trace = trace;
    }

    pub(crate) fn shape(&self) -> FrameShape {
        self.shape
    }

    /// Whether a call can go to this node now.
    pub(crate) fn is_open(&self, node: &NodeId) -> bool {
        self.open.contains_key(node)
    }

    /// Whether a call should go to this node now, if others could take it too.
    pub(crate) fn is_well(&self, node: &NodeId) -> bool {
        let stays = self.open.get(node).is_some_and(|open| !open.draining);
        stays && !self.health.get(node).is_some_and(|health| health.rests(Instant::now()))
    }

    /// Whether a call can go to this node now, though perhaps it should not.
    pub(crate) fn is_trusted(&self, node: &NodeId) -> bool {
        self.is_open(node) && !self.is_quarantined(node)
    }

    fn is_quarantined(&self, node: &NodeId) -> bool {
        self.health.get(node).is_some_and(|health| health.is_quarantined(Instant::now()))
    }

    /// Begins to open a link to each node that has none and is not in quarantine. Nobody waits for it.
    pub(crate) fn open_missing(&mut self, topology: &Topology) {
        self.opening.retain(|node, _| topology.table.nodes.contains(node));
        for node in &topology.table.nodes {
            self.forget_predecessor(node, topology.instance(node));
            if !self.is_quarantined(node) {
                self.begin_to_open(node, topology);
            }
        }
    }

    /// What another process of this name did is no fault of a node that was started again.
    fn forget_predecessor(&mut self, node: &NodeId, instance: Option<u64>) {
        let Some(instance) = instance else { return };
        if self.instances.get(node) != Some(&instance) {
            self.instances.insert(node.clone(), instance);
            self.health.remove(node);
        }
    }

    /// Begins to open links to the nodes that hold this expert if all of them are in quarantine: better than nobody.
    pub(crate) fn open_last_resort(&mut self, expert: ExpertId, topology: &Topology) {
        let slots = topology.table.replicas(expert);
        let nodes = slots.iter().map(|&slot| &topology.table.nodes[slot]);
        if nodes.clone().all(|node| self.is_quarantined(node)) {
            for node in nodes {
                self.begin_to_open(node, topology);
            }
        }
    }

    /// Unless it is open or rests.
    fn begin_to_open(&mut self, node: &NodeId, topology: &Topology) {
        let may = self.health.get(node).is_none_or(|health| health.may_open(Instant::now()));
        if !may || self.is_open(node) || self.opening.contains_key(node) {
            return;
        }
        if let Ok(endpoint) = topology.endpoint(node) {
            let who = (self.handshake.clone(), self.router_id.clone());
            let opening = open(node.clone(), endpoint.clone(), who, self.shape);
            self.opening.insert(node.clone(), Box::pin(opening));
        }
    }

    /// Closes the link and leaves the node alone for a while.
    pub(crate) fn fail(&mut self, node: &NodeId) {
        self.open.remove(node);
        self.show_lost(node);
        self.rest(node);
    }

    /// The same, for as long as the error asks for.
    fn fail_by(&mut self, node: &NodeId, error: &Error) {
        match error {
            Error::Protocol { .. } => {
                self.open.remove(node);
                self.show_lost(node);
                self.quarantine(node, &error.to_string());
            }
            _ => self.fail(node),
        }
    }

    fn show_lost(&self, node: &NodeId) {
        self.shown.lost(node, self.instances.get(node).copied(), Instant::now());
    }

    /// The node sent what no correct node sends: others are preferred for a long time.
    pub(crate) fn quarantine(&mut self, node: &NodeId, reason: &str) {
        let is_news = self.health.entry(node.clone()).or_default().quarantine(Instant::now());
        self.shown.quarantined(node, Instant::now() + QUARANTINE, reason);
        if is_news {
            let trace_id = trace_ids(self.trace);
            tracing::error!(%node, reason, rest = ?QUARANTINE, trace_id, "expert node is in quarantine");
        }
    }

    /// What a node was put in quarantine for is not its fault.
    pub(crate) fn pardon(&mut self, node: &NodeId) {
        self.health.entry(node.clone()).or_default().pardon();
        self.shown.pardoned(node);
    }

    /// Leaves the node alone for a while, where there are others.
    pub(crate) fn rest(&mut self, node: &NodeId) {
        self.health.entry(node.clone()).or_default().failed(Instant::now());
    }

    /// The answer to a call is late, and others are asked.
    pub(crate) fn is_late(&mut self, node: &NodeId, call: u64) {
        self.health.entry(node.clone()).or_default().is_late(call);
    }

    /// When the answer to a call of so many pairs is late; at most `longest`.
    pub(crate) fn patience(&self, pairs: usize, longest: Duration) -> Duration {
        patience(self.health.values().filter_map(|of| of.usual(pairs)).collect(), longest)
    }

    /// How long each node takes for a call, over the node in the middle.
    pub(crate) fn slowness(&self) -> BTreeMap<NodeId, f64> {
        slowness(&self.health, Instant::now())
    }

    /// Queues a call to a node whose link is open.
    ///
    /// # Errors
    /// What the link says, after which it is closed.
    pub(crate) fn send(&mut self, node: &NodeId, call: Call) -> Result<(), Error> {
        let Some(open) = self.open.get_mut(node) else { return Ok(()) };
        open.unanswered.insert(call.id, (call.pairs.len(), Instant::now()));
        let sent = open.link.send(call);
        if sent.is_err() {
            self.fail(node);
        }
        sent
    }

    /// Nodes that have owed an answer since before this moment.
    pub(crate) fn silent_since(&self, moment: Instant) -> Vec<NodeId> {
        let silent = |open: &OpenLink| open.unanswered.values().any(|(_, sent)| *sent <= moment);
        let silent = self.open.iter().filter(|(_, open)| silent(open));
        silent.map(|(node, _)| node.clone()).collect()
    }

    /// The next event of any link. After an error the link is closed.
    pub(crate) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(NodeId, Result<LinkEvent, Error>)> {
        if let Poll::Ready(opened) = self.poll_opening(cx) {
            return Poll::Ready(opened);
        }
        let mut ready = None;
        for (node, open) in &mut self.open {
            if let Poll::Ready(event) = open.link.poll_event(cx) {
                ready = Some((node.clone(), event));
                break;
            }
        }
        let Some((node, event)) = ready else { return Poll::Pending };
        match &event {
            Ok(event) => self.note(&node, event),
            Err(error) => self.fail_by(&node, error),
        }
        Poll::Ready((node, event.map(LinkEvent::Said)))
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Poll<(NodeId, Result<LinkEvent, Error>)> {
        let mut ready = None;
        for (node, opening) in &mut self.opening {
            if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                ready = Some((node.clone(), opened));
                break;
            }
        }
        let Some((node, opened)) = ready else { return Poll::Pending };
        self.opening.remove(&node);
        let event = match opened {
            Ok(link) => {
                let link = Box::new(link);
                let open = OpenLink { link, draining: false, unanswered: BTreeMap::new() };
                self.open.insert(node.clone(), open);
                self.shown.opened(&node, self.instances.get(&node).copied());
                Ok(LinkEvent::Opened)
            }
            Err(error) => {
                self.fail_by(&node, &error);
                Err(error)
            }
        };
        Poll::Ready((node, event))
    }

    /// Learns from what a node said.
    fn note(&mut self, node: &NodeId, event: &NodeEvent) {
        let Some(open) = self.open.get_mut(node) else { return };
        let id = match event {
            NodeEvent::Outputs(outputs) => outputs.id,
            NodeEvent::Failure(failure) => failure.id,
            NodeEvent::Draining => {
                open.draining = true;
                return;
            }
        };
        let (Some((pairs, sent)), now) = (open.unanswered.remove(&id), Instant::now()) else {
            return;
        };
        let health = self.health.entry(node.clone()).or_default();
        health.answered(id, pairs, now.duration_since(sent), now);
    }

    /// Closes the links to nodes that wait for it and owe nothing.
    pub(crate) fn close_draining(&mut self) {
        self.open.retain(|_, open| !open.draining || !open.unanswered.is_empty());
    }
}

/// Opens a link and makes sure of who answers.
async fn open(
    node: NodeId,
    endpoint: Endpoint,
    (handshake, router_id): (Handshake, String),
    shape: FrameShape,
) -> Result<GrpcLink, Error> {
    let link = GrpcLink::open(&endpoint, &handshake, &router_id, shape).await?;
    if *link.node() != node {
        let what = format!("this is node {}, not {node}", link.node());
        return Err(Error::Protocol { endpoint, what });
    }
    Ok(link)
}

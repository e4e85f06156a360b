//! A lane's open links: at most one for each node, opened when first needed.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use guildhall_ids::NodeId;
use guildhall_transport::{Call, Error, ExpertLink, FrameShape, GrpcLink, Handshake, NodeEvent};

use crate::nodes::Topology;

/// After a failure a node is left alone this long.
const COOL_DOWN: Duration = Duration::from_millis(100);

pub(crate) struct Links {
    handshake: Handshake,
    router_id: String,
    shape: FrameShape,
    open: BTreeMap<NodeId, OpenLink>,
    cooling: BTreeMap<NodeId, Instant>,
}

struct OpenLink {
    link: Box<dyn ExpertLink>,
    draining: bool,
}

impl Links {
    pub(crate) fn new(handshake: Handshake, router_id: String, shape: FrameShape) -> Self {
        Self { handshake, router_id, shape, open: BTreeMap::new(), cooling: BTreeMap::new() }
    }

    pub(crate) fn shape(&self) -> FrameShape {
        self.shape
    }

    /// Whether calls may go to this node now.
    pub(crate) fn usable(&self, node: &NodeId) -> bool {
        self.cooling.get(node).is_none_or(|&until| Instant::now() >= until)
    }

    /// Closes the link and leaves the node alone for a while.
    pub(crate) fn fail(&mut self, node: &NodeId) {
        self.open.remove(node);
        self.cool_down(node);
    }

    /// Leaves the node alone for a while.
    pub(crate) fn cool_down(&mut self, node: &NodeId) {
        self.cooling.insert(node.clone(), Instant::now() + COOL_DOWN);
    }

    /// Queues a call to a node, over a new link if there is none.
    pub(crate) async fn send(
        &mut self,
        node: &NodeId,
        topology: &Topology,
        call: Call,
    ) -> Result<(), Error> {
        if !self.open.contains_key(node) {
            let endpoint = topology.endpoint(node)?;
            let link =
                GrpcLink::open(endpoint, &self.handshake, &self.router_id, self.shape).await?;
            if link.node() != node {
                return Err(Error::Protocol {
                    endpoint: endpoint.clone(),
                    what: format!("this is node {}, not {node}", link.node()),
                });
            }
            self.open.insert(node.clone(), OpenLink { link: Box::new(link), draining: false });
            self.cooling.remove(node);
        }
        match self.open.get_mut(node) {
            Some(open) => open.link.send(call),
            None => Ok(()),
        }
    }

    /// The next event of any link. After an error the link is closed.
    pub(crate) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(NodeId, Result<NodeEvent, Error>)> {
        let mut ready = None;
        for (node, open) in &mut self.open {
            if let Poll::Ready(event) = open.link.poll_event(cx) {
                if matches!(event, Ok(NodeEvent::Draining)) {
                    open.draining = true;
                }
                ready = Some((node.clone(), event));
                break;
            }
        }
        let Some((node, event)) = ready else { return Poll::Pending };
        if event.is_err() {
            self.fail(&node);
        }
        Poll::Ready((node, event))
    }

    /// Closes the links to nodes that wait for it.
    pub(crate) fn close_draining(&mut self) {
        self.open.retain(|_, open| !open.draining);
    }
}

//! Nodes that have the model's files, for one that has none: whom to ask for an expert, and what it must be.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use guildhall_checkpoint::{ExpertHash, ExpertTensors, Fingerprint};
use guildhall_cluster::{Session, View};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_transport::{Endpoint, StoredExpert, fetch};
use tokio::runtime::Handle;

use crate::Error;

/// The other nodes of the cluster, as this one sees them.
pub(crate) struct Peers {
    pub(crate) own: NodeId,
    pub(crate) fingerprint: Fingerprint,
    /// Longest expert.
    pub(crate) max_bytes: usize,
    pub(crate) session: Session,
    pub(crate) prefix: String,
    /// Where connections are served while a thread waits for them.
    pub(crate) runtime: Handle,
}

impl Peers {
    /// Fetches an expert from one node after another until `make` is content with what came. Blocks.
    ///
    /// # Errors
    /// [`Error::NoGiver`] if nobody gave it, with the last one's reason.
    pub(crate) fn fetch(
        &self,
        id: ExpertId,
        make: impl Fn(&StoredExpert) -> Result<ExpertTensors, guildhall_checkpoint::Error>,
    ) -> Result<(ExpertTensors, ExpertHash), Error> {
        let view = View::read(&self.session.mirror(), &self.prefix);
        let known = known_hash(&view, id);
        let mut reason = "no other node has the model's files".to_owned();
        for (node, endpoint) in givers(&view, &self.own, self.fingerprint, id) {
            let wanted = (&self.fingerprint.0[..], id);
            let fetching = fetch(&endpoint, &self.own, wanted, self.max_bytes);
            reason = match self.runtime.block_on(fetching) {
                Err(error) => error.to_string(),
                Ok(stored) if known.is_some_and(|known| known != stored.hash) => {
                    format!("{node} has another expert {id} than others hold")
                }
                Ok(stored) => match make(&stored) {
                    Ok(tensors) => {
                        tracing::debug!(expert = %id, from = %node, "fetched");
                        return Ok((tensors, stored.hash));
                    }
                    Err(error) => format!("{node}: {error}"),
                },
            };
        }
        Err(Error::NoGiver { expert: id, reason })
    }
}

/// Who has files of this model, those that end soon last. Everybody asks in an order of its own, so that nodes which
/// come together do not all ask the same one.
fn givers(
    view: &View,
    own: &NodeId,
    fingerprint: Fingerprint,
    id: ExpertId,
) -> Vec<(NodeId, Endpoint)> {
    let has_it = |(node, record): &(&NodeId, &guildhall_cluster::NodeRecord)| {
        *node != own && record.has_files && record.model_fingerprint == fingerprint.0
    };
    let turn = |node: &NodeId| {
        let mut hasher = DefaultHasher::new();
        (own.to_string(), id.layer.0, id.expert.0, node.to_string()).hash(&mut hasher);
        hasher.finish()
    };
    let mut nodes: Vec<_> = view.nodes.iter().filter(has_it).collect();
    nodes.sort_by_key(|(node, record)| (record.draining, turn(node)));
    let reachable = |(node, record): (&NodeId, &guildhall_cluster::NodeRecord)| {
        Some((node.clone(), record.address.parse().ok()?))
    };
    nodes.into_iter().filter_map(reachable).collect()
}

/// What the cluster knows an expert by, if somebody holds it.
fn known_hash(view: &View, id: ExpertId) -> Option<ExpertHash> {
    view.resident.values().find_map(|of| of.resident.get(&id).copied())
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;

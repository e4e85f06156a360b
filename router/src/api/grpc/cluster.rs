//! The cluster as an admin sees it, and what an admin can have done to it.

use guildhall_cluster::{Peer as _, PeerClients, RouterRecord};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_proto::v1;
use guildhall_proto::v1::cluster_node::State;
use tonic::Status;

use crate::balancer::Balancer;
use crate::membership::Members;
use crate::nodes::Topology;

/// Everything that this router knows, and what the leader says of the balance.
pub(super) async fn describe(cluster: &Balancer) -> v1::GetClusterResponse {
    let seen = cluster.members();
    let view = &seen.view;
    let balance = match (cluster.balance(), leader(&seen)) {
        (Some(own), _) => Some(own),
        (None, Some(leader)) => PeerClients::default().balance(leader).await.ok(),
        (None, None) => None,
    };
    let placement = view.placement.as_ref().map(|of| &of.placement);
    let mut names: Vec<&NodeId> = view.nodes.keys().collect();
    names.extend(placement.iter().flat_map(|of| of.assignments.keys()));
    names.sort_unstable();
    names.dedup();
    v1::GetClusterResponse {
        router: cluster.router().to_owned(),
        leader: view.leader.clone().unwrap_or_default(),
        connected: view.connected,
        epoch: placement.map_or(0, |of| of.epoch.0),
        nodes: names.into_iter().map(|name| node(&seen, name)).collect(),
        routers: view.routers.keys().cloned().collect(),
        missing_experts: cluster.missing(&seen) as u32,
        balance: balance.map(|report| report.to_wire()),
    }
}

fn node(seen: &Members, name: &NodeId) -> v1::ClusterNode {
    let view = &seen.view;
    let record = view.nodes.get(name).cloned().unwrap_or_default();
    let resident = view.resident.get(name).cloned().unwrap_or_default();
    let assigned = view.placement.as_ref().and_then(|of| of.placement.assignments.get(name));
    let there =
        assigned.map_or(0, |of| of.iter().filter(|id| resident.resident.contains_key(id)).count());
    let (state, reason) = match seen.fit.refused.get(name) {
        Some(reason) => (State::Refused, reason.clone()),
        None if !view.nodes.contains_key(name) => (State::Gone, String::new()),
        None if view.drains.contains(name) => (State::Drained, String::new()),
        None if record.draining => (State::Leaving, String::new()),
        None => (State::Serving, resident.unloadable.values().next().cloned().unwrap_or_default()),
    };
    v1::ClusterNode {
        node_id: name.to_string(),
        address: record.address,
        device: record.device,
        zone: record.zone,
        instruction_set: record.instruction_set,
        assigned_experts: assigned.map_or(0, |of| of.len() as u32),
        resident_experts: there as u32,
        resident_bytes: resident.resident_bytes,
        capacity_bytes: record.capacity_bytes,
        state: state.into(),
        reason,
        version: record.version,
    }
}

/// How often each expert and each node was used, and where the experts are.
pub(super) fn experts(cluster: &Balancer) -> v1::GetExpertsResponse {
    let (seen, counter) = (cluster.members(), cluster.counter());
    let (load, asked, grid) = (counter.load(), counter.asked(), counter.grid());
    let placement = seen.view.placement.as_ref().map(|of| &of.placement);
    let table = Topology::build(grid, &seen.view, &seen.fit).table;
    let of_layers = load.tokens.chunks(grid.n_experts.max(1) as usize);
    let layers = grid.layers.iter().zip(of_layers).enumerate().map(|(at, (&layer, pairs))| {
        let held = |slot| {
            let held =
                |expert: &u32| table.replicas(ExpertId::new(layer.0, *expert)).contains(&slot);
            (0..grid.n_experts).filter(held).collect()
        };
        let node = |(slot, node): (usize, &NodeId)| v1::ExpertLayerNode {
            node_id: node.to_string(),
            pairs: asked.get(node).map_or(0, |layers| layers[at]),
            experts: held(slot),
        };
        let nodes = table.nodes.iter().enumerate().map(node).collect();
        v1::ExpertLayer { layer: layer.0, pairs: pairs.to_vec(), nodes }
    });
    v1::GetExpertsResponse { epoch: placement.map_or(0, |of| of.epoch.0), layers: layers.collect() }
}

/// Has a node hold nothing, or lets it hold experts again.
pub(super) async fn drain(cluster: &Balancer, node: &str, undo: bool) -> Result<(), Status> {
    let name: NodeId =
        node.parse().map_err(|e| Status::invalid_argument(format!("node_id: {e}")))?;
    if !undo && !cluster.members().view.nodes.contains_key(&name) {
        return Err(Status::not_found(format!("node_id: there is no node {name}")));
    }
    cluster.drain_node(name, !undo).await.map_err(Status::unavailable)
}

/// Has the leader solve a placement.
pub(super) async fn rebalance(
    cluster: &Balancer,
    dry_run: bool,
) -> Result<v1::RebalanceResponse, Status> {
    let seen = cluster.members();
    let done = match (cluster.rebalance(dry_run), leader(&seen)) {
        (Some(done), _) => done,
        (None, Some(leader)) => PeerClients::default()
            .rebalance(leader, dry_run)
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?,
        (None, None) => return Err(Status::unavailable("no router leads at the moment")),
    };
    Ok(v1::RebalanceResponse { reasons: done.reasons, gain: done.gain })
}

fn leader(seen: &Members) -> Option<&RouterRecord> {
    seen.view.routers.get(seen.view.leader.as_ref()?)
}

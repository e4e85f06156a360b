//! The expert nodes as this router sees them: which of them fit, and what each can be asked for. No IO.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_cluster::{ExpertHash, NodeRecord, View};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_placement::{ExpertGrid, Placement, RoutingTable};
use guildhall_transport::{Endpoint, Error, Handshake, Refusal};

/// Where each expert is and how its node is reached. A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) table: RoutingTable,
    endpoints: BTreeMap<NodeId, Endpoint>,
    /// A node that was started again has another one.
    instances: BTreeMap<NodeId, u64>,
    /// Whether new sequences may begin: every expert is on some node that stays.
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

    /// Which process of its name a node is.
    pub(crate) fn instance(&self, node: &NodeId) -> Option<u64> {
        self.instances.get(node).copied()
    }

    /// The placement as far as it is resident on nodes that fit.
    pub(crate) fn build(grid: &ExpertGrid, view: &View, fit: &Fit) -> Self {
        let none = Placement::default();
        let placement = view.placement.as_ref().map_or(&none, |of| &of.placement);
        let resident = |staying_only: bool| -> BTreeMap<NodeId, BTreeSet<ExpertId>> {
            let stays = |id: &NodeId| !view.nodes.get(id).is_some_and(|node| node.draining);
            let nodes = fit.nodes.keys().filter(|id| !staying_only || stays(id));
            let held = |id: &NodeId| view.resident.get(id).map(|of| of.resident.keys().copied());
            nodes.map(|id| (id.clone(), held(id).into_iter().flatten().collect())).collect()
        };
        Self {
            table: RoutingTable::build(grid, placement, &resident(false)),
            endpoints: fit.nodes.clone(),
            instances: view.nodes.iter().map(|(id, node)| (id.clone(), node.instance)).collect(),
            complete: RoutingTable::build(grid, placement, &resident(true)).missing().is_empty(),
        }
    }
}

/// Which nodes work with this router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Those that do, with their addresses.
    pub(crate) nodes: BTreeMap<NodeId, Endpoint>,
    /// Why the others do not.
    pub(crate) refused: BTreeMap<NodeId, String>,
}

/// Looks at every node before it is used.
pub(crate) struct NodeGate {
    handshake: Handshake,
    /// Of the first copy of each expert that was seen.
    hashes: BTreeMap<ExpertId, ExpertHash>,
}

impl NodeGate {
    pub(crate) fn new(handshake: Handshake) -> Self {
        Self { handshake, hashes: BTreeMap::new() }
    }

    /// Sorts the nodes of a view. A node whose copy of an expert differs from the first one seen is refused whole.
    pub(crate) fn look(&mut self, view: &View) -> Fit {
        let mut fit = Fit::default();
        for (id, node) in &view.nodes {
            match self.admit(view, id, node) {
                Ok(endpoint) => drop(fit.nodes.insert(id.clone(), endpoint)),
                Err(reason) => drop(fit.refused.insert(id.clone(), reason)),
            }
        }
        fit
    }

    fn admit(&mut self, view: &View, id: &NodeId, node: &NodeRecord) -> Result<Endpoint, String> {
        let stated = Handshake {
            protocol_version: node.protocol_version,
            model_fingerprint: node.model_fingerprint.clone(),
            dtype: node.dtype.clone(),
            hidden_size: node.hidden_size,
            expert_weights: node.expert_weights.clone(),
        };
        if let Err(Refusal::Mismatch(reason)) = stated.accept(&self.handshake) {
            return Err(reason);
        }
        let endpoint = node.address.parse::<Endpoint>().map_err(|e| e.to_string())?;
        let known = &mut self.hashes;
        let differs = |(expert, hash): &(&ExpertId, &ExpertHash)| {
            known.entry(**expert).or_insert(**hash) != *hash
        };
        let mut held = view.resident.get(id).into_iter().flat_map(|of| &of.resident);
        match held.find(differs) {
            Some((expert, _)) => Err(format!("its expert {expert} differs from an earlier copy")),
            None => Ok(endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guildhall_cluster::{PlacementRecord, ResidentRecord};
    use guildhall_ids::{Epoch, LayerIdx};

    fn handshake() -> Handshake {
        Handshake {
            protocol_version: 1,
            model_fingerprint: vec![7; 32],
            dtype: "bf16".into(),
            hidden_size: 8,
            expert_weights: "bf16".into(),
        }
    }

    fn grid() -> ExpertGrid {
        ExpertGrid { layers: vec![LayerIdx(0)], n_experts: 2 }
    }

    /// Nodes that hold both experts with these hashes, and a placement of both on each.
    fn view(nodes: &[(&str, [u8; 2])]) -> View {
        let mut view = View::default();
        let mut assignments = BTreeMap::new();
        let id = |expert: u32| ExpertId::new(0, expert);
        for (name, hashes) in nodes {
            let node: NodeId = name.parse().unwrap();
            let record = NodeRecord {
                address: "127.0.0.1:1".into(),
                protocol_version: 1,
                model_fingerprint: vec![7; 32],
                dtype: "bf16".into(),
                hidden_size: 8,
                expert_weights: "bf16".into(),
                ..NodeRecord::default()
            };
            view.nodes.insert(node.clone(), record);
            let resident = (0..2).map(|e| (id(e), [hashes[e as usize]; 32])).collect();
            let resident = ResidentRecord { resident, ..ResidentRecord::default() };
            view.resident.insert(node.clone(), resident);
            assignments.insert(node, [id(0), id(1)].into());
        }
        let placement = Placement { epoch: Epoch(1), assignments };
        view.placement = Some(PlacementRecord { placement, ..PlacementRecord::default() });
        view
    }

    #[test]
    fn a_node_with_other_weights_is_refused_until_it_has_the_right_ones() {
        let mut gate = NodeGate::new(handshake());
        let fit = gate.look(&view(&[("a", [1, 2]), ("b", [1, 3])]));
        assert_eq!(fit.nodes.len(), 1);
        assert_eq!(
            fit.refused[&"b".parse().unwrap()],
            "its expert 0/1 differs from an earlier copy"
        );
        assert!(gate.look(&view(&[("b", [1, 3])])).nodes.is_empty());
        assert!(gate.look(&view(&[("b", [1, 2])])).refused.is_empty());
    }

    #[test]
    fn a_node_of_another_kind_is_refused_with_the_reason() {
        let mut gate = NodeGate::new(handshake());
        let mut seen = view(&[("a", [1, 2])]);
        seen.nodes.values_mut().for_each(|node| node.dtype = "f32".into());
        let fit = gate.look(&seen);
        assert_eq!(fit.refused.len(), 1);
        let topology = Topology::build(&grid(), &seen, &fit);
        assert!(!topology.complete && topology.table.nodes.is_empty());
    }

    #[test]
    fn a_draining_node_is_used_but_does_not_count() {
        let mut seen = view(&[("a", [1, 2]), ("b", [1, 2])]);
        let mut gate = NodeGate::new(handshake());
        let drain = |seen: &mut View, name: &str| {
            seen.nodes.get_mut(&name.parse().unwrap()).unwrap().draining = true;
        };
        drain(&mut seen, "a");
        let fit = gate.look(&seen);
        let topology = Topology::build(&grid(), &seen, &fit);
        assert!(topology.complete);
        assert_eq!(topology.table.nodes.len(), 2);
        drain(&mut seen, "b");
        assert!(!Topology::build(&grid(), &seen, &fit).complete);
    }
}

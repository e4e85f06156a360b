//! A simulated router: the real mirror, view, gate, routing table and leader.

use std::time::{Duration, Instant};

use guildhall_cluster::store::Expected;
use guildhall_cluster::{Key, PlacementRecord, RouterRecord};
use guildhall_ids::LayerIdx;
use guildhall_placement::ExpertGrid;

use super::super::decide::{Decision, Leader, Policy, Seen};
use super::client::{Client, PREFIX};
use super::node::EXPERT_BYTES;
use super::{N_EXPERTS, handshake};
use crate::nodes::{NodeGate, Topology};

/// A write of a placement that has not reached the store yet.
#[derive(Clone)]
pub(super) struct Put {
    pub(super) by: String,
    pub(super) record: PlacementRecord,
    pub(super) expected: Expected,
}

/// A router and what it makes of its view.
pub(super) struct Router {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) topology: Topology,
    gate: NodeGate,
    leader: Option<Leader>,
    /// Why the last decision was to wait.
    pub(super) waits: String,
    starts: usize,
}

pub(super) fn policy() -> Policy {
    Policy {
        grid: ExpertGrid { layers: vec![LayerIdx(0)], n_experts: N_EXPERTS },
        expert_bytes: EXPERT_BYTES,
        min_nodes: None,
        min_replicas: 2,
        spare_replicas: 1,
        replace_after: Duration::from_secs(8),
        interval: Duration::from_secs(4),
    }
}

impl Router {
    pub(super) fn new(index: usize) -> Self {
        let mut router = Self {
            name: format!("r{index}."),
            client: Client::default(),
            topology: Topology::default(),
            gate: NodeGate::new(handshake()),
            leader: None,
            waits: String::new(),
            starts: 0,
        };
        router.restart();
        router
    }

    /// A new process takes the place of this one: under another name, and with no memory.
    pub(super) fn restart(&mut self) {
        self.starts += 1;
        let stem = self.name.split('.').next().unwrap_or_default();
        self.name = format!("{stem}.{}", self.starts);
        self.client = Client::default();
        self.gate = NodeGate::new(handshake());
        self.topology = Topology::default();
        self.leader = None;
        self.waits.clear();
        let key = Key::Router(self.name.clone()).under(PREFIX);
        self.client.published.insert(key, RouterRecord::default().encode());
        let key = Key::Leader.under(PREFIX);
        self.client.claimed.insert(key, self.name.clone().into_bytes());
    }

    pub(super) fn leads(&self) -> bool {
        let view = &self.client.view;
        view.connected && view.leader.as_ref() == Some(&self.name)
    }

    /// Takes over the view, and decides if it leads.
    pub(super) fn act(&mut self, load: &[Vec<f64>], now: Instant) -> Option<Put> {
        let view = &self.client.view;
        let fit = self.gate.look(view);
        self.topology = Topology::build(&policy().grid, view, &fit);
        if !self.leads() {
            self.leader = None;
            return None;
        }
        let leader = self.leader.get_or_insert_with(|| Leader::new(policy(), now));
        match leader.decide(Seen {
            view,
            fit: &fit,
            load,
            slowness: &std::collections::BTreeMap::new(),
            now,
        }) {
            Decision::Wait(why) => {
                self.waits = why;
                None
            }
            Decision::Publish(placement, _) => {
                self.waits.clear();
                let model_fingerprint = handshake().model_fingerprint;
                let record = PlacementRecord { model_fingerprint, placement };
                let expected = view.placement_key.0;
                Some(Put { by: self.name.clone(), record, expected })
            }
        }
    }
}

//! A simulated node. It follows the rules of `expert-node/src/reconcile.rs`, which routers cannot depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_cluster::{Key, NodeRecord, ResidentRecord};
use guildhall_ids::{ExpertId, NodeId};

use super::client::{Client, PREFIX};
use super::handshake;

/// As `FORGET_AFTER` of the nodes.
const FORGET_AFTER: Duration = Duration::from_secs(2);
/// Bytes of an expert.
pub(super) const EXPERT_BYTES: u64 = 10;

/// A node and what it holds.
pub(super) struct Node {
    pub(super) id: NodeId,
    /// Experts.
    pub(super) room: usize,
    pub(super) client: Client,
    pub(super) instance: u64,
    pub(super) resident: BTreeSet<ExpertId>,
    leaving: BTreeMap<ExpertId, Instant>,
    /// Everything that this process or an earlier one has ever said to hold, by instance.
    pub(super) said: BTreeMap<u64, BTreeSet<ExpertId>>,
    /// Whether the process is there.
    pub(super) up: bool,
}

impl Node {
    pub(super) fn new(index: usize, room: usize) -> Self {
        let id = ["a", "b", "c", "d"][index].parse().unwrap();
        let mut node = Self {
            id,
            room,
            client: Client::default(),
            instance: 0,
            resident: BTreeSet::new(),
            leaving: BTreeMap::new(),
            said: BTreeMap::new(),
            up: false,
        };
        node.start();
        node
    }

    /// The process is killed; what it held is gone.
    pub(super) fn crash(&mut self) {
        self.up = false;
        self.resident.clear();
        self.leaving.clear();
        self.client = Client::default();
    }

    /// A new process of the same name.
    pub(super) fn start(&mut self) {
        self.up = true;
        self.instance += 1;
        self.say();
    }

    /// What the node holds shall be known.
    fn say(&mut self) {
        let handshake = handshake();
        let record = NodeRecord {
            instance: self.instance,
            address: "127.0.0.1:1".into(),
            protocol_version: handshake.protocol_version,
            model_fingerprint: handshake.model_fingerprint,
            dtype: handshake.dtype,
            hidden_size: handshake.hidden_size,
            expert_weights: handshake.expert_weights,
            capacity_bytes: EXPERT_BYTES * self.room as u64,
            speed: 1.0,
            ..NodeRecord::default()
        };
        let resident = self.resident.iter().map(|id| (*id, [0; 32])).collect();
        let held = ResidentRecord { instance: self.instance, resident, ..Default::default() };
        let published = &mut self.client.published;
        published.insert(Key::Node(self.id.clone()).under(PREFIX), record.encode());
        published.insert(Key::Resident(self.id.clone()).under(PREFIX), held.encode());
        self.said.entry(self.instance).or_default().extend(&self.resident);
    }

    fn assigned(&self) -> Option<BTreeSet<ExpertId>> {
        let placement = &self.client.view.placement.as_ref()?.placement;
        Some(placement.assignments.get(&self.id).cloned().unwrap_or_default())
    }

    /// Loads one expert, if one is to be loaded.
    pub(super) fn load(&mut self) -> Option<ExpertId> {
        let expert = *self.assigned()?.difference(&self.resident).next()?;
        self.resident.insert(expert);
        self.say();
        Some(expert)
    }

    /// Compares what it has with what it should have; forgets what has not been assigned for long enough.
    pub(super) fn look(&mut self, now: Instant) -> BTreeSet<ExpertId> {
        let Some(assigned) = self.assigned() else { return BTreeSet::new() };
        self.leaving.retain(|id, _| self.resident.contains(id) && !assigned.contains(id));
        for &id in self.resident.difference(&assigned) {
            self.leaving.entry(id).or_insert(now);
        }
        let over = |(id, since): &(&ExpertId, &Instant)| {
            now >= **since + FORGET_AFTER && self.knows_elsewhere(id)
        };
        let forget: BTreeSet<ExpertId> =
            self.leaving.iter().filter(over).map(|(id, _)| *id).collect();
        if !forget.is_empty() {
            self.resident.retain(|id| !forget.contains(id));
            self.say();
        }
        forget
    }

    /// Whether it sees, right now, another node that shall hold an expert and does.
    pub(super) fn knows_elsewhere(&self, expert: &ExpertId) -> bool {
        let view = &self.client.view;
        let Some(of) = &view.placement else { return false };
        let holds =
            |id: &NodeId| view.resident.get(id).is_some_and(|of| of.resident.contains_key(expert));
        let mut others = of.placement.assignments.iter().filter(|(id, _)| **id != self.id);
        view.connected && others.any(|(id, held)| held.contains(expert) && holds(id))
    }
}

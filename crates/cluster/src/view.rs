//! What the store says of a cluster, read into our own words.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::NodeId;

use crate::keys::Key;
use crate::records::{NodeRecord, PlacementRecord, ResidentRecord, RouterRecord};
use crate::store::Expected;
use crate::{Error, Known, Mirror};

/// Everything that is known of a cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The nodes that live, or that a store which was away has not forgotten yet.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// What each of `nodes` holds.
    pub resident: BTreeMap<NodeId, ResidentRecord>,
    /// What each node should hold; nothing until a leader has said so.
    pub placement: Option<PlacementRecord>,
    /// What a leader has to expect of the key `placement` when it writes.
    pub placement_key: ExpectedKey,
    /// The router that leads.
    pub leader: Option<String>,
    /// The routers that live.
    pub routers: BTreeMap<String, RouterRecord>,
    /// Nodes that shall hold nothing.
    pub drains: BTreeSet<NodeId>,
    /// Whether changes arrive as they happen.
    pub connected: bool,
    /// Records that this version cannot read.
    pub unreadable: Vec<Error>,
}

/// How a key stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedKey(pub Expected);

impl Default for ExpectedKey {
    fn default() -> Self {
        Self(Expected::Absent)
    }
}

impl View {
    /// Reads a mirror of the keys under `prefix`.
    #[must_use]
    pub fn read(mirror: &Mirror, prefix: &str) -> Self {
        let mut view = Self { connected: mirror.connected, ..Self::default() };
        for (key, known) in mirror.under(prefix) {
            let Some(parsed) = Key::parse(&key[prefix.len()..]) else { continue };
            if let Err(error) = view.add(parsed, known) {
                view.unreadable.push(match error {
                    Error::Record { what, .. } => Error::Record { key: key.into(), what },
                    other => other,
                });
            }
        }
        let nodes = &view.nodes;
        // What an earlier process of that name held is gone with it.
        let current = |id: &NodeId, instance: u64| {
            nodes.get(id).is_some_and(|node| node.instance == instance)
        };
        view.resident.retain(|id, resident| current(id, resident.instance));
        view
    }

    fn add(&mut self, key: Key, known: &Known) -> Result<(), Error> {
        let value = &known.value;
        match key {
            Key::Node(id) => drop(self.nodes.insert(id, NodeRecord::decode(value)?)),
            Key::Resident(id) => drop(self.resident.insert(id, ResidentRecord::decode(value)?)),
            Key::Router(id) => drop(self.routers.insert(id, RouterRecord::decode(value)?)),
            Key::Leader => self.leader = Some(String::from_utf8_lossy(value).into_owned()),
            Key::Drain(id) => drop(self.drains.insert(id)),
            Key::Placement => {
                if known.unconfirmed_until.is_none() {
                    self.placement_key = ExpectedKey(Expected::Revision(known.revision));
                }
                self.placement = Some(PlacementRecord::decode(value)?);
            }
        }
        Ok(())
    }
}

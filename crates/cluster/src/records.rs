//! What processes write into the store, in our own words; wire types stop here.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_ids::{Epoch, ExpertId, NodeId};
use guildhall_placement::Placement;
use guildhall_proto::v1;
use prost::Message as _;

use crate::Error;

/// BLAKE3 of the weights of one expert, as they are in the checkpoint.
pub type ExpertHash = [u8; 32];

/// Who a node is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRecord {
    /// Differs after a restart.
    pub instance: u64,
    /// Where routers connect.
    pub address: String,
    /// Of its calls.
    pub protocol_version: u32,
    /// Of its checkpoint.
    pub model_fingerprint: Vec<u8>,
    /// What its rows travel in.
    pub dtype: String,
    /// Values in a row.
    pub hidden_size: u32,
    /// What its experts are kept in.
    pub expert_weights: String,
    /// It has the model's files, and hands experts out to nodes that have none.
    pub has_files: bool,
    /// Of its kernels; two nodes with the same one give the same bits.
    pub instruction_set: String,
    /// What it computes on.
    pub device: String,
    /// Bytes of expert weights that it may hold.
    pub capacity_bytes: u64,
    /// Relative to the other nodes; above 0.
    pub speed: f64,
    /// What fails together with it; may be empty.
    pub zone: String,
    /// It ends as soon as nobody depends on it.
    pub draining: bool,
    /// Of its build.
    pub version: String,
}

/// What a node has loaded and verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResidentRecord {
    /// That of the node record it belongs to.
    pub instance: u64,
    /// The experts, with their hashes.
    pub resident: BTreeMap<ExpertId, ExpertHash>,
    /// Bytes of their packed weights.
    pub resident_bytes: u64,
    /// Assigned experts that cannot be loaded, and why.
    pub unloadable: BTreeMap<ExpertId, String>,
}

/// What each node should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementRecord {
    /// Of the model whose experts these are.
    pub model_fingerprint: Vec<u8>,
    /// The assignments.
    pub placement: Placement,
}

/// Who a router is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterRecord {
    /// Where other routers reach it.
    pub address: String,
    /// Of its build.
    pub version: String,
}

fn broken(what: impl ToString) -> Error {
    Error::Record { key: String::new(), what: what.to_string() }
}

impl NodeRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let record = self.clone();
        v1::NodeRecord {
            instance: record.instance,
            address: record.address,
            protocol_version: record.protocol_version,
            model_fingerprint: record.model_fingerprint.into(),
            dtype: record.dtype,
            hidden_size: record.hidden_size,
            expert_weights: record.expert_weights,
            has_files: record.has_files,
            instruction_set: record.instruction_set,
            device: record.device,
            capacity_bytes: record.capacity_bytes,
            speed: record.speed,
            zone: record.zone,
            draining: record.draining,
            version: record.version,
        }
        .encode_to_vec()
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// [`Error::Record`] for anything that a node does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record = v1::NodeRecord::decode(bytes).map_err(broken)?;
        if !(record.speed > 0.0 && record.speed.is_finite()) {
            return Err(broken(format!("a speed of {}", record.speed)));
        }
        Ok(Self {
            instance: record.instance,
            address: record.address,
            protocol_version: record.protocol_version,
            model_fingerprint: record.model_fingerprint.into(),
            dtype: record.dtype,
            hidden_size: record.hidden_size,
            expert_weights: record.expert_weights,
            has_files: record.has_files,
            instruction_set: record.instruction_set,
            device: record.device,
            capacity_bytes: record.capacity_bytes,
            speed: record.speed,
            zone: record.zone,
            draining: record.draining,
            version: record.version,
        })
    }
}

impl ResidentRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let unloadable = |(id, reason): (&ExpertId, &String)| v1::UnloadableExpert {
            layer: id.layer.0,
            expert: id.expert.0,
            reason: reason.clone(),
        };
        v1::ResidentRecord {
            instance: self.instance,
            resident: to_layers(self.resident.iter().map(|(id, hash)| (*id, &hash[..]))),
            resident_bytes: self.resident_bytes,
            unloadable: self.unloadable.iter().map(unloadable).collect(),
        }
        .encode_to_vec()
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// [`Error::Record`] for anything that a node does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record = v1::ResidentRecord::decode(bytes).map_err(broken)?;
        let mut resident = BTreeMap::new();
        for layer in &record.resident {
            let (hashes, rest) = layer.hashes.as_chunks::<32>();
            if hashes.len() != layer.experts.len() || !rest.is_empty() {
                return Err(broken(format!("layer {}: not one hash an expert", layer.layer)));
            }
            let ids = layer.experts.iter().map(|&expert| ExpertId::new(layer.layer, expert));
            resident.extend(ids.zip(hashes.iter().copied()));
        }
        let unloadable = record.unloadable.into_iter();
        let unloadable = unloadable.map(|of| (ExpertId::new(of.layer, of.expert), of.reason));
        Ok(Self {
            instance: record.instance,
            resident,
            resident_bytes: record.resident_bytes,
            unloadable: unloadable.collect(),
        })
    }
}

impl PlacementRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let assignment = |(node, experts): (&NodeId, &BTreeSet<ExpertId>)| v1::Assignment {
            node_id: node.to_string(),
            experts: to_layers(experts.iter().map(|id| (*id, &[][..]))),
        };
        v1::PlacementRecord {
            epoch: self.placement.epoch.0,
            model_fingerprint: self.model_fingerprint.clone().into(),
            assignments: self.placement.assignments.iter().map(assignment).collect(),
        }
        .encode_to_vec()
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// [`Error::Record`] for anything that a leader does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record = v1::PlacementRecord::decode(bytes).map_err(broken)?;
        let mut assignments = BTreeMap::new();
        for assignment in record.assignments {
            let node: NodeId = assignment.node_id.parse().map_err(broken)?;
            let of_layer = |layer: &v1::LayerExperts| {
                let index = layer.layer;
                layer.experts.clone().into_iter().map(move |expert| ExpertId::new(index, expert))
            };
            assignments.insert(node, assignment.experts.iter().flat_map(of_layer).collect());
        }
        Ok(Self {
            model_fingerprint: record.model_fingerprint.into(),
            placement: Placement { epoch: Epoch(record.epoch), assignments },
        })
    }
}

impl RouterRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (address, version) = (self.address.clone(), self.version.clone());
        v1::RouterRecord { address, version }.encode_to_vec()
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// [`Error::Record`] for anything that a router does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let v1::RouterRecord { address, version } =
            v1::RouterRecord::decode(bytes).map_err(broken)?;
        Ok(Self { address, version })
    }
}

/// What stands under the key of a drain.
#[must_use]
pub fn encode_drain(by: &str) -> Vec<u8> {
    v1::DrainRecord { by: by.into() }.encode_to_vec()
}

/// Ascending experts, layer by layer, with the hash of each, if any.
fn to_layers<'a>(experts: impl Iterator<Item = (ExpertId, &'a [u8])>) -> Vec<v1::LayerExperts> {
    let mut layers: Vec<(u32, Vec<u32>, Vec<u8>)> = Vec::new();
    for (id, hash) in experts {
        if layers.last().is_none_or(|(layer, ..)| *layer != id.layer.0) {
            layers.push((id.layer.0, Vec::new(), Vec::new()));
        }
        if let Some((_, experts, hashes)) = layers.last_mut() {
            experts.push(id.expert.0);
            hashes.extend_from_slice(hash);
        }
    }
    let layer = |(layer, experts, hashes): (u32, Vec<u32>, Vec<u8>)| v1::LayerExperts {
        layer,
        experts,
        hashes: hashes.into(),
    };
    layers.into_iter().map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    fn expert() -> impl Strategy<Value = ExpertId> {
        (0u32..4, 0u32..6).prop_map(|(layer, expert)| ExpertId::new(layer, expert))
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_are_written(
            resident in btree_map(expert(), any::<[u8; 32]>(), 0..12),
            unloadable in btree_map(expert(), "[a-z ]{0,9}", 0..3),
            assignments in btree_map("[a-z]{1,5}", btree_set(expert(), 0..12), 0..4),
            instance in any::<u64>(),
        ) {
            let record = ResidentRecord { instance, resident, resident_bytes: 7, unloadable };
            prop_assert_eq!(ResidentRecord::decode(&record.encode()), Ok(record));
            let assignments = assignments.into_iter().map(|(n, e)| (n.parse().unwrap(), e)).collect();
            let placement = Placement { epoch: Epoch(instance), assignments };
            let record = PlacementRecord { model_fingerprint: vec![1, 2], placement };
            prop_assert_eq!(PlacementRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = NodeRecord::decode(&bytes);
            let _ = ResidentRecord::decode(&bytes);
            let _ = PlacementRecord::decode(&bytes);
            let _ = RouterRecord::decode(&bytes);
        }
    }

    #[test]
    fn a_node_record_is_read_as_it_is_written() {
        let record = NodeRecord {
            instance: 3,
            address: "http://a:1".into(),
            model_fingerprint: vec![9; 32],
            dtype: "bf16".into(),
            speed: 1.5,
            draining: true,
            has_files: true,
            ..NodeRecord::default()
        };
        assert_eq!(NodeRecord::decode(&record.encode()), Ok(record.clone()));
        let standing = NodeRecord { speed: 0.0, ..record };
        assert!(NodeRecord::decode(&standing.encode()).is_err());
    }

    #[test]
    fn a_hash_for_each_expert_is_asked_for() {
        let layer = v1::LayerExperts { layer: 1, experts: vec![1, 2], hashes: vec![0; 32].into() };
        let record = v1::ResidentRecord { resident: vec![layer], ..Default::default() };
        let error = ResidentRecord::decode(&record.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains("layer 1"), "{error}");
    }
}

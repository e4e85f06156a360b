//! The experts that a node holds: loaded, verified, and replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use guildhall_checkpoint::{Checkpoint, HashCache};
use guildhall_ids::{Epoch, ExpertId};
use guildhall_kernels::{Device, Dtype, ExpertWeights};
use guildhall_telemetry::error_chain;
use guildhall_transport::{AssignError, ExpertHash, Resident};

use crate::Error;

/// What is loaded at one moment. A snapshot: calls that began with it end with it.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    experts: BTreeMap<ExpertId, (Arc<ExpertWeights>, ExpertHash)>,
}

impl Held {
    pub(crate) fn get(&self, id: ExpertId) -> Option<&ExpertWeights> {
        self.experts.get(&id).map(|(weights, _)| &**weights)
    }

    pub(crate) fn resident(&self) -> Resident {
        self.experts.iter().map(|(id, (_, hash))| (*id, *hash)).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.experts.values().map(|(weights, _)| weights.bytes() as u64).sum()
    }
}

/// Loads experts from the checkpoint onto the device.
pub(crate) struct Shard {
    checkpoint: Checkpoint,
    device: Device,
    dtype: Dtype,
    /// The snapshot that calls use.
    held: Mutex<Arc<Held>>,
    /// Taken for a whole change, so that two assignments never interleave.
    hashes: Mutex<HashCache>,
}

impl Shard {
    pub(crate) fn new(
        checkpoint: Checkpoint,
        device: Device,
        dtype: Dtype,
        hash_cache: Option<&Path>,
    ) -> Result<Self, Error> {
        let cache_dir = hash_cache.unwrap_or(checkpoint.dir());
        let hashes = HashCache::open(cache_dir, checkpoint.fingerprint())?;
        let held = Mutex::new(Arc::default());
        Ok(Self { checkpoint, device, dtype, held, hashes: Mutex::new(hashes) })
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads what is new, then drops what is no longer assigned. Takes as long as reading the weights does.
    pub(crate) fn assign(
        &self,
        fingerprint: &[u8],
        epoch: Epoch,
        assigned: &BTreeSet<ExpertId>,
    ) -> Result<Arc<Held>, AssignError> {
        let own = self.checkpoint.fingerprint();
        if fingerprint != own.0 {
            return Err(AssignError::Mismatch(format!("this node holds the model {own}")));
        }
        let all: BTreeSet<ExpertId> = self.checkpoint.config().experts().collect();
        if let Some(unknown) = assigned.difference(&all).next() {
            return Err(AssignError::Mismatch(format!("the model has no expert {unknown}")));
        }
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.held();
        if epoch < before.epoch {
            return Err(AssignError::Stale { given: epoch, current: before.epoch });
        }
        let mut experts = BTreeMap::new();
        for &id in assigned {
            let expert = match before.experts.get(&id) {
                Some(kept) => kept.clone(),
                None => {
                    self.load(id, &mut hashes).map_err(|e| AssignError::Load(error_chain(&e)))?
                }
            };
            experts.insert(id, expert);
        }
        let held = Arc::new(Held { epoch, experts });
        tracing::info!(
            %epoch,
            experts = held.experts.len(),
            loaded = assigned.iter().filter(|id| !before.experts.contains_key(id)).count(),
            dropped = before.experts.keys().filter(|id| !assigned.contains(id)).count(),
            mib = held.bytes() >> 20,
            "experts resident"
        );
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&held);
        Ok(held)
    }

    fn load(
        &self,
        id: ExpertId,
        hashes: &mut HashCache,
    ) -> Result<(Arc<ExpertWeights>, ExpertHash), Error> {
        let (tensors, hash) = self.checkpoint.verified_expert(id, hashes)?;
        let weights =
            self.device.expert_weights(&tensors.gate, &tensors.up, &tensors.down, self.dtype)?;
        Ok((Arc::new(weights), hash))
    }
}

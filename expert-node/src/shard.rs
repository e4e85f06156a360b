//! The experts that a node holds, each loaded and verified before anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use guildhall_checkpoint::ExpertHash;
use guildhall_ids::ExpertId;
use guildhall_kernels::{Device, ExpertWeights, WeightFormat};

use crate::Error;
use crate::canary::canary;
use crate::supply::Supply;

/// What is loaded at one moment. A snapshot: calls that began with it end with it.
#[derive(Clone, Default)]
pub(crate) struct Held {
    experts: BTreeMap<ExpertId, (Arc<ExpertWeights>, ExpertHash)>,
}

impl Held {
    pub(crate) fn get(&self, id: ExpertId) -> Option<&ExpertWeights> {
        self.experts.get(&id).map(|(weights, _)| &**weights)
    }

    pub(crate) fn ids(&self) -> BTreeSet<ExpertId> {
        self.experts.keys().copied().collect()
    }

    pub(crate) fn hashes(&self) -> BTreeMap<ExpertId, ExpertHash> {
        self.experts.iter().map(|(id, (_, hash))| (*id, *hash)).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.experts.values().map(|(weights, _)| weights.bytes() as u64).sum()
    }
}

/// How an expert is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as the device allows: somebody waits for it.
    AtOnce,
    /// With one thread, beside the calls.
    Leisurely,
}

/// Loads experts onto the device.
pub(crate) struct Shard {
    supply: Supply,
    device: Device,
    /// The same device with one thread.
    one_thread: Device,
    format: WeightFormat,
    /// Bytes of packed weights that it may hold.
    capacity: u64,
    /// The snapshot that calls use; held for no longer than a copy takes.
    held: Mutex<Arc<Held>>,
}

impl Shard {
    pub(crate) fn new(
        supply: Supply,
        (device, one_thread): (Device, Device),
        (format, capacity): (WeightFormat, u64),
    ) -> Self {
        Self { supply, device, one_thread, format, capacity, held: Mutex::new(Arc::default()) }
    }

    pub(crate) fn supply(&self) -> &Supply {
        &self.supply
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads experts one after another, at least one, until `limit` is over. Returns what came of each that was tried.
    pub(crate) fn load(
        &self,
        experts: &[ExpertId],
        pace: Pace,
        limit: Duration,
    ) -> Vec<(ExpertId, Result<(), Error>)> {
        let began = Instant::now();
        let mut tried = Vec::new();
        for &id in experts {
            if !tried.is_empty() && began.elapsed() >= limit {
                break;
            }
            let loaded = self.load_one(id, pace).map(|expert| {
                self.change(|held| drop(held.experts.insert(id, expert)));
            });
            tried.push((id, loaded));
        }
        tried
    }

    pub(crate) fn forget(&self, experts: &BTreeSet<ExpertId>) {
        self.change(|held| held.experts.retain(|id, _| !experts.contains(id)));
    }

    /// Bytes that more experts may take.
    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.held().bytes())
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut held));
    }

    /// Verifies the bytes of an expert, packs them, and has the packed expert computed once.
    fn load_one(
        &self,
        id: ExpertId,
        pace: Pace,
    ) -> Result<(Arc<ExpertWeights>, ExpertHash), Error> {
        let device = match pace {
            Pace::AtOnce => &self.device,
            Pace::Leisurely => &self.one_thread,
        };
        let (tensors, hash) = self.supply.read(id)?;
        let weights =
            device.expert_weights(&tensors.gate, &tensors.up, &tensors.down, self.format)?;
        let (bytes, free) = (weights.bytes() as u64, self.free());
        if bytes > free {
            return Err(Error::NoRoom { expert: id, bytes, free });
        }
        canary(device, id, &tensors, &weights).map_err(|e| Error::Canary(Box::new(e)))?;
        Ok((Arc::new(weights), hash))
    }
}

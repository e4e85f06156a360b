//! The experts that a node holds, each loaded and verified before anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
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

    /// Loads experts, at least one, until `limit` is over. Returns what came of each that was tried.
    ///
    /// What is to be there at once is loaded on all threads, an expert on each; a giver is asked for one at a time.
    pub(crate) fn load(
        &self,
        experts: &[ExpertId],
        pace: Pace,
        limit: Duration,
    ) -> Vec<(ExpertId, Result<(), Error>)> {
        let at_once = pace == Pace::AtOnce;
        let threads = match at_once && self.supply.has_files() {
            true => self.device.threads().min(experts.len()),
            false => 1,
        };
        let device = if at_once && threads == 1 { &self.device } else { &self.one_thread };
        let (began, next) = (Instant::now(), AtomicUsize::new(0));
        let load_some = || {
            let mut tried = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let late = at > 0 && began.elapsed() >= limit;
                let Some(&id) = experts.get(at).filter(|_| !late) else { return tried };
                tried.push((id, self.load_one(id, device)));
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(load_some)).collect();
            let mut tried = load_some();
            for other in others {
                tried.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            tried
        })
    }

    pub(crate) fn forget(&self, experts: &BTreeSet<ExpertId>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut held).experts.retain(|id, _| !experts.contains(id));
    }

    /// Verifies the bytes of an expert, packs them, has the packed expert computed once, and holds it from then on.
    fn load_one(&self, id: ExpertId, device: &Device) -> Result<(), Error> {
        let (tensors, hash) = self.supply.read(id)?;
        let weights =
            device.expert_weights(&tensors.gate, &tensors.up, &tensors.down, self.format)?;
        canary(device, id, &tensors, &weights).map_err(|e| Error::Canary(Box::new(e)))?;
        self.hold(id, weights, hash)
    }

    fn hold(&self, id: ExpertId, weights: ExpertWeights, hash: ExpertHash) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, free) = (weights.bytes() as u64, self.capacity.saturating_sub(held.bytes()));
        if bytes > free {
            return Err(Error::NoRoom { expert: id, bytes, free });
        }
        Arc::make_mut(&mut held).experts.insert(id, (Arc::new(weights), hash));
        Ok(())
    }
}

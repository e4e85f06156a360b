//! One number for "the same model": what router and nodes compare before they work together.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::mapped::MappedTensors;
use crate::{Error, ModelConfig, names};

/// SHA-256 over the configuration, the name, type and shape of every tensor, and the gates of all layers.
///
/// The gates decide who computes what, take no time to read, and differ between any two trainings. The experts
/// themselves are verified one by one, when they are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub(crate) fn compute(
        config_path: &Path,
        config: &ModelConfig,
        tensors: &MappedTensors,
    ) -> Result<Self, Error> {
        let text = std::fs::read(config_path).map_err(|e| Error::io(config_path, e))?;
        let mut json: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(config_path, e.to_string()))?;
        let mut hash = Sha256::new();
        // However the file orders its keys and sets its spaces.
        json.sort_all_objects();
        hash.update(json.to_string());
        for (name, dtype, shape) in tensors.table() {
            hash.update(format!("\n{name} {dtype:?} {shape:?}"));
        }
        let shape = [config.moe.n_experts, config.hidden_size];
        for layer in config.moe_layers() {
            let gate = tensors.matrix(&names::gate(config.family, layer), shape)?;
            gate.parts.iter().for_each(|part| hash.update(part));
        }
        Ok(Self(hash.finalize().into()))
    }
}

/// The first 16 hex digits: enough for people.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..8]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

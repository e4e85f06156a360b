//! Where a node's experts come from: the model's files, or nodes that have them.

use std::path::Path;

use guildhall_checkpoint::{
    Checkpoint, ExpertBytes, ExpertHash, ExpertTensors, Fingerprint, HashCache, MatrixBytes,
    ModelConfig, ValueType,
};
use guildhall_ids::ExpertId;
use guildhall_transport::{StoredExpert, StoredMatrix};

use crate::Error;
use crate::peers::Peers;

/// A model, and how to read one of its experts.
pub(crate) enum Supply {
    Files(Checkpoint, HashCache),
    Peers(ModelConfig, Peers),
}

impl Supply {
    /// Reads from files; hashes are recorded beside them unless `hash_cache` says where.
    pub(crate) fn open(dir: &Path, hash_cache: Option<&Path>) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(dir)?;
        let hashes = HashCache::open(hash_cache.unwrap_or(dir), checkpoint.fingerprint())?;
        Ok(Self::Files(checkpoint, hashes))
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        match self {
            Self::Files(checkpoint, _) => checkpoint.config(),
            Self::Peers(config, _) => config,
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Files(checkpoint, _) => checkpoint.fingerprint(),
            Self::Peers(_, peers) => peers.fingerprint,
        }
    }

    pub(crate) fn has_files(&self) -> bool {
        matches!(self, Self::Files(..))
    }

    /// An expert with its hash, which is the recorded one, or the one that the cluster knows. Blocks.
    pub(crate) fn read(&self, id: ExpertId) -> Result<(ExpertTensors, ExpertHash), Error> {
        match self {
            Self::Files(checkpoint, hashes) => Ok(checkpoint.verified_expert(id, hashes)?),
            Self::Peers(config, peers) => peers.fetch(id, |stored| received(config, id, stored)),
        }
    }

    /// An expert for a node that has no files. Blocks.
    pub(crate) fn stored(&self, fingerprint: &[u8], id: ExpertId) -> Result<StoredExpert, String> {
        let Self::Files(checkpoint, hashes) = self else {
            return Err("this node has no files itself".into());
        };
        if fingerprint != checkpoint.fingerprint().0 {
            return Err(format!("this node has model {}", checkpoint.fingerprint()));
        }
        let verified = checkpoint.verified_bytes(id, hashes);
        let (bytes, hash) = verified.map_err(|error| error.to_string())?;
        let matrix = |matrix: MatrixBytes<'_>| StoredMatrix {
            value_type: matrix.value_type.to_string(),
            bytes: matrix.parts.concat().into(),
        };
        Ok(StoredExpert { matrices: [bytes.gate, bytes.up, bytes.down].map(matrix), hash })
    }
}

/// Makes an expert of what came, if that is what it says it is.
fn received(
    config: &ModelConfig,
    id: ExpertId,
    stored: &StoredExpert,
) -> Result<ExpertTensors, guildhall_checkpoint::Error> {
    let [gate, up, down] = &stored.matrices;
    let parts = [part(id, gate)?, part(id, up)?, part(id, down)?];
    ExpertBytes::split(config, parts).to_tensors(id, config, &stored.hash)
}

fn part(
    id: ExpertId,
    stored: &StoredMatrix,
) -> Result<(ValueType, &[u8]), guildhall_checkpoint::Error> {
    let refuse = |what| guildhall_checkpoint::Error::Received { expert: id, what };
    Ok((stored.value_type.parse().map_err(refuse)?, &stored.bytes))
}

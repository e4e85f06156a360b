//! What a node says of itself, and what both sides must agree on before they work together.

use std::collections::BTreeMap;

use guildhall_ids::{Epoch, ExpertId, NodeId};

/// SHA-256 of the weights of one expert, as they are in the checkpoint.
pub type ExpertHash = [u8; 32];

/// The experts that a node has loaded and verified, with their hashes.
pub type Resident = BTreeMap<ExpertId, ExpertHash>;

/// What a router states when it opens a link, and a node of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// [`guildhall_proto::EXPERT_PROTOCOL_VERSION`] of the build.
    pub protocol_version: u32,
    /// Of the checkpoint.
    pub model_fingerprint: Vec<u8>,
    /// What rows travel in: `f32` or `bf16`.
    pub dtype: String,
    /// Values in a row.
    pub hidden_size: u32,
}

/// Why a node does not work with a router.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They do not fit together; trying again is of no use.
    #[error("{0}")]
    Mismatch(String),
    /// The node is leaving.
    #[error("the node is draining")]
    Draining,
}

impl Handshake {
    /// Compares what a router states with what the node is.
    ///
    /// # Errors
    /// The first difference, with both values.
    pub fn accept(&self, router: &Handshake) -> Result<(), Refusal> {
        let differ = |what: &str, router: String, node: String| {
            Err(Refusal::Mismatch(format!("the router has {what} {router}, this node {node}")))
        };
        let short = |fingerprint: &[u8]| -> String {
            fingerprint.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
        };
        if self.protocol_version != router.protocol_version {
            let (theirs, ours) = (router.protocol_version, self.protocol_version);
            return differ("protocol version", theirs.to_string(), ours.to_string());
        }
        if self.model_fingerprint != router.model_fingerprint {
            let (theirs, ours) = (&router.model_fingerprint, &self.model_fingerprint);
            return differ("a model with fingerprint", short(theirs), short(ours));
        }
        if self.dtype != router.dtype {
            return differ("dtype", router.dtype.clone(), self.dtype.clone());
        }
        if self.hidden_size != router.hidden_size {
            let (theirs, ours) = (router.hidden_size, self.hidden_size);
            return differ("hidden size", theirs.to_string(), ours.to_string());
        }
        Ok(())
    }
}

/// Who a node is and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescription {
    /// Its name.
    pub node: NodeId,
    /// Differs after a restart.
    pub instance: u64,
    /// What it would compare a router with; the hidden size is 0 (a node does not state it here).
    pub handshake: Handshake,
    /// The instruction set of its kernels; two nodes with the same one give the same bits.
    pub instruction_set: String,
    /// The newest assignment that is fully resident.
    pub epoch: Epoch,
    /// What it holds.
    pub resident: Resident,
    /// Bytes of the packed weights of `resident`.
    pub resident_bytes: u64,
    /// Whether it is leaving.
    pub draining: bool,
}

/// Why a node does not hold what it was assigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// The assignment is for another model or names experts that the model has not.
    #[error("{0}")]
    Mismatch(String),
    /// A newer assignment is in force.
    #[error("assignment {given} is older than {current}")]
    Stale {
        /// The epoch of the refused assignment.
        given: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// An expert could not be loaded or verified.
    #[error("{0}")]
    Load(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Handshake {
        Handshake {
            protocol_version: 1,
            model_fingerprint: vec![0xab; 32],
            dtype: "bf16".into(),
            hidden_size: 64,
        }
    }

    fn check(change: impl FnOnce(&mut Handshake), expected: &str) {
        let mut router = node();
        change(&mut router);
        let refusal = node().accept(&router).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }

    #[test]
    fn every_difference_is_refused_by_name() {
        assert_eq!(node().accept(&node()), Ok(()));
        check(|r| r.protocol_version = 2, "protocol version 2, this node 1");
        check(|r| r.model_fingerprint[0] = 0, "fingerprint 00abab");
        check(|r| r.dtype = "f32".into(), "dtype f32, this node bf16");
        check(|r| r.hidden_size = 32, "hidden size 32, this node 64");
    }
}

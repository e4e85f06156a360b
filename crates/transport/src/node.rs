//! What a router and a node must agree on before they work together.

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
    /// What experts are kept in, such as `bf16` or `int8`.
    pub expert_weights: String,
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
        if self.expert_weights != router.expert_weights {
            let (theirs, ours) = (router.expert_weights.clone(), self.expert_weights.clone());
            return differ("expert weights", theirs, ours);
        }
        if self.hidden_size != router.hidden_size {
            let (theirs, ours) = (router.hidden_size, self.hidden_size);
            return differ("hidden size", theirs.to_string(), ours.to_string());
        }
        Ok(())
    }
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
            expert_weights: "bf16".into(),
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
        check(|r| r.expert_weights = "int8".into(), "expert weights int8, this node bf16");
        check(|r| r.hidden_size = 32, "hidden size 32, this node 64");
    }
}

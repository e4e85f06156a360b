//! Names of the things in a cluster: newtypes only, so that a layer is never taken for an expert.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Names an expert-node process; unique in a cluster and stable over its restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// Longest accepted [`NodeId`], in bytes: what a Kubernetes host name may be.
pub const MAX_NODE_ID_BYTES: usize = 63;

/// Says why a text is no [`NodeId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node id {0:?} is not 1 to 63 of the characters a-z A-Z 0-9 . _ -")]
pub struct InvalidNodeId(String);

impl NodeId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = !text.is_empty() && text.len() <= MAX_NODE_ID_BYTES;
        if fits && text.chars().all(allowed) {
            return Ok(Self(text.into()));
        }
        Err(InvalidNodeId(text.chars().take(80).collect()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts decoder layers from the embedding upwards, from 0; dense layers count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIdx(pub u32);

/// Counts the experts of one layer from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpertIdx(pub u32);

/// Numbers the versions of the placement; a later one is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// One expert of the model: a feed-forward network of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpertId {
    /// The layer it belongs to.
    pub layer: LayerIdx,
    /// Its place among the experts of that layer.
    pub expert: ExpertIdx,
}

impl ExpertId {
    /// The expert `expert` of layer `layer`.
    #[must_use]
    pub fn new(layer: u32, expert: u32) -> Self {
        Self { layer: LayerIdx(layer), expert: ExpertIdx(expert) }
    }
}

impl fmt::Display for LayerIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ExpertIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Prints `layer/expert`, as in `3/17`.
impl fmt::Display for ExpertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.layer, self.expert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_host_names() {
        for good in ["expert-node-0", "a", "10.0.0.1", &"x".repeat(MAX_NODE_ID_BYTES)] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ä", "a/b", "a\n", &"x".repeat(MAX_NODE_ID_BYTES + 1)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn experts_order_by_layer_first() {
        assert!(ExpertId::new(0, 9) < ExpertId::new(1, 0));
        assert_eq!(ExpertId::new(3, 17).to_string(), "3/17");
    }
}

//! Every key of the store, and who writes it.
//!
//! | key | its one writer | lease | read by |
//! |---|---|---|---|
//! | `nodes/<id>` | that node | yes | routers |
//! | `resident/<id>` | that node | yes | routers, nodes |
//! | `placement` | the leader, by compare and put | no | routers, nodes |
//! | `leader` | whichever router puts it while it is not there | yes | routers |
//! | `routers/<id>` | that router | yes | the leader |
//! | `drains/<id>` | a router, when an admin asks it to | no | the leader |

use std::fmt;

use guildhall_ids::NodeId;

/// What every key of a cluster begins with, unless it is told otherwise.
pub const DEFAULT_PREFIX: &str = "guildhall/";

/// A key without the prefix of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Who a node is.
    Node(NodeId),
    /// What a node holds.
    Resident(NodeId),
    /// What each node should hold.
    Placement,
    /// Which router leads.
    Leader,
    /// Who a router is.
    Router(String),
    /// A node that shall hold nothing.
    Drain(NodeId),
}

impl Key {
    /// The key in a cluster whose keys begin with `prefix`.
    #[must_use]
    pub fn under(&self, prefix: &str) -> String {
        format!("{prefix}{self}")
    }

    /// Reads a key without its prefix; nothing for one that this version does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            None if text == "placement" => Some(Self::Placement),
            None if text == "leader" => Some(Self::Leader),
            Some(("nodes", id)) => id.parse().ok().map(Self::Node),
            Some(("resident", id)) => id.parse().ok().map(Self::Resident),
            Some(("drains", id)) => id.parse().ok().map(Self::Drain),
            Some(("routers", id)) if !id.is_empty() => Some(Self::Router(id.into())),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "nodes/{id}"),
            Self::Resident(id) => write!(f, "resident/{id}"),
            Self::Placement => write!(f, "placement"),
            Self::Leader => write!(f, "leader"),
            Self::Router(id) => write!(f, "routers/{id}"),
            Self::Drain(id) => write!(f, "drains/{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let node = || "a.b-c".parse::<NodeId>().unwrap();
        for key in [
            Key::Node(node()),
            Key::Resident(node()),
            Key::Drain(node()),
            Key::Router("router-1".into()),
            Key::Placement,
            Key::Leader,
        ] {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
        for other in ["", "nodes", "nodes/", "nodes/a b", "placement/x", "routers/", "x/y"] {
            assert_eq!(Key::parse(other), None, "{other:?}");
        }
    }
}

//! Why a replica is loaded or dropped, for people.

use std::fmt;

use guildhall_ids::{ExpertId, NodeId};

/// One change of a placement.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// The expert.
    pub expert: ExpertId,
    /// Where its replica comes or goes.
    pub node: NodeId,
    /// Whether it comes.
    pub loads: bool,
    /// Why.
    pub why: Why,
}

/// Why a replica comes or goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// The layer was on no node.
    First,
    /// The expert had too few replicas.
    Short {
        /// Replicas that it had.
        has: usize,
        /// Replicas that it should have.
        least: usize,
    },
    /// A node took longer than the others.
    Balance {
        /// The node's place among the nodes.
        slowest: usize,
        /// Its time over that of perfectly divided work.
        times: f64,
    },
    /// The node may hold less than it did.
    NoRoom,
    /// There are more replicas than there should be, or another expert needs the room more.
    Spare,
    /// Another node has it now, or another expert is worth more here.
    MakesWay,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expert, node, loads, why } = self;
        let verb = if *loads { "load" } else { "drop" };
        let on = if *loads { "on" } else { "from" };
        write!(f, "{verb} {expert} {on} {node}: {why}")
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => write!(f, "it is on no node"),
            Self::Short { has, least } => write!(f, "it has {has} of {least} replicas"),
            Self::Balance { times, .. } => {
                write!(f, "the slowest node of the layer takes {times:.2}x its share")
            }
            Self::NoRoom => write!(f, "the node may hold less than it does"),
            Self::Spare => write!(f, "there are more replicas than needed"),
            Self::MakesWay => write!(f, "other nodes are enough"),
        }
    }
}

//! Decides which node holds which experts, and where a token can go: pure functions of their arguments.

pub use placement::{ExpertGrid, Placement, spread_evenly};
pub use routing_table::{NodeSlot, RoutingTable};

mod placement;
mod routing_table;

//! Decides which node holds which experts, and where a token can go: pure functions of their arguments.

pub use cost::CostModel;
pub use eplb::{EplbShape, eplb};
pub use placement::{ExpertGrid, Placement, spread_evenly};
pub use problem::{NodeSpec, Problem};
pub use reason::{Reason, Why};
pub use rollout::{LiveNode, Step, next_step};
pub use routing_table::{NodeSlot, RoutingTable};
pub use solve::{Assignments, Solution, solve};

mod problem;
mod solve;
mod reason;
mod eplb;
pub mod measures;
mod cost;
mod placement;
mod rollout;
mod routing_table;

//! One configuration for every family.

pub use generation::GenerationDefaults;
pub use model::{Attention, FeedForward, LayerConfig, ModelConfig, Moe, QkNorm, SharedExpert};
pub use rope::{Rope, RopeScaling};

mod model;
mod fields;
mod families;
mod rope;
mod quantisation;
mod generation;

//! One configuration for every family.

pub use generation::GenerationDefaults;
pub use model::{
    Attention, FeedForward, Fp8Blocks, LayerConfig, ModelConfig, Moe, QkNorm, SharedExpert,
};
pub use rope::{Rope, RopeScaling};

mod model;
mod fields;
mod families;
mod rope;
mod generation;

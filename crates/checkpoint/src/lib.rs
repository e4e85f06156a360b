//! Models on disk: Hugging Face directories read into one [`ModelConfig`], mapped tensors and expert hashes.

pub use checkpoint::{Checkpoint, SharedExpertTensors};
pub use config::{
    Attention, FeedForward, Fp8Blocks, GenerationDefaults, LayerConfig, ModelConfig, Moe, QkNorm,
    Rope, RopeScaling, SharedExpert,
};
pub use error::Error;
pub use expert::ExpertTensors;
pub use expert_bytes::ExpertBytes;
pub use family::Family;
pub use fingerprint::Fingerprint;
pub use hashes::{ExpertHash, HashCache};
pub use mapped::has_weights;
pub use matrix_bytes::{MatrixBytes, ValueType};
pub use sizes::{NodeBytes, Parameters, StorageType};

mod checkpoint;
mod expert;
mod expert_bytes;
mod matrix_bytes;
mod fp8;
mod config;
mod family;
mod names;
mod mapped;
mod fingerprint;
mod hashes;
mod sizes;
mod error;

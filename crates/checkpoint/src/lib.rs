//! Models on disk: Hugging Face directories read into one [`ModelConfig`], mapped tensors and expert hashes.

pub use checkpoint::{Checkpoint, SharedExpertTensors};
pub use config::{
    Attention, FeedForward, GenerationDefaults, LayerConfig, ModelConfig, Moe, QkNorm, Rope,
    RopeScaling, SharedExpert,
};
pub use error::Error;
pub use expert::ExpertTensors;
pub use expert_bytes::ExpertBytes;
pub use family::Family;
pub use fingerprint::Fingerprint;
pub use hashes::{ExpertHash, HashCache};
pub use mapped::has_weights;
pub use matrix_bytes::{FloatType, MatrixBytes, ValueType};
pub use quantised::{Fp8Blocks, Integers, Layout, Quantisation};
pub use sizes::{NodeBytes, Parameters, StorageType};

mod checkpoint;
mod expert;
mod expert_bytes;
mod matrix_bytes;
mod quantised;
mod config;
mod family;
mod names;
mod mapped;
mod fingerprint;
mod hashes;
mod sizes;
mod error;

//! Tensor operations on a device, every one synchronous.
//!
//! For one instruction set and one [`Dtype`], the result of a row depends on that row's input
//! alone: not on how many rows are computed with it, on its place among them, on the number of
//! threads, nor on how a prompt is cut into chunks. Each output element is summed in one fixed
//! order, whatever the shape of the tile it is computed in, so a cluster that batches its work
//! in any way gives the same bits as one process that computes a single sequence.

pub use attention::{AttentionOptions, KvCache, KvShape, SequenceSpan};
pub use device::{CpuOptions, Device, InstructionSet};
pub use dtype::Dtype;
pub use error::Error;
pub use ffn::{ExpertRows, ExpertWeights};
pub use gate::{GateOptions, Routes};
pub use largest::{Largest, largest};
pub use memory::{MemorySize, memory_of_machine};
pub use probe::Probe;
pub use rope::RopeTable;
pub use tensor::Tensor;
pub use weights::{Embedding, Linear, Vector, WeightFormat};

mod device;
mod memory;
mod large_pages;
mod dtype;
mod buffer;
mod tensor;
mod wire_rows;
mod weights;
mod elementwise;
mod largest;
mod rope;
mod probe;
mod attention;
mod gate;
mod ffn;
mod linear;
mod cpu;
mod error;

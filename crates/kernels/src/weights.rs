//! Weights, packed once when they are loaded.

use half::bf16;

pub use format::WeightFormat;
pub(crate) use packed::Packed;

use crate::device::Device;
use crate::dtype::{Dtype, bf16_bits};
use crate::error::{Error, check_size};
use source::Source;

mod format;
mod packed;
pub(crate) mod quantised;
mod source;

/// The weights of a linear map from `k` inputs to `n` outputs, with its bias if it has one.
#[derive(Debug)]
pub struct Linear {
    pub(crate) packed: Packed,
    /// `[n]`
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Returns the number of outputs.
    pub fn n(&self) -> usize {
        self.packed.n()
    }

    /// Returns the number of inputs.
    pub fn k(&self) -> usize {
        self.packed.k()
    }

    /// Returns what the weights are kept as.
    pub fn format(&self) -> WeightFormat {
        self.packed.format()
    }

    /// Returns the memory that the weights take, in bytes.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + self.bias.as_ref().map_or(0, |bias| bias.len() * 4)
    }
}

/// A vector of f32 weights, such as the scale of a norm.
#[derive(Debug)]
pub struct Vector {
    pub(crate) data: Vec<f32>,
}

impl Vector {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Returns whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// A table with one row of weights for each token id, `[vocab, hidden]`.
#[derive(Debug)]
pub struct Embedding {
    pub(crate) table: Table,
    vocab: usize,
    hidden: usize,
}

#[derive(Debug)]
pub(crate) enum Table {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Embedding {
    /// Returns the number of token ids.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Returns the number of columns.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Returns the memory that the table takes, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.table {
            Table::F32(rows) => rows.len() * 4,
            Table::Bf16(rows) => rows.len() * 2,
        }
    }
}

impl Device {
    /// Packs `weight` `[n, k]` as `format`, and `bias` `[n]`, for [`Device::linear`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the ranks or sizes do not fit, [`Error::Weight`] when a tensor
    /// cannot be read, [`Error::OutOfMemory`] when there is no room for the packed copy.
    pub fn linear_weights(
        &self,
        weight: &candle_core::Tensor,
        bias: Option<&candle_core::Tensor>,
        format: impl Into<WeightFormat>,
    ) -> Result<Linear, Error> {
        let (n, k) = matrix_size("linear_weights", weight)?;
        let packed = Source::with(weight, "linear", |source| {
            Packed::pack(&[source], (n, k), format.into(), self.workers())
        })??;
        let bias = bias.map(|bias| self.vector(bias)).transpose()?.map(|bias| bias.data);
        if let Some(bias) = &bias {
            check_size("linear_weights", "elements of the bias", n, bias.len())?;
        }
        Ok(Linear { packed, bias })
    }

    /// Copies `weight` `[n]` to the device, as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is no vector, [`Error::Weight`] when it cannot be read.
    pub fn vector(&self, weight: &candle_core::Tensor) -> Result<Vector, Error> {
        check_size("vector", "rank", 1, weight.rank())?;
        let data = Source::with(weight, "vector", |source| match source {
            Source::F32(values) => values.to_vec(),
            Source::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
        })?;
        Ok(Vector { data })
    }

    /// Copies the table `weight` `[vocab, hidden]` to the device as `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is no matrix, [`Error::Weight`] when it cannot be read.
    pub fn embedding(
        &self,
        weight: &candle_core::Tensor,
        dtype: Dtype,
    ) -> Result<Embedding, Error> {
        let (vocab, hidden) = matrix_size("embedding", weight)?;
        let table = Source::with(weight, "embedding", |source| match (source, dtype) {
            (Source::F32(values), Dtype::F32) => Table::F32(values.to_vec()),
            (Source::Bf16(values), Dtype::Bf16) => Table::Bf16(values.to_vec()),
            (Source::Bf16(values), Dtype::F32) => {
                Table::F32(values.iter().map(|value| value.to_f32()).collect())
            }
            (Source::F32(values), Dtype::Bf16) => {
                let rounded = values.iter().map(|&value| bf16::from_bits(bf16_bits(value) as u16));
                Table::Bf16(rounded.collect())
            }
        })?;
        Ok(Embedding { table, vocab, hidden })
    }
}

/// Returns rows and columns of `weight`, at least one of each, on behalf of `operation`.
pub(crate) fn matrix_size(
    operation: &'static str,
    weight: &candle_core::Tensor,
) -> Result<(usize, usize), Error> {
    match *weight.dims() {
        [n, k] if n > 0 && k > 0 => Ok((n, k)),
        _ => Err(Error::Shape {
            operation,
            what: "dimensions of the weight",
            expected: "two, above zero".to_owned(),
            got: format!("{:?}", weight.dims()),
        }),
    }
}

/// Packs `gate` and `up`, both `[n, k]`, as one: their panels alternate.
pub(crate) fn pack_pair(
    device: &Device,
    gate: &candle_core::Tensor,
    up: &candle_core::Tensor,
    format: WeightFormat,
) -> Result<Packed, Error> {
    let (n, k) = matrix_size("expert_weights", gate)?;
    Source::with(gate, "gate", |gate| {
        Source::with(up, "up", |up| Packed::pack(&[gate, up], (n, k), format, device.workers()))
    })??
}

/// Packs `down` `[n, k]`.
pub(crate) fn pack_one(
    device: &Device,
    down: &candle_core::Tensor,
    format: WeightFormat,
) -> Result<Packed, Error> {
    let size = matrix_size("expert_weights", down)?;
    Source::with(down, "down", |down| Packed::pack(&[down], size, format, device.workers()))?
}

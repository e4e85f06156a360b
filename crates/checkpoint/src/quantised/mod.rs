//! Matrices that are stored quantised: the tensors that each consists of, and the values that these stand for.

pub use fp8::Fp8Blocks;
pub use integers::{Integers, Layout};

mod fp8;
mod integers;

use safetensors::Dtype;

/// How the matrices of a checkpoint are stored that are not plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// FP8, with a scale for each block.
    Fp8(Fp8Blocks),
    /// Integers, with a scale for each group of inputs.
    Integers(Integers),
}

/// One of the tensors of a matrix.
pub(crate) struct Part {
    /// What stands in its name instead of `weight`.
    pub(crate) name: &'static str,
    /// `None`: scales, in any floating-point type.
    pub(crate) dtype: Option<Dtype>,
    pub(crate) shape: Vec<usize>,
}

impl Part {
    fn new(name: &'static str, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name, dtype: Some(dtype), shape: shape.into() }
    }

    fn scales(name: &'static str, shape: [usize; 2]) -> Self {
        Self { name, dtype: None, shape: shape.into() }
    }

    pub(crate) fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Quantisation {
    /// The tensors of a matrix, [outputs, inputs]: the values, the scales, and whatever else the format has.
    pub(crate) fn parts(self, shape: [usize; 2]) -> Vec<Part> {
        match self {
            Self::Fp8(blocks) => blocks.parts(shape),
            Self::Integers(integers) => integers.parts(shape),
        }
    }

    /// What [`Self::parts`] stand for, row by row; the lengths are right.
    ///
    /// # Errors
    /// In words, what is wrong with the values.
    pub(crate) fn dequantise(
        self,
        shape: [usize; 2],
        parts: &[&[u8]],
        scales: &[f32],
    ) -> Result<Vec<f32>, String> {
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(format!("scale {at} is not a finite number"));
        }
        match self {
            Self::Fp8(blocks) => blocks.dequantise(parts[0], scales, shape[1]),
            Self::Integers(integers) => integers.dequantise(shape, parts, scales),
        }
    }
}

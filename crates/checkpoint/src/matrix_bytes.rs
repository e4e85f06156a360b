//! One matrix as it is in a file.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};

use crate::Quantisation;
use crate::mapped::tensor_of;

/// A floating-point type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl FloatType {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// What the values of a matrix are in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Numbers.
    Plain(FloatType),
    /// What the configuration says of quantised matrices, with scales of this type.
    Quantised(FloatType),
}

impl ValueType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Plain(FloatType::F32),
        Self::Plain(FloatType::F16),
        Self::Plain(FloatType::Bf16),
        Self::Quantised(FloatType::F32),
        Self::Quantised(FloatType::F16),
        Self::Quantised(FloatType::Bf16),
    ];

    /// Bytes of each part of a matrix of this shape.
    fn lengths(self, shape: [usize; 2], format: Option<Quantisation>) -> Vec<usize> {
        match (self, format) {
            (Self::Quantised(scales), Some(format)) => {
                let size = |dtype: safetensors::Dtype| dtype.bitsize() / 8;
                let of_scale = scales.dtype().size_in_bytes();
                let parts = format.parts(shape);
                parts.iter().map(|part| part.values() * part.dtype.map_or(of_scale, size)).collect()
            }
            (Self::Plain(values) | Self::Quantised(values), _) => {
                vec![shape[0] * shape[1] * values.dtype().size_in_bytes()]
            }
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(values) => f.write_str(values.dtype().as_str()),
            Self::Quantised(scales) => write!(f, "quantised with {}", scales.dtype().as_str()),
        }
    }
}

impl FromStr for ValueType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.to_string() == name);
        found.ok_or_else(|| format!("values of an unknown type {name:?}"))
    }
}

/// One matrix as it is in a file: row-major, little-endian; its shape follows from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixBytes<'a> {
    /// What its values are.
    pub value_type: ValueType,
    /// The values; if it is quantised, then the scales, and what else its format has.
    pub parts: Vec<&'a [u8]>,
}

impl<'a> MatrixBytes<'a> {
    /// Takes the parts of a matrix, one behind the other, apart. Wrong lengths are found by [`Self::to_tensor`].
    pub(crate) fn split(
        value_type: ValueType,
        mut bytes: &'a [u8],
        shape: [usize; 2],
        format: Option<Quantisation>,
    ) -> Self {
        let mut parts = Vec::new();
        for length in value_type.lengths(shape, format) {
            let (part, rest) = bytes.split_at(length.min(bytes.len()));
            parts.push(part);
            bytes = rest;
        }
        if !bytes.is_empty() {
            parts.push(bytes);
        }
        Self { value_type, parts }
    }

    /// A copy whose values are finite numbers; quantised ones become f32.
    ///
    /// # Errors
    /// In words, what is wrong with the values or their number.
    pub(crate) fn to_tensor(
        &self,
        shape: [usize; 2],
        format: Option<Quantisation>,
    ) -> Result<Tensor, String> {
        let found: Vec<usize> = self.parts.iter().map(|part| part.len()).collect();
        let expected = self.value_type.lengths(shape, format);
        if found != expected {
            return Err(format!("has {found:?} bytes, not {expected:?}"));
        }
        let scales = match self.value_type {
            ValueType::Plain(values) => return tensor_of(values.dtype(), &shape, self.parts[0]),
            ValueType::Quantised(scales) => scales.dtype(),
        };
        let format = format.ok_or("is quantised, but config.json has no quantization_config")?;
        let bytes = self.parts[1];
        let count = bytes.len() / scales.size_in_bytes();
        let scales = Tensor::from_raw_buffer(bytes, scales, &[count], &Device::Cpu)
            .and_then(|scales| scales.to_dtype(DType::F32)?.to_vec1::<f32>())
            .map_err(|e| e.to_string())?;
        let values = format.dequantise(shape, &self.parts, &scales)?;
        Tensor::from_vec(values, &shape, &Device::Cpu).map_err(|e| e.to_string())
    }
}

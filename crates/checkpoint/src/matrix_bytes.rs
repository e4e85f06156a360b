//! One matrix as it is in a file.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};

use crate::mapped::tensor_of;
use crate::{Fp8Blocks, fp8};

/// What the values of a matrix are in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// E4M3, with a scale in f32 for each block.
    Fp8WithF32,
    /// E4M3, with a scale in bf16 for each block.
    Fp8WithBf16,
}

impl ValueType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::F32, Self::F16, Self::Bf16, Self::Fp8WithF32, Self::Fp8WithBf16];

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8WithF32 => "f8_e4m3 with f32",
            Self::Fp8WithBf16 => "f8_e4m3 with bf16",
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Fp8WithF32 | Self::Fp8WithBf16 => DType::F8E4M3,
        }
    }

    /// Bytes of a scale, where there are scales.
    fn scale_bytes(self) -> Option<usize> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Fp8WithF32 => Some(4),
            Self::Fp8WithBf16 => Some(2),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ValueType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| format!("values of an unknown type {name:?}"))
    }
}

/// One matrix as it is in a file: row-major, little-endian; its shape follows from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixBytes<'a> {
    /// What its values are.
    pub value_type: ValueType,
    /// All of its values.
    pub values: &'a [u8],
    /// The scales of its blocks, if it has some.
    pub scales: &'a [u8],
}

impl<'a> MatrixBytes<'a> {
    /// Takes values of this shape, and the scales behind them, apart. Wrong lengths are found by [`Self::to_tensor`].
    pub(crate) fn split(value_type: ValueType, bytes: &'a [u8], shape: [usize; 2]) -> Self {
        let length = shape[0] * shape[1] * value_type.dtype().size_in_bytes();
        let (values, scales) = bytes.split_at(length.min(bytes.len()));
        Self { value_type, values, scales }
    }

    /// A copy whose values are finite numbers; those with scales become f32.
    ///
    /// # Errors
    /// In words, what is wrong with the values, the scales or their number.
    pub(crate) fn to_tensor(
        self,
        shape: [usize; 2],
        blocks: Option<Fp8Blocks>,
    ) -> Result<Tensor, String> {
        let (found, bytes) =
            (self.values.len(), shape[0] * shape[1] * self.value_type.dtype().size_in_bytes());
        if found != bytes {
            return Err(format!("has {found} bytes, not {bytes}"));
        }
        let Some(scale_bytes) = self.value_type.scale_bytes() else {
            if !self.scales.is_empty() {
                return Err(format!("has {} bytes too many", self.scales.len()));
            }
            return tensor_of(self.value_type.dtype(), &shape, self.values);
        };
        let blocks = blocks.ok_or("is FP8, but config.json has no quantization_config")?;
        let (found, bytes) =
            (self.scales.len(), blocks.scales_of(shape).iter().product::<usize>() * scale_bytes);
        if found != bytes {
            return Err(format!("has {found} bytes of scales, not {bytes}"));
        }
        let scales = match self.value_type {
            ValueType::Fp8WithBf16 => fp8::bf16_scales(self.scales),
            _ => fp8::f32_scales(self.scales),
        };
        if let Some(at) = fp8::first_nan(self.values) {
            return Err(format!("value {at} is not a finite number"));
        }
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(format!("scale {at} is not a finite number"));
        }
        let values = blocks.dequantise(self.values, &scales, shape[1]);
        Tensor::from_vec(values, &shape, &Device::Cpu).map_err(|e| e.to_string())
    }
}

//! The number formats that weights and caches are kept in.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The format that weights and key/value caches are packed to and that feeds the arithmetic.
///
/// Sums are in f32 with both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// The upper half of an f32: eight bits of exponent, seven of fraction.
    Bf16,
}

impl Dtype {
    /// Returns the size of one element in bytes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::UnknownName { what: "dtype", got: name.to_owned() }),
        }
    }
}

/// Returns the bits of the bf16 nearest to `x` (ties to even); a NaN stays a NaN.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding up the fraction of a NaN could carry it into infinity: make it a quiet one.
    if x.is_nan() { (bits >> 16) | 0x40 } else { nearest }
}

/// Returns the value of a bf16.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns `x` rounded to bf16.
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    f32::from_bits(bf16_bits(x) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_half_for_every_upper_pattern() {
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits((u32::from(upper) << 16) | lower);
                let expected = half::bf16::from_f32(x).to_bits();
                assert_eq!(bf16_bits(x) as u16, expected, "{x:e} {:#x}", x.to_bits());
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            assert_eq!(dtype.to_string().parse::<Dtype>().unwrap(), dtype);
        }
        assert!("f16".parse::<Dtype>().is_err());
    }
}

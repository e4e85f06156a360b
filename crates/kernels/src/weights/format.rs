//! What packed weights are kept as.

use std::fmt;
use std::str::FromStr;

use crate::dtype::Dtype;
use crate::error::Error;

/// What packed weights are kept as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WeightFormat {
    /// Values of a [`Dtype`].
    Plain(Dtype),
    /// Eight bits a weight, and a bf16 scale for each 32 inputs of an output.
    Int8,
    /// Four bits a weight, and a bf16 scale and minimum for each 32 inputs of an output.
    Int4,
}

impl WeightFormat {
    const ALL: [Self; 4] =
        [Self::Plain(Dtype::F32), Self::Plain(Dtype::Bf16), Self::Int8, Self::Int4];

    /// Returns the format that was chosen, or else that of `dtype`.
    ///
    /// # Errors
    /// [`Error::Format`] when the format does not go with `dtype`: quantised weights go with bf16.
    pub fn choose(chosen: Option<Self>, dtype: Dtype) -> Result<Self, Error> {
        let format = chosen.unwrap_or(Self::Plain(dtype));
        if format.dtype() == dtype { Ok(format) } else { Err(Error::Format { format, dtype }) }
    }

    /// Returns the bytes that so many weights take.
    #[must_use]
    pub fn bytes(self, weights: usize) -> usize {
        match self {
            Self::Plain(dtype) => weights * dtype.size_bytes(),
            Self::Int8 => weights + weights.div_ceil(32) * 2,
            Self::Int4 => weights.div_ceil(2) + weights.div_ceil(32) * 4,
        }
    }

    /// Returns the dtype of the rows that go with the weights.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Plain(dtype) => dtype,
            Self::Int8 | Self::Int4 => Dtype::Bf16,
        }
    }
}

impl From<Dtype> for WeightFormat {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Int8 => f.pad("int8"),
            Self::Int4 => f.pad("int4"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|format| format.to_string() == name);
        found.ok_or_else(|| Error::UnknownName { what: "weight format", got: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for format in WeightFormat::ALL {
            assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        }
        assert!("int5".parse::<WeightFormat>().is_err());
    }

    #[test]
    fn formats_go_with_their_dtype() {
        let int8 = WeightFormat::Int8;
        assert_eq!(WeightFormat::choose(None, Dtype::F32).unwrap(), Dtype::F32.into());
        assert_eq!(WeightFormat::choose(Some(int8), Dtype::Bf16).unwrap(), int8);
        assert!(WeightFormat::choose(Some(int8), Dtype::F32).is_err());
        assert!(WeightFormat::choose(Some(Dtype::F32.into()), Dtype::Bf16).is_err());
        assert_eq!([int8, WeightFormat::Int4].map(|format| format.bytes(64)), [68, 40]);
    }
}

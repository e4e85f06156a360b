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

    /// Returns what the weights are when they are multiplied: quantised ones become bf16.
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
}

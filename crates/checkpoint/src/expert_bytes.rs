//! Experts as bytes: what one node can hand to another, and what that one makes of it.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;
use guildhall_ids::ExpertId;
use sha2::{Digest, Sha256};

use crate::fingerprint::hex;
use crate::mapped::tensor_of;
use crate::{Error, ExpertHash, ExpertTensors, ModelConfig};

/// What the values of a matrix are in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl ValueType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of one value.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        self.dtype().size_in_bytes()
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

impl FromStr for ValueType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.dtype().as_str() == name);
        found.ok_or_else(|| format!("{name:?} is not f32, f16 or bf16"))
    }
}

/// One matrix as it is in a file: row-major, little-endian; its shape follows from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixBytes<'a> {
    /// What its values are.
    pub value_type: ValueType,
    /// All of its values.
    pub bytes: &'a [u8],
}

/// The three matrices of an expert as they are in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertBytes<'a> {
    /// [width, hidden]
    pub gate: MatrixBytes<'a>,
    /// [width, hidden]
    pub up: MatrixBytes<'a>,
    /// [hidden, width]
    pub down: MatrixBytes<'a>,
}

impl ExpertBytes<'_> {
    /// SHA-256 over the type and the bytes of each matrix: gate, up, down. Bytes alone would not do: f16 and bf16 are
    /// equally long.
    #[must_use]
    pub fn hash(&self) -> ExpertHash {
        let mut hash = Sha256::new();
        for (_, matrix) in self.matrices() {
            hash.update(matrix.value_type.to_string());
            hash.update(matrix.bytes);
        }
        hash.finalize().into()
    }

    /// Makes an expert of bytes that came from elsewhere, if they are those that were expected.
    ///
    /// # Errors
    /// [`Error::Received`] if a length is not that of the model, or the hash is not the one expected.
    pub fn to_tensors(
        &self,
        id: ExpertId,
        config: &ModelConfig,
        expected: &ExpertHash,
    ) -> Result<ExpertTensors, Error> {
        let refuse = |what| Error::Received { expert: id, what };
        let shapes = config.ffn_shapes(config.moe.expert_width);
        for ((name, matrix), shape) in self.matrices().into_iter().zip(shapes) {
            let (found, bytes) =
                (matrix.bytes.len(), shape[0] * shape[1] * matrix.value_type.size_bytes());
            if found != bytes {
                let what = format!("{name} has {found} bytes, not {bytes}");
                return Err(refuse(what));
            }
        }
        let found = self.hash();
        if found != *expected {
            let (found, expected) = (hex(&found), hex(expected));
            return Err(refuse(format!("the SHA-256 is {found}, not {expected}")));
        }
        let tensor = |(name, matrix): (&str, MatrixBytes<'_>), shape: [usize; 2]| {
            tensor_of(name, matrix.value_type.dtype(), &shape, matrix.bytes)
                .map_err(|error| refuse(error.to_string()))
        };
        let [gate, up, down] = self.matrices();
        Ok(ExpertTensors {
            gate: tensor(gate, shapes[0])?,
            up: tensor(up, shapes[1])?,
            down: tensor(down, shapes[2])?,
        })
    }

    fn matrices(&self) -> [(&'static str, MatrixBytes<'_>); 3] {
        [("gate", self.gate), ("up", self.up), ("down", self.down)]
    }
}

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

/// One matrix as it is in a file: row-major, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixBytes<'a> {
    /// What its values are.
    pub value_type: ValueType,
    /// Rows and columns.
    pub shape: [usize; 2],
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

/// What is known of an expert before its bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedExpert {
    /// SHA-256 of its bytes.
    pub hash: ExpertHash,
    /// What the values of gate, up and down are. The hash does not say: f16 and bf16 are equally long.
    pub value_types: [ValueType; 3],
}

impl ExpertBytes<'_> {
    /// SHA-256 over the bytes of the three matrices: gate, up, down.
    #[must_use]
    pub fn hash(&self) -> ExpertHash {
        let mut hash = Sha256::new();
        for (_, matrix) in self.matrices() {
            hash.update(matrix.bytes);
        }
        hash.finalize().into()
    }

    /// What a node that has only the configuration must know to accept these bytes.
    #[must_use]
    pub fn expected(&self) -> ExpectedExpert {
        let value_types = self.matrices().map(|(_, matrix)| matrix.value_type);
        ExpectedExpert { hash: self.hash(), value_types }
    }

    /// Makes an expert of bytes that came from elsewhere, if they are those that were expected.
    ///
    /// # Errors
    /// [`Error::Received`] if a shape is not that of the model, or type, length or hash are not those that were
    /// expected.
    pub fn to_tensors(
        &self,
        id: ExpertId,
        config: &ModelConfig,
        expected: &ExpectedExpert,
    ) -> Result<ExpertTensors, Error> {
        let refuse = |what| Error::Received { expert: id, what };
        let shapes = config.ffn_shapes(config.moe.expert_width);
        for (((name, matrix), shape), value_type) in
            self.matrices().into_iter().zip(shapes).zip(expected.value_types)
        {
            matrix.check(shape, value_type).map_err(|what| refuse(format!("{name} {what}")))?;
        }
        let found = self.hash();
        if found != expected.hash {
            let (found, expected) = (hex(&found), hex(&expected.hash));
            return Err(refuse(format!("the SHA-256 is {found}, not {expected}")));
        }
        let [gate, up, down] = self.matrices().map(|(name, matrix)| {
            tensor_of(name, matrix.value_type.dtype(), &matrix.shape, matrix.bytes)
                .map_err(|error| refuse(error.to_string()))
        });
        Ok(ExpertTensors { gate: gate?, up: up?, down: down? })
    }

    fn matrices(&self) -> [(&'static str, MatrixBytes<'_>); 3] {
        [("gate", self.gate), ("up", self.up), ("down", self.down)]
    }
}

impl MatrixBytes<'_> {
    /// What is wrong with it, if anything.
    fn check(&self, shape: [usize; 2], value_type: ValueType) -> Result<(), String> {
        if self.shape != shape {
            let what = format!("has shape {:?}, but the configuration says {shape:?}", self.shape);
            return Err(what);
        }
        if self.value_type != value_type {
            return Err(format!("is {}, not {value_type}", self.value_type));
        }
        let bytes = shape[0] * shape[1] * value_type.size_bytes();
        if self.bytes.len() != bytes {
            return Err(format!("has {} bytes, not {bytes}", self.bytes.len()));
        }
        Ok(())
    }
}

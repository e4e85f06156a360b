//! Experts as bytes: what one node can hand to another, and what that one makes of it.

use guildhall_ids::ExpertId;

use crate::fingerprint::hex;
use crate::{Error, ExpertHash, ExpertTensors, MatrixBytes, ModelConfig, ValueType};

/// The three matrices of an expert as they are in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertBytes<'a> {
    /// [width, hidden]
    pub gate: MatrixBytes<'a>,
    /// [width, hidden]
    pub up: MatrixBytes<'a>,
    /// [hidden, width]
    pub down: MatrixBytes<'a>,
}

impl<'a> ExpertBytes<'a> {
    /// Gate, up and down as they came: the parts of each behind one another.
    #[must_use]
    pub fn split(config: &ModelConfig, matrices: [(ValueType, &'a [u8]); 3]) -> Self {
        let [gate, up, down] = matrices;
        let shapes = config.ffn_shapes(config.moe.expert_width);
        let split = |(value_type, bytes), shape| {
            MatrixBytes::split(value_type, bytes, shape, config.quantisation)
        };
        Self {
            gate: split(gate, shapes[0]),
            up: split(up, shapes[1]),
            down: split(down, shapes[2]),
        }
    }

    /// BLAKE3 over the type and the bytes of each matrix: gate, up, down. Bytes alone would not do: f16 and bf16 are
    /// equally long.
    #[must_use]
    pub fn hash(&self) -> ExpertHash {
        let mut hash = blake3::Hasher::new();
        for (_, matrix) in self.matrices() {
            hash.update(matrix.value_type.to_string().as_bytes());
            for part in &matrix.parts {
                hash.update(part);
            }
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
        let tensor = |(name, matrix): (&str, &MatrixBytes<'_>), shape: [usize; 2]| {
            let tensor = matrix.to_tensor(shape, config.quantisation);
            tensor.map_err(|what| refuse(format!("{name} {what}")))
        };
        let found = self.hash();
        if found != *expected {
            let (found, expected) = (hex(&found), hex(expected));
            return Err(refuse(format!("its hash is {found}, not {expected}")));
        }
        let [gate, up, down] = self.matrices();
        Ok(ExpertTensors {
            gate: tensor(gate, shapes[0])?,
            up: tensor(up, shapes[1])?,
            down: tensor(down, shapes[2])?,
        })
    }

    fn matrices(&self) -> [(&'static str, &MatrixBytes<'a>); 3] {
        [("gate", &self.gate), ("up", &self.up), ("down", &self.down)]
    }
}

//! The model families that Guildhall serves.

use std::fmt;

/// A family: a reference implementation with its own configuration keys and tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `mixtral`: Mixtral 8x7B and 8x22B.
    Mixtral,
    /// `olmoe`: OLMoE.
    Olmoe,
    /// `qwen2_moe`: Qwen1.5-MoE and Qwen2-57B-A14B.
    Qwen2Moe,
    /// `qwen3_moe`: Qwen3-30B-A3B, Qwen3-235B-A22B.
    Qwen3Moe,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mixtral, Self::Olmoe, Self::Qwen2Moe, Self::Qwen3Moe];

    /// What `model_type` in config.json says.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Mixtral => "mixtral",
            Self::Olmoe => "olmoe",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

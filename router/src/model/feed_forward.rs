//! The second half of a layer: one network for every token, or experts.

use guildhall_kernels::{Device, ExpertWeights, Tensor};

use super::moe::{Away, MoeBlock};
use super::{Experts, MicroBatch};
use crate::Error;

pub(super) enum FeedForwardBlock {
    Dense(ExpertWeights),
    Moe(Box<MoeBlock>),
}

/// A second half of a layer that has begun.
pub(super) enum Begun {
    Computed(Tensor),
    Away(Away),
}

impl FeedForwardBlock {
    /// Begins with `x`, [tokens, hidden], of a micro-batch.
    pub(super) fn begin(
        &self,
        device: &Device,
        x: Tensor,
        (of, experts): (&mut MicroBatch<'_>, &mut dyn Experts),
    ) -> Result<Begun, Error> {
        Ok(match self {
            Self::Dense(weights) => Begun::Computed(device.ffn(&x, weights)?),
            Self::Moe(block) => Begun::Away(block.begin(device, x, (of, experts))?),
        })
    }
}

impl Begun {
    /// [tokens, hidden]. What began first is to be finished first.
    pub(super) fn finish(
        self,
        device: &Device,
        experts: &mut dyn Experts,
    ) -> Result<Tensor, Error> {
        match self {
            Self::Computed(out) => Ok(out),
            Self::Away(away) => away.finish(device, experts),
        }
    }
}

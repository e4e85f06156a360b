//! The second half of a layer: one network for every token, or experts.

use guildhall_kernels::{Device, ExpertWeights, Tensor};

use super::moe::MoeBlock;
use super::{Experts, RoutesOfStep};
use crate::Error;

pub(super) enum FeedForwardBlock {
    Dense(ExpertWeights),
    Moe(Box<MoeBlock>),
}

impl FeedForwardBlock {
    /// [tokens, hidden] → [tokens, hidden]
    pub(super) fn forward(
        &self,
        device: &Device,
        x: &Tensor,
        experts: &mut dyn Experts,
        routes: &mut RoutesOfStep,
    ) -> Result<Tensor, Error> {
        match self {
            Self::Dense(weights) => Ok(device.ffn(x, weights)?),
            Self::Moe(block) => block.forward(device, x, experts, routes),
        }
    }
}

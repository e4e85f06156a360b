//! The dense part of the model, from token ids to logits.

pub(crate) use batch::{ForwardBatch, RoutesOfStep};
pub(crate) use moe::{Experts, ExpertsCall};

use guildhall_checkpoint::ModelConfig;
use guildhall_kernels::{Device, Embedding, KvCache, Linear, RopeTable, Tensor, Vector};

use crate::Error;
use attention::AttentionBlock;
use feed_forward::FeedForwardBlock;

mod batch;
mod load;
mod attention;
mod feed_forward;
mod moe;
#[cfg(test)]
mod golden_tests;

/// A decoder-only transformer with everything but its experts.
pub(crate) struct Model {
    device: Device,
    config: ModelConfig,
    embedding: Embedding,
    rope: RopeTable,
    layers: Vec<Layer>,
    final_norm: Vector,
    head: Linear,
}

struct Layer {
    attention_norm: Vector,
    attention: AttentionBlock,
    feed_forward_norm: Vector,
    feed_forward: FeedForwardBlock,
}

impl Model {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Runs every token of the batch through all layers; the keys and values of the new positions go into `cache`.
    /// Returns the hidden states of all rows, [tokens, hidden], and their routes if they are wanted.
    pub(crate) fn forward(
        &self,
        batch: &ForwardBatch<'_>,
        cache: &mut KvCache,
        experts: &mut dyn Experts,
    ) -> Result<(Tensor, RoutesOfStep), Error> {
        let device = &self.device;
        let eps = self.config.rms_norm_eps;
        let mut routes = RoutesOfStep::new(batch.wants_routes, self.config.moe.top_k);
        let mut x = device.embed(&self.embedding, &batch.token_ids)?; // [tokens, hidden]
        for (index, layer) in self.layers.iter().enumerate() {
            let h = device.rms_norm(&x, &layer.attention_norm, eps)?;
            let h = layer.attention.forward(self, index, &h, (batch, cache))?;
            device.add(&mut x, &h)?;

            let h = device.rms_norm(&x, &layer.feed_forward_norm, eps)?;
            let h = layer.feed_forward.forward(device, &h, experts, &mut routes)?;
            device.add(&mut x, &h)?;
        }
        Ok((x, routes))
    }

    /// The logits, [rows, vocab], of some rows of the hidden states that [`Self::forward`] gave.
    pub(crate) fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor, Error> {
        let device = &self.device;
        let x = device.gather_rows(hidden, rows)?; // [rows, hidden]
        let x = device.rms_norm(&x, &self.final_norm, self.config.rms_norm_eps)?;
        Ok(device.linear(&x, &self.head)?)
    }
}

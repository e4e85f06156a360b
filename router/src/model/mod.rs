//! The dense part of the model, from token ids to logits.

pub(crate) use batch::{ForwardBatch, RoutesOfStep};
pub(crate) use moe::{ExpertTimes, Experts, ExpertsCall};

use guildhall_checkpoint::ModelConfig;
use guildhall_kernels::{Device, Embedding, KvCache, Linear, RopeTable, Tensor, Vector};

use crate::Error;
use attention::AttentionBlock;
use feed_forward::{Begun, FeedForwardBlock};

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

/// Rows of a step that go through a layer together.
struct MicroBatch<'a> {
    batch: &'a ForwardBatch<'a>,
    /// Which row of the step the first one is.
    first_row: usize,
    /// There are others.
    has_company: bool,
    /// The hidden states, [tokens, hidden].
    x: Tensor,
    routes: RoutesOfStep,
    /// The second half of a layer, whose result is not in `x` yet.
    begun: Option<Begun>,
}

impl MicroBatch<'_> {
    /// Adds what has begun to the hidden states.
    fn end_layer(&mut self, device: &Device, experts: &mut dyn Experts) -> Result<(), Error> {
        if let Some(begun) = self.begun.take() {
            device.add(&mut self.x, &begun.finish(device, experts)?)?;
        }
        Ok(())
    }
}

impl Model {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Runs every token of a step's micro-batches through all layers; the keys and values of the new positions go into
    /// `cache`. While the experts of one micro-batch are away the next one is computed; a position may be in an earlier
    /// one than those that attend to it. Returns the hidden states of all rows, [tokens, hidden], and their routes if
    /// they are wanted.
    pub(crate) fn forward(
        &self,
        micro_batches: &[ForwardBatch<'_>],
        cache: &mut KvCache,
        experts: &mut dyn Experts,
    ) -> Result<(Tensor, RoutesOfStep), Error> {
        let device = &self.device;
        let eps = self.config.rms_norm_eps;
        let mut parts = self.begin(micro_batches)?;
        for (index, layer) in self.layers.iter().enumerate() {
            for part in &mut parts {
                part.end_layer(device, experts)?;
                let h = device.rms_norm(&part.x, &layer.attention_norm, eps)?;
                let h = layer.attention.forward(self, index, &h, (part.batch, cache))?;
                device.add(&mut part.x, &h)?;

                let h = device.rms_norm(&part.x, &layer.feed_forward_norm, eps)?;
                part.begun = Some(layer.feed_forward.begin(device, h, (part, experts))?);
            }
        }
        let mut routes = RoutesOfStep::new(self.config.moe.top_k);
        let mut rows = Vec::new();
        for mut part in parts {
            part.end_layer(device, experts)?;
            routes.append(part.routes);
            rows.push(part.x);
        }
        Ok((device.stack_rows(rows)?, routes))
    }

    fn begin<'a>(&self, batches: &'a [ForwardBatch<'a>]) -> Result<Vec<MicroBatch<'a>>, Error> {
        let mut first_row = 0;
        let begin = |batch: &'a ForwardBatch<'a>| {
            let x = self.device.embed(&self.embedding, &batch.token_ids)?; // [tokens, hidden]
            let routes = RoutesOfStep::new(self.config.moe.top_k);
            let has_company = batches.len() > 1;
            let part = MicroBatch { batch, first_row, has_company, x, routes, begun: None };
            first_row += batch.token_ids.len();
            Ok(part)
        };
        batches.iter().map(begin).collect()
    }

    /// The logits, [rows, vocab], of some rows of the hidden states that [`Self::forward`] gave.
    pub(crate) fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor, Error> {
        let device = &self.device;
        let x = device.gather_rows(hidden, rows)?; // [rows, hidden]
        let x = device.rms_norm(&x, &self.final_norm, self.config.rms_norm_eps)?;
        Ok(device.linear(&x, &self.head)?)
    }
}

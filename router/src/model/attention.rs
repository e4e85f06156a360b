//! Grouped-query attention of one layer, with the paged cache of keys and values.

use guildhall_kernels::{AttentionOptions, KvCache, Linear, Tensor, Vector};

use super::{ForwardBatch, Model};
use crate::Error;

pub(super) struct AttentionBlock {
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    /// Norms of queries and keys, over a head or over all of them: the vector's length says which.
    pub(super) qk_norm: Option<(Vector, Vector)>,
    /// Positions that a token attends to, its own included.
    pub(super) window: Option<usize>,
}

impl AttentionBlock {
    /// [tokens, hidden] → [tokens, hidden]
    pub(super) fn forward(
        &self,
        model: &Model,
        layer: usize,
        x: &Tensor,
        (batch, cache): (&ForwardBatch<'_>, &mut KvCache),
    ) -> Result<Tensor, Error> {
        let (device, config) = (&model.device, &model.config.attention);
        let mut q = device.linear(x, &self.q)?; // [tokens, heads * head_dim]
        let mut k = device.linear(x, &self.k)?; // [tokens, kv_heads * head_dim]
        let mut v = device.linear(x, &self.v)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            q = device.rms_norm(&q, q_norm, model.config.rms_norm_eps)?;
            k = device.rms_norm(&k, k_norm, model.config.rms_norm_eps)?;
        }
        if let Some(limit) = config.clip_qkv {
            for x in [&mut q, &mut k, &mut v] {
                device.clamp(x, limit)?;
            }
        }
        device.rope(&mut q, &batch.positions, &model.rope)?;
        device.rope(&mut k, &batch.positions, &model.rope)?;
        device.store_kv(cache, layer, &k, &v, &batch.slots)?;
        let options = AttentionOptions {
            heads: config.n_heads,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: self.window,
        };
        let h = device.attention(&q, cache, layer, &batch.sequences, &options)?;
        Ok(device.linear(&h, &self.o)?)
    }
}

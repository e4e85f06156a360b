//! Reads the dense part from a checkpoint and packs it for the device.

use guildhall_checkpoint::{
    Checkpoint, ExpertTensors, FeedForward, LayerConfig, ModelConfig, QkNorm,
};
use guildhall_ids::LayerIdx;
use guildhall_kernels::{
    Device, Dtype, ExpertWeights, GateOptions, Linear, RopeTable, Vector, WeightFormat,
};

use super::attention::AttentionBlock;
use super::feed_forward::FeedForwardBlock;
use super::moe::{MoeBlock, SharedExpert};
use super::{Layer, Model};
use crate::Error;

impl Model {
    /// Loads everything but the experts: the table of tokens as the dtype, matrices in the format. Positions up to
    /// `max_positions` can be computed.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        (dtype, format): (Dtype, WeightFormat),
        max_positions: usize,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = checkpoint.tensor("model.embed_tokens.weight", &[vocab, hidden])?;
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => checkpoint.tensor("lm_head.weight", &[vocab, hidden])?,
        };
        let loader = Loader { checkpoint, config: &config, device, format };
        let layers = (0..).map(LayerIdx).zip(&config.layers);
        let layers = layers.map(|(index, layer)| loader.layer(index, layer));
        let attention = &config.attention;
        let rope = RopeTable::new(
            &attention.rope.inverse_frequencies(attention.head_dim),
            attention.rope.attention_factor(),
            max_positions,
        );
        Ok(Self {
            device: device.clone(),
            embedding: device.embedding(&embedding, dtype)?,
            rope,
            layers: layers.collect::<Result<_, Error>>()?,
            final_norm: loader.vector("model.norm.weight", hidden)?,
            head: device.linear_weights(&head, None, format)?,
            config,
        })
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    device: &'a Device,
    format: WeightFormat,
}

impl Loader<'_> {
    fn layer(&self, index: LayerIdx, layer: &LayerConfig) -> Result<Layer, Error> {
        let prefix = format!("model.layers.{index}");
        let hidden = self.config.hidden_size;
        let feed_forward = match layer.feed_forward {
            FeedForward::Dense(width) => {
                let tensors = self.checkpoint.dense_ffn(index, width)?;
                FeedForwardBlock::Dense(self.ffn(&tensors)?)
            }
            FeedForward::Moe => FeedForwardBlock::Moe(Box::new(self.moe(index)?)),
        };
        Ok(Layer {
            attention_norm: self.vector(&format!("{prefix}.input_layernorm.weight"), hidden)?,
            attention: self.attention(&format!("{prefix}.self_attn"), layer.window)?,
            feed_forward_norm: self
                .vector(&format!("{prefix}.post_attention_layernorm.weight"), hidden)?,
            feed_forward,
        })
    }

    fn attention(&self, prefix: &str, window: Option<usize>) -> Result<AttentionBlock, Error> {
        let (config, hidden) = (&self.config.attention, self.config.hidden_size);
        let q_size = config.n_heads * config.head_dim;
        let kv_size = config.n_kv_heads * config.head_dim;
        let linear =
            |name: &str, shape, bias| self.linear(&format!("{prefix}.{name}"), shape, bias);
        let norm_sizes = match config.qk_norm {
            None => None,
            Some(QkNorm::PerHead) => Some((config.head_dim, config.head_dim)),
            Some(QkNorm::AllHeads) => Some((q_size, kv_size)),
        };
        let qk_norm = match norm_sizes {
            None => None,
            Some((q, k)) => Some((
                self.vector(&format!("{prefix}.q_norm.weight"), q)?,
                self.vector(&format!("{prefix}.k_norm.weight"), k)?,
            )),
        };
        Ok(AttentionBlock {
            q: linear("q_proj", [q_size, hidden], config.qkv_bias)?,
            k: linear("k_proj", [kv_size, hidden], config.qkv_bias)?,
            v: linear("v_proj", [kv_size, hidden], config.qkv_bias)?,
            o: linear("o_proj", [hidden, q_size], config.output_bias)?,
            qk_norm,
            window,
        })
    }

    fn moe(&self, index: LayerIdx) -> Result<MoeBlock, Error> {
        let moe = &self.config.moe;
        // A gate's choice is discrete, so gates stay in f32: they cost next to nothing.
        let gate = |tensor| self.device.linear_weights(&tensor, None, Dtype::F32);
        let shared = match self.checkpoint.shared_expert(index)? {
            None => None,
            Some(shared) => {
                Some(SharedExpert { ffn: self.ffn(&shared.ffn)?, gate: gate(shared.gate)? })
            }
        };
        Ok(MoeBlock {
            layer: index,
            gate: gate(self.checkpoint.gate(index)?)?,
            options: GateOptions { top_k: moe.top_k, renormalise: moe.renormalise },
            shared,
        })
    }

    fn linear(&self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear, Error> {
        let weight = self.checkpoint.tensor(&format!("{name}.weight"), &shape)?;
        let bias = match bias {
            true => Some(self.checkpoint.tensor(&format!("{name}.bias"), &shape[..1])?),
            false => None,
        };
        Ok(self.device.linear_weights(&weight, bias.as_ref(), self.format)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vector, Error> {
        Ok(self.device.vector(&self.checkpoint.tensor(name, &[len])?)?)
    }

    fn ffn(&self, tensors: &ExpertTensors) -> Result<ExpertWeights, Error> {
        let ExpertTensors { gate, up, down } = tensors;
        Ok(self.device.expert_weights(gate, up, down, self.format)?)
    }
}

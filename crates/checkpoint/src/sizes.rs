//! How large a model is, from its configuration alone: parameters, bytes, and what each process needs.

use serde::Serialize;

use crate::{FeedForward, ModelConfig, QkNorm};

/// Parameters by part, over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// The embedding table.
    pub embedding: u64,
    /// The output head; 0 when it is the embedding.
    pub head: u64,
    /// Projections of the attention, with their biases.
    pub attention: u64,
    /// All norms.
    pub norms: u64,
    /// The gates that choose experts, and those of the shared experts.
    pub gates: u64,
    /// The feed-forward networks of layers without experts.
    pub dense_ffn: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Routed experts.
    pub experts: u64,
    /// Those of `experts` that one token uses.
    pub experts_per_token: u64,
}

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageType {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    Bf16,
    /// 1 byte a value and a 16-bit scale for 32 of them; norms and gates stay in bf16.
    Int8,
    /// Half a byte a value, and a scale and a minimum of 16 bits for 32 of them; norms and gates stay in bf16.
    Int4,
}

/// What one expert node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodeBytes {
    /// Experts of all layers on the fullest node.
    pub experts: u64,
    /// Bytes of their weights.
    pub bytes: u64,
}

impl StorageType {
    /// Every type, the largest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Int8, Self::Int4];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bytes of `matrices` values that are quantised and `rest` that are not.
    fn bytes(self, matrices: u64, rest: u64) -> u64 {
        let scales = matrices.div_ceil(32) * 2;
        match self {
            Self::F32 => 4 * (matrices + rest),
            Self::Bf16 => 2 * (matrices + rest),
            Self::Int8 => matrices + scales + 2 * rest,
            Self::Int4 => matrices.div_ceil(2) + 2 * scales + 2 * rest,
        }
    }
}

impl Parameters {
    /// Counts the parameters of a model.
    #[must_use]
    pub fn of(config: &ModelConfig) -> Self {
        let (hidden, layers) = (config.hidden_size as u64, config.layers.len() as u64);
        let table = config.vocab_size as u64 * hidden;
        let moe = &config.moe;
        let moe_layers = config.moe_layers().count() as u64;
        let ffn = |width: usize| 3 * hidden * width as u64;
        let dense = config.layers.iter().map(|layer| match layer.feed_forward {
            FeedForward::Dense(width) => ffn(width),
            FeedForward::Moe => 0,
        });
        let shared = moe.shared_expert.map_or(0, |shared| ffn(shared.width));
        let shared_gate = if moe.shared_expert.is_some() { hidden } else { 0 };
        Self {
            embedding: table,
            head: if config.tie_word_embeddings { 0 } else { table },
            attention: layers * attention_parameters(config),
            norms: layers * (2 * hidden + qk_norm_parameters(config)) + hidden,
            gates: moe_layers * (moe.n_experts as u64 * hidden + shared_gate),
            dense_ffn: dense.sum(),
            shared_experts: moe_layers * shared,
            experts: moe_layers * moe.n_experts as u64 * ffn(moe.expert_width),
            experts_per_token: moe_layers * moe.top_k as u64 * ffn(moe.expert_width),
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.router() + self.experts
    }

    /// Those that take part in computing one token; the whole embedding counts, as in published figures.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.router() + self.experts_per_token
    }

    /// Those that the router keeps.
    #[must_use]
    pub fn router(&self) -> u64 {
        self.router_matrices() + self.norms + self.gates
    }

    fn router_matrices(&self) -> u64 {
        self.embedding + self.head + self.attention + self.dense_ffn + self.shared_experts
    }

    /// Bytes of the whole model.
    #[must_use]
    pub fn total_bytes(&self, storage: StorageType) -> u64 {
        storage.bytes(self.router_matrices() + self.experts, self.norms + self.gates)
    }

    /// Bytes of weights that computing one token reads; of the embedding it is one row.
    #[must_use]
    pub fn token_bytes(&self, storage: StorageType) -> u64 {
        let head = if self.head == 0 { self.embedding } else { self.head };
        let matrices = head + self.attention + self.dense_ffn + self.shared_experts;
        storage.bytes(matrices + self.experts_per_token, self.norms + self.gates)
    }

    /// Bytes of the router's part.
    #[must_use]
    pub fn router_bytes(&self, storage: StorageType) -> u64 {
        storage.bytes(self.router_matrices(), self.norms + self.gates)
    }
}

impl NodeBytes {
    /// What the fullest of `nodes` nodes holds when every expert is on `replicas` of them, as far as there are so
    /// many.
    #[must_use]
    pub fn of(
        config: &ModelConfig,
        storage: StorageType,
        (nodes, replicas): (usize, usize),
    ) -> Self {
        let nodes = nodes.max(1);
        let of_layer = (config.moe.n_experts * replicas.min(nodes)).div_ceil(nodes) as u64;
        let experts = of_layer * config.moe_layers().count() as u64;
        let expert = 3 * config.hidden_size as u64 * config.moe.expert_width as u64;
        Self { experts, bytes: storage.bytes(experts * expert, 0) }
    }
}

impl ModelConfig {
    /// Bytes of keys and values of one token, over all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, value_bytes: usize) -> u64 {
        let row = self.attention.n_kv_heads * self.attention.head_dim;
        2 * (self.layers.len() * row * value_bytes) as u64
    }
}

fn attention_parameters(config: &ModelConfig) -> u64 {
    let attention = &config.attention;
    let hidden = config.hidden_size as u64;
    let q = (attention.n_heads * attention.head_dim) as u64;
    let kv = (attention.n_kv_heads * attention.head_dim) as u64;
    let qkv_bias = if attention.qkv_bias { q + 2 * kv } else { 0 };
    let output_bias = if attention.output_bias { hidden } else { 0 };
    hidden * (q + 2 * kv) + q * hidden + qkv_bias + output_bias
}

fn qk_norm_parameters(config: &ModelConfig) -> u64 {
    let attention = &config.attention;
    let heads = match attention.qk_norm {
        None => return 0,
        Some(QkNorm::PerHead) => 2,
        Some(QkNorm::AllHeads) => attention.n_heads + attention.n_kv_heads,
    };
    (heads * attention.head_dim) as u64
}

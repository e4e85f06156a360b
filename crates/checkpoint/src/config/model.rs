//! What a model is, in one form for all families.

use std::path::Path;

use guildhall_ids::{ExpertId, LayerIdx};

use super::families;
use super::fields::Fields;
use super::rope::Rope;
use crate::{Error, Family, Quantisation};

/// A decoder-only transformer some of whose layers have experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The reference implementation that it follows.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Positions that the model was trained for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// The attention of every layer.
    pub attention: Attention,
    /// The experts of every layer that has some.
    pub moe: Moe,
    /// Each layer, from the embedding upwards.
    pub layers: Vec<LayerConfig>,
    /// How matrices are stored that are not plain; `None`: there are none.
    pub quantisation: Option<Quantisation>,
    /// Keys of config.json that this version does not know and that may matter.
    pub unknown_keys: Vec<String>,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// RMS norm of queries and keys before the rotation.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clamped to ± this.
    pub clip_qkv: Option<f32>,
    /// The rotary position embedding.
    pub rope: Rope,
}

/// Over what the norm of queries and keys runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself (Qwen3).
    PerHead,
    /// All heads together (OLMoE).
    AllHeads,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// A token attends to itself and this many tokens less one before it; `None` is all.
    pub window: Option<usize>,
    /// What follows the attention.
    pub feed_forward: FeedForward,
}

/// The second half of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// One network for every token, of this width.
    Dense(usize),
    /// Experts, as [`ModelConfig::moe`] says.
    Moe,
}

/// The experts of a layer and how tokens choose among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moe {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Width of an expert.
    pub expert_width: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub renormalise: bool,
    /// A network for every token beside the experts.
    pub shared_expert: Option<SharedExpert>,
}

/// The shared expert of Qwen2-MoE, behind a sigmoid gate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Its width.
    pub width: usize,
}

/// More is taken for a mistake or an attack; below, every count of parameters and of their bytes fits into 64 bits.
const MAX_PARAMETERS: u128 = 1 << 50;

impl ModelConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a missing key or a value out of range, [`Error::Unsupported`] for a family or feature
    /// that Guildhall does not have; both name the key.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_json(path, &text)
    }

    /// Reads the content of a config.json; `path` is for errors.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_json(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::parse(path, text)?;
        let config = families::read(&mut fields)?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::malformed(path, what));
        let attention = &self.attention;
        if !attention.n_heads.is_multiple_of(attention.n_kv_heads) {
            let (heads, kv_heads) = (attention.n_heads, attention.n_kv_heads);
            return refuse(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
            ));
        }
        if !attention.head_dim.is_multiple_of(2) {
            return refuse(format!("head_dim {} is odd", attention.head_dim));
        }
        if self.moe.top_k > self.moe.n_experts {
            let (top_k, n_experts) = (self.moe.top_k, self.moe.n_experts);
            return refuse(format!("num_experts_per_tok {top_k} is over the {n_experts} experts"));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return refuse(format!("rms_norm_eps {} is no small number", self.rms_norm_eps));
        }
        if self.moe_layers().next().is_none() {
            return refuse("no layer has experts".into());
        }
        let parameters = self.matrix_parameters();
        if parameters > MAX_PARAMETERS {
            return refuse(format!("the sizes make {parameters} parameters, more than any model"));
        }
        Ok(())
    }

    /// The parameters of all matrices, computed without overflow for any sizes; every layer counts as the largest.
    fn matrix_parameters(&self) -> u128 {
        let dense = self.layers.iter().map(|layer| match layer.feed_forward {
            FeedForward::Dense(width) => width as u128,
            FeedForward::Moe => 0,
        });
        let shared = self.moe.shared_expert.map_or(0, |shared| shared.width as u128);
        let experts = self.moe.n_experts as u128 * self.moe.expert_width as u128;
        let widths = experts + shared + dense.max().unwrap_or(0);
        let attention = self.attention.n_heads as u128 * self.attention.head_dim as u128;
        let of_layer = 4 * attention + 3 * widths + self.moe.n_experts as u128;
        let tables = 2 * self.vocab_size as u128;
        self.hidden_size as u128 * (self.layers.len() as u128 * of_layer + tables)
    }

    /// The layers that have experts, ascending.
    pub fn moe_layers(&self) -> impl Iterator<Item = LayerIdx> + '_ {
        let layers = (0..).map(LayerIdx).zip(&self.layers);
        layers.filter(|(_, layer)| layer.feed_forward == FeedForward::Moe).map(|(index, _)| index)
    }

    /// Every expert of the model, layer by layer.
    pub fn experts(&self) -> impl Iterator<Item = ExpertId> + '_ {
        let n_experts = u32::try_from(self.moe.n_experts).unwrap_or(u32::MAX);
        self.moe_layers()
            .flat_map(move |layer| (0..n_experts).map(move |e| ExpertId::new(layer.0, e)))
    }

    /// Shapes of gate, up and down of a feed-forward network.
    pub(crate) fn ffn_shapes(&self, width: usize) -> [[usize; 2]; 3] {
        let hidden = self.hidden_size;
        [[width, hidden], [width, hidden], [hidden, width]]
    }
}

//! A checkpoint with random weights, written once and kept.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Below the vocabulary of every shape.
pub(crate) const TOKEN_IDS: u32 = 32_000;

pub(crate) const TOP_K: usize = 8;

/// How wide and deep a model is, in the terms of its `config.json`.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) model_type: &'static str,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// Of a layer.
    pub(crate) experts: usize,
    /// Of an expert.
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
}

/// A small Qwen3-MoE: with twelve layers 1.04 B parameters, 210 M of which a token uses.
pub(crate) const fn q3(layers: usize) -> Shape {
    Shape {
        model_type: "qwen3_moe",
        hidden: 1024,
        layers,
        experts: 64,
        width: 384,
        heads: 16,
        kv_heads: 4,
        head_dim: 64,
        vocab: 32_000,
    }
}

impl Shape {
    /// Elements of the norms of queries and of keys; OLMoE norms all heads together.
    pub(crate) fn norms(&self) -> (usize, usize) {
        match self.model_type {
            "olmoe" => (self.heads * self.head_dim, self.kv_heads * self.head_dim),
            _ => (self.head_dim, self.head_dim),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hidden, layers, experts, width, vocab, .. } = self;
        write!(
            f,
            "hidden {hidden}, {layers} layers, {experts} experts of width {width}, top-{TOP_K}, vocabulary {}k",
            vocab / 1000
        )
    }
}

/// The directory of the model below `folder`.
pub(crate) fn make(folder: &Path, shape: &Shape) -> PathBuf {
    let dir = folder.join(format!("bench-{}-{}-{}", shape.model_type, shape.layers, shape.experts));
    if dir.join("config.json").exists() {
        return dir;
    }
    std::fs::create_dir_all(&dir).unwrap();
    write_weights(&dir.join("model.safetensors"), shape);
    // Last, so that a model that was written by half is not taken for a whole one.
    std::fs::write(dir.join("config.json"), config(shape)).unwrap();
    dir
}

fn config(shape: &Shape) -> String {
    let Shape { model_type, hidden, layers, experts, width, heads, kv_heads, head_dim, vocab } =
        shape;
    format!(
        r#"{{"model_type": "{model_type}", "vocab_size": {vocab}, "hidden_size": {hidden},
"num_hidden_layers": {layers}, "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads},
"head_dim": {head_dim}, "num_experts": {experts}, "num_experts_per_tok": {TOP_K},
"moe_intermediate_size": {width}, "intermediate_size": {width}, "norm_topk_prob": true,
"max_position_embeddings": 4096, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
"eos_token_id": null, "pad_token_id": null, "bos_token_id": null}}"#
    )
}

/// Every tensor's name and shape.
fn tensors(shape: &Shape) -> Vec<(String, Vec<usize>)> {
    let &Shape { hidden, experts, width, vocab, head_dim, .. } = shape;
    let (q, kv) = (shape.heads * head_dim, shape.kv_heads * head_dim);
    let (q_norm, k_norm) = shape.norms();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("lm_head.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..shape.layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("self_attn.q_proj", &[q, hidden]);
        add("self_attn.k_proj", &[kv, hidden]);
        add("self_attn.v_proj", &[kv, hidden]);
        add("self_attn.o_proj", &[hidden, q]);
        add("self_attn.q_norm", &[q_norm]);
        add("self_attn.k_norm", &[k_norm]);
        add("mlp.gate", &[experts, hidden]);
        for expert in 0..experts {
            add(&format!("mlp.experts.{expert}.gate_proj"), &[width, hidden]);
            add(&format!("mlp.experts.{expert}.up_proj"), &[width, hidden]);
            add(&format!("mlp.experts.{expert}.down_proj"), &[hidden, width]);
        }
    }
    tensors
}

fn write_weights(path: &Path, shape: &Shape) {
    let tensors = tensors(shape);
    let mut header = String::from("{");
    let mut offset = 0;
    for (name, shape) in &tensors {
        let end = offset + 2 * shape.iter().product::<usize>();
        let comma = if offset == 0 { "" } else { "," };
        write!(
            header,
            r#"{comma}"{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{offset},{end}]}}"#
        )
        .unwrap();
        offset = end;
    }
    header.push('}');
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (name, shape) in &tensors {
        write_values(&mut file, name, shape);
    }
    file.flush().unwrap();
}

/// Writes a tensor's bf16 weights, which follow from its name: around 1 for norms, else so large that activations keep
/// their size.
pub(crate) fn write_values(file: &mut impl std::io::Write, name: &str, shape: &[usize]) {
    // FNV-1a
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut random = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    for _ in 0..shape.iter().product::<usize>() {
        file.write_all(&weight(&mut random, shape).to_le_bytes()).unwrap();
    }
}

fn weight(random: &mut u64, shape: &[usize]) -> u16 {
    // xorshift64
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let uniform = (*random >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
    let value = match shape {
        [_] => 1.0 + 0.1 * uniform,
        [_, inputs] => uniform * (12.0 / *inputs as f32).sqrt(),
        _ => 0.0,
    };
    (value.to_bits() >> 16) as u16
}

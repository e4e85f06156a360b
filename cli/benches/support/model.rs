//! A checkpoint with random weights, written once and kept.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

pub(crate) const VOCAB: u32 = 32_000;

const HIDDEN: usize = 1024;
const EXPERTS: usize = 64;
const WIDTH: usize = 384;
const HEADS: usize = 16;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = 64;

/// A Qwen3-MoE with random weights; with twelve layers it has 1.04 B parameters, 210 M of which a token uses.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.layers;
        write!(
            f,
            "hidden {HIDDEN}, {layers} layers, {EXPERTS} experts of width {WIDTH}, top-8, vocabulary 32k"
        )
    }
}

/// The directory of the model below `folder`.
pub(crate) fn make(folder: &Path, shape: Shape) -> PathBuf {
    let dir = folder.join(format!("bench-model-{}", shape.layers));
    if dir.join("config.json").exists() {
        return dir;
    }
    std::fs::create_dir_all(&dir).unwrap();
    write_weights(&dir.join("model.safetensors"), shape.layers);
    // Last, so that a model that was written by half is not taken for a whole one.
    std::fs::write(dir.join("config.json"), config(shape.layers)).unwrap();
    dir
}

fn config(layers: usize) -> String {
    format!(
        r#"{{"model_type": "qwen3_moe", "vocab_size": {VOCAB}, "hidden_size": {HIDDEN},
"num_hidden_layers": {layers}, "num_attention_heads": {HEADS}, "num_key_value_heads": {KV_HEADS},
"head_dim": {HEAD_DIM}, "num_experts": {EXPERTS}, "num_experts_per_tok": 8,
"moe_intermediate_size": {WIDTH}, "intermediate_size": {WIDTH}, "norm_topk_prob": true,
"max_position_embeddings": 4096, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6}}"#
    )
}

/// Every tensor's name and shape.
fn tensors(layers: usize) -> Vec<(String, Vec<usize>)> {
    let vocab = VOCAB as usize;
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![vocab, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        add("self_attn.q_proj", &[q, HIDDEN]);
        add("self_attn.k_proj", &[kv, HIDDEN]);
        add("self_attn.v_proj", &[kv, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, q]);
        add("self_attn.q_norm", &[HEAD_DIM]);
        add("self_attn.k_norm", &[HEAD_DIM]);
        add("mlp.gate", &[EXPERTS, HIDDEN]);
        for expert in 0..EXPERTS {
            add(&format!("mlp.experts.{expert}.gate_proj"), &[WIDTH, HIDDEN]);
            add(&format!("mlp.experts.{expert}.up_proj"), &[WIDTH, HIDDEN]);
            add(&format!("mlp.experts.{expert}.down_proj"), &[HIDDEN, WIDTH]);
        }
    }
    tensors
}

fn write_weights(path: &Path, layers: usize) {
    let tensors = tensors(layers);
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
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for (_, shape) in &tensors {
        for _ in 0..shape.iter().product::<usize>() {
            file.write_all(&weight(&mut random, shape).to_le_bytes()).unwrap();
        }
    }
    file.flush().unwrap();
}

/// A bf16 weight: around 1 for norms, else so large that activations keep their size.
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

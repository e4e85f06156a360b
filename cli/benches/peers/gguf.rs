//! The checkpoint in the format that llama.cpp reads: GGUF, version 3, bf16, without a tokenizer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::support::model::{Shape, TOP_K, write_values};

const ALIGNMENT: u64 = 32;
/// Numbers of the format.
const UINT32: u32 = 4;
const FLOAT32: u32 = 6;
const STRING: u32 = 8;
const BF16: u32 = 30;

/// A tensor of the file and those of the checkpoint that it stacks.
struct Stacked {
    name: String,
    sources: Vec<String>,
    /// Of one of them: `[n, k]`, or `[n]`.
    shape: Vec<usize>,
}

impl Stacked {
    /// Vectors are f32 there.
    fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }

    fn bytes(&self) -> u64 {
        let values = self.sources.len() * self.shape.iter().product::<usize>();
        values as u64 * if self.is_vector() { 4 } else { 2 }
    }
}

/// Writes the model into `dir`, unless it is there, and returns the file.
pub(crate) fn make(dir: &Path, shape: &Shape) -> PathBuf {
    let path = dir.join("model-bf16.gguf");
    if path.exists() {
        return path;
    }
    let part = dir.join("model-bf16.gguf.part");
    let mut file = BufWriter::new(File::create(&part).unwrap());
    let tensors = tensors(shape);
    let head = head(shape, &tensors);
    file.write_all(&head).unwrap();
    file.write_all(&padding(head.len() as u64)).unwrap();
    for tensor in &tensors {
        write_tensor(&mut file, tensor);
        file.write_all(&padding(tensor.bytes())).unwrap();
    }
    file.flush().unwrap();
    std::fs::rename(part, &path).unwrap();
    path
}

/// Zeros from `end` to the next multiple of the alignment.
fn padding(end: u64) -> Vec<u8> {
    vec![0; (end.next_multiple_of(ALIGNMENT) - end) as usize]
}

fn write_tensor(file: &mut impl Write, tensor: &Stacked) {
    for source in &tensor.sources {
        if !tensor.is_vector() {
            write_values(file, source, &tensor.shape);
            continue;
        }
        let mut values = Vec::new();
        write_values(&mut values, source, &tensor.shape);
        for value in values.as_chunks::<2>().0 {
            file.write_all(&[0, 0, value[0], value[1]]).unwrap();
        }
    }
}

fn tensors(shape: &Shape) -> Vec<Stacked> {
    let &Shape { hidden, width, vocab, .. } = shape;
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut tensors = Vec::new();
    let mut add = |name: String, sources: Vec<String>, shape: &[usize]| {
        tensors.push(Stacked { name, sources, shape: shape.to_vec() });
    };
    add("token_embd.weight".into(), vec!["model.embed_tokens.weight".into()], &[vocab, hidden]);
    add("output.weight".into(), vec!["lm_head.weight".into()], &[vocab, hidden]);
    add("output_norm.weight".into(), vec!["model.norm.weight".into()], &[hidden]);
    let norms = shape.norms();
    for layer in 0..shape.layers {
        let ours = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let mut one = |theirs: &str, name: &str, shape: &[usize]| {
            add(format!("blk.{layer}.{theirs}.weight"), vec![ours(name)], shape);
        };
        one("attn_norm", "input_layernorm", &[hidden]);
        one("ffn_norm", "post_attention_layernorm", &[hidden]);
        one("attn_q", "self_attn.q_proj", &[q, hidden]);
        one("attn_k", "self_attn.k_proj", &[kv, hidden]);
        one("attn_v", "self_attn.v_proj", &[kv, hidden]);
        one("attn_output", "self_attn.o_proj", &[hidden, q]);
        one("attn_q_norm", "self_attn.q_norm", &[norms.0]);
        one("attn_k_norm", "self_attn.k_norm", &[norms.1]);
        one("ffn_gate_inp", "mlp.gate", &[shape.experts, hidden]);
        let mut experts = |theirs: &str, name: &str, dims: &[usize]| {
            let sources = 0..shape.experts;
            let sources = sources.map(|e| ours(&format!("mlp.experts.{e}.{name}"))).collect();
            add(format!("blk.{layer}.{theirs}.weight"), sources, dims);
        };
        experts("ffn_gate_exps", "gate_proj", &[width, hidden]);
        experts("ffn_up_exps", "up_proj", &[width, hidden]);
        experts("ffn_down_exps", "down_proj", &[hidden, width]);
    }
    tensors
}

/// Everything before the data.
fn head(shape: &Shape, tensors: &[Stacked]) -> Vec<u8> {
    let architecture = shape.model_type.replace('_', "");
    let mut pairs = 0u64;
    let mut values = Vec::new();
    let mut pair = |key: &str, kind: u32, value: &[u8]| {
        push_text(&mut values, key);
        values.extend(kind.to_le_bytes());
        values.extend(value);
        pairs += 1;
    };
    let mut text = Vec::new();
    push_text(&mut text, &architecture);
    pair("general.architecture", STRING, &text);
    text.clear();
    push_text(&mut text, "none");
    pair("tokenizer.ggml.model", STRING, &text);
    for (key, value) in [
        ("block_count", shape.layers),
        ("context_length", 4096),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.width),
        ("expert_feed_forward_length", shape.width),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("expert_count", shape.experts),
        ("expert_used_count", TOP_K),
        ("vocab_size", shape.vocab),
    ] {
        pair(&format!("{architecture}.{key}"), UINT32, &(value as u32).to_le_bytes());
    }
    for (key, value) in [("attention.layer_norm_rms_epsilon", 1e-6f32), ("rope.freq_base", 1e6)] {
        pair(&format!("{architecture}.{key}"), FLOAT32, &value.to_le_bytes());
    }
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(pairs.to_le_bytes());
    head.extend(values);
    let mut offset = 0u64;
    for tensor in tensors {
        push_text(&mut head, &tensor.name);
        let stack = (tensor.sources.len() > 1).then_some(tensor.sources.len());
        // The fastest dimension comes first.
        let sizes: Vec<usize> = tensor.shape.iter().rev().copied().chain(stack).collect();
        head.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|&size| head.extend((size as u64).to_le_bytes()));
        let kind = if tensor.is_vector() { 0u32 } else { BF16 };
        head.extend(kind.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    head
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

//! How much memory the operations of a step ask for, once the first steps have been.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::num::NonZeroUsize;

use candle_core::{Device as Place, Tensor as Matrix};
use guildhall_kernels::{
    AttentionOptions, CpuOptions, Device, Dtype, Embedding, ExpertRows, ExpertWeights, GateOptions,
    KvCache, KvShape, Linear, RopeTable, Routes, SequenceSpan, Tensor, Vector, WeightFormat,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const HIDDEN: usize = 512;
const WIDTH: usize = 256;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const EXPERTS: usize = 16;
const VOCAB: usize = 2000;
const POSITIONS: usize = 256;

/// A model of one layer.
struct Layer {
    device: Device,
    embedding: Embedding,
    norm: Vector,
    rope: RopeTable,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    experts: Vec<ExpertWeights>,
    head: Linear,
    cache: KvCache,
    blocks: Vec<u32>,
}

impl Layer {
    fn new(device: Device, format: WeightFormat) -> Self {
        let matrix = |n: usize, k: usize| Matrix::randn(0f32, 0.05, (n, k), &Place::Cpu).unwrap();
        let linear = |n, k| device.linear_weights(&matrix(n, k), None, format).unwrap();
        let (q_cols, kv_cols) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let expert = |_| {
            let [gate, up] = [(); 2].map(|()| matrix(WIDTH, HIDDEN));
            device.expert_weights(&gate, &up, &matrix(HIDDEN, WIDTH), format).unwrap()
        };
        let ones = Matrix::ones(HIDDEN, candle_core::DType::F32, &Place::Cpu).unwrap();
        let blocks = POSITIONS / 16;
        let shape =
            KvShape { layers: 1, blocks, block_tokens: 16, kv_heads: KV_HEADS, head_dim: HEAD_DIM };
        Self {
            embedding: device.embedding(&matrix(VOCAB, HIDDEN), Dtype::Bf16).unwrap(),
            norm: device.vector(&ones).unwrap(),
            rope: RopeTable::new(&[0.5; HEAD_DIM / 2], 1.0, POSITIONS),
            q: linear(q_cols, HIDDEN),
            k: linear(kv_cols, HIDDEN),
            v: linear(kv_cols, HIDDEN),
            o: linear(HIDDEN, q_cols),
            gate: linear(EXPERTS, HIDDEN),
            experts: (0..EXPERTS).map(expert).collect(),
            head: linear(VOCAB, HIDDEN),
            cache: device.kv_cache(shape, Dtype::Bf16).unwrap(),
            blocks: (0..blocks as u32).collect(),
            device,
        }
    }

    /// Rows of one sequence, from a position on: everything that a step does.
    fn step(&mut self, first_position: usize, rows: usize) {
        let device = self.device.clone();
        let ids: Vec<u32> = (0..rows as u32).map(|row| row * 31 % VOCAB as u32).collect();
        let mut x = device.embed(&self.embedding, &ids).unwrap();
        let h = device.rms_norm(&x, &self.norm, 1e-6).unwrap();
        let h = self.attend(&h, first_position);
        device.add(&mut x, &h).unwrap();
        let h = device.rms_norm(&x, &self.norm, 1e-6).unwrap();
        let logits = device.linear(&h, &self.gate).unwrap();
        let routes =
            device.top_k_gate(&logits, &GateOptions { top_k: 4, renormalise: true }).unwrap();
        let h = self.compute_experts(&h, &routes);
        device.add(&mut x, &h).unwrap();
        let last = device.gather_rows(&x, &[rows as u32 - 1]).unwrap();
        let logits = device.linear(&last, &self.head).unwrap();
        assert_eq!(device.largest_of_rows(&logits).len(), 1);
    }

    fn attend(&mut self, x: &Tensor, first_position: usize) -> Tensor {
        let device = &self.device;
        let rows = x.rows();
        let positions: Vec<u32> = (first_position as u32..).take(rows).collect();
        let mut q = device.linear(x, &self.q).unwrap();
        let mut k = device.linear(x, &self.k).unwrap();
        let v = device.linear(x, &self.v).unwrap();
        device.rope(&mut q, &positions, &self.rope).unwrap();
        device.rope(&mut k, &positions, &self.rope).unwrap();
        device.store_kv(&mut self.cache, 0, &k, &v, &positions).unwrap();
        let span = SequenceSpan { first_row: 0, rows, first_position, blocks: &self.blocks };
        let options = AttentionOptions { heads: HEADS, scale: 0.125, window: None };
        let h = device.attention(&q, &self.cache, 0, &[span], &options).unwrap();
        device.linear(&h, &self.o).unwrap()
    }

    fn compute_experts(&self, x: &Tensor, routes: &Routes) -> Tensor {
        let rows_of = |expert: usize| -> Vec<u32> {
            let pairs = routes.experts.iter().enumerate();
            let own = pairs.filter(|(_, chosen)| **chosen as usize == expert);
            own.map(|(pair, _)| (pair / routes.top_k) as u32).collect()
        };
        let rows: Vec<Vec<u32>> = (0..EXPERTS).map(rows_of).collect();
        let groups = self.experts.iter().zip(&rows).filter(|(_, rows)| !rows.is_empty());
        let groups: Vec<_> = groups.map(|(weights, rows)| ExpertRows { weights, rows }).collect();
        let out = self.device.expert_ffn(x, &groups).unwrap();
        let first: Vec<u32> = (0..x.rows() as u32).collect();
        self.device.gather_rows(&out, &first).unwrap()
    }
}

/// Bytes that a step asks for, after some that were alike.
fn asked_for(layer: &mut Layer, first_position: usize, rows: usize) -> u64 {
    const STEPS: u64 = 8;
    for _ in 0..STEPS {
        layer.step(first_position, rows);
    }
    let before = dhat::HeapStats::get().total_bytes;
    for _ in 0..STEPS {
        layer.step(first_position, rows);
    }
    (dhat::HeapStats::get().total_bytes - before) / STEPS
}

/// What remains are lists: of positions, of routes, of what each thread is to do.
#[test]
fn a_step_asks_for_no_memory_for_its_activations() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let two = NonZeroUsize::new(2).unwrap();
    for format in [WeightFormat::Plain(Dtype::Bf16), WeightFormat::Int8, WeightFormat::Int4] {
        let device = Device::cpu(CpuOptions::of_threads(two)).unwrap();
        let mut layer = Layer::new(device, format);
        let decoding = asked_for(&mut layer, 100, 1);
        let prompt = asked_for(&mut layer, 0, 64);
        assert!(decoding < 16 << 10, "{format}: {decoding} bytes to decode a token");
        // Its activations take some 2 MiB.
        assert!(prompt < 96 << 10, "{format}: {prompt} bytes for a prompt of 64 tokens");
    }
}

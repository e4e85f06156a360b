//! Wrong arguments are errors, never panics.

use candle_core::{DType, Device as Place, Tensor as Matrix};
use guildhall_kernels::{
    AttentionOptions, Device, Dtype, Error, ExpertRows, GateOptions, InstructionSet, KvCache,
    KvShape, RopeTable, SequenceSpan,
};

use crate::support::{device, experts, matrix, tensor};

const SHAPE: KvShape = KvShape { layers: 2, blocks: 3, block_tokens: 4, kv_heads: 2, head_dim: 6 };

fn best() -> Device {
    device(InstructionSet::detect(), 2)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>) {
    let error = result.err().expect("an error");
    assert!(
        matches!(error, Error::Shape { .. } | Error::OutOfRange { .. }),
        "{error} is of another kind"
    );
}

#[test]
fn uploads_must_be_whole_rows() {
    let device = best();
    refused(device.upload(&[1.0; 7], 2));
    refused(device.upload(&[1.0; 7], 0));
    refused(device.rows_from_bytes(&[&[0; 8], &[0; 7]], 1, Dtype::Bf16));
    refused(device.rows_from_bytes(&[&[0; 6]], 2, Dtype::Bf16));
    refused(device.rows_from_bytes(&[&[0; 6]], 1, Dtype::F32));
    refused(device.rows_from_bytes(&[&[]], 0, Dtype::F32));
    let x = device.upload(&[1.0; 6], 2).unwrap();
    refused(device.rows_to_bytes(&x, &[2, 3], Dtype::F32));
    assert_eq!(device.upload(&[], 4).unwrap().rows(), 0);
}

#[test]
fn weights_must_be_matrices() {
    let device = best();
    let cube = Matrix::zeros((2, 2, 2), DType::F32, &Place::Cpu).unwrap();
    let empty = Matrix::zeros((0, 2), DType::F32, &Place::Cpu).unwrap();
    for weight in [&cube, &empty] {
        refused(device.linear_weights(weight, None, Dtype::F32));
        refused(device.embedding(weight, Dtype::Bf16));
        refused(device.vector(weight));
        refused(device.expert_weights(weight, weight, weight, Dtype::F32));
    }
    let bias = matrix(1, 3, 1).flatten_all().unwrap();
    refused(device.linear_weights(&matrix(4, 5, 1), Some(&bias), Dtype::F32));
    let (gate, up, down) = (matrix(4, 5, 1), matrix(4, 6, 1), matrix(5, 3, 1));
    refused(device.expert_weights(&gate, &up, &down, Dtype::F32));
    refused(device.expert_weights(&gate, &gate, &down, Dtype::F32));
    refused(device.expert_weights(&gate, &gate, &gate, Dtype::F32));
}

#[test]
fn products_must_fit() {
    let device = best();
    let x = tensor(&device, 3, 5, 1);
    let linear = device.linear_weights(&matrix(4, 6, 1), None, Dtype::F32).unwrap();
    refused(device.linear(&x, &linear));
    let weights = experts(&device, (6, 4), Dtype::F32, 1);
    refused(device.ffn(&x, &weights));
    let weights = experts(&device, (5, 4), Dtype::F32, 1);
    let group = |weights, rows| ExpertRows { weights, rows };
    refused(device.expert_ffn(&x, &[group(&weights, &[3])]));
    let other = experts(&device, (5, 4), Dtype::Bf16, 1);
    refused(device.expert_ffn(&x, &[group(&weights, &[0]), group(&other, &[1])]));
    assert_eq!(device.expert_ffn(&x, &[]).unwrap().rows(), 0);
    assert_eq!(device.expert_ffn(&x, &[group(&weights, &[])]).unwrap().rows(), 0);
    let none = device.gather_rows(&x, &[]).unwrap();
    assert_eq!(device.ffn(&none, &weights).unwrap().cols(), 5);
}

#[test]
fn elementwise_arguments_must_fit() {
    let device = best();
    let mut x = tensor(&device, 3, 6, 1);
    let y = tensor(&device, 2, 6, 1);
    let weight = device.vector(&matrix(1, 4, 1).flatten_all().unwrap()).unwrap();
    refused(device.rms_norm(&x, &weight, 1e-6));
    refused(device.add(&mut x, &y));
    refused(device.silu_mul(&x, &y));
    refused(device.add_sigmoid_scaled(&mut x, &y, &y));
    let same = x.clone();
    refused(device.add_sigmoid_scaled(&mut x, &same, &y));
    refused(device.clamp(&mut x, -1.0));
    refused(device.clamp(&mut x, f32::NAN));
    refused(device.gather_rows(&x, &[0, 3]));
    let table = RopeTable::new(&[1.0], 1.0, 4);
    refused(device.rope(&mut x, &[0, 1], &table));
    refused(device.rope(&mut x, &[0, 1, 4], &table));
    let table = RopeTable::new(&[1.0, 0.5], 1.0, 4);
    refused(device.rope(&mut x, &[0, 1, 2], &table));
    refused(device.rope(&mut x, &[0, 1, 2], &RopeTable::new(&[], 1.0, 4)));
    let embedding = device.embedding(&matrix(3, 4, 1), Dtype::Bf16).unwrap();
    refused(device.embed(&embedding, &[2, 3]));
}

#[test]
fn gate_names_the_row_that_is_not_finite() {
    let device = best();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let logits = device.upload(&[0.0, 1.0, 2.0, bad], 2).unwrap();
        let options = GateOptions { top_k: 1, renormalise: true };
        let error = device.top_k_gate(&logits, &options).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 1, .. }), "{error}");
        for top_k in [0, 3] {
            refused(device.top_k_gate(&logits, &GateOptions { top_k, renormalise: true }));
        }
    }
}

#[test]
fn caches_have_sizes_that_exist() {
    let device = best();
    refused(device.kv_cache(KvShape { head_dim: 5, ..SHAPE }, Dtype::F32));
    refused(device.kv_cache(KvShape { blocks: 0, ..SHAPE }, Dtype::F32));
    for blocks in [usize::MAX, 1 << 55] {
        let result = device.kv_cache(KvShape { blocks, ..SHAPE }, Dtype::Bf16);
        assert!(matches!(result, Err(Error::OutOfMemory { .. })));
    }
    let huge = KvShape { layers: usize::MAX, blocks: usize::MAX, ..SHAPE };
    assert_eq!(huge.bytes(Dtype::F32), usize::MAX);
}

fn cache(device: &Device) -> KvCache {
    device.kv_cache(SHAPE, Dtype::Bf16).unwrap()
}

#[test]
fn stored_rows_must_fit_the_cache() {
    let device = best();
    let mut cache = cache(&device);
    let x = tensor(&device, 2, 12, 1);
    let wrong = tensor(&device, 2, 10, 1);
    refused(device.store_kv(&mut cache, 2, &x, &x, &[0, 1]));
    refused(device.store_kv(&mut cache, 0, &x, &x, &[0]));
    refused(device.store_kv(&mut cache, 0, &x, &x, &[0, 12]));
    refused(device.store_kv(&mut cache, 0, &wrong, &x, &[0, 1]));
    refused(device.store_kv(&mut cache, 0, &x, &wrong, &[0, 1]));
    device.store_kv(&mut cache, 1, &x, &x, &[0, 11]).unwrap();
}

#[test]
fn spans_must_lie_in_the_batch_and_the_cache() {
    let device = best();
    let cache = cache(&device);
    let q = tensor(&device, 4, 24, 1);
    let options = AttentionOptions { heads: 4, scale: 1.0, window: None };
    let span = |first_row, rows, first_position, blocks| SequenceSpan {
        first_row,
        rows,
        first_position,
        blocks,
    };
    let attend = |spans: &[SequenceSpan<'_>]| device.attention(&q, &cache, 0, spans, &options);
    refused(attend(&[span(2, 3, 0, &[0])]));
    refused(attend(&[span(usize::MAX, 3, 0, &[0])]));
    refused(attend(&[span(0, 3, 0, &[0]), span(2, 1, 0, &[1])]));
    refused(attend(&[span(0, 3, 2, &[0])]));
    refused(attend(&[span(0, 1, usize::MAX, &[0])]));
    refused(attend(&[span(0, 3, 0, &[3])]));
    assert_eq!(attend(&[]).unwrap().rows(), 4);
    attend(&[span(0, 0, 0, &[]), span(0, 4, 3, &[2, 0])]).unwrap();
}

#[test]
fn attention_options_must_fit() {
    let device = best();
    let cache = cache(&device);
    let q = tensor(&device, 4, 24, 1);
    for (layer, heads, window) in
        [(2, 4, None), (0, 3, None), (0, 0, None), (0, 4, Some(0)), (0, usize::MAX, None)]
    {
        let options = AttentionOptions { heads, scale: 1.0, window };
        refused(device.attention(&q, &cache, layer, &[], &options));
    }
    let odd = tensor(&device, 4, 18, 1);
    let options = AttentionOptions { heads: 3, scale: 1.0, window: None };
    refused(device.attention(&odd, &cache, 0, &[], &options));
}

#[test]
fn missing_instruction_sets_are_refused() {
    use guildhall_kernels::CpuOptions;
    let all = ["portable", "avx2", "avx512", "avx512-bf16", "amx"];
    for set in all.map(|name| name.parse::<InstructionSet>().unwrap()) {
        let options = CpuOptions {
            instruction_set: Some(set),
            ..CpuOptions::of_threads(std::num::NonZeroUsize::MIN)
        };
        let available = InstructionSet::available().contains(&set);
        match Device::cpu(options) {
            Ok(device) => assert!(available && device.instruction_set() == set),
            Err(error) => {
                assert!(!available);
                assert!(matches!(error, Error::UnsupportedInstructionSet { .. }));
            }
        }
    }
}

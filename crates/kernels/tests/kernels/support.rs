//! Devices, numbers and comparisons.

use std::num::NonZeroUsize;

use candle_core::{DType, Device as Place, Tensor as Matrix};
use guildhall_kernels::{
    CpuOptions, Device, Dtype, ExpertWeights, InstructionSet, Tensor, WeightFormat,
};

pub(crate) const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];
pub(crate) const FORMATS: [WeightFormat; 4] = [
    WeightFormat::Plain(Dtype::F32),
    WeightFormat::Plain(Dtype::Bf16),
    WeightFormat::Int8,
    WeightFormat::Int4,
];

pub(crate) fn device(set: InstructionSet, threads: usize) -> Device {
    let threads = NonZeroUsize::new(threads).unwrap();
    Device::cpu(CpuOptions { instruction_set: Some(set), ..CpuOptions::of_threads(threads) })
        .unwrap()
}

/// One device for each instruction set of this processor.
pub(crate) fn devices() -> Vec<Device> {
    InstructionSet::available().into_iter().map(|set| device(set, 2)).collect()
}

/// Returns numbers between -1 and 1 that `seed` determines.
pub(crate) fn values(count: usize, seed: u64) -> Vec<f32> {
    // splitmix64 (G. Steele et al., 2014).
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn matrix(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix::from_vec(values(rows * cols, seed), (rows, cols), &Place::Cpu).unwrap()
}

pub(crate) fn tensor(device: &Device, rows: usize, cols: usize, seed: u64) -> Tensor {
    device.upload(&values(rows * cols, seed), cols).unwrap()
}

pub(crate) fn experts(
    device: &Device,
    (hidden, width): (usize, usize),
    format: impl Into<WeightFormat>,
    seed: u64,
) -> ExpertWeights {
    let gate = matrix(width, hidden, seed);
    let up = matrix(width, hidden, seed + 1);
    let down = matrix(hidden, width, seed + 2);
    device.expert_weights(&gate, &up, &down, format).unwrap()
}

/// Rounds to `dtype` and widens to f64.
pub(crate) fn rounded(matrix: &Matrix, dtype: Dtype) -> Matrix {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
    };
    matrix.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap()
}

pub(crate) fn flat(matrix: &Matrix) -> Vec<f64> {
    let matrix = matrix.to_dtype(DType::F64).unwrap();
    matrix.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares within `tolerance` of the largest expected magnitude.
pub(crate) fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30f64, |largest, value| largest.max(value.abs()));
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs() / largest;
        assert!(error <= tolerance, "{what}: element {index}: {got} instead of {expected}");
    }
}

/// Compares bit by bit.
pub(crate) fn assert_same(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits();
        assert!(same, "{what}: element {index}: {got:e} instead of {expected:e}");
    }
}

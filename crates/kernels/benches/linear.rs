//! Times linear maps beside candle's and the experts of one layer, with cold weights.
//!
//! Runs are interleaved, a few in a row of each contender, as an idle thread pool takes a while
//! to wake. Figures are of the median run; the best run shows what a machine that others use too
//! hides. The weights are so many copies that no cache keeps them from one use to the next.
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{DType, Device as Place, Tensor as Matrix};
use guildhall_kernels::{
    CpuOptions, Device, Dtype, ExpertRows, ExpertWeights, GateOptions, InstructionSet, Linear,
    Tensor, WeightFormat,
};

const THREADS: usize = 2;
const INPUTS: usize = 2048;
const OUTPUTS: usize = 1024;
/// Copies of the weights take at least so many bytes.
const COLD_BYTES: usize = 256 << 20;
/// Runs of one contender before it is the turn of the next.
const RUNS_IN_A_ROW: usize = 5;

fn main() {
    let sets = InstructionSet::available();
    let sets: Vec<_> = sets.into_iter().filter(|&set| set != InstructionSet::Portable).collect();
    println!("threads {THREADS}, best instruction set {}", InstructionSet::detect());
    println!("read bandwidth {:.1} GB/s", read_bandwidth());
    println!();
    println!("linear [m,{INPUTS}] x [{INPUTS},{OUTPUTS}], weights cold");
    println!(
        "  dtype     m  instructions       us  best us   GB/s  GFLOP/s  candle us  candle/ours"
    );
    for dtype in [Dtype::Bf16, Dtype::F32] {
        linear_table(dtype, &sets);
    }
    println!();
    println!("expert_ffn hidden 2048, width 1024, 64 experts top-8, weights cold");
    println!("  format  tokens  instructions       us  best us   GB/s  GFLOP/s");
    for tokens in [1, 32] {
        expert_table(tokens, Dtype::Bf16.into(), &sets);
    }
    for format in [Dtype::Bf16.into(), WeightFormat::Int8, WeightFormat::Int4] {
        for tokens in [1, 8, 32, 512] {
            expert_table(tokens, format, &[InstructionSet::detect()]);
        }
    }
}

fn device(set: InstructionSet) -> Device {
    let threads = NonZeroUsize::new(THREADS).unwrap();
    Device::cpu(CpuOptions { instruction_set: Some(set), ..CpuOptions::of_threads(threads) })
        .unwrap()
}

fn matrix(rows: usize, cols: usize, dtype: Dtype) -> Matrix {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
    };
    let matrix = Matrix::randn(0f32, 0.05, (rows, cols), &Place::Cpu).unwrap();
    matrix.to_dtype(dtype).unwrap()
}

fn activations(device: &Device, rows: usize) -> Tensor {
    let data = Matrix::randn(0f32, 1.0, rows * INPUTS, &Place::Cpu).unwrap();
    device.upload(&data.to_vec1::<f32>().unwrap(), INPUTS).unwrap()
}

/// Returns the microseconds that `work` takes.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6
}

/// Returns the median and the best.
fn summary(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

/// Returns the best of several passes of all threads over 512 MiB, in GB/s.
fn read_bandwidth() -> f64 {
    let data = vec![1u64; 64 << 20];
    let pass = || {
        std::thread::scope(|scope| {
            for part in data.chunks(data.len() / THREADS) {
                scope.spawn(move || read(part));
            }
        });
    };
    let best = (0..7).map(|_| time(pass)).fold(f64::INFINITY, f64::min);
    (data.len() * 8) as f64 / best / 1e3
}

fn read(data: &[u64]) {
    let mut sums = [0u64; 32];
    for line in data.as_chunks::<32>().0 {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum ^= word;
        }
    }
    black_box(sums);
}

/// A device with its copies of the weight.
struct Ours {
    device: Device,
    weights: Vec<Linear>,
    times: Vec<f64>,
}

fn linear_table(dtype: Dtype, sets: &[InstructionSet]) {
    let bytes = INPUTS * OUTPUTS * dtype.size_bytes();
    let copies = COLD_BYTES.div_ceil(bytes);
    let weight = matrix(OUTPUTS, INPUTS, dtype);
    let theirs: Vec<_> = (0..copies).map(|_| weight.copy().unwrap()).collect();
    let pack = |device: &Device| {
        theirs.iter().map(|w| device.linear_weights(w, None, dtype).unwrap()).collect()
    };
    let mut ours: Vec<_> = sets
        .iter()
        .map(|&set| device(set))
        .map(|device| Ours { weights: pack(&device), device, times: Vec::new() })
        .collect();
    for (m, turns) in [(1, 80), (8, 60), (64, 12), (512, 3)] {
        let x = activations(&ours[0].device, m);
        let their_x = Matrix::from_slice(&ours[0].device.host(&x), (m, INPUTS), &Place::Cpu);
        let their_x = their_x.unwrap().to_dtype(theirs[0].dtype()).unwrap();
        let mut their_times = Vec::new();
        for turn in 0..turns {
            let picks = (0..RUNS_IN_A_ROW).map(|run| (turn * RUNS_IN_A_ROW + run) % copies);
            for ours in &mut ours {
                ours.times.extend(picks.clone().map(|pick| {
                    time(|| drop(black_box(ours.device.linear(&x, &ours.weights[pick]).unwrap())))
                }));
            }
            their_times.extend(picks.map(|pick| {
                let weights = theirs[pick].t().unwrap();
                time(|| drop(black_box(their_x.matmul(&weights).unwrap())))
            }));
        }
        let (candle, _) = summary(their_times);
        for ours in &mut ours {
            let (us, best) = summary(std::mem::take(&mut ours.times));
            println!(
                "{dtype:>7} {m:>5}  {:<12} {us:>8.0} {best:>8.0} {:>6.1} {:>8.0} {candle:>10.0} {:>12.1}",
                ours.device.instruction_set(),
                bytes as f64 / us / 1e3,
                (2 * m * INPUTS * OUTPUTS) as f64 / us / 1e3,
                candle / us,
            );
        }
    }
}

fn expert_table(tokens: usize, format: WeightFormat, sets: &[InstructionSet]) {
    const EXPERTS: usize = 64;
    const WIDTH: usize = 1024;
    let gate = matrix(WIDTH, INPUTS, Dtype::Bf16);
    let down = matrix(INPUTS, WIDTH, Dtype::Bf16);
    for &set in sets {
        let device = device(set);
        let pack = |_| device.expert_weights(&gate, &gate, &down, format).unwrap();
        let experts: Vec<ExpertWeights> = (0..EXPERTS).map(pack).collect();
        let x = activations(&device, tokens);
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..if tokens < 32 { 101 } else { 25 } {
            let groups = route(&device, tokens, EXPERTS);
            let groups: Vec<_> = experts
                .iter()
                .zip(&groups)
                .filter(|(_, rows)| !rows.is_empty())
                .map(|(weights, rows)| ExpertRows { weights, rows })
                .collect();
            bytes = groups.iter().map(|group| group.weights.bytes()).sum();
            times.push(time(|| drop(black_box(device.expert_ffn(&x, &groups).unwrap()))));
        }
        let (us, best) = summary(times);
        println!(
            "{format:>8} {tokens:>7}  {set:<12} {us:>8.0} {best:>8.0} {:>6.1} {:>8.0}",
            bytes as f64 / us / 1e3,
            (tokens * 8 * 3 * 2 * INPUTS * WIDTH) as f64 / us / 1e3,
        );
    }
}

/// Returns the rows of each expert for random logits.
fn route(device: &Device, tokens: usize, experts: usize) -> Vec<Vec<u32>> {
    let logits = Matrix::randn(0f32, 1.0, tokens * experts, &Place::Cpu).unwrap();
    let logits = device.upload(&logits.to_vec1::<f32>().unwrap(), experts).unwrap();
    let options = GateOptions { top_k: 8, renormalise: false };
    let routes = device.top_k_gate(&logits, &options).unwrap();
    let mut rows = vec![Vec::new(); experts];
    for (index, &expert) in routes.experts.iter().enumerate() {
        rows[expert as usize].push((index / routes.top_k) as u32);
    }
    rows
}

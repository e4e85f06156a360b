//! A check that an expert computes what its weights say, made before anybody may call it.
//!
//! A row with a few values that are not zero goes through the kernel that serves, which reads all packed weights.
//! What must come out is computed again in f64, straight from the tensors; thanks to the zeros that takes a few columns
//! of gate and up, and a few rows of down.
//!
//! Every rounding of the kernel has a bound, so what must come out is a range:
//!
//! | step | kernel | here |
//! |---|---|---|
//! | weights | f32, or rounded to bf16 | the same values, exactly |
//! | gate x, up x | sums in f32 | widened by the most that so many additions can lose |
//! | silu(gate) * up | f32 | widened by the error of the exponential and of each operation |
//! | | rounded to bf16 if the weights are | both ends rounded, which leaves a point but for ties |
//! | down | sums in f32 | widened as above |
//! | outputs | rounded to bf16 if the weights are | both ends rounded |
//!
//! Quantised weights are computed with the same bits on every processor: they are packed and computed again by plain
//! code, and every bit is compared.

use std::fmt;
use std::num::NonZeroUsize;

use guildhall_checkpoint::ExpertTensors;
use guildhall_ids::ExpertId;
use guildhall_kernels::{CpuOptions, Device, Dtype, ExpertWeights, InstructionSet, WeightFormat};

#[cfg(test)]
mod tests;

/// Values of the row that are not zero.
const INPUTS: usize = 4;
/// Outputs that are compared.
const OUTPUTS: usize = 4;

/// The most that one operation in f32 loses, relative to its result.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;
/// silu(g) * u from exact g and u, relative: an exponential, which the kernels keep within 3e-7, and four operations.
const SILU_MUL: f64 = 3e-7 + 5.0 * ROUNDING;
/// The slope of silu is nowhere more.
const SILU_SLOPE: f64 = 1.1;
/// silu(g) where the exponential is so large that the kernels give zero.
const SILU_VANISHES: f64 = 1e-36;
/// Some instructions take what is smaller for zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// Why an expert must not be served.
#[derive(Debug, thiserror::Error)]
pub enum CanaryFailure {
    /// It computes something else than its weights say.
    #[error("expert {expert} computes wrongly: output {output} is {got}, expected {expected}")]
    Wrong {
        /// The expert.
        expert: ExpertId,
        /// The index of the output.
        output: usize,
        /// What the kernel gave.
        got: f32,
        /// What it may give.
        expected: Expected,
    },
    /// Its tensors cannot be read.
    #[error("expert {expert} cannot be checked")]
    Tensors {
        /// The expert.
        expert: ExpertId,
        /// What is wrong with them.
        #[source]
        source: guildhall_checkpoint::Error,
    },
    /// The kernel refuses its weights.
    #[error("expert {expert} cannot be computed")]
    Kernel {
        /// The expert.
        expert: ExpertId,
        /// What it says.
        #[source]
        source: guildhall_kernels::Error,
    },
}

/// What an output may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Any number but infinity and NaN.
    Finite,
    /// Something between these two, themselves included.
    Between(f64, f64),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite => f.write_str("a finite number"),
            Self::Between(low, high) => write!(f, "{low:e} to {high:e}"),
        }
    }
}

/// Checks the packed `weights` of an expert against its `tensors`.
///
/// A fault is found if it touches a column or row that is looked at, or makes any output infinite or NaN.
pub(crate) fn canary(
    device: &Device,
    expert: ExpertId,
    tensors: &ExpertTensors,
    weights: &ExpertWeights,
) -> Result<(), CanaryFailure> {
    let probe = Probe::of(expert, weights.hidden());
    let got = probe.compute(device, weights);
    let got = got.map_err(|source| CanaryFailure::Kernel { expert, source })?;
    let wrong = |output: usize, expected| {
        Err(CanaryFailure::Wrong { expert, output, got: got[output], expected })
    };
    if let Some(output) = got.iter().position(|value| !value.is_finite()) {
        return wrong(output, Expected::Finite);
    }
    if let WeightFormat::Int8 | WeightFormat::Int4 = weights.format() {
        let reference = probe.compute_again(tensors, weights.format());
        let reference = reference.map_err(|source| CanaryFailure::Kernel { expert, source })?;
        let differs = |output: &usize| got[*output].to_bits() != reference[*output].to_bits();
        return match (0..got.len()).find(differs) {
            None => Ok(()),
            Some(output) => {
                let value = f64::from(reference[output]);
                wrong(output, Expected::Between(value, value))
            }
        };
    }
    let expected = probe.expect(tensors, weights.format().dtype());
    let expected = expected.map_err(|source| CanaryFailure::Tensors { expert, source })?;
    for (&output, range) in probe.outputs.iter().zip(expected) {
        if !range.contains(got[output]) {
            return wrong(output, Expected::Between(range.low, range.high));
        }
    }
    Ok(())
}

/// What is asked of an expert.
struct Probe {
    hidden: usize,
    /// Where the row is not zero, and what it is there.
    inputs: Vec<(usize, f32)>,
    /// Which outputs are compared.
    outputs: Vec<usize>,
}

impl Probe {
    /// Always the same for an expert, and others for most others.
    fn of(expert: ExpertId, hidden: usize) -> Self {
        let seed = u64::from(expert.layer.0) << 32 | u64::from(expert.expert.0);
        let mut draw = Draw(seed);
        let columns = draw.spread(INPUTS, hidden);
        // Exact in bf16, and large enough for weights of a few hundredths to reach the bend of silu: on its straight
        // part gate and up could be swapped.
        let mut value = || {
            let size = (4 + draw.below(9)) as f32;
            if draw.below(2) == 0 { size } else { -size }
        };
        let inputs = columns.into_iter().map(|column| (column, value())).collect();
        Self { hidden, inputs, outputs: draw.spread(OUTPUTS, hidden) }
    }

    /// What the kernel gives: [hidden].
    fn compute(
        &self,
        device: &Device,
        weights: &ExpertWeights,
    ) -> Result<Vec<f32>, guildhall_kernels::Error> {
        let mut row = vec![0.0; self.hidden];
        for &(column, value) in &self.inputs {
            row[column] = value;
        }
        let y = device.ffn(&device.upload(&row, self.hidden)?, weights)?;
        Ok(device.host(&y).into_owned())
    }

    /// What plain code gives for weights that it packs itself.
    fn compute_again(
        &self,
        tensors: &ExpertTensors,
        format: WeightFormat,
    ) -> Result<Vec<f32>, guildhall_kernels::Error> {
        let device = Device::cpu(CpuOptions {
            instruction_set: Some(InstructionSet::Portable),
            ..CpuOptions::of_threads(NonZeroUsize::MIN)
        })?;
        let ExpertTensors { gate, up, down } = tensors;
        self.compute(&device, &device.expert_weights(gate, up, down, format)?)
    }

    /// What it may give for the outputs that are compared.
    fn expect(
        &self,
        tensors: &ExpertTensors,
        dtype: Dtype,
    ) -> Result<Vec<Range>, guildhall_checkpoint::Error> {
        let mut sums: Vec<[Sum; 2]> = Vec::new();
        for &(column, value) in &self.inputs {
            let [gate, up] = tensors.gate_and_up_column(column)?;
            sums.resize_with(gate.len(), Default::default);
            for ((sums, gate), up) in sums.iter_mut().zip(gate).zip(up) {
                sums[0].add(rounded(gate, dtype), f64::from(value).into());
                sums[1].add(rounded(up, dtype), f64::from(value).into());
            }
        }
        let inner = sums.iter().map(|[gate, up]| silu_mul(gate.total(), up.total()).rounded(dtype));
        let inner: Vec<Range> = inner.collect();
        let output = |&output: &usize| {
            let mut sum = Sum::default();
            for (weight, &inner) in tensors.down_row(output)?.into_iter().zip(&inner) {
                sum.add(rounded(weight, dtype), inner);
            }
            Ok(sum.total().rounded(dtype))
        };
        self.outputs.iter().map(output).collect()
    }
}

/// A number that is known to be at least `low` and at most `high`.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f64,
    high: f64,
}

impl From<f64> for Range {
    fn from(value: f64) -> Self {
        Self { low: value, high: value }
    }
}

impl Range {
    fn around(middle: f64, error: f64) -> Self {
        Self { low: middle - error, high: middle + error }
    }

    fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    fn error(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    fn contains(self, value: f32) -> bool {
        (self.low..=self.high).contains(&value.into())
    }

    /// What a number of this range becomes as `dtype`: rounding keeps the order.
    fn rounded(self, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => self,
            Dtype::Bf16 => Self { low: rounded(self.low, dtype), high: rounded(self.high, dtype) },
        }
    }
}

/// A sum of products as the kernels form it: in f32, one product after another.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    /// The same of the absolute values: what rounding is relative to.
    magnitude: f64,
    /// What the factors leave open.
    error: f64,
    terms: u32,
}

impl Sum {
    fn add(&mut self, weight: f64, x: Range) {
        let middle = x.middle();
        self.value += weight * middle;
        self.magnitude += weight.abs() * (middle.abs() + x.error());
        self.error += weight.abs() * x.error() + SMALLEST * (1.0 + weight.abs() + middle.abs());
        self.terms += 1;
    }

    /// n additions and a product lose less than n + 2 roundings of the magnitude (Higham, Accuracy and Stability of
    /// Numerical Algorithms, section 3.1).
    fn total(self) -> Range {
        let roundings = f64::from(self.terms + 2) * ROUNDING;
        Range::around(self.value, self.error + self.magnitude * roundings)
    }
}

/// silu(gate) * up.
fn silu_mul(gate: Range, up: Range) -> Range {
    let (g, u) = (gate.middle(), up.middle());
    let silu = g / (1.0 + (-g).exp());
    let silu_error = SILU_SLOPE * gate.error() + SILU_VANISHES;
    let product = (silu.abs() + silu_error) * (u.abs() + up.error());
    let open = silu_error * (u.abs() + up.error()) + silu.abs() * up.error();
    Range::around(silu * u, open + product * SILU_MUL + SMALLEST)
}

/// The nearest number of this type, ties to even.
fn rounded(value: f64, dtype: Dtype) -> f64 {
    let value = value as f32;
    let bits = value.to_bits();
    match dtype {
        Dtype::F32 => f64::from(value),
        Dtype::Bf16 => {
            let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            f64::from(f32::from_bits(nearest))
        }
    }
}

/// Numbers that look random: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// A place in each of `count` equal parts of `0..len`, as far as there is one.
    fn spread(&mut self, count: usize, len: usize) -> Vec<usize> {
        let parts = (0..count).map(|part| (part * len / count, (part + 1) * len / count));
        let parts = parts.filter(|(start, end)| start < end);
        parts.map(|(start, end)| start + self.below((end - start) as u64) as usize).collect()
    }
}

//! What an instruction set gives on this machine: whether it computes what plain code does, and how fast.

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::device::{CpuOptions, Device, InstructionSet};
use crate::error::Error;
use crate::tensor::Tensor;
use crate::weights::{Linear, WeightFormat};

/// Inputs and outputs of the weights that are multiplied.
const INPUTS: usize = 2048;
const OUTPUTS: usize = 1024;
/// Together larger than any cache of a processor that is usual.
const COLD_BYTES: usize = 384 << 20;
/// A row waits for the weights; so many rows wait for arithmetic.
const MANY_ROWS: usize = 512;
/// Rows whose results are compared: more than one tile of every instruction set.
const COMPARED_ROWS: usize = 37;
/// Repetitions, of which the fastest counts.
const TURNS: usize = 5;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// The largest difference from plain code, over the largest value.
    pub difference: f32,
    /// Weights per second that one row goes through, in GB.
    pub weights_gb_per_s: f64,
    /// Multiplications and additions per second for many rows, in billions.
    pub gflop_per_s: f64,
}

impl Probe {
    /// Tries `options` with weights of a format; takes about a second.
    ///
    /// # Errors
    /// If the device is not to be had, or there is no room for some hundred megabytes.
    pub fn run(options: CpuOptions, format: WeightFormat) -> Result<Self, Error> {
        let device = Device::cpu(options)?;
        let weight = weight()?;
        let pack = |device: &Device| device.linear_weights(&weight, None, format);
        let first = pack(&device)?;
        let copies = COLD_BYTES.div_ceil(first.bytes());
        let mut weights = vec![first];
        for _ in 1..copies {
            weights.push(pack(&device)?);
        }
        let plain = CpuOptions {
            instruction_set: Some(InstructionSet::Portable),
            ..CpuOptions::of_threads(NonZeroUsize::MIN)
        };
        let plain = Device::cpu(plain)?;
        Ok(Self {
            difference: difference((&device, &weights[0]), (&plain, &pack(&plain)?))?,
            weights_gb_per_s: stream(&device, &weights)?,
            gflop_per_s: multiply(&device, &weights[0])?,
        })
    }
}

/// Values that repeat nowhere and are exact in bf16 nearly never.
fn value(at: usize) -> f32 {
    ((at % 8191) as f32 * 0.618_034).fract() - 0.5
}

fn weight() -> Result<candle_core::Tensor, Error> {
    let values: Vec<f32> = (0..INPUTS * OUTPUTS).map(value).collect();
    let place = candle_core::Device::Cpu;
    let weight = candle_core::Tensor::from_vec(values, (OUTPUTS, INPUTS), &place)
        .and_then(|weight| weight.to_dtype(candle_core::DType::BF16));
    weight.map_err(|source| Error::Weight { what: "probed", source })
}

fn rows(device: &Device, count: usize) -> Result<Tensor, Error> {
    let values: Vec<f32> = (0..count * INPUTS).map(|at| value(3 * at + 1)).collect();
    device.upload(&values, INPUTS)
}

fn difference(ours: (&Device, &Linear), plain: (&Device, &Linear)) -> Result<f32, Error> {
    let compute = |(device, weights): (&Device, &Linear)| {
        let y = device.linear(&rows(device, COMPARED_ROWS)?, weights)?;
        Ok::<_, Error>(device.host(&y).into_owned())
    };
    let (ours, plain) = (compute(ours)?, compute(plain)?);
    let largest = plain.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let differences = ours.iter().zip(&plain).map(|(ours, plain)| (ours - plain).abs());
    // NaN is the worst difference of all.
    let worst =
        differences.fold(0f32, |worst, of| if of > worst || of.is_nan() { of } else { worst });
    Ok(worst / largest)
}

fn stream(device: &Device, weights: &[Linear]) -> Result<f64, Error> {
    let row = rows(device, 1)?;
    let bytes: usize = weights.iter().map(Linear::bytes).sum();
    let seconds = fastest(|| {
        for weights in weights {
            device.linear(&row, weights)?;
        }
        Ok(())
    })?;
    Ok(bytes as f64 / seconds / 1e9)
}

fn multiply(device: &Device, weights: &Linear) -> Result<f64, Error> {
    let many = rows(device, MANY_ROWS)?;
    let seconds = fastest(|| device.linear(&many, weights).map(drop))?;
    Ok((2 * MANY_ROWS * INPUTS * OUTPUTS) as f64 / seconds / 1e9)
}

fn fastest(run: impl Fn() -> Result<(), Error>) -> Result<f64, Error> {
    let mut fastest = f64::INFINITY;
    for _ in 0..TURNS {
        let began = Instant::now();
        run()?;
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_computes_what_plain_code_does() {
        for set in InstructionSet::available() {
            let options = CpuOptions {
                instruction_set: Some(set),
                ..CpuOptions::of_threads(NonZeroUsize::MIN)
            };
            let probe = Probe::run(options, crate::Dtype::Bf16.into()).unwrap();
            assert!(probe.difference < 1e-5, "{set}: {probe:?}");
            assert!(probe.weights_gb_per_s > 0.0 && probe.gflop_per_s > 0.0, "{set}: {probe:?}");
        }
    }
}

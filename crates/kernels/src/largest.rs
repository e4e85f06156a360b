//! The largest value of a row.

use crate::cpu::Kernel;
use crate::cpu::parallel::SharedSlice;
use crate::device::Device;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// A value and its column.
pub type Largest = (u32, f32);

impl Device {
    /// Returns the largest value of each row of `x` and the first column that has it; `None` for a row with a NaN, or
    /// without a finite value.
    pub fn largest_of_rows(&self, x: &Tensor) -> Vec<Option<Largest>> {
        let kernel = Kernel::of_weights(self.instruction_set(), Dtype::F32.into());
        let mut all = vec![None; x.rows()];
        let shared = SharedSlice::new(&mut all);
        self.workers().run(x.rows(), |row| {
            // SAFETY: each row has a place of its own.
            unsafe { shared.part(row, 1) }.fill(kernel.largest(x.row(row)));
        });
        all
    }
}

/// Returns what [`Device::largest_of_rows`] does for one row.
#[inline(always)]
pub fn largest(values: &[f32]) -> Option<Largest> {
    // Lanes do not wait for one another, and simple passes are several times as fast as one that keeps the column.
    const WIDE: usize = 64;
    let mut best = [f32::NEG_INFINITY; WIDE];
    let mut broken = [false; WIDE];
    let mut look = |line: &[f32]| {
        for ((best, broken), &value) in best.iter_mut().zip(&mut broken).zip(line) {
            *best = if value > *best { value } else { *best };
            *broken |= value.is_nan();
        }
    };
    let (lines, rest) = values.as_chunks::<WIDE>();
    lines.iter().for_each(|line| look(line));
    look(rest);
    let best = best.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if !best.is_finite() || broken.contains(&true) {
        return None;
    }
    let chunk =
        lines.iter().position(|line| line.iter().fold(false, |any, value| any | (*value == best)));
    let first = chunk.unwrap_or(lines.len()) * WIDE;
    let column = values[first..].iter().position(|value| *value == best)?;
    Some(((first + column) as u32, best))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::{CpuOptions, InstructionSet};

    #[test]
    fn the_first_of_the_largest_is_found_on_every_device() {
        let mut values: Vec<f32> = (0..5 * 300).map(|i| (i as f32 * 0.37).sin()).collect();
        values[299] = 2.0;
        (values[310], values[550]) = (3.0, 3.0);
        values[700] = f32::NAN;
        values[900..1200].fill(f32::NEG_INFINITY);
        values[1400] = f32::INFINITY;
        for set in InstructionSet::available() {
            let threads = NonZeroUsize::new(2).unwrap();
            let device = Device::cpu(CpuOptions {
                instruction_set: Some(set),
                ..CpuOptions::of_threads(threads)
            })
            .unwrap();
            let x = device.upload(&values, 300).unwrap();
            let expected = [Some((299, 2.0)), Some((10, 3.0)), None, None, None];
            assert_eq!(device.largest_of_rows(&x), expected, "{set}");
        }
        for short in [1, 5, 63, 64, 65] {
            assert_eq!(largest(&vec![-1.0; short]), Some((0, -1.0)));
        }
        assert_eq!(largest(&[]), None);
    }
}

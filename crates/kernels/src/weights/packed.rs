//! Matrices in panels of sixteen outputs.
//!
//! A panel holds sixteen rows of the weight `[n, k]`, transposed, so that a kernel reads it
//! from its beginning to its end:
//!
//! ```text
//! f32   [n/16][k  ][16]       word = one weight
//! bf16  [n/16][k/2][16][2]    word = the weights of two neighbouring k, the even one low;
//!                             k/2 rounded up to a multiple of sixteen
//! ```
//!
//! The second is the order of the dot-product instructions of AVX-512-BF16 and of the right
//! operand of AMX, a register of which takes sixteen lines. Rows beyond n and columns beyond k are zero.

use std::ops::Range;

use super::WeightFormat;
use super::quantised::{Bits, Quantised};
use super::source::Source;
use crate::cpu::parallel::Workers;
use crate::cpu::{LANES, Line, TILE_PANELS};
use crate::dtype::{Dtype, bf16_bits};
use crate::error::Error;
use crate::large_pages::Lines;

/// A packed weight `[n, k]`, or two of them with alternating panels.
#[derive(Debug)]
pub(crate) struct Packed {
    panels: Panels,
    n: usize,
    k: usize,
    /// Lines of one panel.
    steps: usize,
}

#[derive(Debug)]
enum Panels {
    Plain(Dtype, Lines),
    Quantised(Quantised),
}

impl Packed {
    /// Packs `sources`, each `[n, k]`: panel 0 of each of them, panel 1 of each of them, ...
    pub(super) fn pack(
        sources: &[Source<'_>],
        (n, k): (usize, usize),
        format: WeightFormat,
        workers: &Workers,
    ) -> Result<Self, Error> {
        let quantised =
            |bits| Quantised::pack(sources, (n, k), bits, workers).map(Panels::Quantised);
        let panels = match format {
            WeightFormat::Plain(dtype) => {
                Panels::Plain(dtype, pack_plain(sources, (n, k), dtype, workers)?)
            }
            WeightFormat::Int8 => quantised(Bits::Eight)?,
            WeightFormat::Int4 => quantised(Bits::Four)?,
        };
        Ok(Self { panels, n, k, steps: steps(k, format.dtype()) })
    }

    pub(crate) fn n(&self) -> usize {
        self.n
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn format(&self) -> WeightFormat {
        match &self.panels {
            Panels::Plain(dtype, _) => WeightFormat::Plain(*dtype),
            Panels::Quantised(weights) if weights.bits() == Bits::Eight => WeightFormat::Int8,
            Panels::Quantised(_) => WeightFormat::Int4,
        }
    }

    pub(crate) fn quantised(&self) -> Option<&Quantised> {
        match &self.panels {
            Panels::Plain(..) => None,
            Panels::Quantised(weights) => Some(weights),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Plain(_, lines) => std::mem::size_of_val(&**lines),
            Panels::Quantised(weights) => weights.bytes(),
        }
    }

    /// Returns the number of panels.
    pub(crate) fn panels(&self) -> usize {
        match &self.panels {
            Panels::Plain(_, lines) => lines.len().checked_div(self.steps).unwrap_or(0),
            Panels::Quantised(weights) => weights.panels(),
        }
    }

    /// Returns some lines of each of up to [`TILE_PANELS`] panels of a weight that is not quantised.
    pub(crate) fn lines(
        &self,
        panels: &Range<usize>,
        steps: &Range<usize>,
    ) -> [&[Line]; TILE_PANELS] {
        let mut lines: [&[Line]; TILE_PANELS] = [&[]; TILE_PANELS];
        if let Panels::Plain(_, all) = &self.panels {
            for (lines, panel) in lines.iter_mut().zip(panels.clone()) {
                *lines = &all[panel * self.steps..][steps.clone()];
            }
        }
        lines
    }
}

/// Lines of one panel.
fn steps(k: usize, dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => k,
        Dtype::Bf16 => k.div_ceil(2).next_multiple_of(LANES),
    }
}

fn pack_plain(
    sources: &[Source<'_>],
    (n, k): (usize, usize),
    dtype: Dtype,
    workers: &Workers,
) -> Result<Lines, Error> {
    let steps = steps(k, dtype);
    let panels = n.div_ceil(LANES) * sources.len();
    let mut lines = Lines::zeroed("packed weights", panels.checked_mul(steps))?;
    workers.for_rows(&mut lines, steps, |first, lines| {
        for (panel, lines) in (first..).zip(lines.chunks_mut(steps)) {
            let rows = panel / sources.len() * LANES..n;
            let source = sources[panel % sources.len()];
            for (lane, row) in rows.take(LANES).enumerate() {
                write_lane(source.row(row, k), dtype, lane, lines);
            }
        }
    });
    Ok(lines)
}

/// Writes one row of the weight into its lane of a panel.
fn write_lane(row: Source<'_>, dtype: Dtype, lane: usize, lines: &mut [Line]) {
    match (row, dtype) {
        (Source::F32(row), Dtype::F32) => {
            write_words(row.iter().map(|value| value.to_bits()), lane, lines);
        }
        (Source::Bf16(row), Dtype::F32) => {
            write_words(row.iter().map(|value| u32::from(value.to_bits()) << 16), lane, lines);
        }
        (Source::F32(row), Dtype::Bf16) => {
            write_pairs(row, |&value| bf16_bits(value), lane, lines);
        }
        (Source::Bf16(row), Dtype::Bf16) => {
            write_pairs(row, |value| u32::from(value.to_bits()), lane, lines);
        }
    }
}

fn write_words(words: impl Iterator<Item = u32>, lane: usize, lines: &mut [Line]) {
    for (line, word) in lines.iter_mut().zip(words) {
        line.0[lane] = word;
    }
}

fn write_pairs<T>(row: &[T], bits: impl Fn(&T) -> u32, lane: usize, lines: &mut [Line]) {
    for (line, pair) in lines.iter_mut().zip(row.chunks(2)) {
        let odd = pair.get(1).map_or(0, &bits);
        line.0[lane] = bits(&pair[0]) | (odd << 16);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn bf16_panels_interleave_pairs_and_pad_with_zero() {
        // Element (row, column) is row + column / 8: exact in bf16.
        let (n, k) = (18, 5);
        let weight: Vec<f32> = (0..n * k).map(|i| (i / k) as f32 + (i % k) as f32 / 8.0).collect();
        let workers = Workers::start(NonZeroUsize::MIN).unwrap();
        let sources = [Source::F32(&weight)];
        let packed = Packed::pack(&sources, (n, k), Dtype::Bf16.into(), &workers).unwrap();
        assert_eq!(packed.panels(), 2);
        let lines = packed.lines(&(0..2), &(0..16));
        let element = |row: usize, column: usize| {
            let word = lines[row / LANES][column / 2].0[row % LANES];
            f32::from_bits((word >> (16 * (column % 2))) << 16)
        };
        for row in 0..32 {
            for column in 0..32 {
                let inside = row < n && column < k;
                let expected = if inside { row as f32 + column as f32 / 8.0 } else { 0.0 };
                assert_eq!(element(row, column), expected, "{row} {column}");
            }
        }
    }
}

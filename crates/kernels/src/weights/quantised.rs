//! Panels of small integers: groups of 32 columns of sixteen outputs, each output with a scale of its own.
//!
//! Rows of x are quantised too, in the same groups ([`QuantisedRows`](crate::cpu::quantised_rows::QuantisedRows)). The
//! products of a group are summed as integers, which is exact, and scaled; groups follow one another. So the result
//! of a row is the same in any tile and on any processor.
//!
//! ```text
//! int8  [n/16][k/32]  [8 lines][16 outputs][4 columns], a scale for each output:  weight = byte * scale
//! int4  [n/16][k/32]  [4 lines][16 outputs][4 columns], a scale and a minimum:    weight = nibble * scale + minimum
//!                     the lower nibbles are lines 0 to 3, the upper ones 4 to 7
//! ```

use std::ops::Range;

use super::source::Source;
use crate::cpu::parallel::{SharedSlice, Workers};
use crate::cpu::{LANES, Line};
use crate::dtype::widen_bf16;
use crate::error::Error;
use crate::large_pages::Lines;

/// Columns that share a scale.
pub(crate) const GROUP_COLUMNS: usize = 32;
/// Lines of a group with a byte for each weight.
pub(crate) const GROUP_LINES: usize = 8;

/// Bits of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    Eight,
    Four,
}

impl Bits {
    /// Lines of one group.
    pub(crate) fn lines(self) -> usize {
        match self {
            Self::Eight => GROUP_LINES,
            Self::Four => GROUP_LINES / 2,
        }
    }

    /// What a group has for each output: a scale, and a minimum.
    fn scales(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Four => 2,
        }
    }
}

/// A bf16 for each output of a group.
pub(crate) type OfOutputs = [u16; LANES];

/// A quantised weight in panels.
#[derive(Debug)]
pub(crate) struct Quantised {
    bits: Bits,
    /// `[panel][group][lines of a group]`
    lines: Lines,
    /// `[panel][group]`, scale and minimum.
    scales: Vec<OfOutputs>,
    /// Of one panel.
    groups: usize,
}

/// Some groups of one panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelGroups<'a> {
    pub(crate) bits: Bits,
    /// `[group][lines of a group]`
    pub(crate) lines: &'a [Line],
    /// `[group]`, scale and minimum.
    pub(crate) scales: &'a [OfOutputs],
}

impl<'a> PanelGroups<'a> {
    #[inline(always)]
    pub(crate) fn groups(&self) -> usize {
        self.lines.len() / self.bits.lines()
    }

    #[inline(always)]
    pub(crate) fn lines(&self, group: usize) -> &'a [Line] {
        &self.lines[group * self.bits.lines()..][..self.bits.lines()]
    }

    #[inline(always)]
    pub(crate) fn scale(&self, group: usize) -> &'a OfOutputs {
        &self.scales[group * self.bits.scales()]
    }

    /// Nothing with eight bits.
    #[inline(always)]
    pub(crate) fn minimum(&self, group: usize) -> Option<&'a OfOutputs> {
        (self.bits == Bits::Four).then(|| &self.scales[group * self.bits.scales() + 1])
    }

    /// The integers of a line, `[16 outputs][4 columns]`.
    #[inline(always)]
    pub(crate) fn quants(&self, group: usize, line: usize) -> [i8; 4 * LANES] {
        let lines: &[[u8; 4 * LANES]] = bytemuck::cast_slice(self.lines(group));
        match self.bits {
            Bits::Eight => lines[line].map(|byte| byte as i8),
            Bits::Four if line < lines.len() => lines[line].map(|byte| (byte & 15) as i8),
            Bits::Four => lines[line - lines.len()].map(|byte| (byte >> 4) as i8),
        }
    }
}

impl Quantised {
    /// Quantises `sources`, each `[n, k]`: panel 0 of each of them, panel 1 of each of them, ...
    pub(super) fn pack(
        sources: &[Source<'_>],
        (n, k): (usize, usize),
        bits: Bits,
        workers: &Workers,
    ) -> Result<Self, Error> {
        let groups = k.div_ceil(GROUP_COLUMNS);
        let panels = n.div_ceil(LANES) * sources.len();
        let mut lines =
            Lines::zeroed("quantised weights", panels.checked_mul(groups * bits.lines()))?;
        let per_panel = groups * bits.scales();
        let mut scales = vec![[0; LANES]; panels * per_panel];
        let shared = SharedSlice::new(&mut scales);
        workers.for_rows(&mut lines, groups * bits.lines(), |first, lines| {
            for (panel, lines) in (first..).zip(lines.chunks_mut(groups * bits.lines())) {
                let source = sources[panel % sources.len()];
                // SAFETY: each panel is packed once.
                let scales = unsafe { shared.part(panel * per_panel, per_panel) };
                let rows = panel / sources.len() * LANES..n;
                for (lane, row) in rows.take(LANES).enumerate() {
                    pack_row(source.row(row, k), bits, lane, lines, scales);
                }
            }
        });
        Ok(Self { bits, lines, scales, groups })
    }

    pub(crate) fn bits(&self) -> Bits {
        self.bits
    }

    pub(crate) fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.lines) + std::mem::size_of_val(&*self.scales)
    }

    /// Returns the number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.scales.len() / (self.groups * self.bits.scales())
    }

    /// Returns some groups of a panel.
    pub(crate) fn panel(&self, panel: usize, groups: &Range<usize>) -> PanelGroups<'_> {
        let first = panel * self.groups + groups.start;
        let (lines, scales) = (self.bits.lines(), self.bits.scales());
        PanelGroups {
            bits: self.bits,
            lines: &self.lines[first * lines..][..groups.len() * lines],
            scales: &self.scales[first * scales..][..groups.len() * scales],
        }
    }
}

/// Quantises one row of the weight into its lane of a panel.
fn pack_row(
    row: Source<'_>,
    bits: Bits,
    lane: usize,
    lines: &mut [Line],
    scales: &mut [OfOutputs],
) {
    let mut values = [0.0f32; GROUP_COLUMNS];
    let scales = scales.chunks_mut(bits.scales());
    for (group, (lines, scales)) in lines.chunks_mut(bits.lines()).zip(scales).enumerate() {
        let count = row.read(group * GROUP_COLUMNS, &mut values);
        values[count..].fill(0.0);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(lines);
        match bits {
            Bits::Eight => {
                let (scale, quants) = eight_bits(&values[..count]);
                scales[0][lane] = scale;
                for (column, quant) in quants.enumerate() {
                    bytes[column / 4 * 64 + 4 * lane + column % 4] = quant as u8;
                }
            }
            Bits::Four => {
                let (scale, minimum, quants) = four_bits(&values[..count]);
                (scales[0][lane], scales[1][lane]) = (scale, minimum);
                for (column, quant) in quants.enumerate() {
                    let (line, half) = (column / 4 % 4, column / 16);
                    bytes[line * 64 + 4 * lane + column % 4] |= quant << (4 * half);
                }
            }
        }
    }
}

/// Returns the bits of a bf16 at or above `x`, which is not negative.
fn bf16_above(x: f32) -> u16 {
    (x.to_bits().saturating_add(0xffff) >> 16) as u16
}

/// Returns the scale, or a NaN if one of the values is not finite: integers could not show that.
fn unless_broken(values: &[f32], scale: u16) -> u16 {
    const NAN: u16 = 0x7fc0;
    if values.iter().all(|value| value.is_finite()) { scale } else { NAN }
}

/// Returns a scale and the values in units of it, none beyond 127.
fn eight_bits(values: &[f32]) -> (u16, impl Iterator<Item = i8>) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = unless_broken(values, bf16_above(largest / 127.0));
    let inverse = if scale == 0 { 0.0 } else { 1.0 / widen_bf16(scale) };
    (scale, values.iter().map(move |value| (value * inverse).round() as i8))
}

/// Returns a scale, a minimum, and the distances from the minimum in units of the scale, none beyond 15.
fn four_bits(values: &[f32]) -> (u16, u16, impl Iterator<Item = u8>) {
    let least = values.iter().fold(0.0f32, |least, value| least.min(*value));
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(*value));
    // Zero is among them, so the minimum is not above zero; it is rounded away from it.
    let minimum = bf16_above(-least) | 0x8000;
    let scale = unless_broken(values, bf16_above((largest - widen_bf16(minimum)) / 15.0));
    let inverse = if scale == 0 { 0.0 } else { 1.0 / widen_bf16(scale) };
    let distance = move |value: &f32| (value - widen_bf16(minimum)) * inverse;
    (scale, minimum, values.iter().map(move |value| distance(value).round().clamp(0.0, 15.0) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7).sin() * (1.0 + i as f32 / 40.0)).collect()
    }

    #[test]
    fn eight_bits_are_within_half_a_unit() {
        let values = wave(32);
        let (scale, quants) = eight_bits(&values);
        let scale = widen_bf16(scale);
        for (value, quant) in values.iter().zip(quants) {
            assert!((value - f32::from(quant) * scale).abs() <= scale * 0.501, "{value} {quant}");
        }
        assert!(scale * 127.0 / values.iter().fold(0.0f32, |a, b| a.max(b.abs())) < 1.01);
    }

    #[test]
    fn four_bits_are_within_half_a_unit() {
        for values in [wave(32), wave(3), vec![0.5; 32], vec![-0.5; 7], vec![0.0; 32]] {
            let (scale, minimum, quants) = four_bits(&values);
            let (scale, minimum) = (widen_bf16(scale), widen_bf16(minimum));
            for (value, quant) in values.iter().zip(quants) {
                let widened = f32::from(quant) * scale + minimum;
                assert!((value - widened).abs() <= scale * 0.501, "{value} {widened} {scale}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = [1.0, broken, -1.0];
            assert!(widen_bf16(eight_bits(&values).0).is_nan());
            assert!(widen_bf16(four_bits(&values).0).is_nan());
        }
    }

    #[test]
    fn nothing_but_zeros_stays_zero() {
        let (scale, mut quants) = eight_bits(&[0.0; 32]);
        assert_eq!((scale, quants.all(|quant| quant == 0)), (0, true));
        let (scale, minimum, _) = four_bits(&[0.0; 32]);
        assert_eq!((scale, widen_bf16(minimum)), (0, 0.0));
    }
}

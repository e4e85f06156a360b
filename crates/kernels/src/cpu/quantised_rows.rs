//! Rows of x as small integers: for each 32 columns, bytes, their scale and their sum.

use std::ops::Range;

use super::{LANES, REGISTER_ROWS};
use crate::dtype::round_to_bf16;
use crate::weights::quantised::GROUP_COLUMNS;

/// Words of the bytes of one group.
pub(crate) const GROUP_WORDS: usize = GROUP_COLUMNS / 4;

/// Words that a group has besides: its scale, its sum, and the sum scaled.
const WORDS_BESIDES: usize = 3;

/// Where the words of one row are: the bytes of all groups, then the scales of all, the sums of all, the scaled sums of
/// all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLayout {
    /// Groups of a row.
    pub(crate) groups: usize,
}

impl RowLayout {
    pub(crate) fn of(columns: usize) -> Self {
        Self { groups: columns.div_ceil(GROUP_COLUMNS) }
    }

    pub(crate) fn of_words(words: usize) -> Self {
        Self { groups: words / (GROUP_WORDS + WORDS_BESIDES) }
    }

    /// Words of a row.
    pub(crate) fn words(self) -> usize {
        self.groups * (GROUP_WORDS + WORDS_BESIDES)
    }

    /// The words of the bytes, the scales, the sums and the scaled sums of some groups.
    pub(crate) fn parts(self, groups: &Range<usize>) -> [Range<usize>; 1 + WORDS_BESIDES] {
        let besides = |part| {
            let first = self.groups * (GROUP_WORDS + part);
            first + groups.start..first + groups.end
        };
        [groups.start * GROUP_WORDS..groups.end * GROUP_WORDS, besides(0), besides(1), besides(2)]
    }
}

/// Some groups of some rows.
#[derive(Clone, Copy)]
pub(crate) struct QuantisedRows<'a> {
    /// From the first word of the first row on.
    pub(crate) words: &'a [u32],
    /// Words from the beginning of a row to that of the next one.
    pub(crate) stride: usize,
    pub(crate) layout: RowLayout,
    pub(crate) rows: usize,
    pub(crate) first_group: usize,
}

impl<'a> QuantisedRows<'a> {
    /// The rows but for the first ones.
    pub(crate) fn skip(self, rows: usize) -> Self {
        let words = &self.words[rows * self.stride..];
        Self { words, rows: self.rows - rows, ..self }
    }

    /// The bytes of a group, four to a word.
    #[inline(always)]
    pub(crate) fn quants(&self, row: usize, group: usize) -> &'a [u32; GROUP_WORDS] {
        let at = row * self.stride + (self.first_group + group) * GROUP_WORDS;
        self.words[at..].first_chunk().unwrap_or(&[0; GROUP_WORDS])
    }

    #[inline(always)]
    pub(crate) fn scale(&self, row: usize, group: usize) -> f32 {
        f32::from_bits(self.besides(0, row, group))
    }

    /// The sum of the bytes of a group.
    #[inline(always)]
    pub(crate) fn sum(&self, row: usize, group: usize) -> i32 {
        self.besides(1, row, group) as i32
    }

    /// The sum of the values that the bytes of a group stand for.
    #[inline(always)]
    pub(crate) fn scaled_sum(&self, row: usize, group: usize) -> f32 {
        f32::from_bits(self.besides(2, row, group))
    }

    /// A group of the first [`REGISTER_ROWS`] rows, those beyond the last one with any values.
    #[inline(always)]
    pub(crate) fn register(&self, group: usize) -> RegisterOfRows<'a> {
        let group = self.first_group + group;
        let besides = |part| {
            let words = &self.words[self.layout.groups * (GROUP_WORDS + part) + group..];
            &words[..(REGISTER_ROWS - 1) * self.stride + 1]
        };
        RegisterOfRows {
            stride: self.stride,
            quants: &self.words[group * GROUP_WORDS..]
                [..(REGISTER_ROWS - 1) * self.stride + GROUP_WORDS],
            scales: besides(0),
            scaled_sums: besides(2),
        }
    }

    #[inline(always)]
    fn besides(&self, part: usize, row: usize, group: usize) -> u32 {
        let first = self.layout.groups * (GROUP_WORDS + part);
        self.words[row * self.stride + first + self.first_group + group]
    }
}

/// One group of as many rows as a register has.
#[derive(Clone, Copy)]
pub(crate) struct RegisterOfRows<'a> {
    pub(crate) stride: usize,
    /// From the bytes of the first row on.
    pub(crate) quants: &'a [u32],
    /// From the scale of the first row to that of the last.
    scales: &'a [u32],
    /// The same of the scaled sums.
    scaled_sums: &'a [u32],
}

impl RegisterOfRows<'_> {
    /// The scale and the scaled sum of one of the rows.
    ///
    /// # Safety
    /// `row` is below [`REGISTER_ROWS`].
    #[inline(always)]
    pub(crate) unsafe fn scales(&self, row: usize) -> (f32, f32) {
        // SAFETY: both reach to the last row.
        let words = unsafe {
            let at = row * self.stride;
            (*self.scales.get_unchecked(at), *self.scaled_sums.get_unchecked(at))
        };
        (f32::from_bits(words.0), f32::from_bits(words.1))
    }
}

/// Rounds one group of `values`, at most 32, to bf16 and quantises it: writes the bytes, and returns the scale, the sum
/// and the scaled sum as words.
///
/// A value that is not finite makes the scale so, and with it all that this row gives.
#[inline(always)]
pub(crate) fn quantise(values: &[f32], bytes: &mut [u32]) -> [u32; WORDS_BESIDES] {
    let mut padded = [0.0f32; GROUP_COLUMNS];
    for (padded, &value) in padded.iter_mut().zip(values) {
        // What travels as bf16 gives the same bytes as what does not.
        *padded = round_to_bf16(value);
    }
    // Without the sign, the bits of floats have the order of integers, and those of a NaN are the largest.
    let mut largest = [0u32; LANES];
    for line in padded.as_chunks::<LANES>().0 {
        for (largest, value) in largest.iter_mut().zip(line) {
            *largest = (*largest).max(value.abs().to_bits());
        }
    }
    let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0i32;
    for (word, values) in bytes.iter_mut().zip(padded.as_chunks::<4>().0) {
        // Adding this leaves the nearest integer, ties to even, in the low bits.
        let quants = values.map(|value| (value * inverse + 12_582_912.0).to_bits() as u8);
        sum += quants.iter().map(|&quant| i32::from(quant as i8)).sum::<i32>();
        *word = u32::from_le_bytes(quants);
    }
    [scale.to_bits(), sum as u32, (sum as f32 * scale).to_bits()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_within_half_a_unit_and_the_rounding() {
        let values: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin() * i as f32).collect();
        let mut words = [0; GROUP_WORDS];
        let [scale, sum, scaled] = quantise(&values, &mut words);
        let scale = f32::from_bits(scale);
        assert_eq!(f32::from_bits(scaled), sum as i32 as f32 * scale);
        let bytes = words.map(u32::to_le_bytes);
        let quants = bytes.as_flattened().iter().map(|&byte| byte as i8);
        assert_eq!(sum as i32, quants.clone().map(i32::from).sum::<i32>());
        assert_eq!(quants.clone().map(|quant| i32::from(quant).abs()).max(), Some(127));
        for (value, quant) in values.iter().chain(&[0.0, 0.0]).zip(quants) {
            assert!(
                (value - f32::from(quant) * scale).abs() <= scale * 0.501 + value.abs() / 256.0,
                "{value} {quant}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        let mut words = [0; GROUP_WORDS];
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let [scale, ..] = quantise(&[1.0, broken, 2.0], &mut words);
            assert!(!f32::from_bits(scale).is_finite());
        }
        assert_eq!(quantise(&[0.0; 32], &mut words), [0, 0, 0]);
    }
}

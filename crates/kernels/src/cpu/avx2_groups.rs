//! Products of small integers with vectors of 256 bits, two for a line.
//!
//! `maddubs` multiplies bytes, of which those of one factor have no sign, and adds two products in sixteen bits, where
//! 2 * 127 * 127 fits. Weights of eight bits give their sign to x; weights of four bits have none.

use std::arch::x86_64::*;

use super::quantised_rows::{GROUP_WORDS, QuantisedRows};
use super::vnni::ask_ahead;
use super::{Line, SumsOfRow};
use crate::weights::quantised::{Bits, OfOutputs, PanelGroups};

/// The most rows whose sums are in registers at once.
const ROWS: usize = 6;
/// Outputs of one vector.
const HALF: usize = 8;

/// Adds the products of rows of small integers and of `panels` to `sums`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate_groups(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let rows = x.rows.min(sums.len());
    for first in (0..rows).step_by(ROWS) {
        let (x, sums) = (x.skip(first), &mut sums[first..rows]);
        match sums.len() {
            1 => add_rows::<1>(x, panels, sums),
            2 => add_rows::<2>(x, panels, sums),
            3 => add_rows::<3>(x, panels, sums),
            4 => add_rows::<4>(x, panels, sums),
            5 => add_rows::<5>(x, panels, sums),
            _ => add_rows::<6>(x, panels, sums),
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn add_rows<const R: usize>(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let groups = panels.first().map_or(0, PanelGroups::groups);
    for group in 0..groups {
        let quants = std::array::from_fn(|row| x.quants(row, group));
        for (at, panel) in panels.iter().enumerate() {
            let lines = panel.lines(group);
            lines.iter().for_each(ask_ahead);
            for half in 0..2 {
                let products = match panel.bits {
                    Bits::Eight => eight_bits::<R>(lines, half, quants),
                    Bits::Four => four_bits::<R>(lines, half, quants),
                };
                let outputs = Outputs::of(panel, group, half);
                for (row, (products, sums)) in products.into_iter().zip(&mut *sums).enumerate() {
                    let of_row = (x.scale(row, group), x.scaled_sum(row, group));
                    outputs.add(products, of_row, &mut sums[at].0.as_chunks_mut::<HALF>().0[half]);
                }
            }
        }
    }
}

/// What turns the products of a group into a part of eight outputs.
struct Outputs {
    scale: __m256,
    minimum: Option<__m256>,
}

impl Outputs {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(panel: &PanelGroups<'_>, group: usize, half: usize) -> Self {
        let minimum = panel.minimum(group).map(|minimum| widen(minimum, half));
        Self { scale: widen(panel.scale(group), half), minimum }
    }

    /// Adds `products`, which count `scale` each, and the minimum times the sum of x to `sums`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(&self, products: __m256i, (scale, sum): (f32, f32), sums: &mut [f32; HALF]) {
        let scale = _mm256_mul_ps(self.scale, _mm256_set1_ps(scale));
        // SAFETY: they are eight f32.
        let mut acc = unsafe { _mm256_loadu_ps(sums.as_ptr()) };
        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, acc);
        if let Some(minimum) = self.minimum {
            acc = _mm256_fmadd_ps(minimum, _mm256_set1_ps(sum), acc);
        }
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), acc) };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn eight_bits<const R: usize>(
    lines: &[Line],
    half: usize,
    quants: [&[u32; GROUP_WORDS]; R],
) -> [__m256i; R] {
    let ones = _mm256_set1_epi16(1);
    let mut products = [_mm256_setzero_si256(); R];
    for (at, line) in lines.iter().enumerate().take(GROUP_WORDS) {
        let weights = load(line, half);
        let sizes = _mm256_abs_epi8(weights);
        for (products, quants) in products.iter_mut().zip(quants) {
            let x = _mm256_sign_epi8(_mm256_set1_epi32(quants[at] as i32), weights);
            let pairs = _mm256_maddubs_epi16(sizes, x);
            *products = _mm256_add_epi32(*products, _mm256_madd_epi16(pairs, ones));
        }
    }
    products
}

/// Sixteen bits hold the sums of all lines: 16 * 15 * 127 fits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn four_bits<const R: usize>(
    lines: &[Line],
    half: usize,
    quants: [&[u32; GROUP_WORDS]; R],
) -> [__m256i; R] {
    let lower = _mm256_set1_epi8(15);
    let mut pairs = [_mm256_setzero_si256(); R];
    for (at, line) in lines.iter().enumerate().take(GROUP_WORDS / 2) {
        let bytes = load(line, half);
        let low = _mm256_and_si256(bytes, lower);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), lower);
        for (pairs, quants) in pairs.iter_mut().zip(quants) {
            let of_low = _mm256_maddubs_epi16(low, _mm256_set1_epi32(quants[at] as i32));
            let of_high = quants[at + GROUP_WORDS / 2] as i32;
            let of_high = _mm256_maddubs_epi16(high, _mm256_set1_epi32(of_high));
            *pairs = _mm256_add_epi16(*pairs, _mm256_add_epi16(of_low, of_high));
        }
    }
    pairs.map(|pairs| _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &Line, half: usize) -> __m256i {
    // SAFETY: both halves of a line are 32 bytes, aligned to as many.
    unsafe { _mm256_load_si256(line.0[half * HALF..].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(bits: &OfOutputs, half: usize) -> __m256 {
    let bits = bits[half * HALF..].as_ptr();
    // SAFETY: from there on are 16 bytes.
    let words = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(bits.cast()) });
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
}

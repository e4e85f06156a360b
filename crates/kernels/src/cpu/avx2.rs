//! Tiles with vectors of 256 bits: a line of a panel is two vectors.
//!
//! Up to 12 of the 16 registers are accumulators.

use std::arch::x86_64::*;

use super::{Arithmetic, LANES, Line, Operands, SumsOfRow, portable};
use crate::largest::Largest;

/// How far ahead of its use a line is asked for, in all panels of a tile together: 8 KiB.
const LINES_AHEAD: usize = 128;

/// The two vectors of a line.
type Halves = [__m256; 2];

/// Adds the products of `operands` to `sums`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate(arithmetic: Arithmetic, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    match arithmetic {
        Arithmetic::F32 => match operands.rows.len() {
            1 => f32_tiles::<1, 4>(operands, sums),
            2 => f32_tiles::<2, 2>(operands, sums),
            3 => f32_tiles::<3, 2>(operands, sums),
            4 => f32_tiles::<4, 1>(operands, sums),
            5 => f32_tiles::<5, 1>(operands, sums),
            _ => f32_tiles::<6, 1>(operands, sums),
        },
        Arithmetic::WidenedBf16 => match operands.rows.len() {
            1 => widened_tiles::<1, 4>(operands, sums),
            2 => widened_tiles::<2, 2>(operands, sums),
            3 => widened_tiles::<3, 2>(operands, sums),
            4 => widened_tiles::<4, 1>(operands, sums),
            5 => widened_tiles::<5, 1>(operands, sums),
            _ => widened_tiles::<6, 1>(operands, sums),
        },
        Arithmetic::Bf16Pairs | Arithmetic::Groups => {
            portable::accumulate(arithmetic, operands, sums)
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn f32_tiles<const R: usize, const P: usize>(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    let rows: [*const f32; R] = operands.row_pointers();
    for first in (0..operands.panels.len()).step_by(P) {
        let panels: [*const Line; P] = operands.panel_pointers(first);
        let mut acc = load::<R, P>(first, sums);
        for step in 0..operands.steps {
            for (number, panel) in panels.into_iter().enumerate() {
                prefetch::<P>(panel, step);
                // SAFETY: each panel has more than `step` lines.
                let line = unsafe { load_line(panel.add(step)) };
                for (acc, row) in acc.iter_mut().zip(rows) {
                    // SAFETY: each row has a word for every step.
                    let x = unsafe { *row.add(step) };
                    add_products(&mut acc[number], x, line);
                }
            }
        }
        store(acc, first, operands, sums);
    }
}

#[target_feature(enable = "avx2,fma")]
fn widened_tiles<const R: usize, const P: usize>(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    let rows: [*const f32; R] = operands.row_pointers();
    for first in (0..operands.panels.len()).step_by(P) {
        let panels: [*const Line; P] = operands.panel_pointers(first);
        let mut acc = load::<R, P>(first, sums);
        for step in 0..operands.steps {
            for (number, panel) in panels.into_iter().enumerate() {
                prefetch::<P>(panel, step);
                // SAFETY: each panel has more than `step` lines.
                let pairs = unsafe { load_line(panel.add(step)) };
                let even = pairs.map(|pairs| widen_even(pairs));
                for (acc, row) in acc.iter_mut().zip(rows) {
                    // SAFETY: each row has two words for every step.
                    let x = unsafe { *row.add(2 * step) };
                    add_products(&mut acc[number], x, even);
                }
                // SAFETY: as above.
                let pairs = unsafe { load_line_again(panel.add(step)) };
                let odd = pairs.map(|pairs| widen_odd(pairs));
                for (acc, row) in acc.iter_mut().zip(rows) {
                    // SAFETY: each row has two words for every step.
                    let x = unsafe { *row.add(2 * step + 1) };
                    add_products(&mut acc[number], x, odd);
                }
            }
        }
        store(acc, first, operands, sums);
    }
}

/// Adds the products of one f32 of a row and a line.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products(acc: &mut Halves, x: f32, line: Halves) {
    let x = _mm256_set1_ps(x);
    acc[0] = _mm256_fmadd_ps(x, line[0], acc[0]);
    acc[1] = _mm256_fmadd_ps(x, line[1], acc[1]);
}

/// The first bf16 of each pair, as f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen_even(pairs: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)))
}

/// The second bf16 of each pair, as f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen_odd(pairs: __m256) -> __m256 {
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), upper))
}

/// Reads a line.
///
/// # Safety
/// `line` points to one.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load_line(line: *const Line) -> Halves {
    // SAFETY: a line is sixteen words, aligned to 64 bytes.
    unsafe { [_mm256_load_ps(line.cast()), _mm256_load_ps(line.cast::<f32>().add(8))] }
}

/// Reads a line that was read just before, from the cache: kept in registers, it would drive sums out of them.
///
/// # Safety
/// `line` points to one.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load_line_again(line: *const Line) -> Halves {
    let halves = line.cast::<Halves>();
    // SAFETY: a line is sixteen words, aligned to 64 bytes. Volatile, so that it is not the first reading again.
    unsafe { halves.read_volatile() }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn prefetch<const P: usize>(panel: *const Line, step: usize) {
    _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(step + LINES_AHEAD / P).cast());
}

/// Reads the sums of R rows and P panels from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load<const R: usize, const P: usize>(first: usize, sums: &[SumsOfRow]) -> [[Halves; P]; R] {
    let mut acc = [[[_mm256_setzero_ps(); 2]; P]; R];
    for (acc, sums) in acc.iter_mut().zip(sums) {
        for (acc, lanes) in acc.iter_mut().zip(&sums[first..]) {
            let [low, high] = [&lanes.0[..8], &lanes.0[8..]];
            // SAFETY: both are eight f32, aligned to 32 bytes.
            *acc = unsafe { [_mm256_load_ps(low.as_ptr()), _mm256_load_ps(high.as_ptr())] };
        }
    }
    acc
}

/// Writes back the sums of those panels that are no repetition of the last one.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store<const R: usize, const P: usize>(
    acc: [[Halves; P]; R],
    first: usize,
    operands: &Operands<'_>,
    sums: &mut [SumsOfRow],
) {
    for (acc, sums) in acc.iter().zip(sums) {
        for (acc, lanes) in acc.iter().zip(&mut sums[first..operands.panels.len()]) {
            for (half, lanes) in acc.iter().zip(lanes.0.chunks_exact_mut(8)) {
                // SAFETY: they are eight f32, aligned to 32 bytes.
                unsafe { _mm256_store_ps(lanes.as_mut_ptr(), *half) };
            }
        }
    }
}

/// Replaces `gate` by silu(gate) * up, element by element.
#[target_feature(enable = "avx2,fma")]
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    portable::silu_mul(gate, up);
}

/// Replaces the `scores` of one row by exp(score - the largest) and returns their sum.
#[target_feature(enable = "avx2,fma")]
pub(super) fn soften(scores: &mut [[f32; LANES]]) -> f32 {
    portable::soften(scores)
}

/// Quantises `values` to bytes, scales and sums.
#[target_feature(enable = "avx2")]
pub(super) fn quantise(values: &[f32], parts: [&mut [u32]; 4]) {
    portable::quantise(values, parts);
}

/// Returns the largest of some values and its place.
#[target_feature(enable = "avx2")]
pub(super) fn largest(values: &[f32]) -> Option<Largest> {
    crate::largest::largest(values)
}

//! Tiles with vectors of 512 bits: a line of a panel is one vector.
//!
//! Up to 24 of the 32 registers are accumulators: enough of them, at every number of rows, to
//! hide the latency of a multiplication and to use each loaded line for all rows of the tile.

use std::arch::x86_64::*;

use super::{Arithmetic, LANES, Line, Operands, SumsOfRow, portable};
use crate::largest::Largest;

/// How far ahead of its use a line is asked for: 2 KiB, in each of the panels of a tile.
const LINES_AHEAD: usize = 32;

/// Adds the products of `operands` to `sums`.
#[target_feature(enable = "avx512f")]
pub(super) fn accumulate(arithmetic: Arithmetic, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    match arithmetic {
        Arithmetic::F32 => match operands.rows.len() {
            1 => f32_tiles::<1, 8>(operands, sums),
            2 => f32_tiles::<2, 4>(operands, sums),
            3 => f32_tiles::<3, 4>(operands, sums),
            4 => f32_tiles::<4, 4>(operands, sums),
            5 => f32_tiles::<5, 4>(operands, sums),
            6 => f32_tiles::<6, 4>(operands, sums),
            7 => f32_tiles::<7, 2>(operands, sums),
            _ => f32_tiles::<8, 2>(operands, sums),
        },
        Arithmetic::WidenedBf16 => match operands.rows.len() {
            1 => widened_tiles::<1, 8>(operands, sums),
            2 => widened_tiles::<2, 4>(operands, sums),
            3 => widened_tiles::<3, 4>(operands, sums),
            4 => widened_tiles::<4, 4>(operands, sums),
            5 => widened_tiles::<5, 4>(operands, sums),
            6 => widened_tiles::<6, 4>(operands, sums),
            7 => widened_tiles::<7, 2>(operands, sums),
            _ => widened_tiles::<8, 2>(operands, sums),
        },
        // Only `accumulate_pairs` may use the instructions of these.
        Arithmetic::Bf16Pairs | Arithmetic::Groups => {
            portable::accumulate(arithmetic, operands, sums)
        }
    }
}

/// Adds the products of `operands`, both of them pairs of bf16, to `sums`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn accumulate_pairs(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    match operands.rows.len() {
        1 => pair_tiles::<1, 8>(operands, sums),
        2 => pair_tiles::<2, 8>(operands, sums),
        3 => pair_tiles::<3, 4>(operands, sums),
        4 => pair_tiles::<4, 4>(operands, sums),
        5 => pair_tiles::<5, 4>(operands, sums),
        6 => pair_tiles::<6, 4>(operands, sums),
        7 => pair_tiles::<7, 2>(operands, sums),
        _ => pair_tiles::<8, 2>(operands, sums),
    }
}

#[target_feature(enable = "avx512f")]
fn f32_tiles<const R: usize, const P: usize>(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    let rows: [*const f32; R] = operands.row_pointers();
    for first in (0..operands.panels.len()).step_by(P) {
        let panels: [*const Line; P] = operands.panel_pointers(first);
        let mut acc = load::<R, P>(first, sums);
        for step in 0..operands.steps {
            let mut lines = [_mm512_setzero_ps(); P];
            for (line, panel) in lines.iter_mut().zip(panels) {
                prefetch(panel, step);
                // SAFETY: each panel has more than `step` lines, each aligned to 64 bytes.
                *line = unsafe { _mm512_load_ps(panel.add(step).cast()) };
            }
            for (acc, row) in acc.iter_mut().zip(rows) {
                // SAFETY: each row has a word for every step.
                let x = unsafe { _mm512_set1_ps(*row.add(step)) };
                for (acc, line) in acc.iter_mut().zip(lines) {
                    *acc = _mm512_fmadd_ps(x, line, *acc);
                }
            }
        }
        store(acc, first, operands, sums);
    }
}

#[target_feature(enable = "avx512f")]
fn widened_tiles<const R: usize, const P: usize>(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    let rows: [*const f32; R] = operands.row_pointers();
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    for first in (0..operands.panels.len()).step_by(P) {
        let panels: [*const Line; P] = operands.panel_pointers(first);
        let mut acc = load::<R, P>(first, sums);
        for step in 0..operands.steps {
            let mut even = [_mm512_setzero_ps(); P];
            let mut odd = [_mm512_setzero_ps(); P];
            for ((even, odd), panel) in even.iter_mut().zip(&mut odd).zip(panels) {
                prefetch(panel, step);
                // SAFETY: each panel has more than `step` lines, each aligned to 64 bytes.
                let pairs = unsafe { _mm512_load_si512(panel.add(step).cast()) };
                *even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
            }
            for (acc, row) in acc.iter_mut().zip(rows) {
                // SAFETY: each row has two words for every step.
                let x = unsafe { _mm512_set1_ps(*row.add(2 * step)) };
                for (acc, line) in acc.iter_mut().zip(even) {
                    *acc = _mm512_fmadd_ps(x, line, *acc);
                }
            }
            for (acc, row) in acc.iter_mut().zip(rows) {
                // SAFETY: each row has two words for every step.
                let x = unsafe { _mm512_set1_ps(*row.add(2 * step + 1)) };
                for (acc, line) in acc.iter_mut().zip(odd) {
                    *acc = _mm512_fmadd_ps(x, line, *acc);
                }
            }
        }
        store(acc, first, operands, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn pair_tiles<const R: usize, const P: usize>(operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    let rows: [*const i32; R] = operands.row_pointers();
    for first in (0..operands.panels.len()).step_by(P) {
        let panels: [*const Line; P] = operands.panel_pointers(first);
        let mut acc = load::<R, P>(first, sums);
        for step in 0..operands.steps {
            let mut lines = [_mm512_setzero_si512(); P];
            for (line, panel) in lines.iter_mut().zip(panels) {
                prefetch(panel, step);
                // SAFETY: each panel has more than `step` lines, each aligned to 64 bytes.
                *line = unsafe { _mm512_load_si512(panel.add(step).cast()) };
            }
            for (acc, row) in acc.iter_mut().zip(rows) {
                // SAFETY: each row has a word for every step.
                let x = unsafe { _mm512_set1_epi32(*row.add(step)) };
                for (acc, line) in acc.iter_mut().zip(lines) {
                    *acc = dot(*acc, x, line);
                }
            }
        }
        store(acc, first, operands, sums);
    }
}

/// Adds the products of pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(acc: __m512, x: __m512i, line: __m512i) -> __m512 {
    // SAFETY: all three are 64 bytes of which any pattern is a value.
    let (x, line) = unsafe {
        (
            std::mem::transmute::<__m512i, __m512bh>(x),
            std::mem::transmute::<__m512i, __m512bh>(line),
        )
    };
    _mm512_dpbf16_ps(acc, x, line)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(panel: *const Line, step: usize) {
    _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(step + LINES_AHEAD).cast());
}

/// Reads the sums of R rows and P panels from `first` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<const R: usize, const P: usize>(first: usize, sums: &[SumsOfRow]) -> [[__m512; P]; R] {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    for (acc, sums) in acc.iter_mut().zip(sums) {
        for (acc, lanes) in acc.iter_mut().zip(&sums[first..]) {
            // SAFETY: lanes are sixteen f32, aligned to 64 bytes.
            *acc = unsafe { _mm512_load_ps(lanes.0.as_ptr()) };
        }
    }
    acc
}

/// Writes back the sums of those panels that are no repetition of the last one.
#[inline]
#[target_feature(enable = "avx512f")]
fn store<const R: usize, const P: usize>(
    acc: [[__m512; P]; R],
    first: usize,
    operands: &Operands<'_>,
    sums: &mut [SumsOfRow],
) {
    for (acc, sums) in acc.iter().zip(sums) {
        for (acc, lanes) in acc.iter().zip(&mut sums[first..operands.panels.len()]) {
            // SAFETY: lanes are sixteen f32, aligned to 64 bytes.
            unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), *acc) };
        }
    }
}

/// Replaces `gate` by silu(gate) * up, element by element.
#[target_feature(enable = "avx512f")]
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    portable::silu_mul(gate, up);
}

/// Replaces the `scores` of one row by exp(score - the largest) and returns their sum.
#[target_feature(enable = "avx512f")]
pub(super) fn soften(scores: &mut [[f32; LANES]]) -> f32 {
    portable::soften(scores)
}

/// Writes `values` rounded to bf16, held as f32, to `rounded`.
#[target_feature(enable = "avx512f")]
pub(super) fn round(values: &[f32], rounded: &mut [f32]) {
    portable::round(values, rounded);
}

/// Writes `values` rounded to bf16 to `words`, two to a word.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pair(values: &[f32], words: &mut [u32]) {
    portable::pair(values, words);
}

/// Writes each of an even number of values as the sum of as many of bf16 as there are `parts`, two to a word.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn split<const PARTS: usize>(values: &[f32], parts: [&mut [u32]; PARTS]) {
    portable::split(values, parts);
}

/// Returns the largest of some values and its place.
#[target_feature(enable = "avx512f")]
pub(super) fn largest(values: &[f32]) -> Option<Largest> {
    crate::largest::largest(values)
}

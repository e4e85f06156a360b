//! The reference: tiles in plain Rust for any processor.

use super::{Arithmetic, LANES, Lanes, Line, Operands, SumsOfRow};
use crate::dtype::{bf16_bits, round_to_bf16};

/// Adds the products of `operands` to `sums`.
pub(super) fn accumulate(arithmetic: Arithmetic, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    for (&row, sums) in operands.rows.iter().zip(sums) {
        for (&panel, sums) in operands.panels.iter().zip(sums) {
            let lines = &panel[..operands.steps];
            match arithmetic {
                Arithmetic::F32 => add_f32(row, lines, sums),
                Arithmetic::WidenedBf16 => add_widened(row, lines, sums),
                Arithmetic::Bf16Pairs => add_pairs(row, lines, sums),
            }
        }
    }
}

fn add_f32(row: &[u32], lines: &[Line], sums: &mut Lanes) {
    for (&x, line) in row.iter().zip(lines) {
        add_line(f32::from_bits(x), line, |word| word, sums);
    }
}

fn add_widened(row: &[u32], lines: &[Line], sums: &mut Lanes) {
    for (x, line) in row.as_chunks::<2>().0.iter().zip(lines) {
        add_line(f32::from_bits(x[0]), line, even, sums);
        add_line(f32::from_bits(x[1]), line, odd, sums);
    }
}

fn add_pairs(row: &[u32], lines: &[Line], sums: &mut Lanes) {
    for (&x, line) in row.iter().zip(lines) {
        add_line(f32::from_bits(even(x)), line, even, sums);
        add_line(f32::from_bits(odd(x)), line, odd, sums);
    }
}

#[inline(always)]
fn add_line(x: f32, line: &Line, bits: impl Fn(u32) -> u32, sums: &mut Lanes) {
    for lane in 0..LANES {
        sums.0[lane] += x * f32::from_bits(bits(line.0[lane]));
    }
}

/// The f32 bits of the first bf16 of a pair.
fn even(pair: u32) -> u32 {
    pair << 16
}

/// The f32 bits of the second bf16 of a pair.
fn odd(pair: u32) -> u32 {
    pair & 0xffff_0000
}

/// Replaces `gate` by silu(gate) * up, element by element.
#[inline(always)]
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = *gate * super::exp::sigmoid(*gate) * up;
    }
}

/// Replaces the `scores` of one row by exp(score - the largest) and returns their sum.
///
/// Scores are looked at and summed in sixteen lanes. A NaN is not the largest of its lane, but
/// its exponential is NaN, and so is the sum.
#[inline(always)]
pub(super) fn soften(scores: &mut [[f32; LANES]]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for line in scores.iter() {
        for (&score, largest) in line.iter().zip(&mut largest) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for line in scores {
        for (score, sum) in line.iter_mut().zip(&mut sums) {
            *score = super::exp::exp(*score - largest);
            *sum += *score;
        }
    }
    super::sum_of_lanes(sums)
}

/// Writes `values` rounded to bf16, held as f32, to `rounded`.
#[inline(always)]
pub(super) fn round(values: &[f32], rounded: &mut [f32]) {
    for (rounded, &value) in rounded.iter_mut().zip(values) {
        *rounded = round_to_bf16(value);
    }
}

/// Writes `values` rounded to bf16 to `words`, two to a word, the first one low; the last one may be alone.
#[inline(always)]
pub(super) fn pair(values: &[f32], words: &mut [u32]) {
    let (pairs, rest) = values.as_chunks::<2>();
    for (word, pair) in words.iter_mut().zip(pairs) {
        *word = bf16_bits(pair[0]) | (bf16_bits(pair[1]) << 16);
    }
    if let [last] = rest {
        words[pairs.len()] = bf16_bits(*last);
    }
}

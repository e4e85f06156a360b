//! The reference: tiles in plain Rust for any processor.

use super::quantised_rows::{GROUP_WORDS, QuantisedRows, quantise as quantise_group};
use super::{Arithmetic, LANES, Lanes, Line, Operands, SumsOfRow};
use crate::dtype::{bf16_bits, round_to_bf16, widen_bf16};
use crate::weights::quantised::{GROUP_COLUMNS, PanelGroups};

/// Adds the products of `operands` to `sums`.
pub(super) fn accumulate(arithmetic: Arithmetic, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
    for (&row, sums) in operands.rows.iter().zip(sums) {
        for (&panel, sums) in operands.panels.iter().zip(sums) {
            let lines = &panel[..operands.steps];
            match arithmetic {
                Arithmetic::F32 => add_f32(row, lines, sums),
                Arithmetic::WidenedBf16 => add_widened(row, lines, sums),
                Arithmetic::Bf16Pairs => add_pairs(row, lines, sums),
                Arithmetic::Groups => {}
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

/// Writes each of an even number of values as the sum of as many of bf16 as there are `parts`, two to a word.
#[inline(always)]
pub(super) fn split<const PARTS: usize>(values: &[f32], mut parts: [&mut [u32]; PARTS]) {
    let words = parts.iter().map(|part| part.len()).min().unwrap_or(0);
    for (at, pair) in values.as_chunks::<2>().0.iter().enumerate().take(words) {
        let mut rest = *pair;
        for part in &mut parts {
            let bits = rest.map(bf16_bits);
            part[at] = bits[0] | (bits[1] << 16);
            rest = [0, 1].map(|of| rest[of] - f32::from_bits(bits[of] << 16));
        }
    }
}

/// Adds the products of rows of small integers and of `panels` to `sums`.
#[inline(always)]
pub(super) fn accumulate_groups(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    for (row, sums) in sums.iter_mut().enumerate().take(x.rows) {
        for (panel, sums) in panels.iter().zip(sums) {
            for group in 0..panel.groups() {
                add_group(x, row, (panel, group), sums);
            }
        }
    }
}

#[inline(always)]
fn add_group(
    x: QuantisedRows<'_>,
    row: usize,
    (panel, group): (&PanelGroups<'_>, usize),
    sums: &mut Lanes,
) {
    let products = products_of_group(x.quants(row, group), panel, group);
    for (lane, sum) in sums.0.iter_mut().enumerate() {
        let scale = widen_bf16(panel.scale(group)[lane]) * x.scale(row, group);
        *sum = (products[lane] as f32).mul_add(scale, *sum);
        if let Some(minimum) = panel.minimum(group) {
            *sum = widen_bf16(minimum[lane]).mul_add(x.scaled_sum(row, group), *sum);
        }
    }
}

/// The products of a group of x with a group of each output.
#[inline(always)]
fn products_of_group(
    x: &[u32; GROUP_WORDS],
    panel: &PanelGroups<'_>,
    group: usize,
) -> [i32; LANES] {
    let mut products = [0; LANES];
    for (line, x) in x.iter().enumerate() {
        let (x, quants) = (x.to_le_bytes(), panel.quants(group, line));
        for (product, quants) in products.iter_mut().zip(quants.as_chunks::<4>().0) {
            for (x, quant) in x.iter().zip(quants) {
                *product += i32::from(*x as i8) * i32::from(*quant);
            }
        }
    }
    products
}

/// Quantises `values`, whole groups but for the last one, to bytes, scales, sums and scaled sums.
#[inline(always)]
pub(super) fn quantise(values: &[f32], [bytes, scales, sums, scaled]: [&mut [u32]; 4]) {
    let places = bytes.chunks_mut(GROUP_WORDS).zip(scales).zip(sums).zip(scaled);
    for (values, (((bytes, scale), sum), scaled)) in values.chunks(GROUP_COLUMNS).zip(places) {
        [*scale, *sum, *scaled] = quantise_group(values, bytes);
    }
}

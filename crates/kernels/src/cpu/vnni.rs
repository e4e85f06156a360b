//! Products of small integers with AVX-512-VNNI or the tile registers of AMX, and what scales them.

use std::arch::x86_64::*;

use super::amx::{Columns, GROUP_PANELS, GroupProducts, Tiles};
use super::quantised_rows::QuantisedRows;
use super::{LANES, Lanes, Line, REGISTER_ROWS, SumsOfRow, portable};
use crate::weights::quantised::{Bits, GROUP_LINES, OfOutputs, PanelGroups};

/// How far ahead of its use a line is asked for, in bytes, in each of the panels of a tile.
const BYTES_AHEAD: usize = 1024;
/// Up to so many rows, products are ready sooner without the way through tile registers.
const FEW_ROWS: usize = 8;

/// Adds the products of rows of small integers and of `panels` to `sums`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn accumulate_groups(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let groups = panels.first().map_or(0, PanelGroups::groups);
    for group in 0..groups {
        for (at, panel) in panels.iter().enumerate() {
            let lines = bytes_of(panel, group);
            let outputs = Outputs::of(panel, group);
            for (row, sums) in sums.iter_mut().enumerate().take(x.rows) {
                // One factor is without a sign: with eight bits, weights that 128 was added to.
                let offset = if panel.bits == Bits::Eight { -128 * x.sum(row, group) } else { 0 };
                let (mut even, mut odd) = (_mm512_set1_epi32(offset), _mm512_setzero_si512());
                let words = x.quants(row, group).as_chunks::<2>().0;
                for (lines, words) in lines.as_chunks::<2>().0.iter().zip(words) {
                    even = _mm512_dpbusd_epi32(even, lines[0], _mm512_set1_epi32(words[0] as i32));
                    odd = _mm512_dpbusd_epi32(odd, lines[1], _mm512_set1_epi32(words[1] as i32));
                }
                let scale = (x.scale(row, group), x.scaled_sum(row, group));
                outputs.add(_mm512_add_epi32(even, odd), scale, &mut sums[at]);
            }
        }
    }
}

/// Adds the products of rows of small integers and of `panels` to `sums`, in tile registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn accumulate_groups_in_tiles(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let rows = x.rows.min(sums.len()).min(REGISTER_ROWS);
    if rows <= FEW_ROWS {
        return accumulate_groups(x, panels, sums);
    }
    assert!(
        rows > 0 && x.words.len() >= (rows - 1) * x.stride + x.layout.words(),
        "rows end early"
    );
    let mut products = GroupProducts([[[0; LANES]; REGISTER_ROWS]; GROUP_PANELS]);
    let mut bytes = [[Line([0; LANES]); GROUP_LINES]; GROUP_PANELS];
    let groups = panels.first().map_or(0, PanelGroups::groups);
    // SAFETY: the caller has the registers, and no other tiles are configured here.
    let tiles = unsafe { Tiles::configure(rows, Columns::GroupOfBytes) };
    for first in (0..panels.len()).step_by(GROUP_PANELS) {
        let panels = &panels[first..panels.len().min(first + GROUP_PANELS)];
        for group in 0..groups {
            let mut lines = [std::ptr::null(); GROUP_PANELS];
            for ((lines, bytes), panel) in lines.iter_mut().zip(&mut bytes).zip(panels) {
                *lines = ready(panel, group, bytes);
            }
            // The last panel stands in for those after it, whose products are not used.
            let lines = std::array::from_fn(|at| lines[at.min(panels.len() - 1)]);
            // SAFETY: as many rows as the registers have are there, and the lines of a group.
            unsafe {
                let quants = x.quants(0, group).as_ptr();
                tiles.multiply_group((quants, x.stride * 4), lines, &mut products);
            }
            let outputs = outputs_of(panels, group);
            for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                let scale = (x.scale(row, group), x.scaled_sum(row, group));
                let sums = &mut sums[first..];
                for ((outputs, products), sums) in outputs.iter().zip(&products.0).zip(sums) {
                    // SAFETY: they are sixteen words, aligned to 64 bytes.
                    let products = unsafe { _mm512_load_si512(products[row].as_ptr().cast()) };
                    outputs.add(products, scale, sums);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn outputs_of(panels: &[PanelGroups<'_>], group: usize) -> [Outputs; GROUP_PANELS] {
    std::array::from_fn(|at| Outputs::of(&panels[at.min(panels.len() - 1)], group))
}

/// What turns the products of a group into a part of the outputs.
struct Outputs {
    scale: __m512,
    minimum: Option<__m512>,
}

impl Outputs {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(panel: &PanelGroups<'_>, group: usize) -> Self {
        let minimum = panel.minimum(group).map(|minimum| widen(minimum));
        Self { scale: widen(panel.scale(group)), minimum }
    }

    /// Adds `products`, which count `scale` each, and the minimum times the sum of x to `sums`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, products: __m512i, (scale, sum): (f32, f32), sums: &mut Lanes) {
        // SAFETY: lanes are sixteen f32, aligned to 64 bytes.
        let mut acc = unsafe { _mm512_load_ps(sums.0.as_ptr()) };
        let scale = _mm512_mul_ps(self.scale, _mm512_set1_ps(scale));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, acc);
        if let Some(minimum) = self.minimum {
            acc = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sum), acc);
        }
        // SAFETY: as above.
        unsafe { _mm512_store_ps(sums.0.as_mut_ptr(), acc) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(bits: &OfOutputs) -> __m512 {
    // SAFETY: they are 32 bytes.
    let words = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) });
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
}

/// The bytes of a group without a sign: with eight bits, 128 more than the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes_of(panel: &PanelGroups<'_>, group: usize) -> [__m512i; GROUP_LINES] {
    let lines = panel.lines(group);
    let mut bytes = [_mm512_setzero_si512(); GROUP_LINES];
    match panel.bits {
        Bits::Eight => {
            let sign = _mm512_set1_epi8(i8::MIN);
            for (bytes, line) in bytes.iter_mut().zip(lines) {
                *bytes = _mm512_xor_si512(load_ahead(line), sign);
            }
        }
        Bits::Four => {
            let (low, high) = bytes.split_at_mut(GROUP_LINES / 2);
            for ((low, high), line) in low.iter_mut().zip(high).zip(lines) {
                [*low, *high] = nibbles(load_ahead(line));
            }
        }
    }
    bytes
}

/// Returns where the bytes of a group are: in the panel, or in `space`, if they have to be unpacked first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ready(panel: &PanelGroups<'_>, group: usize, space: &mut [Line; GROUP_LINES]) -> *const Line {
    let lines = panel.lines(group);
    if panel.bits == Bits::Eight {
        lines.iter().for_each(ask_ahead);
        return lines.as_ptr();
    }
    let (low, high) = space.split_at_mut(GROUP_LINES / 2);
    for ((low, high), line) in low.iter_mut().zip(high).zip(lines) {
        let nibbles = nibbles(load_ahead(line));
        // SAFETY: lines are 64 bytes, aligned to as many.
        unsafe {
            _mm512_store_si512(low.0.as_mut_ptr().cast(), nibbles[0]);
            _mm512_store_si512(high.0.as_mut_ptr().cast(), nibbles[1]);
        }
    }
    space.as_ptr()
}

/// The lower and the upper nibble of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(bytes: __m512i) -> [__m512i; 2] {
    let lower = _mm512_set1_epi8(15);
    [_mm512_and_si512(bytes, lower), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), lower)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_ahead(line: &Line) -> __m512i {
    ask_ahead(line);
    // SAFETY: a line is 64 bytes, aligned to as many.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

#[inline]
fn ask_ahead(line: &Line) {
    let line: *const Line = line;
    // SAFETY: what is ahead is only asked for.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(BYTES_AHEAD)) };
}

/// Quantises `values` to bytes, scales and sums.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn quantise(values: &[f32], parts: [&mut [u32]; 3]) {
    portable::quantise(values, parts);
}

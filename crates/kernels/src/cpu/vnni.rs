//! Products of small integers with AVX-512-VNNI or the tile registers of AMX, and what scales them.

use std::arch::x86_64::*;

use super::amx::{GroupProducts, Tiles};
use super::quantised_rows::QuantisedRows;
use super::{LANES, Line, REGISTER_ROWS, SumsOfRow, portable};
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
    match panels.first().map(|panel| panel.bits) {
        Some(Bits::Eight) => add_rows::<EIGHT_BITS>(x, panels, sums),
        Some(Bits::Four) => add_rows::<FOUR_BITS>(x, panels, sums),
        None => {}
    }
}

/// Adds the products of rows of small integers and of `panels` to `sums`, in tile registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn accumulate_groups_in_tiles(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    match panels.first().map(|panel| panel.bits) {
        Some(_) if x.rows.min(sums.len()) <= FEW_ROWS => accumulate_groups(x, panels, sums),
        Some(Bits::Eight) => add_tile::<EIGHT_BITS>(x, panels, sums),
        Some(Bits::Four) => add_tile::<FOUR_BITS>(x, panels, sums),
        None => {}
    }
}

/// Whether outputs have a minimum.
const EIGHT_BITS: bool = false;
const FOUR_BITS: bool = true;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_rows<const MINIMUM: bool>(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let groups = panels.first().map_or(0, PanelGroups::groups);
    for group in 0..groups {
        for (at, panel) in panels.iter().enumerate() {
            let lines = bytes_of(panel, group);
            let outputs = Outputs::<MINIMUM>::of(panel, group);
            for (row, sums) in sums.iter_mut().enumerate().take(x.rows) {
                // One factor is without a sign: with eight bits, weights that 128 was added to.
                let offset = if MINIMUM { 0 } else { -128 * x.sum(row, group) };
                let (mut even, mut odd) = (_mm512_set1_epi32(offset), _mm512_setzero_si512());
                let words = x.quants(row, group).as_chunks::<2>().0;
                for (lines, words) in lines.as_chunks::<2>().0.iter().zip(words) {
                    even = _mm512_dpbusd_epi32(even, lines[0], _mm512_set1_epi32(words[0] as i32));
                    odd = _mm512_dpbusd_epi32(odd, lines[1], _mm512_set1_epi32(words[1] as i32));
                }
                let scaled_sum = if MINIMUM { x.scaled_sum(row, group) } else { 0.0 };
                let of_row = (x.scale(row, group), scaled_sum);
                let lanes = &mut sums[at].0;
                // SAFETY: lanes are sixteen f32, aligned to 64 bytes.
                let acc = unsafe { _mm512_load_ps(lanes.as_ptr()) };
                let acc = outputs.add(_mm512_add_epi32(even, odd), of_row, acc);
                // SAFETY: as above.
                unsafe { _mm512_store_ps(lanes.as_mut_ptr(), acc) };
            }
        }
    }
}

/// The sums of a register of rows and a panel stay in vector registers from the first group to the last.
///
/// What one unit stores, another one reads a stage later, for what a tile register has stored has to be in the cache
/// before anything can read it:
///
/// ```text
/// stage      0        1         2
/// unpack     group 0  group 1   group 2
/// multiply            group 0   group 1
/// add                           group 0
/// ```
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_tile<const MINIMUM: bool>(
    x: QuantisedRows<'_>,
    panels: &[PanelGroups<'_>],
    sums: &mut [SumsOfRow],
) {
    let rows = x.rows.min(sums.len()).min(REGISTER_ROWS);
    // SAFETY: the caller has the registers, and no other tiles are configured here.
    let tiles = unsafe { Tiles::configure(rows, GROUP_LINES) };
    let mut space = [[Line([0; LANES]); GROUP_LINES]; 2];
    let mut products = [const { GroupProducts([[0; LANES]; REGISTER_ROWS]) }; 2];
    for (at, panel) in panels.iter().enumerate() {
        let mut acc = [_mm512_setzero_ps(); REGISTER_ROWS];
        for (acc, sums) in acc.iter_mut().zip(&sums[..rows]) {
            // SAFETY: lanes are sixteen f32, aligned to 64 bytes.
            *acc = unsafe { _mm512_load_ps(sums[at].0.as_ptr()) };
        }
        let mut lines = [std::ptr::null(); 2];
        let groups = panel.groups();
        for stage in 0..groups + 2 {
            if stage < groups {
                lines[stage % 2] = ready(panel, stage, &mut space[stage % 2]);
            }
            if let Some(group) = stage.checked_sub(1).filter(|&group| group < groups) {
                let quants = x.register(group).quants;
                let place = (quants.as_ptr(), x.stride * 4);
                // SAFETY: a register has as many rows as were configured, and the lines of the group are ready.
                unsafe { tiles.multiply_group(place, lines[group % 2], &mut products[group % 2]) };
            }
            if let Some(group) = stage.checked_sub(2) {
                let (outputs, x) = (Outputs::<MINIMUM>::of(panel, group), x.register(group));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let products = products[group % 2].0[row].as_ptr();
                    // SAFETY: they are sixteen words, aligned to 64 bytes; a register has this row.
                    let (products, of_row) =
                        unsafe { (_mm512_load_si512(products.cast()), x.scales(row)) };
                    *acc = outputs.add(products, of_row, *acc);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(&mut sums[..rows]) {
            // SAFETY: as above.
            unsafe { _mm512_store_ps(sums[at].0.as_mut_ptr(), *acc) };
        }
    }
}

/// What turns the products of a group into a part of the outputs.
struct Outputs<const MINIMUM: bool> {
    scale: __m512,
    minimum: __m512,
}

impl<const MINIMUM: bool> Outputs<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(panel: &PanelGroups<'_>, group: usize) -> Self {
        let minimum = panel.minimum(group).map_or(_mm512_setzero_ps(), |minimum| widen(minimum));
        Self { scale: widen(panel.scale(group)), minimum }
    }

    /// Adds `products`, which count `scale` each, and the minimum times the sum of x to `sums`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, products: __m512i, (scale, sum): (f32, f32), sums: __m512) -> __m512 {
        let scale = _mm512_mul_ps(self.scale, _mm512_set1_ps(scale));
        let sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, sums);
        match MINIMUM {
            true => _mm512_fmadd_ps(self.minimum, _mm512_set1_ps(sum), sums),
            false => sums,
        }
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

/// Asks for what comes a while after a line.
#[inline]
pub(super) fn ask_ahead(line: &Line) {
    let line: *const Line = line;
    // SAFETY: what is ahead is only asked for.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(BYTES_AHEAD)) };
}

/// Quantises `values` to bytes, scales and sums.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn quantise(values: &[f32], parts: [&mut [u32]; 4]) {
    portable::quantise(values, parts);
}

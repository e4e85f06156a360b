//! The CPU: tiles of products, the exponential, and the threads that share them.
//!
//! Weights are packed in panels of sixteen outputs. One [`Line`] of a panel holds what all of
//! its outputs need for one step along K: sixteen f32, or sixteen pairs of bf16 (the order
//! that dot-product and matrix instructions read). A tile multiplies a few rows of x with a few
//! panels and runs through K in order, with one accumulator for each output element, so that
//! the shape of the tile never changes a result.

use crate::device::InstructionSet;
use crate::dtype::Dtype;
use crate::largest::Largest;
use crate::weights::WeightFormat;
use crate::weights::quantised::PanelGroups;
use quantised_rows::{GROUP_WORDS, QuantisedRows};

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_groups;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod exp;
pub(crate) mod parallel;
mod portable;
pub(crate) mod product;
pub(crate) mod quantised_rows;
pub(crate) mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// The outputs of a panel: one cache line of f32.
pub(crate) const LANES: usize = 16;
/// The most rows of one tile.
pub(crate) const TILE_ROWS: usize = 8;
/// The most rows of one tile register.
pub(crate) const REGISTER_ROWS: usize = 16;
/// The most panels of one tile.
pub(crate) const TILE_PANELS: usize = 8;

/// One step along K for the sixteen outputs of a panel.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line(pub(crate) [u32; LANES]);

// SAFETY: it is sixteen words without a gap, of which any pattern is a value.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// The accumulators of one row and one panel.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

// SAFETY: it is sixteen floats without a gap, of which any pattern is a value.
unsafe impl bytemuck::Zeroable for Lanes {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Lanes {}

/// The accumulators of one row of a tile: `[panel]`.
pub(crate) type SumsOfRow = [Lanes; TILE_PANELS];

/// The accumulators of a tile: `[row][panel]`.
pub(crate) type Tile = [SumsOfRow; TILE_ROWS];

/// The accumulators of a row before the first step.
pub(crate) const ZERO_SUMS: SumsOfRow = [Lanes([0.0; LANES]); TILE_PANELS];

/// The accumulators of a tile before the first step.
pub(crate) const ZERO_TILE: Tile = [ZERO_SUMS; TILE_ROWS];

/// How rows are shared out among tiles: as evenly as can be, since that costs less than full ones and a small rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Tiles.
    pub(crate) count: usize,
    /// Rows of each of them; the last one may have fewer.
    pub(crate) rows: usize,
}

/// How one step along K is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arithmetic {
    /// One f32 of x times a line of f32.
    F32,
    /// Two f32 of x times a line of bf16 pairs, widened: the even element first.
    WidenedBf16,
    /// One pair of bf16 of x times a line of bf16 pairs.
    Bf16Pairs,
    /// A group of small integers of x times a group of small integers.
    Groups,
}

/// An inner loop: an instruction set with the arithmetic of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    set: InstructionSet,
    arithmetic: Arithmetic,
}

impl Kernel {
    /// The kernel of weights packed as `format`, which feeds rows rounded to its dtype, or quantised.
    pub(crate) fn of_weights(set: InstructionSet, format: WeightFormat) -> Self {
        let arithmetic = match (format, set) {
            (WeightFormat::Int8 | WeightFormat::Int4, _) => Arithmetic::Groups,
            (WeightFormat::Plain(Dtype::F32), _) => Arithmetic::F32,
            (_, InstructionSet::Avx512Bf16 | InstructionSet::Amx) => Arithmetic::Bf16Pairs,
            _ => Arithmetic::WidenedBf16,
        };
        Self { set, arithmetic }
    }

    /// The kernel of a cache kept as `dtype`, which feeds rows of unrounded f32.
    pub(crate) fn of_cache(set: InstructionSet, dtype: Dtype) -> Self {
        let arithmetic = match dtype {
            Dtype::F32 => Arithmetic::F32,
            Dtype::Bf16 => Arithmetic::WidenedBf16,
        };
        Self { set, arithmetic }
    }

    /// Whether a cache of this kernel is read in registers for tiles, sixteen rows at a time, if its blocks and heads
    /// fill them.
    pub(crate) fn can_attend_in_registers(self) -> bool {
        self.set == InstructionSet::Amx && self.arithmetic == Arithmetic::WidenedBf16
    }

    /// Whether tiles are computed in registers for tiles.
    fn has_tile_registers(self) -> bool {
        self.set == InstructionSet::Amx && self.arithmetic == Arithmetic::Bf16Pairs
    }

    /// The most rows of a tile of this kernel.
    pub(crate) fn max_rows(self) -> usize {
        match self.set {
            _ if self.has_tile_registers() => REGISTER_ROWS,
            InstructionSet::Amx if self.arithmetic == Arithmetic::Groups => REGISTER_ROWS,
            InstructionSet::Avx2 => 6,
            _ => TILE_ROWS,
        }
    }

    /// Shares out `rows` among tiles.
    pub(crate) fn cut(self, rows: usize) -> Cut {
        let count = rows.div_ceil(self.max_rows()).max(1);
        Cut { count, rows: rows.div_ceil(count).max(1) }
    }

    /// The number of words of x that one step along K reads.
    fn words_per_step(self) -> usize {
        match self.arithmetic {
            Arithmetic::F32 | Arithmetic::Bf16Pairs => 1,
            Arithmetic::WidenedBf16 => 2,
            Arithmetic::Groups => GROUP_WORDS,
        }
    }

    /// Adds the products of `rows` and `panels` to `sums`, `[row][panel]`.
    ///
    /// Takes as many steps along K as all operands have, and as many rows and panels as have
    /// their place in `sums`.
    pub(crate) fn accumulate(self, rows: &[&[u32]], panels: &[&[Line]], sums: &mut [SumsOfRow]) {
        let rows = &rows[..rows.len().min(sums.len()).min(self.max_rows()).min(TILE_ROWS)];
        let panels = &panels[..panels.len().min(TILE_PANELS)];
        let steps_of_rows = rows.iter().map(|row| row.len() / self.words_per_step());
        let steps = steps_of_rows.chain(panels.iter().map(|panel| panel.len())).min();
        let operands = Operands { rows, panels, steps: steps.unwrap_or(0) };
        if !rows.is_empty() && !panels.is_empty() {
            self.dispatch(&operands, sums);
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn dispatch(self, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
        match (self.set, self.arithmetic) {
            (InstructionSet::Portable, arithmetic) => {
                portable::accumulate(arithmetic, operands, sums);
            }
            (InstructionSet::Avx2, arithmetic) => {
                // SAFETY: a device refuses an instruction set that the processor has not.
                unsafe { avx2::accumulate(arithmetic, operands, sums) };
            }
            (InstructionSet::Avx512Bf16 | InstructionSet::Amx, Arithmetic::Bf16Pairs) => {
                // SAFETY: as above.
                unsafe { avx512::accumulate_pairs(operands, sums) };
            }
            (
                InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::Amx,
                arithmetic,
            ) => {
                // SAFETY: as above.
                unsafe { avx512::accumulate(arithmetic, operands, sums) };
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn dispatch(self, operands: &Operands<'_>, sums: &mut [SumsOfRow]) {
        portable::accumulate(self.arithmetic, operands, sums);
    }

    /// Adds the products of rows of small integers and of `panels` to `sums`, `[row][panel]`, with the same result on
    /// every instruction set.
    ///
    /// Takes as many panels as have their place in `sums`, and as many groups as the first of them has.
    pub(crate) fn accumulate_groups(
        self,
        x: QuantisedRows<'_>,
        panels: &[PanelGroups<'_>],
        sums: &mut [SumsOfRow],
    ) {
        let panels = &panels[..panels.len().min(TILE_PANELS)];
        match self.set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx => {
                // SAFETY: a device refuses an instruction set that the processor has not.
                unsafe { vnni::accumulate_groups_in_tiles(x, panels, sums) };
            }
            #[cfg(target_arch = "x86_64")]
            set if set.has_vnni() => {
                // SAFETY: the processor has it.
                unsafe { vnni::accumulate_groups(x, panels, sums) };
            }
            #[cfg(target_arch = "x86_64")]
            set if set >= InstructionSet::Avx2 => {
                // SAFETY: as for AMX.
                unsafe { avx2_groups::accumulate_groups(x, panels, sums) };
            }
            _ => portable::accumulate_groups(x, panels, sums),
        }
    }

    /// Replaces `gate` by silu(gate) * up, element by element, with the same result on every
    /// instruction set. The more elements at a time, the faster each.
    pub(crate) fn silu_mul(self, gate: &mut [f32], up: &[f32]) {
        match self.set {
            // SAFETY: a device refuses an instruction set that the processor has not.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::silu_mul(gate, up) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::Amx => unsafe {
                avx512::silu_mul(gate, up);
            },
            _ => portable::silu_mul(gate, up),
        }
    }

    /// Quantises `values`, whole groups but for the last one, to bytes, scales, sums and scaled sums, with the same result on every
    /// instruction set.
    pub(crate) fn quantise(self, values: &[f32], parts: [&mut [u32]; 4]) {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            set if set.has_vnni() => {
                // SAFETY: the processor has it.
                unsafe { vnni::quantise(values, parts) };
            }
            #[cfg(target_arch = "x86_64")]
            set if set >= InstructionSet::Avx2 => {
                // SAFETY: a device refuses an instruction set that the processor has not.
                unsafe { avx2::quantise(values, parts) };
            }
            _ => portable::quantise(values, parts),
        }
    }

    /// Writes `values` rounded to bf16, held as f32, to `rounded`.
    pub(crate) fn round(self, values: &[f32], rounded: &mut [f32]) {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::Amx => {
                // SAFETY: a device refuses an instruction set that the processor has not.
                unsafe { avx512::round(values, rounded) };
            }
            _ => portable::round(values, rounded),
        }
    }

    /// Writes `values` rounded to bf16 to `words`, two to a word, the first one low; the last one may be alone.
    pub(crate) fn pair(self, values: &[f32], words: &mut [u32]) {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16 | InstructionSet::Amx => {
                // SAFETY: as above; a processor with these has AVX-512BW too.
                unsafe { avx512::pair(values, words) };
            }
            _ => portable::pair(values, words),
        }
    }

    /// Writes each of an even number of values as the sum of as many of bf16 as there are `parts`, two to a word, the
    /// first one low: two parts leave out what is below 2^-17 of a value, three what is below 2^-26.
    pub(crate) fn split<const PARTS: usize>(self, values: &[f32], parts: [&mut [u32]; PARTS]) {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16 | InstructionSet::Amx => {
                // SAFETY: as above.
                unsafe { avx512::split(values, parts) };
            }
            _ => portable::split(values, parts),
        }
    }

    /// Returns the largest of some values and its place.
    pub(crate) fn largest(self, values: &[f32]) -> Option<Largest> {
        match self.set {
            // SAFETY: a device refuses an instruction set that the processor has not.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::largest(values) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::Amx => unsafe {
                avx512::largest(values)
            },
            _ => crate::largest::largest(values),
        }
    }

    /// Replaces the `scores` of one row by exp(score - the largest) and returns their sum, with the same result on every instruction set.
    pub(crate) fn soften(self, scores: &mut [[f32; LANES]]) -> f32 {
        match self.set {
            // SAFETY: a device refuses an instruction set that the processor has not.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::soften(scores) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::Amx => unsafe {
                avx512::soften(scores)
            },
            _ => portable::soften(scores),
        }
    }
}

/// Adds sixteen numbers in pairs.
#[inline(always)]
pub(crate) fn sum_of_lanes(mut sums: [f32; LANES]) -> f32 {
    let mut count = LANES / 2;
    while count > 0 {
        for lane in 0..count {
            sums[lane] += sums[lane + count];
        }
        count /= 2;
    }
    sums[0]
}

/// The operands of a tile: at least one row and one panel, at most [`TILE_ROWS`] and
/// [`TILE_PANELS`], each of them long enough for `steps`, and no more rows than there are sums.
struct Operands<'a> {
    rows: &'a [&'a [u32]],
    panels: &'a [&'a [Line]],
    steps: usize,
}

#[cfg(target_arch = "x86_64")]
impl Operands<'_> {
    /// Returns where each of R rows begins; the last one is repeated if there are fewer.
    fn row_pointers<T, const R: usize>(&self) -> [*const T; R] {
        let last = self.rows.len() - 1;
        std::array::from_fn(|row| self.rows[row.min(last)].as_ptr().cast())
    }

    /// Returns where each of P panels begins, from `first` on; the last one is repeated if
    /// there are fewer, so that a kernel need not be written for every number of them.
    fn panel_pointers<const P: usize>(&self, first: usize) -> [*const Line; P] {
        let last = self.panels.len() - 1;
        std::array::from_fn(|panel| self.panels[(first + panel).min(last)].as_ptr())
    }
}

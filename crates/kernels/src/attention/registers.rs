//! Attention of up to sixteen query rows in the tile registers of AMX.
//!
//! What is f32 is multiplied as the sum of several bf16: a query as that of three, since the exponential makes an error
//! in a score larger, a softmax as that of two. So no more is lost than by adding in f32.
//!
//! Positions that a query does not attend to have a softmax of zero, so all queries of a tile go through the same
//! positions: adding zeros changes nothing but the sign of a zero, which is gone in the end.

use std::array;

use super::work::{Item, Query, QueryTile, Work};
use crate::cpu::amx::{HELD_PANELS, Pass, RowBlock, SplitRows, Tiles};
use crate::cpu::parallel::SharedSlice;
use crate::cpu::{LANES, Line, REGISTER_ROWS, SumsOfRow, TILE_PANELS, ZERO_SUMS};

/// The tokens that one instruction takes, in pairs.
const TOKENS_AT_ONCE: usize = LANES;
const PAIRS_AT_ONCE: usize = TOKENS_AT_ONCE / 2;

/// The bf16 that an f32 is the sum of.
const PARTS_OF_QUERY: usize = 3;
const PARTS_OF_SOFTMAX: usize = 2;

/// The values of so many tokens, in four panels.
struct Values<'a> {
    /// The position of the first of them.
    at: usize,
    lines: [&'a [Line]; HELD_PANELS],
    /// Whether what a query does not attend to is zero when it is multiplied with zero.
    harmless: bool,
}

impl Work<'_> {
    /// Computes the products of queries and keys.
    pub(super) fn score_in_registers(&self, tile: &mut QueryTile<'_>, words: &mut Vec<u32>) {
        let head_dim = self.cache.shape().head_dim;
        let mut x = Split::<PARTS_OF_QUERY>::new(words, tile.queries.len(), head_dim);
        for (row, query) in tile.queries.iter().enumerate() {
            let values = &self.q.row(query.row)[query.column..][..head_dim];
            self.kernel.split(values, x.parts(row));
        }
        // SAFETY: a device refuses an instruction set that the processor has not; there are no others here.
        let tiles = unsafe { Tiles::configure(tile.queries.len(), LANES) };
        let mut sums = [ZERO_SUMS; REGISTER_ROWS];
        for panels in self.key_panels(tile).chunks(TILE_PANELS) {
            let lines = self.lines_of_keys(tile.item, panels);
            for part in 0..PARTS_OF_QUERY {
                let words = &x.words[part * x.apart..];
                let x = RowBlock { words, stride: x.stride, count: 1 };
                let pass = Pass { fresh: part == 0, cold: part == 0 };
                tiles.accumulate(x, &lines[..panels.len()], &mut sums, pass);
            }
            self.set_scores(tile, panels, &sums[..tile.queries.len()]);
        }
    }

    /// Writes the sums of values, weighted with the softmax.
    pub(super) fn weigh_in_registers(
        &self,
        tile: &QueryTile<'_>,
        sums: &[f32],
        words: &mut Vec<u32>,
        out: &SharedSlice<'_, f32>,
    ) {
        let mut x = Split::<PARTS_OF_SOFTMAX>::new(words, tile.queries.len(), tile.stride);
        for (row, query) in tile.queries.iter().enumerate() {
            let groups = query.in_groups();
            let attended = (groups.start - tile.first) / 2..(groups.end - tile.first) / 2;
            let parts = x.parts(row).map(|part| {
                part[..attended.start].fill(0);
                part[attended.end..].fill(0);
                &mut part[attended.clone()]
            });
            self.kernel.split(tile.scores(row, groups), parts);
        }
        // SAFETY: as above.
        let tiles = unsafe { Tiles::configure(tile.queries.len(), PAIRS_AT_ONCE) };
        for first_panel in (0..self.cache.value_panels()).step_by(HELD_PANELS) {
            let mut weighed = [ZERO_SUMS; REGISTER_ROWS];
            self.add_values_in_registers((&tiles, &x), tile, first_panel, &mut weighed);
            let column = first_panel * LANES;
            let columns = (self.cache.shape().head_dim - column).min(HELD_PANELS * LANES);
            for ((query, sum), weighed) in tile.queries.iter().zip(sums).zip(&weighed) {
                let start = query.row * self.q.cols() + query.column + column;
                // SAFETY: each query row and head belongs to one tile of one item.
                let out = unsafe { out.part(start, columns) };
                for (out, value) in out.iter_mut().zip(bytemuck::cast_slice::<_, f32>(weighed)) {
                    // The sum with zero has no sign if it is zero.
                    *out = (value + 0.0) / sum;
                }
            }
        }
    }

    /// Adds the values of all positions of the tile in four panels, with the softmax `x`, to `sums`.
    fn add_values_in_registers(
        &self,
        (tiles, x): (&Tiles, &Split<'_, PARTS_OF_SOFTMAX>),
        tile: &QueryTile<'_>,
        first_panel: usize,
        sums: &mut [SumsOfRow],
    ) {
        let groups = tile.positions().step_by(TOKENS_AT_ONCE);
        let common = tile.common();
        let values = |at| {
            let lines = self.lines_of_values(tile.item, at, first_panel);
            let all_attend = common.start <= at && at + TOKENS_AT_ONCE <= common.end;
            Values { at, lines, harmless: all_attend || all_finite(&lines) }
        };
        let groups: Vec<_> = groups.map(values).collect();
        let x_at = |values: &Values<'_>| x.at((values.at - tile.first) / 2);
        for run in groups.chunk_by(|one, other| one.harmless == other.harmless) {
            if run[0].harmless {
                let mut held = tiles.hold(sums);
                run.iter().for_each(|values| held.add(x_at(values), values.lines));
                continue;
            }
            for values in run {
                for (row, query) in tile.queries.iter().enumerate() {
                    let attended = values.attended_by(query);
                    let mut of_row = sums.to_vec();
                    let lines = array::from_fn(|panel| &attended[panel][..]);
                    tiles.hold(&mut of_row).add(x_at(values), lines);
                    sums[row] = of_row[row];
                }
            }
        }
    }

    /// The values of the tokens from `at` on; where there are fewer panels, the last one stands in.
    fn lines_of_values(
        &self,
        item: &Item<'_>,
        at: usize,
        first_panel: usize,
    ) -> [&[Line]; HELD_PANELS] {
        let block_tokens = self.cache.shape().block_tokens;
        let (block, pair) = (at / block_tokens, at % block_tokens / 2);
        let place = self.place(item, block);
        array::from_fn(|panel| {
            let panel = (first_panel + panel).min(self.cache.value_panels() - 1);
            &self.cache.values(place, panel)[pair..pair + PAIRS_AT_ONCE]
        })
    }
}

impl Values<'_> {
    /// The lines, in which the tokens that a query does not attend to are zero.
    fn attended_by(&self, query: &Query) -> [[Line; PAIRS_AT_ONCE]; HELD_PANELS] {
        let mask_of = |half: u32, token: usize| match query.positions.contains(&token) {
            true => 0xffff << (16 * half),
            false => 0u32,
        };
        self.lines.map(|lines| {
            array::from_fn(|pair| {
                let token = self.at + 2 * pair;
                let mask = mask_of(0, token) | mask_of(1, token + 1);
                Line(lines[pair].0.map(|word| word & mask))
            })
        })
    }
}

/// Whether pairs of bf16 are all finite.
fn all_finite(lines: &[&[Line]]) -> bool {
    const EXPONENT: u32 = 0x7f80;
    let words = lines.iter().flat_map(|lines| lines.iter()).flat_map(|line| line.0);
    !words.fold(false, |found, word| {
        let [low, high] = [word & EXPONENT, (word >> 16) & EXPONENT];
        found | (low == EXPONENT) | (high == EXPONENT)
    })
}

/// Rows of f32 that are split: the first parts of a row, then the second ones, ...
struct Split<'a, const PARTS: usize> {
    words: &'a mut [u32],
    /// Words from the beginning of a row to that of the next one.
    stride: usize,
    /// Words from a part of a row to the next one.
    apart: usize,
}

impl<'a, const PARTS: usize> Split<'a, PARTS> {
    /// Rows of `columns`, an even number, with any values, in `space`.
    fn new(space: &'a mut Vec<u32>, rows: usize, columns: usize) -> Self {
        // Rows a power of two apart would fall into the same sets of the cache.
        let apart = columns / 2;
        let stride = (PARTS * apart).next_multiple_of(LANES) + LANES;
        space.resize(space.len().max(rows * stride), 0);
        Self { words: &mut space[..rows * stride], stride, apart }
    }

    fn parts(&mut self, row: usize) -> [&mut [u32]; PARTS] {
        let mut parts = self.words[row * self.stride..].chunks_mut(self.apart);
        array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// Two parts of the rows from a word of each on.
    fn at(&self, word: usize) -> SplitRows<'_> {
        SplitRows { words: &self.words[word..], stride: self.stride, apart: self.apart }
    }
}

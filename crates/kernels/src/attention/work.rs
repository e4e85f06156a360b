//! Attention of a few rows and one key/value head: scores, softmax, weighted sum.
//!
//! The order of additions of one query row and head is fixed by positions alone. A score runs
//! through the columns in order; the softmax sums positions in sixteen lanes counted from
//! position 0; each output column runs through the positions in order. Rows of a tile differ in
//! what they attend to: what all of them attend to is computed together, the rest row by row.

use std::cell::RefCell;
use std::ops::Range;

use super::cache::HeadPlace;
use super::{AttentionOptions, KvCache, KvShape, SequenceSpan};
use crate::cpu::parallel::SharedSlice;
use crate::cpu::{
    Kernel, LANES, Line, REGISTER_ROWS, SumsOfRow, TILE_PANELS, TILE_ROWS, Tile, ZERO_TILE,
};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// Tokens of one item: enough rows for whole tiles, few enough to share a prompt.
const ITEM_TOKENS: usize = 16;

/// What all items of one call share.
pub(super) struct Work<'a> {
    pub(super) q: &'a Tensor,
    pub(super) cache: &'a KvCache,
    layer: usize,
    options: &'a AttentionOptions,
    /// For panels of the cache's dtype.
    pub(super) kernel: Kernel,
    /// For single tokens of a pair, widened.
    single: Kernel,
    /// Whether tiles are computed in registers for tiles.
    in_registers: bool,
}

/// Some rows of a span, all query heads of one key/value head.
pub(super) struct Item<'a> {
    span: SequenceSpan<'a>,
    head: usize,
    /// Rows of the span.
    rows: Range<usize>,
}

/// A query row and head, and the positions that it attends to.
#[derive(Clone)]
pub(super) struct Query {
    pub(super) row: usize,
    /// The first column of the head in q and in the result.
    pub(super) column: usize,
    pub(super) positions: Range<usize>,
}

/// As many queries as are computed together, and their scores.
pub(super) struct QueryTile<'a> {
    pub(super) item: &'a Item<'a>,
    pub(super) queries: &'a [Query],
    /// `[query][position - first]`, then the softmax of these before it is divided by its sum.
    scores: &'a mut [f32],
    /// A multiple of sixteen, at or before each query's first position.
    pub(super) first: usize,
    /// Positions of a row of the scores, a multiple of sixteen.
    pub(super) stride: usize,
}

/// What a thread needs for one tile after the other.
#[derive(Default)]
struct Space {
    scores: Vec<f32>,
    /// Of rows that are split.
    words: Vec<u32>,
}

thread_local! {
    /// Kept so that it need not be allocated again.
    static SPACE: RefCell<Space> = RefCell::default();
}

impl<'a> Work<'a> {
    pub(super) fn new(
        device: &Device,
        q: &'a Tensor,
        (cache, layer): (&'a KvCache, usize),
        options: &'a AttentionOptions,
    ) -> Self {
        let set = device.instruction_set();
        let kernel = Kernel::of_cache(set, cache.dtype());
        let single = Kernel::of_cache(set, Dtype::F32);
        let in_registers = kernel.can_attend_in_registers() && fills_registers(cache.shape());
        Self { q, cache, layer, options, kernel, single, in_registers }
    }

    /// Cuts the spans into items; the last rows of a span, which attend to most, come first.
    pub(super) fn plan<'s>(&self, sequences: &[SequenceSpan<'s>]) -> Vec<Item<'s>> {
        let mut items = Vec::new();
        for &span in sequences {
            for first in (0..span.rows).step_by(ITEM_TOKENS).rev() {
                let rows = first..span.rows.min(first + ITEM_TOKENS);
                for head in 0..self.cache.shape().kv_heads {
                    items.push(Item { span, head, rows: rows.clone() });
                }
            }
        }
        items
    }

    /// Computes one item and writes it to `out`.
    pub(super) fn compute(&self, item: &Item<'_>, out: &SharedSlice<'_, f32>) {
        let queries = self.queries(item);
        let rows = if self.in_registers { REGISTER_ROWS } else { self.kernel.max_rows() };
        SPACE.with_borrow_mut(|Space { scores, words }| {
            for queries in queries.chunks(rows) {
                let mut tile = QueryTile::new(item, queries, scores);
                #[cfg(target_arch = "x86_64")]
                if self.in_registers {
                    self.score_in_registers(&mut tile, words);
                    let sums = self.soften(&mut tile);
                    self.weigh_in_registers(&tile, &sums, words, out);
                    continue;
                }
                self.score(&mut tile);
                let sums = self.soften(&mut tile);
                self.weigh(&tile, &sums, out);
            }
        });
    }

    fn queries(&self, item: &Item<'_>) -> Vec<Query> {
        let shape = self.cache.shape();
        let group = self.options.heads / shape.kv_heads;
        let mut queries = Vec::with_capacity(item.rows.len() * group);
        for row in item.rows.clone() {
            let end = item.span.first_position + row + 1;
            let start = end.saturating_sub(self.options.window.unwrap_or(end));
            for head in item.head * group..(item.head + 1) * group {
                queries.push(Query {
                    row: item.span.first_row + row,
                    column: head * shape.head_dim,
                    positions: start..end,
                });
            }
        }
        queries
    }

    pub(super) fn place(&self, item: &Item<'_>, block: usize) -> HeadPlace {
        let block = item.span.blocks[block] as usize;
        HeadPlace { layer: self.layer, block, head: item.head }
    }

    /// Computes the products of queries and keys.
    fn score(&self, tile: &mut QueryTile<'_>) {
        let head_dim = self.cache.shape().head_dim;
        let mut rows: [&[u32]; TILE_ROWS] = [&[]; TILE_ROWS];
        for (words, query) in rows.iter_mut().zip(tile.queries) {
            *words = bytemuck::cast_slice(&self.q.row(query.row)[query.column..][..head_dim]);
        }
        let rows = &rows[..tile.queries.len()];
        let panels = self.key_panels(tile);
        for panels in panels.chunks(TILE_PANELS) {
            let lines = self.lines_of_keys(tile.item, panels);
            let mut sums = ZERO_TILE;
            self.kernel.accumulate(rows, &lines[..panels.len()], &mut sums);
            self.set_scores(tile, panels, &sums);
        }
    }

    /// The panels of keys that a tile attends to: of each, its block and the offset of its first token in there.
    pub(super) fn key_panels(&self, tile: &QueryTile<'_>) -> Vec<(usize, usize)> {
        let block_tokens = self.cache.shape().block_tokens;
        let wanted = tile.positions();
        let mut panels = Vec::new();
        for block in wanted.start / block_tokens..wanted.end.div_ceil(block_tokens) {
            let offsets = (0..block_tokens).step_by(LANES);
            let near = offsets.filter(|offset| {
                let first = block * block_tokens + offset;
                first < wanted.end && first + LANES > wanted.start
            });
            panels.extend(near.map(|offset| (block, offset)));
        }
        panels
    }

    pub(super) fn lines_of_keys(
        &self,
        item: &Item<'_>,
        panels: &[(usize, usize)],
    ) -> [&[Line]; TILE_PANELS] {
        let mut lines: [&[Line]; TILE_PANELS] = [&[]; TILE_PANELS];
        for (lines, &(block, offset)) in lines.iter_mut().zip(panels) {
            *lines = self.cache.keys(self.place(item, block), offset / LANES);
        }
        lines
    }

    /// Takes the scores of each query from the sums of its products with `panels`.
    pub(super) fn set_scores(
        &self,
        tile: &mut QueryTile<'_>,
        panels: &[(usize, usize)],
        sums: &[SumsOfRow],
    ) {
        let block_tokens = self.cache.shape().block_tokens;
        for (index, &(block, offset)) in panels.iter().enumerate() {
            let count = LANES.min(block_tokens - offset);
            let position = block * block_tokens + offset;
            tile.set_scores(position..position + count, index, sums, self.options.scale);
        }
    }

    /// Replaces the scores by their exponentials and returns the sum of each row.
    fn soften(&self, tile: &mut QueryTile<'_>) -> [f32; REGISTER_ROWS] {
        let mut sums = [0.0; REGISTER_ROWS];
        let (first, stride) = (tile.first, tile.stride);
        for ((query, scores), sum) in
            tile.queries.iter().zip(tile.scores.chunks_mut(stride)).zip(&mut sums)
        {
            let groups = query.in_groups();
            let (start, end) = (groups.start - first, groups.end - first);
            scores[start..query.positions.start - first].fill(f32::NEG_INFINITY);
            scores[query.positions.end - first..end].fill(f32::NEG_INFINITY);
            let lines = scores[start..end].as_chunks_mut::<LANES>().0;
            *sum = self.kernel.soften(lines);
        }
        sums
    }

    /// Writes the sums of values, weighted with the softmax.
    fn weigh(&self, tile: &QueryTile<'_>, sums: &[f32], out: &SharedSlice<'_, f32>) {
        let head_dim = self.cache.shape().head_dim;
        let all = self.cache.value_panels();
        for first in (0..all).step_by(TILE_PANELS) {
            let panels = first..all.min(first + TILE_PANELS);
            let mut sums_of_values = ZERO_TILE;
            self.weigh_panels(tile, &panels, &mut sums_of_values);
            for ((query, sum), lanes) in tile.queries.iter().zip(sums).zip(&sums_of_values) {
                for (panel, lanes) in panels.clone().zip(lanes) {
                    let column = panel * LANES;
                    let count = LANES.min(head_dim - column);
                    let start = query.row * self.q.cols() + query.column + column;
                    // SAFETY: each query row and head belongs to one tile of one item.
                    let out = unsafe { out.part(start, count) };
                    divide(&lanes.0, *sum, out);
                }
            }
        }
    }

    fn weigh_panels(&self, tile: &QueryTile<'_>, panels: &Range<usize>, sums: &mut Tile) {
        let common = tile.common();
        for (index, query) in tile.queries.iter().enumerate() {
            let before = query.positions.start..common.start.min(query.positions.end);
            self.add_values(tile, (index..index + 1, before), panels, sums);
        }
        self.add_values(tile, (0..tile.queries.len(), common.clone()), panels, sums);
        for (index, query) in tile.queries.iter().enumerate() {
            let after = common.end..query.positions.end;
            self.add_values(tile, (index..index + 1, after), panels, sums);
        }
    }

    /// Adds the values of `positions` with the softmax of the listed queries to their sums.
    fn add_values(
        &self,
        tile: &QueryTile<'_>,
        (queries, positions): (Range<usize>, Range<usize>),
        panels: &Range<usize>,
        sums: &mut Tile,
    ) {
        let block_tokens = self.cache.shape().block_tokens;
        let sums = &mut sums[queries.clone()];
        let mut at = positions.start;
        while at < positions.end {
            let (block, offset) = (at / block_tokens, at % block_tokens);
            let place = self.place(tile.item, block);
            let count = (positions.end - at).min(block_tokens - offset);
            let per_step = if self.cache.dtype() == Dtype::F32 { 1 } else { 2 };
            // A pair of which one token only is attended to.
            let half = per_step == 2 && (offset % 2 == 1 || count == 1);
            let count = if half { 1 } else { count / per_step * per_step };
            let mut words: [&[u32]; TILE_ROWS] = [&[]; TILE_ROWS];
            for (words, query) in words.iter_mut().zip(queries.clone()) {
                *words = bytemuck::cast_slice(tile.scores(query, at..at + count));
            }
            let words = &words[..queries.len()];
            let mut lines: [&[Line]; TILE_PANELS] = [&[]; TILE_PANELS];
            for (lines, panel) in lines.iter_mut().zip(panels.clone()) {
                let steps = offset / per_step..(offset + count).div_ceil(per_step);
                *lines = &self.cache.values(place, panel)[steps];
            }
            let lines = &lines[..panels.len()];
            if half {
                self.add_single(words, lines, offset % 2, sums);
            } else {
                self.kernel.accumulate(words, lines, sums);
            }
            at += count;
        }
    }

    /// Adds one token of a pair: `half` is 0 for the first, 1 for the second.
    fn add_single(&self, words: &[&[u32]], lines: &[&[Line]], half: usize, sums: &mut [SumsOfRow]) {
        let mut widened = [Line([0; LANES]); TILE_PANELS];
        for (widened, lines) in widened.iter_mut().zip(lines) {
            for (widened, pair) in widened.0.iter_mut().zip(lines.iter().flat_map(|line| line.0)) {
                *widened = (pair >> (16 * half)) << 16;
            }
        }
        let widened: [&[Line]; TILE_PANELS] = widened.each_ref().map(std::slice::from_ref);
        self.single.accumulate(words, &widened[..lines.len()], sums);
    }
}

/// Writes `sums` divided by `sum` to `out`.
fn divide(sums: &[f32], sum: f32, out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(sums) {
        *out = value / sum;
    }
}

/// Whether blocks and heads of `shape` fill registers for tiles.
fn fills_registers(shape: KvShape) -> bool {
    shape.block_tokens.is_multiple_of(LANES) && shape.head_dim.is_multiple_of(2 * LANES)
}

impl Query {
    /// The positions, in whole groups of sixteen that are counted from position 0.
    pub(super) fn in_groups(&self) -> Range<usize> {
        self.positions.start / LANES * LANES..self.positions.end.next_multiple_of(LANES)
    }
}

impl<'a> QueryTile<'a> {
    /// Scores, with any values, are in `space`.
    fn new(item: &'a Item<'a>, queries: &'a [Query], space: &'a mut Vec<f32>) -> Self {
        let starts = queries.iter().map(|query| query.positions.start);
        let ends = queries.iter().map(|query| query.positions.end);
        let first = starts.min().unwrap_or(0) / LANES * LANES;
        let stride = ends.max().unwrap_or(0).next_multiple_of(LANES) - first;
        let len = queries.len() * stride;
        space.resize(space.len().max(len), 0.0);
        Self { item, queries, scores: &mut space[..len], first, stride }
    }

    /// The positions that any of the queries attends to, in whole groups of sixteen.
    pub(super) fn positions(&self) -> Range<usize> {
        let ends = self.queries.iter().map(|query| query.positions.end);
        self.first..ends.max().unwrap_or(self.first)
    }

    /// The positions that all queries attend to; if there are none, it ends where it starts.
    pub(super) fn common(&self) -> Range<usize> {
        let starts = self.queries.iter().map(|query| query.positions.start);
        let ends = self.queries.iter().map(|query| query.positions.end);
        let start = starts.max().unwrap_or(0);
        start..ends.min().unwrap_or(0).max(start)
    }

    /// Takes the scores of each query for `positions` from panel `panel` of `sums`.
    fn set_scores(
        &mut self,
        positions: Range<usize>,
        panel: usize,
        sums: &[SumsOfRow],
        scale: f32,
    ) {
        let from = positions.start.max(self.first);
        let to = positions.end.min(self.first + self.stride);
        for (scores, sums) in self.scores.chunks_mut(self.stride).zip(sums) {
            let scaled = sums[panel].0.map(|score| score * scale);
            let scores = &mut scores[from - self.first..to - self.first];
            match scores.as_chunks_mut().0 {
                [line] => *line = scaled,
                _ => scores.copy_from_slice(&scaled[from - positions.start..to - positions.start]),
            }
        }
    }

    pub(super) fn scores(&self, query: usize, positions: Range<usize>) -> &[f32] {
        let row = &self.scores[query * self.stride..][..self.stride];
        &row[positions.start - self.first..positions.end - self.first]
    }
}

//! Rows of activations in the form that a kernel reads.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx::RowBlock;
use super::parallel::{ENOUGH_ELEMENTS, SharedSlice, Workers};
use super::quantised_rows::{GROUP_WORDS, QuantisedRows, RowLayout};
use super::{Arithmetic, Kernel, LANES};
use crate::buffer::Buffer;
use crate::tensor::Tensor;
use crate::weights::quantised::GROUP_COLUMNS;

/// Rows that may be read, not used, beyond the last one: fewer than the tile registers that the rows of an item fill.
const ROWS_BEYOND: usize = 8;

/// Rows of words: f32, f32 rounded to bf16, or pairs of bf16.
pub(crate) struct FedRows<'a> {
    words: Words<'a>,
    /// Words of one row.
    len: usize,
    /// Words from the beginning of a row to that of the next one.
    stride: usize,
}

enum Words<'a> {
    /// Those of a tensor.
    Same(&'a [u32]),
    Own(Buffer),
}

impl FedRows<'_> {
    /// Returns the words of one row.
    pub(crate) fn row(&self, row: usize) -> &[u32] {
        &self.words()[row * self.stride..][..self.len]
    }

    /// Returns some words of as many rows, from `first` on, as fill `count` tile registers; rows beyond the last are
    /// there, with any values.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn block(&self, first: usize, words: &Range<usize>, count: usize) -> RowBlock<'_> {
        let words = &self.words()[first * self.stride + words.start..];
        RowBlock { words, stride: self.stride, count }
    }

    /// Returns `count` rows of small integers from `first` on, and their groups from `first_group` on.
    pub(crate) fn quantised(
        &self,
        first: usize,
        count: usize,
        first_group: usize,
    ) -> QuantisedRows<'_> {
        let layout = RowLayout::of_words(self.len);
        let words = &self.words()[first * self.stride..];
        QuantisedRows { words, stride: self.stride, layout, rows: count, first_group }
    }

    fn words(&self) -> &[u32] {
        match &self.words {
            Words::Same(words) => words,
            Words::Own(buffer) => buffer.words(),
        }
    }
}

/// Rows that are still to be fed, by several threads.
pub(crate) struct Feeding<'a> {
    kernel: Kernel,
    words: SharedSlice<'a, u32>,
    stride: usize,
    columns: usize,
}

impl Feeding<'_> {
    /// Feeds `values` of a row from `column` on, a multiple of 32.
    ///
    /// # Safety
    /// No other thread feeds the same place.
    pub(crate) unsafe fn feed(&self, row: usize, column: usize, values: &[f32]) {
        let start = row * self.stride;
        // SAFETY: the caller keeps places apart; columns that share a word are fed together.
        let part =
            |range: Range<usize>| unsafe { self.words.part(start + range.start, range.len()) };
        if self.kernel.arithmetic == Arithmetic::Groups {
            let layout = RowLayout::of(self.columns);
            let first = column / GROUP_COLUMNS;
            let groups = first..first + values.len().div_ceil(GROUP_COLUMNS);
            return self.kernel.quantise(values, layout.parts(&groups).map(part));
        }
        let first = self.kernel.words_of_columns(column);
        let words = part(first..first + self.kernel.words_of_columns(values.len()));
        self.kernel.feed_values(values, words);
    }

    /// Copies the words of a row.
    ///
    /// # Safety
    /// No other thread feeds the same row.
    unsafe fn copy(&self, row: usize, words: &[u32]) {
        // SAFETY: the caller keeps rows apart.
        unsafe { self.words.part(row * self.stride, words.len()) }.copy_from_slice(words);
    }
}

impl Kernel {
    /// Brings the rows of `x`, or those listed, into the form that this kernel reads.
    pub(crate) fn feed<'a>(
        self,
        x: &'a Tensor,
        listed: Option<&[u32]>,
        workers: &Workers,
    ) -> FedRows<'a> {
        if self.arithmetic == Arithmetic::F32 && listed.is_none() {
            let words = Words::Same(bytemuck::cast_slice(x.data()));
            return FedRows { words, len: x.cols(), stride: x.cols() };
        }
        let rows = listed.map_or(x.rows(), <[u32]>::len);
        let rows_per_item = (ENOUGH_ELEMENTS / x.cols().max(1)).max(1);
        // Where rows are listed more than once, copies of what was rounded or quantised once.
        let once = listed.filter(|_| rows > x.rows()).map(|_| self.feed(x, None, workers));
        self.feed_in_parts(rows, x.cols(), |feeding| {
            workers.run(rows.div_ceil(rows_per_item), |item| {
                let first = item * rows_per_item;
                for row in first..rows.min(first + rows_per_item) {
                    let source = listed.map_or(row, |listed| listed[row] as usize);
                    match &once {
                        // SAFETY: each row belongs to one item.
                        Some(once) => unsafe { feeding.copy(row, once.row(source)) },
                        // SAFETY: as above.
                        None => unsafe { feeding.feed(row, 0, x.row(source)) },
                    }
                }
            });
        })
    }

    /// Returns rows that `write` feeds, all of them and all of their columns.
    pub(crate) fn feed_in_parts(
        self,
        rows: usize,
        cols: usize,
        write: impl FnOnce(&Feeding<'_>),
    ) -> FedRows<'static> {
        let len = match self.arithmetic {
            Arithmetic::Groups => RowLayout::of(cols).words(),
            _ => self.steps(cols) * self.words_per_step(),
        };
        // Rows a power of two apart would fall into the same sets of the cache.
        let stride = len.next_multiple_of(LANES) + LANES;
        let mut buffer = Buffer::stale((rows + ROWS_BEYOND) * stride);
        for row in buffer.words_mut().chunks_mut(stride).take(rows) {
            // What is missing for a whole step along K.
            row[self.words_of_columns(cols)..len].fill(0);
        }
        let words = SharedSlice::new(buffer.words_mut());
        write(&Feeding { kernel: self, words, stride, columns: cols });
        FedRows { words: Words::Own(buffer), len, stride }
    }

    /// The words of a row that `steps` along K read.
    pub(crate) fn words_of(self, steps: &Range<usize>) -> Range<usize> {
        steps.start * self.words_per_step()..steps.end * self.words_per_step()
    }

    /// The number of steps along K for `k` columns.
    pub(crate) fn steps(self, k: usize) -> usize {
        match self.arithmetic {
            Arithmetic::F32 => k,
            Arithmetic::Groups => RowLayout::of(k).groups,
            _ if self.has_tile_registers() => k.div_ceil(2).next_multiple_of(LANES),
            Arithmetic::WidenedBf16 | Arithmetic::Bf16Pairs => k.div_ceil(2),
        }
    }

    /// The words that so many columns take.
    fn words_of_columns(self, columns: usize) -> usize {
        match self.arithmetic {
            Arithmetic::Bf16Pairs => columns.div_ceil(2),
            Arithmetic::F32 | Arithmetic::WidenedBf16 => columns,
            Arithmetic::Groups => columns.div_ceil(GROUP_COLUMNS) * GROUP_WORDS,
        }
    }

    fn feed_values(self, values: &[f32], words: &mut [u32]) {
        match self.arithmetic {
            Arithmetic::F32 => words.copy_from_slice(bytemuck::cast_slice(values)),
            Arithmetic::WidenedBf16 => self.round(values, bytemuck::cast_slice_mut(words)),
            Arithmetic::Bf16Pairs => self.pair(values, words),
            // They have scales and sums beside the words of their columns.
            Arithmetic::Groups => {}
        }
    }
}

//! Rows of activations in the form that a kernel reads.

use std::borrow::Cow;
use std::ops::Range;

use super::{Arithmetic, Kernel, LANES, parallel::Workers, portable};
use crate::dtype::bf16_bits;
use crate::tensor::Tensor;

/// Rows of words: f32, f32 rounded to bf16, or pairs of bf16.
pub(crate) struct FedRows<'a> {
    words: Cow<'a, [u32]>,
    /// Words of one row.
    len: usize,
    /// Words from the beginning of a row to that of the next one.
    stride: usize,
}

impl FedRows<'_> {
    /// Returns the words of one row.
    pub(crate) fn row(&self, row: usize) -> &[u32] {
        &self.words[row * self.stride..][..self.len]
    }
}

impl Kernel {
    /// Brings the rows of `x` into the form that this kernel reads; where two columns make one
    /// step, an odd one is followed by zero.
    pub(crate) fn feed<'a>(self, x: &'a Tensor, workers: &Workers) -> FedRows<'a> {
        let len = self.steps(x.cols()) * self.words_per_step();
        if self.arithmetic == Arithmetic::F32 {
            let words = Cow::Borrowed(bytemuck::cast_slice(x.data()));
            return FedRows { words, len, stride: len };
        }
        // Rows a power of two apart would fall into the same sets of the cache.
        let stride = len.next_multiple_of(LANES) + LANES;
        let mut words = vec![0; x.rows() * stride];
        workers.for_rows(&mut words, stride, |first, part| {
            for (offset, words) in part.chunks_mut(stride).enumerate() {
                self.feed_row(x.row(first + offset), &mut words[..len]);
            }
        });
        FedRows { words: Cow::Owned(words), len, stride }
    }

    /// The words of a row that `steps` along K read.
    pub(crate) fn words_of(self, steps: &Range<usize>) -> Range<usize> {
        steps.start * self.words_per_step()..steps.end * self.words_per_step()
    }

    /// The number of steps along K for `k` columns.
    pub(crate) fn steps(self, k: usize) -> usize {
        match self.arithmetic {
            Arithmetic::F32 => k,
            Arithmetic::WidenedBf16 | Arithmetic::Bf16Pairs => k.div_ceil(2),
        }
    }

    fn feed_row(self, x: &[f32], words: &mut [u32]) {
        if self.arithmetic == Arithmetic::WidenedBf16 {
            return portable::round_row(x, words);
        }
        let (pairs, rest) = x.as_chunks::<2>();
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = bf16_bits(pair[0]) | (bf16_bits(pair[1]) << 16);
        }
        if let (Some(word), [last]) = (words.last_mut(), rest) {
            *word = bf16_bits(*last);
        }
    }
}

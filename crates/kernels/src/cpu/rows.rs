//! Rows of activations in the form that a kernel reads.

use std::borrow::Cow;

use super::{Arithmetic, Kernel, parallel::Workers, portable};
use crate::dtype::bf16_bits;
use crate::tensor::Tensor;

/// Rows of words: f32, f32 rounded to bf16, or pairs of bf16.
pub(crate) struct FedRows<'a> {
    words: Cow<'a, [u32]>,
    /// Words of one row.
    stride: usize,
}

impl FedRows<'_> {
    /// Returns the words of one row.
    pub(crate) fn row(&self, row: usize) -> &[u32] {
        &self.words[row * self.stride..][..self.stride]
    }
}

impl Kernel {
    /// Brings the rows of `x` into the form that this kernel reads; where two columns make one
    /// step, an odd one is followed by zero.
    pub(crate) fn feed<'a>(self, x: &'a Tensor, workers: &Workers) -> FedRows<'a> {
        let stride = self.steps(x.cols()) * self.words_per_step();
        if self.arithmetic == Arithmetic::F32 {
            return FedRows { words: Cow::Borrowed(bytemuck::cast_slice(x.data())), stride };
        }
        let mut words = vec![0; x.rows() * stride];
        workers.for_rows(&mut words, stride, |first, part| {
            for (offset, words) in part.chunks_mut(stride).enumerate() {
                self.feed_row(x.row(first + offset), words);
            }
        });
        FedRows { words: Cow::Owned(words), stride }
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

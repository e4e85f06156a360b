//! Attention gives the same bits however a sequence is cut, placed and batched.

use std::ops::Range;

use guildhall_kernels::{
    AttentionOptions, Device, Dtype, InstructionSet, KvCache, KvShape, SequenceSpan,
};
use proptest::prelude::*;

use crate::support::{DTYPES, assert_same, device, devices, values};

/// One sequence: its numbers and where its blocks lie.
struct Sequence {
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    tokens: usize,
    blocks: Vec<u32>,
}

/// The sizes of a model's attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    shape: KvShape,
    options: AttentionOptions,
}

impl Sizes {
    fn kv_cols(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    fn q_cols(&self) -> usize {
        self.options.heads * self.shape.head_dim
    }

    fn sequence(&self, tokens: usize, blocks: Vec<u32>, seed: u64) -> Sequence {
        Sequence {
            k: values(tokens * self.kv_cols(), seed),
            v: values(tokens * self.kv_cols(), seed ^ 1),
            q: values(tokens * self.q_cols(), seed ^ 2),
            tokens,
            blocks,
        }
    }

    /// A cache with numbers of other sequences, some of them NaN, in every slot.
    fn dirty_cache(&self, device: &Device, dtype: Dtype) -> KvCache {
        let mut cache = device.kv_cache(self.shape, dtype).unwrap();
        let slots: Vec<u32> = (0..(self.shape.blocks * self.shape.block_tokens) as u32).collect();
        let mut old = values(slots.len() * self.kv_cols(), 77);
        old.iter_mut().step_by(3).for_each(|x| *x = f32::NAN);
        let old = device.upload(&old, self.kv_cols()).unwrap();
        device.store_kv(&mut cache, 0, &old, &old, &slots).unwrap();
        cache
    }

    /// Stores and attends with the rows of one chunk.
    fn chunk(
        &self,
        device: &Device,
        cache: &mut KvCache,
        sequence: &Sequence,
        rows: Range<usize>,
    ) -> Vec<f32> {
        let cut = |data: &[f32], cols: usize| {
            device.upload(&data[rows.start * cols..rows.end * cols], cols).unwrap()
        };
        let block_tokens = self.shape.block_tokens;
        let slot = |p: usize| {
            sequence.blocks[p / block_tokens] * block_tokens as u32 + (p % block_tokens) as u32
        };
        let slots: Vec<u32> = rows.clone().map(slot).collect();
        let (k, v) = (cut(&sequence.k, self.kv_cols()), cut(&sequence.v, self.kv_cols()));
        device.store_kv(cache, 0, &k, &v, &slots).unwrap();
        let span = SequenceSpan {
            first_row: 0,
            rows: rows.len(),
            first_position: rows.start,
            blocks: &sequence.blocks,
        };
        let q = cut(&sequence.q, self.q_cols());
        let y = device.attention(&q, cache, 0, &[span], &self.options).unwrap();
        device.host(&y).into_owned()
    }

    /// Attends with a whole sequence, cut before each of `cuts`.
    fn in_chunks(
        &self,
        device: &Device,
        dtype: Dtype,
        sequence: &Sequence,
        cuts: &[usize],
    ) -> Vec<f32> {
        let mut cache = self.dirty_cache(device, dtype);
        let mut out = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&sequence.tokens]) {
            out.extend(self.chunk(device, &mut cache, sequence, start..end));
            start = end;
        }
        out
    }
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let window = proptest::option::of(1usize..40);
    // Any sizes, and those that fill the registers of tiles.
    let head_dim =
        prop_oneof![(1usize..20).prop_map(|half| 2 * half), (1usize..4).prop_map(|n| 32 * n)];
    let block_tokens = prop_oneof![1usize..36, (1usize..3).prop_map(|n| 16 * n)];
    (1usize..4, 1usize..5, head_dim, block_tokens, window).prop_map(
        |(kv_heads, group, head_dim, block_tokens, window)| {
            let blocks = 2 * 50usize.div_ceil(block_tokens);
            Sizes {
                shape: KvShape { layers: 1, blocks, block_tokens, kv_heads, head_dim },
                options: AttentionOptions { heads: kv_heads * group, scale: 0.7, window },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn chunks_blocks_and_threads_do_not_change_a_bit(
        sizes in sizes(),
        tokens in 1usize..50,
        cuts in proptest::collection::btree_set(1usize..50, 0..5),
        seed: u64,
    ) {
        let cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < tokens).collect();
        let one_by_one: Vec<usize> = (1..tokens).collect();
        let forward: Vec<u32> = (0..sizes.shape.blocks as u32).collect();
        let backward: Vec<u32> = forward.iter().rev().copied().collect();
        for device in devices() {
            for dtype in DTYPES {
                let sequence = sizes.sequence(tokens, forward.clone(), seed);
                let whole = sizes.in_chunks(&device, dtype, &sequence, &[]);
                let what = format!("{} {dtype} {sizes:?}", device.instruction_set());
                prop_assert!(whole.iter().all(|y| y.is_finite()), "{}", what);
                let moved = sizes.sequence(tokens, backward.clone(), seed);
                for cuts in [&cuts, &one_by_one] {
                    let parts = sizes.in_chunks(&device, dtype, &moved, cuts);
                    assert_same(&what, &parts, &whole);
                }
            }
        }
    }
}

fn fixed_sizes(window: Option<usize>) -> Sizes {
    Sizes {
        shape: KvShape { layers: 1, blocks: 40, block_tokens: 16, kv_heads: 2, head_dim: 64 },
        options: AttentionOptions { heads: 8, scale: 0.125, window },
    }
}

#[test]
fn other_sequences_do_not_change_a_bit() {
    let sizes = fixed_sizes(None);
    let even = |count: u32| (0..count).map(|block| 2 * block).collect::<Vec<u32>>();
    let odd = |count: u32| (0..count).map(|block| 39 - 2 * block).collect::<Vec<u32>>();
    for device in devices() {
        for dtype in DTYPES {
            let first = sizes.sequence(70, even(5), 1);
            let second = sizes.sequence(33, odd(3), 2);
            let mut cache = sizes.dirty_cache(&device, dtype);
            let y1 = sizes.chunk(&device, &mut cache, &first, 0..70);
            let y2 = sizes.chunk(&device, &mut cache, &second, 0..33);
            // The last row of the first, then a row that no span covers, then all of the second.
            let cols = sizes.q_cols();
            let mut q = first.q[69 * cols..].to_vec();
            q.extend(vec![1.0; cols]);
            q.extend(&second.q);
            let q = device.upload(&q, cols).unwrap();
            let spans = [
                SequenceSpan { first_row: 2, rows: 33, first_position: 0, blocks: &second.blocks },
                SequenceSpan { first_row: 0, rows: 1, first_position: 69, blocks: &first.blocks },
            ];
            let y = device.attention(&q, &cache, 0, &spans, &sizes.options).unwrap();
            let y = device.host(&y);
            assert_same("first", &y[..cols], &y1[69 * cols..]);
            assert!(y[cols..2 * cols].iter().all(|&y| y == 0.0));
            assert_same("second", &y[2 * cols..], &y2);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for window in [None, Some(21)] {
        let sizes = fixed_sizes(window);
        for set in InstructionSet::available() {
            for dtype in DTYPES {
                let sequence = sizes.sequence(300, (0..20).collect(), 5);
                let results = [1, 2, 5].map(|threads| {
                    sizes.in_chunks(&device(set, threads), dtype, &sequence, &[100, 299])
                });
                assert_same("2 threads", &results[1], &results[0]);
                assert_same("5 threads", &results[2], &results[0]);
            }
        }
    }
}

#[test]
fn nan_of_a_later_token_stays_there() {
    for window in [None, Some(3)] {
        let sizes = fixed_sizes(window);
        for device in devices() {
            for dtype in DTYPES {
                let clean = sizes.sequence(40, (0..3).collect(), 5);
                let mut dirty = sizes.sequence(40, (0..3).collect(), 5);
                dirty.k[21 * sizes.kv_cols()..22 * sizes.kv_cols()].fill(f32::NAN);
                dirty.v[30 * sizes.kv_cols()..31 * sizes.kv_cols()].fill(f32::NAN);
                let expected = sizes.in_chunks(&device, dtype, &clean, &[]);
                let got = sizes.in_chunks(&device, dtype, &dirty, &[]);
                let cols = sizes.q_cols();
                assert_same("before", &got[..21 * cols], &expected[..21 * cols]);
                assert!(got[21 * cols..22 * cols].iter().all(|y| y.is_nan()));
                assert!(got[30 * cols..31 * cols].iter().all(|y| y.is_nan()));
                if window.is_some() {
                    assert_same("after", &got[33 * cols..], &expected[33 * cols..]);
                }
            }
        }
    }
}

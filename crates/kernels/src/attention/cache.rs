//! The cache of keys and values.
//!
//! Each block of each layer holds, for every head, two matrices in panels of sixteen lanes, so
//! that the kernels of packed weights read them:
//!
//! ```text
//! keys    [block_tokens/16][head_dim   ][16]   lane = token,  step = column
//! values  [head_dim/16    ][block_tokens][16]   lane = column, step = token
//! ```
//!
//! With bf16 a step is a pair of columns or of tokens, as in packed weights.

use crate::cpu::parallel::{ENOUGH_ELEMENTS, SharedSlice};
use crate::cpu::{LANES, Line};
use crate::device::Device;
use crate::dtype::{Dtype, bf16_bits};
use crate::error::{Error, check_index, check_size};
use crate::large_pages::Lines;
use crate::tensor::Tensor;

/// The extent of a cache of keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// The number of layers.
    pub layers: usize,
    /// The number of blocks of each layer.
    pub blocks: usize,
    /// The number of tokens of a block.
    pub block_tokens: usize,
    /// The number of key/value heads.
    pub kv_heads: usize,
    /// The columns of a head, an even number.
    pub head_dim: usize,
}

impl KvShape {
    /// Returns the memory that a cache of this shape takes, in bytes (`usize::MAX` if it is
    /// beyond all measure).
    pub fn bytes(&self, dtype: Dtype) -> usize {
        let lines = Layout::new(*self, dtype).and_then(|layout| layout.total_lines());
        lines.and_then(|lines| lines.checked_mul(size_of::<Line>())).unwrap_or(usize::MAX)
    }
}

/// Keys and values of many sequences, for all layers.
#[derive(Debug)]
pub struct KvCache {
    layout: Layout,
    lines: Lines,
}

/// Where everything lies, in lines.
#[derive(Clone, Copy, Debug)]
struct Layout {
    shape: KvShape,
    dtype: Dtype,
    /// Steps of a key panel: columns, or pairs of them.
    key_steps: usize,
    /// Steps of a value panel: tokens, or pairs of them.
    value_steps: usize,
    key_panels: usize,
    value_panels: usize,
    /// Keys and values of one head in one block.
    head_lines: usize,
}

impl Layout {
    /// Returns `None` when the sizes overflow.
    fn new(shape: KvShape, dtype: Dtype) -> Option<Self> {
        let per_step = match dtype {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
        };
        let (key_steps, value_steps) =
            (shape.head_dim.div_ceil(per_step), shape.block_tokens.div_ceil(per_step));
        let (key_panels, value_panels) =
            (shape.block_tokens.div_ceil(LANES), shape.head_dim.div_ceil(LANES));
        let keys = key_steps.checked_mul(key_panels)?;
        let values = value_steps.checked_mul(value_panels)?;
        let head_lines = keys.checked_add(values)?;
        Some(Self { shape, dtype, key_steps, value_steps, key_panels, value_panels, head_lines })
    }

    fn total_lines(&self) -> Option<usize> {
        let blocks = self.shape.layers.checked_mul(self.shape.blocks)?;
        blocks.checked_mul(self.shape.kv_heads)?.checked_mul(self.head_lines)
    }

    /// The first line of a head in a block of a layer.
    fn head(&self, layer: usize, block: usize, head: usize) -> usize {
        ((layer * self.shape.blocks + block) * self.shape.kv_heads + head) * self.head_lines
    }
}

impl KvCache {
    /// Returns the extent of the cache.
    pub fn shape(&self) -> KvShape {
        self.layout.shape
    }

    /// Returns the format in which keys and values are kept.
    pub fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// Returns the memory that the cache takes, in bytes.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.lines)
    }

    /// Returns the number of value panels: heads in units of sixteen columns.
    pub(super) fn value_panels(&self) -> usize {
        self.layout.value_panels
    }

    /// Returns the keys of the sixteen tokens `panel` of a block: a line for each step.
    pub(super) fn keys(&self, place: HeadPlace, panel: usize) -> &[Line] {
        let first = self.first_line(place) + panel * self.layout.key_steps;
        &self.lines[first..][..self.layout.key_steps]
    }

    /// Returns sixteen columns of the values of a block: a line for each token (or pair).
    pub(super) fn values(&self, place: HeadPlace, panel: usize) -> &[Line] {
        let layout = &self.layout;
        let keys = layout.key_panels * layout.key_steps;
        let first = self.first_line(place) + keys + panel * layout.value_steps;
        &self.lines[first..][..layout.value_steps]
    }

    fn first_line(&self, place: HeadPlace) -> usize {
        self.layout.head(place.layer, place.block, place.head)
    }
}

impl Layout {
    /// Writes key and value of one token to the lines of one head in one block.
    fn write(&self, lines: &mut [Line], token: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = lines.split_at_mut(self.key_panels * self.key_steps);
        let keys = &mut keys[token / LANES * self.key_steps..][..self.key_steps];
        write_key(keys, self.dtype, token % LANES, key);
        for (lines, x) in values.chunks_mut(self.value_steps).zip(value.chunks(LANES)) {
            write_value(lines, self.dtype, token, x);
        }
    }
}

/// Writes the key of one token to its lane of a panel.
fn write_key(lines: &mut [Line], dtype: Dtype, lane: usize, key: &[f32]) {
    match dtype {
        Dtype::F32 => {
            for (line, x) in lines.iter_mut().zip(key) {
                line.0[lane] = x.to_bits();
            }
        }
        Dtype::Bf16 => {
            for (line, pair) in lines.iter_mut().zip(key.as_chunks::<2>().0) {
                line.0[lane] = bf16_bits(pair[0]) | (bf16_bits(pair[1]) << 16);
            }
        }
    }
}

/// Writes up to sixteen columns of the value of one token to its step of a panel.
fn write_value(lines: &mut [Line], dtype: Dtype, token: usize, value: &[f32]) {
    match dtype {
        Dtype::F32 => {
            for (word, x) in lines[token].0.iter_mut().zip(value) {
                *word = x.to_bits();
            }
        }
        Dtype::Bf16 => {
            // The other half of each word belongs to the token's neighbour.
            let shift = 16 * (token % 2);
            for (word, &x) in lines[token / 2].0.iter_mut().zip(value) {
                *word = (*word & !(0xffff << shift)) | (bf16_bits(x) << shift);
            }
        }
    }
}

/// One head of one block of one layer.
#[derive(Clone, Copy)]
pub(super) struct HeadPlace {
    pub(super) layer: usize,
    pub(super) block: usize,
    pub(super) head: usize,
}

impl Device {
    /// Allocates a cache of keys and values, all zero.
    ///
    /// # Errors
    /// [`Error::Shape`] when a size is zero or `head_dim` odd, [`Error::OutOfMemory`] when
    /// there is no room for it.
    pub fn kv_cache(&self, shape: KvShape, dtype: Dtype) -> Result<KvCache, Error> {
        const WHAT: &str = "the key/value cache";
        let sizes = [shape.layers, shape.blocks, shape.block_tokens, shape.kv_heads];
        if sizes.contains(&0) || shape.head_dim == 0 || !shape.head_dim.is_multiple_of(2) {
            return Err(Error::Shape {
                operation: "kv_cache",
                what: "shape",
                expected: "sizes above zero and an even head_dim".to_owned(),
                got: format!("{shape:?}"),
            });
        }
        let too_large = Error::OutOfMemory { what: WHAT, bytes: usize::MAX };
        let layout = Layout::new(shape, dtype).ok_or(too_large)?;
        let lines = Lines::zeroed(WHAT, layout.total_lines())?;
        Ok(KvCache { layout, lines })
    }

    /// Writes the rows of `k` and `v`, both `[tokens, kv_heads * head_dim]`, to the `slots` of
    /// `layer`, rounded to the cache's dtype; a slot is block * block_tokens + offset.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes do not fit, [`Error::OutOfRange`] for a layer or slot that
    /// is not there; the cache is then unchanged.
    pub fn store_kv(
        &self,
        cache: &mut KvCache,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        slots: &[u32],
    ) -> Result<(), Error> {
        let shape = cache.shape();
        check_index("store_kv", "layer", layer, shape.layers)?;
        check_store(shape, k, slots)?;
        check_store(shape, v, slots)?;
        let layout = cache.layout;
        let lines = SharedSlice::new(&mut cache.lines);
        let threads = if k.data().len() < ENOUGH_ELEMENTS { 1 } else { self.workers().threads() };
        // Tokens share words of the cache, heads do not.
        let heads_per_item = shape.kv_heads.div_ceil(threads);
        self.workers().run(shape.kv_heads.div_ceil(heads_per_item), |item| {
            let first = item * heads_per_item;
            let heads = first..shape.kv_heads.min(first + heads_per_item);
            for (row, &slot) in slots.iter().enumerate() {
                let (block, token) =
                    (slot as usize / shape.block_tokens, slot as usize % shape.block_tokens);
                for head in heads.clone() {
                    let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
                    let first = layout.head(layer, block, head);
                    // SAFETY: each head has its own lines, and is written by one item.
                    let lines = unsafe { lines.part(first, layout.head_lines) };
                    let (key, value) = (&k.row(row)[columns.clone()], &v.row(row)[columns]);
                    layout.write(lines, token, key, value);
                }
            }
        });
        Ok(())
    }
}

/// Checks that the rows of `x` fit the cache and that there are their slots.
fn check_store(shape: KvShape, x: &Tensor, slots: &[u32]) -> Result<(), Error> {
    const NAME: &str = "store_kv";
    check_size(NAME, "columns", shape.kv_heads * shape.head_dim, x.cols())?;
    check_size(NAME, "rows", slots.len(), x.rows())?;
    for &slot in slots {
        check_index(NAME, "slot", slot as usize, shape.blocks * shape.block_tokens)?;
    }
    Ok(())
}

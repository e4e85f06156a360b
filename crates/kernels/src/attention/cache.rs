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

use crate::cpu::{LANES, Line};
use crate::device::Device;
use crate::dtype::{Dtype, bf16_bits};
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use crate::weights::zeroed_lines;

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
    lines: Vec<Line>,
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
        std::mem::size_of_val(self.lines.as_slice())
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

    /// Writes key and value of one head of one token.
    fn write(&mut self, place: HeadPlace, token: usize, key: &[f32], value: &[f32]) {
        let layout = self.layout;
        let first = self.first_line(place);
        let (keys, values) = self.lines[first..][..layout.head_lines]
            .split_at_mut(layout.key_panels * layout.key_steps);
        let keys = &mut keys[token / LANES * layout.key_steps..][..layout.key_steps];
        for (column, &x) in key.iter().enumerate() {
            write_element(keys, layout.dtype, (column, token % LANES), x);
        }
        for (panel, x) in value.chunks(LANES).enumerate() {
            let lines = &mut values[panel * layout.value_steps..][..layout.value_steps];
            for (lane, &x) in x.iter().enumerate() {
                write_element(lines, layout.dtype, (token, lane), x);
            }
        }
    }
}

/// Writes `x` to element `(k, lane)` of a panel.
fn write_element(lines: &mut [Line], dtype: Dtype, (k, lane): (usize, usize), x: f32) {
    match dtype {
        Dtype::F32 => lines[k].0[lane] = x.to_bits(),
        Dtype::Bf16 => {
            let word = &mut lines[k / 2].0[lane];
            let shift = 16 * (k % 2);
            *word = (*word & !(0xffff << shift)) | (bf16_bits(x) << shift);
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
        let lines = zeroed_lines(WHAT, layout.total_lines())?;
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
        const NAME: &str = "store_kv";
        let shape = cache.shape();
        check_index(NAME, "layer", layer, shape.layers)?;
        for x in [k, v] {
            check_size(NAME, "columns", shape.kv_heads * shape.head_dim, x.cols())?;
            check_size(NAME, "rows", slots.len(), x.rows())?;
        }
        for &slot in slots {
            check_index(NAME, "slot", slot as usize, shape.blocks * shape.block_tokens)?;
        }
        for (row, &slot) in slots.iter().enumerate() {
            let (block, token) =
                (slot as usize / shape.block_tokens, slot as usize % shape.block_tokens);
            let keys = k.row(row).chunks(shape.head_dim);
            for (head, (key, value)) in keys.zip(v.row(row).chunks(shape.head_dim)).enumerate() {
                cache.write(HeadPlace { layer, block, head }, token, key, value);
            }
        }
        Ok(())
    }
}

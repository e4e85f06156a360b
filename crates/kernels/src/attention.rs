//! Attention over a cache of keys and values in blocks.

use crate::cpu::parallel::SharedSlice;
use crate::device::Device;
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use work::Work;

pub use cache::{KvCache, KvShape};

mod cache;
mod work;
#[cfg(target_arch = "x86_64")]
mod registers;

/// How queries attend.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AttentionOptions {
    /// The number of query heads, a multiple of the cache's key/value heads.
    pub heads: usize,
    /// What the product of query and key is multiplied with before the softmax.
    pub scale: f32,
    /// How many positions a row attends to, its own among them; `None` is all of them.
    pub window: Option<usize>,
}

/// The rows of one sequence in a batch: row `i` is at position `first_position + i`.
#[derive(Clone, Copy, Debug)]
pub struct SequenceSpan<'a> {
    /// The first row of the span.
    pub first_row: usize,
    /// The number of rows.
    pub rows: usize,
    /// The position, in its sequence, of the first row.
    pub first_position: usize,
    /// The blocks of the cache that hold the sequence from position 0 on.
    pub blocks: &'a [u32],
}

impl Device {
    /// Attends with the rows of `q` `[tokens, heads * head_dim]` to the keys and values that
    /// `cache` holds for `layer`: `[tokens, heads * head_dim]`.
    ///
    /// The row at position p attends to the positions 0..=p of its sequence, or to the last
    /// `window` of these. Its result depends on nothing else: not on the rows beside it, nor
    /// on which blocks hold the sequence. Queries and softmax are f32, whatever the cache's
    /// dtype. Rows that no span covers become zero.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes do not fit, spans overlap or a span has too few blocks;
    /// [`Error::OutOfRange`] for a layer, row or block that is not there.
    pub fn attention(
        &self,
        q: &Tensor,
        cache: &KvCache,
        layer: usize,
        sequences: &[SequenceSpan<'_>],
        options: &AttentionOptions,
    ) -> Result<Tensor, Error> {
        check(q, cache, layer, options)?;
        let mut covered = vec![false; q.rows()];
        for span in sequences {
            check_span(span, cache.shape(), &mut covered)?;
        }
        let mut out = Tensor::zeros(q.rows(), q.cols());
        let shared = SharedSlice::new(out.data_mut());
        let work = Work::new(self, q, (cache, layer), options);
        let items = work.plan(sequences);
        self.workers().run(items.len(), |index| work.compute(&items[index], &shared));
        Ok(out)
    }
}

fn check(
    q: &Tensor,
    cache: &KvCache,
    layer: usize,
    options: &AttentionOptions,
) -> Result<(), Error> {
    const NAME: &str = "attention";
    let shape = cache.shape();
    check_index(NAME, "layer", layer, shape.layers)?;
    check_size(NAME, "columns of q", options.heads.saturating_mul(shape.head_dim), q.cols())?;
    if options.heads == 0 || !options.heads.is_multiple_of(shape.kv_heads) {
        return Err(Error::Shape {
            operation: NAME,
            what: "heads",
            expected: format!("a multiple of {} key/value heads", shape.kv_heads),
            got: options.heads.to_string(),
        });
    }
    if options.window == Some(0) {
        return Err(Error::Shape {
            operation: NAME,
            what: "window",
            expected: "at least 1 position".to_owned(),
            got: "0".to_owned(),
        });
    }
    Ok(())
}

/// Checks one span and marks its rows as covered.
fn check_span(span: &SequenceSpan<'_>, shape: KvShape, covered: &mut [bool]) -> Result<(), Error> {
    const NAME: &str = "attention";
    let rows = covered.len();
    let end = span.first_row.saturating_add(span.rows);
    let Some(covered) = covered.get_mut(span.first_row..end) else {
        return Err(Error::OutOfRange { operation: NAME, what: "row", index: end, limit: rows });
    };
    if covered.contains(&true) {
        return Err(Error::Shape {
            operation: NAME,
            what: "rows of the spans",
            expected: "spans that do not overlap".to_owned(),
            got: format!("a second span from row {} on", span.first_row),
        });
    }
    covered.fill(true);
    let blocks = span.first_position.saturating_add(span.rows).div_ceil(shape.block_tokens);
    if span.rows > 0 && span.blocks.len() < blocks {
        return Err(Error::Shape {
            operation: NAME,
            what: "blocks of a span",
            expected: format!("at least {blocks}"),
            got: span.blocks.len().to_string(),
        });
    }
    for &block in span.blocks {
        check_index(NAME, "block", block as usize, shape.blocks)?;
    }
    Ok(())
}

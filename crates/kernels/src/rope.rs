//! Rotary position embedding.

use crate::device::Device;
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;

/// The cosines and sines of every position.
///
/// J. Su et al., RoFormer (arXiv 2104.09864), with the two halves of a head as the coordinates
/// that are rotated, as `rotate_half` of transformers does.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[max_positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[max_positions, head_dim / 2]`
    sin: Vec<f32>,
    half: usize,
    max_positions: usize,
}

impl RopeTable {
    /// Computes the table for `inverse_frequencies` `[head_dim / 2]` and the positions below
    /// `max_positions`, with both functions multiplied by `scale` (1 unless the context is
    /// extended by a method that asks for it).
    ///
    /// Angles, cosines and sines are f32, as in transformers.
    pub fn new(inverse_frequencies: &[f32], scale: f32, max_positions: usize) -> Self {
        let half = inverse_frequencies.len();
        let mut cos = Vec::with_capacity(max_positions * half);
        let mut sin = Vec::with_capacity(max_positions * half);
        for position in 0..max_positions {
            for frequency in inverse_frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * scale);
                sin.push(angle.sin() * scale);
            }
        }
        Self { cos, sin, half, max_positions }
    }

    /// Returns the number of columns of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Returns the number of positions.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }
}

impl Device {
    /// Rotates each head of `x` `[tokens, heads * head_dim]` by the position of its token.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not fit, [`Error::OutOfRange`] for a position beyond
    /// the table; x is then unchanged.
    pub fn rope(&self, x: &mut Tensor, positions: &[u32], table: &RopeTable) -> Result<(), Error> {
        check_size("rope", "positions", x.rows(), positions.len())?;
        let (cols, half) = (x.cols(), table.half);
        if half == 0 || !cols.is_multiple_of(2 * half) {
            return Err(Error::Shape {
                operation: "rope",
                what: "columns of x",
                expected: format!("a multiple of head_dim {}", 2 * half),
                got: cols.to_string(),
            });
        }
        for &position in positions {
            check_index("rope", "position", position as usize, table.max_positions)?;
        }
        self.workers().for_rows(x.data_mut(), cols, |first, rows| {
            for (row, &position) in rows.chunks_mut(cols).zip(&positions[first..]) {
                let start = position as usize * half;
                let (cos, sin) = (&table.cos[start..][..half], &table.sin[start..][..half]);
                for head in row.chunks_mut(2 * half) {
                    rotate(head, cos, sin);
                }
            }
        });
        Ok(())
    }
}

fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

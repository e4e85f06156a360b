//! Activations.

use crate::buffer::Buffer;

/// A matrix of f32 activations, row-major `[rows, cols]`, on the device.
#[derive(Clone, Debug)]
pub struct Tensor {
    data: Buffer,
    rows: usize,
    cols: usize,
}

impl Tensor {
    /// Returns a tensor of zeros `[rows, cols]`.
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self { data: Buffer::zeroed(rows * cols), rows, cols }
    }

    /// Returns a tensor `[rows, cols]` with any values, for an operation that writes all of them.
    pub(crate) fn stale(rows: usize, cols: usize) -> Self {
        Self { data: Buffer::stale(rows * cols), rows, cols }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn data(&self) -> &[f32] {
        self.data.floats()
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        self.data.floats_mut()
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }
}

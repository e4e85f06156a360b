//! Activations.

use crate::error::{Error, check_size};

/// A matrix of f32 activations, row-major `[rows, cols]`, on the device.
#[derive(Clone, Debug)]
pub struct Tensor {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Tensor {
    /// Takes `data`, row-major `[rows, cols]`, on behalf of `operation`.
    pub(crate) fn new(
        operation: &'static str,
        data: Vec<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check_size(operation, "elements", rows * cols, data.len())?;
        Ok(Self { data, rows, cols })
    }

    /// Returns a tensor of zeros `[rows, cols]`.
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self { data: vec![0.0; rows * cols], rows, cols }
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
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }
}

//! One feed-forward network: its three matrices, and single values of them.

use candle_core::{DType, Tensor};

use crate::Error;

/// The matrices of one feed-forward network, in the type of the file.
pub struct ExpertTensors {
    /// [width, hidden]
    pub gate: Tensor,
    /// [width, hidden]
    pub up: Tensor,
    /// [hidden, width]
    pub down: Tensor,
}

impl ExpertTensors {
    /// One column of gate and the same of up, [width] each, without a copy of the rest.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn gate_and_up_column(&self, column: usize) -> Result<[Vec<f64>; 2], Error> {
        let values = |name, matrix: &Tensor| read(name, matrix.narrow(1, column, 1));
        Ok([values("gate", &self.gate)?, values("up", &self.up)?])
    }

    /// One row of down, [width], without a copy of the rest.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn down_row(&self, row: usize) -> Result<Vec<f64>, Error> {
        read("down", self.down.narrow(0, row, 1))
    }
}

/// The values of a view; f64 holds those of every type.
fn read(name: &str, view: candle_core::Result<Tensor>) -> Result<Vec<f64>, Error> {
    let values = view.and_then(|view| view.to_dtype(DType::F64)?.flatten_all()?.to_vec1());
    values.map_err(|e| Error::tensor(name, e.to_string()))
}

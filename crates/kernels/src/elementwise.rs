//! Norms, sums and products of elements.

use crate::cpu::exp::sigmoid;
use crate::cpu::{Kernel, LANES, sum_of_lanes};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use crate::weights::Vector;

impl Device {
    /// Divides each group of `weight.len()` columns of `x` by its root mean square (plus
    /// `epsilon` below the root) and multiplies it with `weight`: `[rows, cols]`.
    ///
    /// One group a row is the norm of a layer; one group a head is the query/key norm.
    ///
    /// # Errors
    /// [`Error::Shape`] when `weight.len()` does not divide the columns.
    pub fn rms_norm(&self, x: &Tensor, weight: &Vector, epsilon: f32) -> Result<Tensor, Error> {
        let (cols, group) = (x.cols(), weight.len());
        if group == 0 || !cols.is_multiple_of(group) {
            return Err(Error::Shape {
                operation: "rms_norm",
                what: "columns of x",
                expected: format!("a multiple of {group} weights"),
                got: cols.to_string(),
            });
        }
        let mut out = Tensor::stale(x.rows(), cols);
        self.workers().for_rows(out.data_mut(), cols, |first, rows| {
            let x = x.data()[first * cols..].chunks(group);
            for (out, values) in rows.chunks_mut(group).zip(x) {
                let mean = sum_of_squares(values) / group as f32;
                let scale = 1.0 / (mean + epsilon).sqrt();
                for ((out, value), weight) in out.iter_mut().zip(values).zip(&weight.data) {
                    *out = value * scale * weight;
                }
            }
        });
        Ok(out)
    }

    /// Adds `y` to `x`, both `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when their shapes differ.
    pub fn add(&self, x: &mut Tensor, y: &Tensor) -> Result<(), Error> {
        same_shape("add", x, y)?;
        let cols = x.cols();
        self.workers().for_rows(x.data_mut(), cols, |first, rows| {
            for (x, y) in rows.iter_mut().zip(&y.data()[first * cols..]) {
                *x += y;
            }
        });
        Ok(())
    }

    /// Limits every element of `x` to `-limit..=limit`; NaN stays.
    ///
    /// # Errors
    /// [`Error::Shape`] when `limit` is negative or NaN.
    pub fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<(), Error> {
        if limit.is_nan() || limit < 0.0 {
            return Err(Error::Shape {
                operation: "clamp",
                what: "limit",
                expected: "0 or more".to_owned(),
                got: limit.to_string(),
            });
        }
        for value in x.data_mut() {
            *value = value.clamp(-limit, limit);
        }
        Ok(())
    }

    /// Returns the listed `rows` of `x`: `[rows.len(), cols]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a row that x has not.
    pub fn gather_rows(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor, Error> {
        let cols = x.cols();
        let mut out = Tensor::stale(rows.len(), cols);
        for (at, &row) in rows.iter().enumerate() {
            check_index("gather_rows", "row", row as usize, x.rows())?;
            out.data_mut()[at * cols..][..cols].copy_from_slice(x.row(row as usize));
        }
        Ok(out)
    }

    /// Returns the rows of all `parts`, each `[some rows, cols]`, one after another.
    ///
    /// # Errors
    /// [`Error::Shape`] when one has another number of columns than the first.
    pub fn stack_rows(&self, mut parts: Vec<Tensor>) -> Result<Tensor, Error> {
        let cols = parts.first().map_or(0, Tensor::cols);
        for part in &parts {
            check_size("stack_rows", "columns", cols, part.cols())?;
        }
        if parts.len() == 1 {
            return Ok(parts.swap_remove(0));
        }
        let rows = parts.iter().map(Tensor::rows).sum();
        let mut out = Tensor::stale(rows, cols);
        let mut rest = out.data_mut();
        for part in &parts {
            let (own, others) = rest.split_at_mut(part.data().len());
            own.copy_from_slice(part.data());
            rest = others;
        }
        Ok(out)
    }

    /// Returns silu(gate) * up of each element, all `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when their shapes differ.
    pub fn silu_mul(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor, Error> {
        same_shape("silu_mul", gate, up)?;
        let cols = gate.cols();
        let kernel = Kernel::of_weights(self.instruction_set(), Dtype::F32.into());
        let mut out = gate.clone();
        self.workers().for_rows(out.data_mut(), cols, |first, gate| {
            kernel.silu_mul(gate, &up.data()[first * cols..]);
        });
        Ok(out)
    }

    /// Adds sigmoid(logit of the row) * `y` to `out`, both `[tokens, cols]`; `logits` are
    /// `[tokens, 1]`. This is how Qwen2-MoE adds its shared expert.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes do not fit.
    pub fn add_sigmoid_scaled(
        &self,
        out: &mut Tensor,
        y: &Tensor,
        logits: &Tensor,
    ) -> Result<(), Error> {
        same_shape("add_sigmoid_scaled", out, y)?;
        check_size("add_sigmoid_scaled", "rows of the logits", out.rows(), logits.rows())?;
        check_size("add_sigmoid_scaled", "columns of the logits", 1, logits.cols())?;
        let cols = out.cols();
        self.workers().for_rows(out.data_mut(), cols, |first, rows| {
            for (offset, out) in rows.chunks_mut(cols).enumerate() {
                let row = first + offset;
                let scale = sigmoid(logits.data()[row]);
                for (out, y) in out.iter_mut().zip(y.row(row)) {
                    *out += scale * y;
                }
            }
        });
        Ok(())
    }
}

fn same_shape(operation: &'static str, x: &Tensor, y: &Tensor) -> Result<(), Error> {
    check_size(operation, "rows", x.rows(), y.rows())?;
    check_size(operation, "columns", x.cols(), y.cols())
}

/// Sums squares in sixteen partial sums, one for each column modulo sixteen, which are then
/// added in pairs: one fixed order that vector instructions can follow.
fn sum_of_squares(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (lines, rest) = values.as_chunks::<LANES>();
    for line in lines {
        for (sum, value) in sums.iter_mut().zip(line) {
            *sum += value * value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value * value;
    }
    sum_of_lanes(sums)
}

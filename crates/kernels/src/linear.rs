//! Linear maps and the token embedding.

use crate::cpu::Kernel;
use crate::cpu::parallel::SharedSlice;
use crate::cpu::product::{self, Finished, Product, columns};
use crate::device::Device;
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use crate::weights::{Embedding, Linear, Table};

impl Device {
    /// Looks up the rows of `ids` in `table`: `[ids, hidden]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an id that is not in the table.
    pub fn embed(&self, table: &Embedding, ids: &[u32]) -> Result<Tensor, Error> {
        let hidden = table.hidden();
        let mut out = Tensor::stale(ids.len(), hidden);
        for (row, &id) in ids.iter().enumerate() {
            let id = id as usize;
            check_index("embed", "token id", id, table.vocab())?;
            let out = &mut out.data_mut()[row * hidden..][..hidden];
            match &table.table {
                Table::F32(rows) => out.copy_from_slice(&rows[id * hidden..][..hidden]),
                Table::Bf16(rows) => {
                    for (out, value) in out.iter_mut().zip(&rows[id * hidden..]) {
                        *out = value.to_f32();
                    }
                }
            }
        }
        Ok(out)
    }

    /// Multiplies `x` `[m, k]` with the transpose of `weights` `[n, k]` and adds the bias:
    /// `[m, n]`.
    ///
    /// With bf16 weights, x is rounded to bf16 first; sums are in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when x has not k columns.
    pub fn linear(&self, x: &Tensor, weights: &Linear) -> Result<Tensor, Error> {
        let (m, n) = (x.rows(), weights.n());
        check_size("linear", "columns of x", weights.k(), x.cols())?;
        let mut out = Tensor::stale(m, n);
        let shared = SharedSlice::new(out.data_mut());
        let kernel = Kernel::of_weights(self.instruction_set(), weights.format());
        let x = kernel.feed(x, None, self.workers());
        let product = Product { kernel, x: &x, rows: (0, m), weights: &weights.packed };
        product::run(&[product], self.workers(), |done: Finished<'_>| {
            let columns = columns(&done.panels, n);
            let bias = weights.bias.as_ref().map(|bias| &bias[columns.clone()]);
            for (row, sums) in done.rows.zip(done.sums) {
                // SAFETY: tiles are emitted once and do not overlap.
                let out = unsafe { shared.part(row * n + columns.start, columns.len()) };
                add_bias(bytemuck::cast_slice(sums), bias, out);
            }
        });
        Ok(out)
    }
}

/// Writes `sums`, as many as there is room for, and the bias if there is one to `out`.
fn add_bias(sums: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    out.copy_from_slice(&sums[..out.len()]);
    for (out, bias) in out.iter_mut().zip(bias.unwrap_or_default()) {
        *out += bias;
    }
}

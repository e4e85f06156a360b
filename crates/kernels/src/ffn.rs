//! Gated feed-forward networks: dense layers, shared experts and routed experts.

use crate::cpu::parallel::SharedSlice;
use crate::cpu::product::{self, Finished, Product, RowChoice, columns};
use crate::cpu::{Kernel, Lanes};
use crate::device::Device;
use crate::dtype::{Dtype, round_to_bf16};
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use crate::weights::{self, Packed};

/// The weights of one gated feed-forward network.
#[derive(Debug)]
pub struct ExpertWeights {
    /// Gate and up, both `[width, hidden]`, with alternating panels: one stream of memory.
    gate_up: Packed,
    /// `[hidden, width]`
    down: Packed,
}

impl ExpertWeights {
    /// Returns the number of inputs and of outputs.
    pub fn hidden(&self) -> usize {
        self.down.n()
    }

    /// Returns the number of columns between the two layers.
    pub fn width(&self) -> usize {
        self.down.k()
    }

    /// Returns the format of the weights.
    pub fn dtype(&self) -> Dtype {
        self.down.dtype()
    }

    /// Returns the memory that the weights take, in bytes.
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}

/// The rows of x that one expert computes.
#[derive(Clone, Copy, Debug)]
pub struct ExpertRows<'a> {
    /// The expert.
    pub weights: &'a ExpertWeights,
    /// Rows of x, in the order in which their results are wanted.
    pub rows: &'a [u32],
}

/// An expert and the rows that it computes.
#[derive(Clone, Copy)]
struct Group<'a> {
    weights: &'a ExpertWeights,
    rows: RowChoice<'a>,
    /// The row of the result at which this group begins.
    first: usize,
}

impl Device {
    /// Packs the weights of a feed-forward network, `gate` and `up` `[width, hidden]` and
    /// `down` `[hidden, width]`, as `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the ranks or sizes do not fit, [`Error::Weight`] when a tensor
    /// cannot be read, [`Error::OutOfMemory`] when there is no room for the packed copy.
    pub fn expert_weights(
        &self,
        gate: &candle_core::Tensor,
        up: &candle_core::Tensor,
        down: &candle_core::Tensor,
        dtype: Dtype,
    ) -> Result<ExpertWeights, Error> {
        const NAME: &str = "expert_weights";
        let (width, hidden) = weights::matrix_size(NAME, gate)?;
        let up_size = weights::matrix_size(NAME, up)?;
        check_size(NAME, "rows of up", width, up_size.0)?;
        check_size(NAME, "columns of up", hidden, up_size.1)?;
        let down_size = weights::matrix_size(NAME, down)?;
        check_size(NAME, "rows of down", hidden, down_size.0)?;
        check_size(NAME, "columns of down", width, down_size.1)?;
        let gate_up = weights::pack_pair(self, gate, up, dtype)?;
        let down = weights::pack_one(self, down, dtype)?;
        Ok(ExpertWeights { gate_up, down })
    }

    /// Computes down(silu(gate x) * (up x)) of each group's rows of `x` `[rows, hidden]` with
    /// that group's expert: `[sum of group rows, hidden]`, in the order of the groups and of
    /// their rows.
    ///
    /// The weights of an expert are read once for all its rows. With bf16 weights, x and
    /// the product of silu and up are rounded to bf16 as they feed a bf16 product, and so is
    /// the result (still held as f32): sending it as bf16 loses nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] when an expert has another hidden size than x, or another width or dtype
    /// than the first one; [`Error::OutOfRange`] for a row that x has not.
    pub fn expert_ffn(&self, x: &Tensor, groups: &[ExpertRows<'_>]) -> Result<Tensor, Error> {
        let mut checked = Vec::with_capacity(groups.len());
        let mut first = 0;
        for group in groups {
            for &row in group.rows {
                check_index("expert_ffn", "row", row as usize, x.rows())?;
            }
            let rows = RowChoice::Listed(group.rows);
            checked.push(Group { weights: group.weights, rows, first });
            first += group.rows.len();
        }
        self.feed_forward(x, &checked)
    }

    /// Computes down(silu(gate x) * (up x)) of all rows of `x` `[rows, hidden]`:
    /// `[rows, hidden]`, with the arithmetic and the rounding of [`Device::expert_ffn`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the weights have another hidden size than x.
    pub fn ffn(&self, x: &Tensor, weights: &ExpertWeights) -> Result<Tensor, Error> {
        let rows = RowChoice::Run(0, x.rows());
        self.feed_forward(x, &[Group { weights, rows, first: 0 }])
    }

    fn feed_forward(&self, x: &Tensor, groups: &[Group<'_>]) -> Result<Tensor, Error> {
        let Some(one) = groups.first() else {
            return Ok(Tensor::zeros(0, x.cols()));
        };
        let (dtype, width) = (one.weights.dtype(), one.weights.width());
        for group in groups {
            check_size("expert_ffn", "columns of x", group.weights.hidden(), x.cols())?;
            check_size("expert_ffn", "width of an expert", width, group.weights.width())?;
            if group.weights.dtype() != dtype {
                return Err(Error::Shape {
                    operation: "expert_ffn",
                    what: "dtype of an expert",
                    expected: dtype.to_string(),
                    got: group.weights.dtype().to_string(),
                });
            }
        }
        let kernel = Kernel::of_weights(self.instruction_set(), dtype);
        let inner = self.gate_and_up(kernel, x, groups);
        Ok(self.down(kernel, &inner, groups))
    }

    /// Returns silu(gate x) * (up x): `[sum of group rows, width]`.
    fn gate_and_up(&self, kernel: Kernel, x: &Tensor, groups: &[Group<'_>]) -> Tensor {
        let rows = groups.iter().map(|group| group.rows.len()).sum();
        let width = groups[0].weights.width();
        let mut inner = Tensor::zeros(rows, width);
        let shared = SharedSlice::new(inner.data_mut());
        let x = kernel.feed(x, self.workers());
        let products: Vec<_> = groups
            .iter()
            .map(|group| Product {
                kernel,
                x: &x,
                rows: group.rows,
                weights: &group.weights.gate_up,
            })
            .collect();
        product::run(&products, self.workers(), |done: Finished<'_>| {
            let first = groups[done.product].first;
            for (row, sums) in done.rows.zip(done.tile) {
                let pairs = sums.as_chunks::<2>().0;
                for (panel, [gate, up]) in done.panels.clone().step_by(2).zip(pairs) {
                    let columns = columns(panel / 2, width);
                    let start = (first + row) * width + columns.start;
                    // SAFETY: tiles are emitted once and do not overlap.
                    let out = unsafe { shared.part(start, columns.len()) };
                    let mut gate = *gate;
                    kernel.silu_mul(&mut gate.0, &up.0);
                    out.copy_from_slice(&gate.0[..columns.len()]);
                }
            }
        });
        inner
    }

    /// Returns the down projection of `inner` `[sum of group rows, width]`, rounded if the
    /// weights are bf16.
    fn down(&self, kernel: Kernel, inner: &Tensor, groups: &[Group<'_>]) -> Tensor {
        let hidden = groups[0].weights.hidden();
        let rounded = groups[0].weights.dtype() == Dtype::Bf16;
        let mut out = Tensor::zeros(inner.rows(), hidden);
        let shared = SharedSlice::new(out.data_mut());
        let inner = kernel.feed(inner, self.workers());
        let products: Vec<_> = groups
            .iter()
            .map(|group| Product {
                kernel,
                x: &inner,
                rows: RowChoice::Run(group.first, group.rows.len()),
                weights: &group.weights.down,
            })
            .collect();
        product::run(&products, self.workers(), |done: Finished<'_>| {
            let first = groups[done.product].first;
            for (row, sums) in done.rows.zip(done.tile) {
                for (panel, sums) in done.panels.clone().zip(sums) {
                    let columns = columns(panel, hidden);
                    let start = (first + row) * hidden + columns.start;
                    // SAFETY: tiles are emitted once and do not overlap.
                    let out = unsafe { shared.part(start, columns.len()) };
                    finish(sums, rounded, out);
                }
            }
        });
        out
    }
}

/// Writes the sums of one row and panel to `out`.
fn finish(sums: &Lanes, rounded: bool, out: &mut [f32]) {
    if !rounded {
        return out.copy_from_slice(&sums.0[..out.len()]);
    }
    for (out, &sum) in out.iter_mut().zip(&sums.0) {
        *out = round_to_bf16(sum);
    }
}

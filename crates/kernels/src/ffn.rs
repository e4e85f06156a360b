//! Gated feed-forward networks: dense layers, shared experts and routed experts.

use crate::cpu::parallel::SharedSlice;
use crate::cpu::product::{self, Finished, Product, columns};
use crate::cpu::rows::FedRows;
use crate::cpu::{Kernel, LANES, SumsOfRow, TILE_PANELS};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, check_index, check_size};
use crate::tensor::Tensor;
use crate::weights::{self, Packed, WeightFormat};

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

    /// Returns what the weights are kept as.
    pub fn format(&self) -> WeightFormat {
        self.down.format()
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
    /// Its first row among those of all groups, and how many there are.
    rows: (usize, usize),
}

impl Device {
    /// Packs the weights of a feed-forward network, `gate` and `up` `[width, hidden]` and
    /// `down` `[hidden, width]`, as `format`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the ranks or sizes do not fit, [`Error::Weight`] when a tensor
    /// cannot be read, [`Error::OutOfMemory`] when there is no room for the packed copy.
    pub fn expert_weights(
        &self,
        gate: &candle_core::Tensor,
        up: &candle_core::Tensor,
        down: &candle_core::Tensor,
        format: impl Into<WeightFormat>,
    ) -> Result<ExpertWeights, Error> {
        let format = format.into();
        const NAME: &str = "expert_weights";
        let (width, hidden) = weights::matrix_size(NAME, gate)?;
        let up_size = weights::matrix_size(NAME, up)?;
        check_size(NAME, "rows of up", width, up_size.0)?;
        check_size(NAME, "columns of up", hidden, up_size.1)?;
        let down_size = weights::matrix_size(NAME, down)?;
        check_size(NAME, "rows of down", hidden, down_size.0)?;
        check_size(NAME, "columns of down", width, down_size.1)?;
        let gate_up = weights::pack_pair(self, gate, up, format)?;
        let down = weights::pack_one(self, down, format)?;
        Ok(ExpertWeights { gate_up, down })
    }

    /// Computes down(silu(gate x) * (up x)) of each group's rows of `x` `[rows, hidden]` with
    /// that group's expert: `[sum of group rows, hidden]`, in the order of the groups and of
    /// their rows.
    ///
    /// The weights of an expert are read once for all its rows. With bf16 and quantised weights, x and
    /// the product of silu and up are rounded to bf16 as they feed a bf16 product, and so is
    /// the result (still held as f32): sending it as bf16 loses nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] when an expert has another hidden size than x, or another width or format
    /// than the first one; [`Error::OutOfRange`] for a row that x has not.
    pub fn expert_ffn(&self, x: &Tensor, groups: &[ExpertRows<'_>]) -> Result<Tensor, Error> {
        let mut checked = Vec::with_capacity(groups.len());
        let mut rows = Vec::new();
        for group in groups {
            for &row in group.rows {
                check_index("expert_ffn", "row", row as usize, x.rows())?;
            }
            let place = (rows.len(), group.rows.len());
            checked.push(Group { weights: group.weights, rows: place });
            rows.extend_from_slice(group.rows);
        }
        self.feed_forward(x, Some(&rows), &checked)
    }

    /// Computes down(silu(gate x) * (up x)) of all rows of `x` `[rows, hidden]`:
    /// `[rows, hidden]`, with the arithmetic and the rounding of [`Device::expert_ffn`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the weights have another hidden size than x.
    pub fn ffn(&self, x: &Tensor, weights: &ExpertWeights) -> Result<Tensor, Error> {
        self.feed_forward(x, None, &[Group { weights, rows: (0, x.rows()) }])
    }

    /// Computes the groups, whose rows are all rows of `x`, or those listed.
    fn feed_forward(
        &self,
        x: &Tensor,
        listed: Option<&[u32]>,
        groups: &[Group<'_>],
    ) -> Result<Tensor, Error> {
        let Some(one) = groups.first() else {
            return Ok(Tensor::zeros(0, x.cols()));
        };
        let (format, width) = (one.weights.format(), one.weights.width());
        for group in groups {
            check_size("expert_ffn", "columns of x", group.weights.hidden(), x.cols())?;
            check_size("expert_ffn", "width of an expert", width, group.weights.width())?;
            if group.weights.format() != format {
                return Err(Error::Shape {
                    operation: "expert_ffn",
                    what: "format of an expert",
                    expected: format.to_string(),
                    got: group.weights.format().to_string(),
                });
            }
        }
        let kernel = Kernel::of_weights(self.instruction_set(), format);
        let x = kernel.feed(x, listed, self.workers());
        let inner = self.gate_and_up(kernel, &x, groups);
        Ok(self.down(kernel, &inner, groups))
    }

    /// Returns silu(gate x) * (up x): `[sum of group rows, width]`, as the down projection reads it.
    fn gate_and_up(
        &self,
        kernel: Kernel,
        x: &FedRows<'_>,
        groups: &[Group<'_>],
    ) -> FedRows<'static> {
        let rows = groups.iter().map(|group| group.rows.1).sum();
        let width = groups[0].weights.width();
        let products: Vec<_> = groups
            .iter()
            .map(|group| Product { kernel, x, rows: group.rows, weights: &group.weights.gate_up })
            .collect();
        kernel.feed_in_parts(rows, width, |feeding| {
            product::run(&products, self.workers(), |done: Finished<'_>| {
                let first = groups[done.product].rows.0;
                let columns = columns(&(done.panels.start / 2..done.panels.end / 2), width);
                for (row, sums) in done.rows.zip(done.sums) {
                    let (mut gate, up) = apart(sums);
                    let gate = &mut gate.as_flattened_mut()[..columns.len()];
                    kernel.silu_mul(gate, up.as_flattened());
                    // SAFETY: tiles are emitted once and do not overlap.
                    unsafe { feeding.feed(first + row, columns.start, gate) };
                }
            });
        })
    }

    /// Returns the down projection of `inner` `[sum of group rows, width]`, rounded if the
    /// weights are bf16.
    fn down(&self, kernel: Kernel, inner: &FedRows<'_>, groups: &[Group<'_>]) -> Tensor {
        let rows = groups.iter().map(|group| group.rows.1).sum();
        let hidden = groups[0].weights.hidden();
        let rounded = groups[0].weights.format().dtype() == Dtype::Bf16;
        let mut out = Tensor::stale(rows, hidden);
        let shared = SharedSlice::new(out.data_mut());
        let products: Vec<_> = groups
            .iter()
            .map(|group| Product {
                kernel,
                x: inner,
                rows: group.rows,
                weights: &group.weights.down,
            })
            .collect();
        product::run(&products, self.workers(), |done: Finished<'_>| {
            let first = groups[done.product].rows.0;
            let columns = columns(&done.panels, hidden);
            for (row, sums) in done.rows.zip(done.sums) {
                let start = (first + row) * hidden + columns.start;
                // SAFETY: tiles are emitted once and do not overlap.
                let out = unsafe { shared.part(start, columns.len()) };
                let sums = &bytemuck::cast_slice(sums)[..columns.len()];
                match rounded {
                    true => kernel.round(sums, out),
                    false => out.copy_from_slice(sums),
                }
            }
        });
        out
    }
}

/// Takes panels that alternate apart.
fn apart(sums: &SumsOfRow) -> ([[f32; LANES]; TILE_PANELS / 2], [[f32; LANES]; TILE_PANELS / 2]) {
    let pairs = sums.as_chunks::<2>().0;
    (std::array::from_fn(|pair| pairs[pair][0].0), std::array::from_fn(|pair| pairs[pair][1].0))
}

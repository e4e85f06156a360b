//! Rows of activations as bytes, as they travel between processes: each is written once, where it is sent from.

use crate::device::Device;
use crate::dtype::{Dtype, bf16_bits, widen_bf16};
use crate::error::{Error, check_index};
use crate::tensor::Tensor;

impl Device {
    /// Returns some rows of `x`, in this order, rounded to `dtype`: little-endian, `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a row that `x` has not.
    pub fn rows_to_bytes(
        &self,
        x: &Tensor,
        rows: &[usize],
        dtype: Dtype,
    ) -> Result<Vec<u8>, Error> {
        for &row in rows {
            check_index("rows_to_bytes", "row", row, x.rows())?;
        }
        Ok(match dtype {
            Dtype::Bf16 => self.write(x, rows, |value| (bf16_bits(value) as u16).to_le_bytes()),
            Dtype::F32 => self.write(x, rows, f32::to_le_bytes),
        })
    }

    fn write<const BYTES: usize>(
        &self,
        x: &Tensor,
        rows: &[usize],
        bytes_of: impl Fn(f32) -> [u8; BYTES] + Sync,
    ) -> Vec<u8> {
        let cols = x.cols();
        let mut bytes = vec![0; rows.len() * cols * BYTES];
        self.workers().for_rows(bytes.as_chunks_mut::<BYTES>().0, cols, |first, written| {
            for (&row, written) in rows[first..].iter().zip(written.chunks_mut(cols.max(1))) {
                for (written, &value) in written.iter_mut().zip(x.row(row)) {
                    *written = bytes_of(value);
                }
            }
        });
        bytes
    }

    /// Stacks the rows of all `parts`, which are bytes as [`Device::rows_to_bytes`] gives them: `[rows, cols]`, held as
    /// f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when a part is not a whole number of rows.
    pub fn rows_from_bytes(
        &self,
        parts: &[&[u8]],
        cols: usize,
        dtype: Dtype,
    ) -> Result<Tensor, Error> {
        let row_bytes = cols * dtype.size_bytes();
        for part in parts {
            if row_bytes == 0 || !part.len().is_multiple_of(row_bytes) {
                return Err(Error::Shape {
                    operation: "rows_from_bytes",
                    what: "bytes of a part",
                    expected: format!("rows of {cols} values of {dtype}"),
                    got: part.len().to_string(),
                });
            }
        }
        let rows: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(row_bytes)).collect();
        let mut tensor = Tensor::stale(rows.len(), cols);
        self.workers().for_rows(tensor.data_mut(), cols, |first, read| {
            for (row, read) in rows[first..].iter().zip(read.chunks_mut(cols)) {
                match dtype {
                    Dtype::Bf16 => {
                        let values = row.as_chunks::<2>().0.iter().copied();
                        fill(read, values.map(|two| widen_bf16(u16::from_le_bytes(two))));
                    }
                    Dtype::F32 => {
                        fill(read, row.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes));
                    }
                }
            }
        });
        Ok(tensor)
    }
}

fn fill(row: &mut [f32], values: impl Iterator<Item = f32>) {
    for (to, value) in row.iter_mut().zip(values) {
        *to = value;
    }
}

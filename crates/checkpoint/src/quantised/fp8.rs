//! FP8 values (E4M3) with a scale for each block, as DeepSeek and Qwen ship them.

use safetensors::Dtype;

use super::Part;

/// Matrices that are stored as FP8 (E4M3) have one scale for each block of so many rows and columns; blocks at the lower
/// and right edges may be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8Blocks {
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub columns: usize,
}

impl Fp8Blocks {
    pub(super) fn parts(self, [rows, columns]: [usize; 2]) -> Vec<Part> {
        let scales = [rows.div_ceil(self.rows), columns.div_ceil(self.columns)];
        vec![
            Part::new("weight", Dtype::F8_E4M3, [rows, columns]),
            Part::scales("weight_scale_inv", scales),
        ]
    }

    /// The values of a matrix, [rows, columns], each times the scale of its block.
    pub(super) fn dequantise(
        self,
        values: &[u8],
        scales: &[f32],
        columns: usize,
    ) -> Result<Vec<f32>, String> {
        if let Some(at) = values.iter().position(|byte| byte & 0x7f == 0x7f) {
            return Err(format!("value {at} is not a finite number"));
        }
        let table: [f32; 256] = std::array::from_fn(|byte| e4m3(byte as u8));
        let scales_of_row = columns.div_ceil(self.columns);
        let mut dequantised = Vec::with_capacity(values.len());
        for (row, values) in values.chunks(columns.max(1)).enumerate() {
            let scales = &scales[row / self.rows * scales_of_row..];
            for (block, scale) in values.chunks(self.columns).zip(scales) {
                dequantised.extend(block.iter().map(|&byte| table[usize::from(byte)] * scale));
            }
        }
        Ok(dequantised)
    }
}

/// A sign, four bits of exponent (bias 7), three of mantissa; no infinities, and one NaN of each sign (Micikevicius et al.,
/// FP8 Formats for Deep Learning, 2022).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 7),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_numbers_of_the_paper() {
        for (byte, number) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(e4m3(byte), number, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let refused = Fp8Blocks { rows: 1, columns: 3 }.dequantise(&[0, 0x7e, 0xff], &[1.0], 3);
        assert_eq!(refused.unwrap_err(), "value 2 is not a finite number");
    }

    #[test]
    fn blocks_at_the_edges_may_be_smaller() {
        let blocks = Fp8Blocks { rows: 2, columns: 2 };
        assert_eq!(blocks.parts([3, 3])[1].shape, [2, 2]);
        let values = blocks.dequantise(&[0x38; 9], &[1.0, 2.0, 3.0, 4.0], 3);
        assert_eq!(values.unwrap(), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    }
}

//! Reads the elements of a loaded tensor where they lie.

use candle_core::{CpuStorage, DType, Storage, Tensor};
use half::bf16;

use crate::error::Error;

/// The elements of a tensor, row-major.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Source<'_> {
    /// Calls `read` with the elements of `weight`, which `what` names in errors.
    ///
    /// A contiguous f32 or bf16 tensor on the CPU is not copied; any other is converted to f32
    /// (exact for f16) for the time of the call.
    pub(super) fn with<T>(
        weight: &Tensor,
        what: &'static str,
        read: impl FnOnce(Source<'_>) -> T,
    ) -> Result<T, Error> {
        let wrap = |source| Error::Weight { what, source };
        let kept = matches!(weight.dtype(), DType::F32 | DType::BF16);
        let dtype = if kept { weight.dtype() } else { DType::F32 };
        let weight = weight
            .to_device(&candle_core::Device::Cpu)
            .and_then(|weight| weight.to_dtype(dtype)?.contiguous())
            .map_err(wrap)?;
        let (storage, layout) = weight.storage_and_layout();
        let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
        let elements = match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.get(range).map(Source::F32),
            Storage::Cpu(CpuStorage::BF16(values)) => values.get(range).map(Source::Bf16),
            _ => None,
        };
        let Some(elements) = elements else {
            return Err(wrap(candle_core::Error::Msg("its storage is not on the CPU".into())));
        };
        Ok(read(elements))
    }

    /// Copies elements from `first` on to `values`, as many as there are and as fit; returns how many.
    pub(super) fn read(&self, first: usize, values: &mut [f32]) -> usize {
        match self {
            Source::F32(elements) => {
                let elements = &elements[first.min(elements.len())..];
                values.iter_mut().zip(elements).for_each(|(value, element)| *value = *element);
                elements.len().min(values.len())
            }
            Source::Bf16(elements) => {
                let elements = &elements[first.min(elements.len())..];
                let pairs = values.iter_mut().zip(elements);
                pairs.for_each(|(value, element)| *value = element.to_f32());
                elements.len().min(values.len())
            }
        }
    }

    /// Returns row `row` of `k` elements.
    pub(super) fn row(&self, row: usize, k: usize) -> Source<'_> {
        match self {
            Source::F32(values) => Source::F32(&values[row * k..][..k]),
            Source::Bf16(values) => Source::Bf16(&values[row * k..][..k]),
        }
    }
}

//! The device that holds the tensors and runs the operations.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use instruction_set::InstructionSet;

use crate::cpu::parallel::{Workers, usable_cores};
use crate::dtype::{bf16_bits, widen_bf16};
use crate::error::{Error, check_size};
use crate::tensor::Tensor;

mod instruction_set;

/// How a CPU device is to run.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// The number of threads that share one operation, the calling thread among them.
    pub threads: NonZeroUsize,
    /// The instruction set of the inner loops; `None` takes the best one of this processor.
    pub instruction_set: Option<InstructionSet>,
    /// Whether each thread stays on a core of its own, of those that this process may use.
    pub pin_threads: bool,
}

impl CpuOptions {
    /// So many threads with the best instruction set, wherever the system puts them.
    #[must_use]
    pub fn of_threads(threads: NonZeroUsize) -> Self {
        Self { threads, instruction_set: None, pin_threads: false }
    }
}

/// A place where tensors live and operations run; clones share its threads.
///
/// Operations may be called from several threads at once; they then share the workers.
#[derive(Clone, Debug)]
pub struct Device(Arc<Cpu>);

#[derive(Debug)]
struct Cpu {
    workers: Workers,
    instruction_set: InstructionSet,
}

impl Device {
    /// Starts the threads of a CPU device.
    ///
    /// # Errors
    /// [`Error::UnsupportedInstructionSet`] when this processor has not the one asked for, and
    /// [`Error::Threads`] when the threads cannot be started.
    pub fn cpu(options: CpuOptions) -> Result<Self, Error> {
        let best = InstructionSet::detect();
        let instruction_set = options.instruction_set.unwrap_or(best);
        if !InstructionSet::available().contains(&instruction_set) {
            return Err(Error::UnsupportedInstructionSet { wanted: instruction_set, best });
        }
        let cores = if options.pin_threads { usable_cores()? } else { Vec::new() };
        let workers = Workers::start_on(options.threads, &cores)?;
        Ok(Self(Arc::new(Cpu { workers, instruction_set })))
    }

    /// Returns the instruction set of the inner loops.
    pub fn instruction_set(&self) -> InstructionSet {
        self.0.instruction_set
    }

    /// Returns the number of threads that share one operation.
    pub fn threads(&self) -> usize {
        self.0.workers.threads()
    }

    /// Keeps the thread that calls on the core that is left for it, if the others are on cores of their own.
    pub fn pin_caller(&self) {
        self.workers().pin_caller();
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.0.workers
    }

    /// Copies `data`, row-major `[data.len() / cols, cols]`, to the device.
    ///
    /// # Errors
    /// [`Error::Shape`] when `cols` does not divide the length.
    pub fn upload(&self, data: &[f32], cols: usize) -> Result<Tensor, Error> {
        let rows = rows_of("upload", data.len(), cols)?;
        let mut tensor = Tensor::stale(rows, cols);
        tensor.data_mut().copy_from_slice(data);
        Ok(tensor)
    }

    /// Copies little-endian bf16 `bytes`, row-major `[bytes.len() / 2 / cols, cols]`, to the
    /// device, where they are held as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bytes are not a whole number of rows.
    pub fn upload_bf16(&self, bytes: &[u8], cols: usize) -> Result<Tensor, Error> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        check_size("upload_bf16", "bytes beyond the last element", 0, rest.len())?;
        let rows = rows_of("upload_bf16", pairs.len(), cols)?;
        let mut tensor = Tensor::stale(rows, cols);
        self.workers().for_rows(tensor.data_mut(), cols, |first, rows| {
            for (value, pair) in rows.iter_mut().zip(&pairs[first * cols..]) {
                *value = widen_bf16(u16::from_le_bytes(*pair));
            }
        });
        Ok(tensor)
    }

    /// Returns a tensor `[rows, cols]` whose rows, zero at first, `write` fills: each by itself, on any thread.
    pub fn fill_rows(
        &self,
        rows: usize,
        cols: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Tensor {
        let mut tensor = Tensor::stale(rows, cols);
        self.workers().for_rows(tensor.data_mut(), cols, |first, rows| {
            for (row, values) in (first..).zip(rows.chunks_mut(cols)) {
                values.fill(0.0);
                write(row, values);
            }
        });
        tensor
    }

    /// Returns the elements of `x`, row-major, on the host.
    pub fn host<'a>(&self, x: &'a Tensor) -> Cow<'a, [f32]> {
        Cow::Borrowed(x.data())
    }

    /// Returns the elements of `x`, row-major, rounded to little-endian bf16: what
    /// [`Device::upload_bf16`] reads.
    pub fn host_bf16(&self, x: &Tensor) -> Vec<u8> {
        let mut bytes = vec![0; x.data().len() * 2];
        self.workers().for_rows(bytes.as_chunks_mut::<2>().0, x.cols(), |first, pairs| {
            for (pair, &value) in pairs.iter_mut().zip(&x.data()[first * x.cols()..]) {
                *pair = (bf16_bits(value) as u16).to_le_bytes();
            }
        });
        bytes
    }
}

fn rows_of(operation: &'static str, elements: usize, cols: usize) -> Result<usize, Error> {
    if cols == 0 || !elements.is_multiple_of(cols) {
        return Err(Error::Shape {
            operation,
            what: "elements",
            expected: format!("a multiple of {cols} columns"),
            got: elements.to_string(),
        });
    }
    Ok(elements / cols)
}

//! The device that holds the tensors and runs the operations.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use instruction_set::InstructionSet;

use crate::cpu::parallel::{Workers, usable_cores};
use crate::error::Error;
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
        if cols == 0 || !data.len().is_multiple_of(cols) {
            return Err(Error::Shape {
                operation: "upload",
                what: "elements",
                expected: format!("a multiple of {cols} columns"),
                got: data.len().to_string(),
            });
        }
        let mut tensor = Tensor::stale(data.len() / cols, cols);
        tensor.data_mut().copy_from_slice(data);
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
}

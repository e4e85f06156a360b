//! What an operation may refuse, and why.

use crate::device::InstructionSet;
use crate::dtype::Dtype;
use crate::weights::WeightFormat;

/// The reason why an operation or a constructor of this crate gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shapes of the arguments do not fit together.
    #[error("{operation}: {what}: expected {expected}, got {got}")]
    Shape {
        /// The operation that was asked for.
        operation: &'static str,
        /// The argument or size that does not fit.
        what: &'static str,
        /// What would have fitted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An id, row, slot, block, layer or position points outside of what it indexes.
    #[error("{operation}: {what} {index} is out of range 0..{limit}")]
    OutOfRange {
        /// The operation that was asked for.
        operation: &'static str,
        /// What the index counts.
        what: &'static str,
        /// The index that was given.
        index: usize,
        /// The number of things there are.
        limit: usize,
    },
    /// A row holds a NaN or an infinity where no decision can be made from one.
    #[error("{operation}: row {row} holds a value that is not finite")]
    NonFinite {
        /// The operation that was asked for.
        operation: &'static str,
        /// The row of the argument.
        row: usize,
    },
    /// This processor does not offer the instruction set that was asked for.
    #[error("this processor has no {wanted}: its best instruction set is {best}")]
    UnsupportedInstructionSet {
        /// The instruction set that was asked for.
        wanted: InstructionSet,
        /// The best one this processor offers.
        best: InstructionSet,
    },
    /// A name that was to be parsed is none of the known ones.
    #[error("unknown {what} {got:?}")]
    UnknownName {
        /// What the name should have named.
        what: &'static str,
        /// The name that was given.
        got: String,
    },
    /// The format of weights does not go with the dtype of rows.
    #[error("{format} weights do not go with rows of {dtype}, but with {}", format.dtype())]
    Format {
        /// The format that was chosen.
        format: WeightFormat,
        /// What rows are.
        dtype: Dtype,
    },
    /// A weight could not be read from its tensor.
    #[error("cannot read the {what} weight")]
    Weight {
        /// Which weight was being packed.
        what: &'static str,
        /// Why the tensor could not be read.
        #[source]
        source: candle_core::Error,
    },
    /// There is no memory for a buffer.
    #[error("no memory for {what} of {bytes} bytes")]
    OutOfMemory {
        /// What the buffer was for.
        what: &'static str,
        /// Its size in bytes (`usize::MAX` when the size itself overflows).
        bytes: usize,
    },
    /// The threads of a device could not be started.
    #[error("cannot start the threads of the device")]
    Threads(#[source] std::io::Error),
}

/// Returns an [`Error::Shape`] of `operation` unless `expected` equals `got`.
pub(crate) fn check_size(
    operation: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { operation, what, expected: expected.to_string(), got: got.to_string() })
}

/// Returns an [`Error::OutOfRange`] of `operation` unless `index` is below `limit`.
pub(crate) fn check_index(
    operation: &'static str,
    what: &'static str,
    index: usize,
    limit: usize,
) -> Result<(), Error> {
    if index < limit {
        return Ok(());
    }
    Err(Error::OutOfRange { operation, what, index, limit })
}

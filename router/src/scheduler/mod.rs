//! Decides what the next step computes: a pure queue, no clock and no IO.

pub(crate) use blocks::BlockPool;
pub(crate) use queue::{Limits, Scheduler, SequenceId, Work};

mod blocks;
mod queue;

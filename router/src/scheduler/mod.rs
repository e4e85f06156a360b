//! Decides what the next step computes: a pure queue, no clock and no IO.

pub(crate) use blocks::BlockPool;
pub(crate) use prefix::{BlockHash, PrefixHashes};
pub(crate) use queue::{Arrival, Limits, Occupancy, Scheduler, SequenceId, Work};

mod prefix;
mod blocks;
mod queue;
#[cfg(test)]
mod tests;

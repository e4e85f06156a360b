//! How often each expert and each node was used over time, and what the balancer did about it.

use serde::{Deserialize, Serialize};

pub(crate) use evenness::HOT_TIMES;
pub use evenness::{Evenness, Hot, LayerUse, Period};
pub use rebalances::{Change, Rebalance};
pub(crate) use sampler::{Sampler, Watch};
pub use series::{Interval, Slice};
pub use strip::Strip;

mod sampler;
mod series;
mod evenness;
mod rebalances;
mod summary;
mod strip;

/// What the samples of a run come to. Times are seconds from the start of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    /// All of the run.
    pub whole: Period,
    /// [layer][expert] pairs of a token and an expert, in all of the run.
    pub pairs: Vec<Vec<u64>>,
    /// The same in parts of the run, one after another.
    pub slices: Vec<Slice>,
    /// What each node did, from sample to sample.
    pub intervals: Vec<Interval>,
    /// When the placement was another.
    pub changes: Vec<Change>,
    /// Changes that belong together, with how even it was before and after.
    pub rebalances: Vec<Rebalance>,
    /// Why replicas were moved, in the balancer's words.
    pub reasons: Vec<Said>,
    /// What the balancer was doing, whenever it was something else.
    pub states: Vec<Said>,
    /// Samples that could not be had.
    pub missed: u64,
}

/// What was said when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Seconds from the start of the run.
    pub at: f64,
    /// What.
    pub text: String,
}

impl Experts {
    /// How evenly nodes were used, as a mean over the layers, since the placement was last changed.
    #[must_use]
    pub fn balancedness(&self) -> f64 {
        let after = self.rebalances.iter().rev().find_map(|change| change.after.as_ref());
        after.unwrap_or(&self.whole).balancedness
    }

    /// The same before the placement was changed for the first time.
    #[must_use]
    pub fn balancedness_before(&self) -> Option<f64> {
        self.rebalances.iter().find_map(|change| change.before.as_ref()).map(|of| of.balancedness)
    }
}

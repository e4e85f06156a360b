//! The engine: one plain thread that plans a step, runs the model, samples, and sends what came out.

pub(crate) use handle::{EngineHandle, Events, Refused};
pub(crate) use lane::{Lane, LaneOptions};

mod handle;
mod lane;
mod sequence;
mod stop_matcher;

//! The engine: one plain thread that plans a step, runs the model, samples, and sends what came out.

pub(crate) use handle::{EngineHandle, Events, Refused};
pub(crate) use lane::{Lane, LaneOptions};
pub(crate) use ping_pong::PingPong;
pub use ping_pong::PingPongMode;
pub(crate) use status::EngineStatus;

mod handle;
mod lane;
mod step;
mod ping_pong;
mod parking;
#[cfg(test)]
mod parking_tests;
mod sequence;
mod stop_matcher;
mod timing;
mod status;

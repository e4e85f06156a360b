//! PROCESS 1: takes requests, runs the dense part of the model, sends tokens to experts.

pub use config::{ExpertsMode, RouterConfig};
pub use engine::PingPongMode;
pub use error::{Error, Lacking};
pub use evaluate::{Evaluation, Formats, Quality};
pub use guildhall_kernels::WeightFormat;
pub use process::run;

#[cfg(fuzzing)]
pub use api::fuzzing;

mod config;
mod process;
mod loading;
mod servers;
mod api;
mod request;
mod traces;
mod tokenizer;
mod constraint;
mod scheduler;
mod engine;
mod model;
mod dispatch;
mod local_experts;
mod cluster;
mod membership;
mod nodes;
mod balancer;
mod sampler;
mod metrics;
mod evaluate;
mod error;

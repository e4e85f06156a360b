//! PROCESS 2: holds experts and computes them; forgets everything between calls.

pub use canary::{CanaryFailure, Expected};
pub use config::ExpertNodeConfig;
pub use error::Error;
pub use process::run;

mod config;
mod process;
mod membership;
mod reconcile;
mod service;
mod batcher;
mod compute;
mod shard;
mod supply;
mod peers;
#[cfg(test)]
mod node_tests;
mod canary;
mod probe;
mod metrics;
mod meters;
mod spans;
mod error;

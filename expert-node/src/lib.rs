//! PROCESS 2: holds experts and computes them; forgets everything between calls.

pub use config::ExpertNodeConfig;
pub use error::Error;
pub use process::run;
pub use service::{Node, NodeOptions};

mod config;
mod process;
mod service;
mod batcher;
mod compute;
mod shard;
mod error;

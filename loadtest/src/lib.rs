//! Puts load on a router, and says how the cluster bore it: latencies, throughput, and the use of every expert.

pub use config::{DEFAULT_ADMIN, LoadtestConfig};
pub use error::Error;
pub use live::{Progress, Screen};
pub use run::run;

mod config;
pub mod units;
mod error;
pub mod schedule;
pub mod target;
mod run;
mod live;
pub mod sweep;
pub mod chaos;
pub mod results;
pub mod experts;
pub mod report;
pub mod assertion;
pub mod compare;

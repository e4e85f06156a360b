//! What tests and benchmarks of the whole binary share: its processes, and clients of a router.
//!
//! Everything here panics where it fails, with the logs of the processes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "only tests use it"
)]

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod etcd;
pub mod impostor;
pub mod process;
pub mod proxy;

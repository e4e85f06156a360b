//! Real processes on free ports: what a user of the binary sees.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests; a failure prints the processes' logs"
)]

mod reference;
mod exactness;
mod generation;
mod failures;
mod load;
mod metrics;
mod telemetry;
mod failover;
mod balance;
mod fetching;
mod cut_off;
mod store;
mod life;
mod standard_services;
mod admin;
mod loadtest;
mod tools;

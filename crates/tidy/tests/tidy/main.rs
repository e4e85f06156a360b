//! The rules of ARCHITECTURE.md that a machine can check.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crates;
mod files;
mod deploy;

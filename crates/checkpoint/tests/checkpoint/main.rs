//! Model directories: what is read from them, what is refused, and what is computed from their configuration.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod expert_bytes;
mod families;
mod fingerprints;
mod fuzz;
mod fp8;
mod hashes;
mod malformed_configs;
mod malformed_shards;
mod malformed_weights;
mod rope;
mod sizes;
mod support;

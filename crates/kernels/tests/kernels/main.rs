//! The operations against an oracle, their exactness, and what they refuse.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod exactness;
mod exactness_attention;
mod oracle;
mod oracle_attention;
mod refusals;
mod support;

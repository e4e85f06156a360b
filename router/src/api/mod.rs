//! What clients call. Wire types stop here.

pub(crate) use admission::{Admission, AdmissionLimits};
pub(crate) use frontend::{Frontend, Serving};
pub(crate) use health::{Health, Loaded};
pub(crate) use keys::ApiKeys;
pub(crate) use served_model::ServedModel;

pub(crate) mod grpc;
pub(crate) mod openai;
mod keys;
pub(crate) mod metrics_page;
pub(crate) mod page;
mod ask;
mod served_model;
mod health;
mod admission;
mod frontend;
mod validate;
mod running;
mod responses;
mod refusal;
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub, reason = "reached by the fuzzers only")]
pub mod fuzzing;

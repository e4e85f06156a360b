//! What clients call. Wire types stop here.

pub(crate) use admission::Admission;
pub(crate) use grpc::{ServedModel, serve};

mod admission;
mod validate;
mod grpc;
mod responses;

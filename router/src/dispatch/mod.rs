//! Experts elsewhere: tokens to nodes, outputs back, and what to do when a node does not answer.

pub(crate) use call_traces::{CallTraces, LayerRows};
pub(crate) use caretaker::Caretaker;
pub(crate) use combine::{add_scaled_f32, combine};
pub(crate) use remote_experts::{DispatchOptions, RemoteExperts};

mod plan;
mod split;
mod combine;
mod health;
mod links;
mod fan_out;
mod meters;
mod call_traces;
mod caller;
mod dispatcher;
mod caretaker;
mod remote_experts;

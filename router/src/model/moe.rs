//! A layer with experts. The only model file that knows that they may be elsewhere.

use std::task::Context;

use guildhall_ids::{ExpertId, LayerIdx};
use guildhall_kernels::{Device, ExpertWeights, GateOptions, Linear, Routes, Tensor};
use guildhall_telemetry::Span;

use super::RoutesOfStep;
use crate::Error;
use crate::traces::StepContext;

/// Computes the experts of a layer, here or elsewhere.
pub(crate) trait Experts {
    /// Begins the computation; what can happen at the same time follows before [`Self::finish`].
    fn start(&mut self, call: ExpertsCall<'_>) -> Result<(), Error>;

    /// The weighted sum of each token's experts, added in the order of its routes: [tokens, hidden].
    fn finish(&mut self) -> Result<Tensor, Error>;

    /// What follows is of a step, which may be traced.
    fn begin_step(&mut self, _step: Option<StepContext>) {}

    /// What was noted of the step.
    fn end_step(&mut self) -> Vec<Span> {
        Vec::new()
    }

    /// Whether somebody can be asked for this expert now. Where nobody can, a connection is looked for.
    fn can_ask_for(&mut self, _expert: ExpertId) -> bool {
        true
    }

    /// Lets connections be served while there is nothing to compute.
    fn poll_idle(&mut self, _cx: &mut Context<'_>) {}
}

/// What [`Experts`] shall compute.
pub(crate) struct ExpertsCall<'a> {
    pub(crate) layer: LayerIdx,
    /// [tokens, hidden]
    pub(crate) x: &'a Tensor,
    pub(crate) routes: Routes,
}

pub(super) struct MoeBlock {
    pub(super) layer: LayerIdx,
    pub(super) gate: Linear,
    pub(super) options: GateOptions,
    pub(super) shared: Option<SharedExpert>,
}

/// An expert that every token sees, behind a gate of its own (Qwen2-MoE).
pub(super) struct SharedExpert {
    pub(super) ffn: ExpertWeights,
    pub(super) gate: Linear,
}

impl MoeBlock {
    /// [tokens, hidden] → [tokens, hidden]
    pub(super) fn forward(
        &self,
        device: &Device,
        x: &Tensor,
        experts: &mut dyn Experts,
        kept: &mut RoutesOfStep,
    ) -> Result<Tensor, Error> {
        let logits = device.linear(x, &self.gate)?; // [tokens, experts]
        let routes = device.top_k_gate(&logits, &self.options)?;
        kept.keep(&routes);
        experts.start(ExpertsCall { layer: self.layer, x, routes })?;
        // While the experts are away.
        let shared = match &self.shared {
            Some(shared) => Some((device.ffn(x, &shared.ffn)?, device.linear(x, &shared.gate)?)),
            None => None,
        };
        let mut out = experts.finish()?;
        if let Some((shared, gate)) = shared {
            device.add_sigmoid_scaled(&mut out, &shared, &gate)?;
        }
        Ok(out)
    }
}

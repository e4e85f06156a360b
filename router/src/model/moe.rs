//! A layer with experts. The only model file that knows that they may be elsewhere.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use guildhall_ids::{ExpertId, LayerIdx};
use guildhall_kernels::{Device, ExpertWeights, GateOptions, Linear, Routes, Tensor};
use guildhall_telemetry::Span;

use super::MicroBatch;
use crate::Error;
use crate::traces::StepContext;

/// Computes the experts of a layer, here or elsewhere.
pub(crate) trait Experts {
    /// Begins the computation; what can happen at the same time follows before [`Self::finish`].
    fn start(&mut self, call: ExpertsCall) -> Result<(), Error>;

    /// Ends the computation that began first. The weighted sum of each token's experts, added in the order of its
    /// routes: [tokens, hidden].
    fn finish(&mut self) -> Result<Tensor, Error>;

    /// How long the experts of a step took, since this was asked last; nothing where nobody else computes while they
    /// do.
    fn times(&mut self) -> Option<ExpertTimes> {
        None
    }

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
pub(crate) struct ExpertsCall {
    pub(crate) layer: LayerIdx,
    /// [tokens, hidden], which is kept for as long as it may be asked for again.
    pub(crate) x: Arc<Tensor>,
    /// Which row of the step the first one is.
    pub(crate) first_row: usize,
    pub(crate) routes: Routes,
    /// Whether something else is computed before [`Experts::finish`].
    pub(crate) overlaps: bool,
}

/// Where the time of a step's experts went, all layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExpertTimes {
    /// The lane had nothing to do but wait.
    pub(crate) waited: Duration,
    /// In each layer the node that was busy longest computed, or had others before.
    pub(crate) busy: Duration,
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

/// Experts that were asked for, and what was computed meanwhile.
pub(super) struct Away {
    /// What the shared expert gave, and the logits of its gate.
    shared: Option<(Tensor, Tensor)>,
}

impl MoeBlock {
    /// Asks the experts for `x`, [tokens, hidden].
    pub(super) fn begin(
        &self,
        device: &Device,
        x: Tensor,
        (of, experts): (&mut MicroBatch<'_>, &mut dyn Experts),
    ) -> Result<Away, Error> {
        let x = Arc::new(x);
        let logits = device.linear(&x, &self.gate)?; // [tokens, experts]
        let routes = device.top_k_gate(&logits, &self.options)?;
        if of.batch.wants_routes {
            of.routes.keep(&routes);
        }
        let (layer, first_row) = (self.layer, of.first_row);
        let overlaps = self.shared.is_some() || of.has_company;
        let call = ExpertsCall { layer, x: Arc::clone(&x), first_row, routes, overlaps };
        experts.start(call)?;
        // While the experts are away.
        let shared = match &self.shared {
            Some(shared) => Some((device.ffn(&x, &shared.ffn)?, device.linear(&x, &shared.gate)?)),
            None => None,
        };
        Ok(Away { shared })
    }
}

impl Away {
    /// [tokens, hidden]
    pub(super) fn finish(
        self,
        device: &Device,
        experts: &mut dyn Experts,
    ) -> Result<Tensor, Error> {
        let mut out = experts.finish()?;
        if let Some((shared, gate)) = self.shared {
            device.add_sigmoid_scaled(&mut out, &shared, &gate)?;
        }
        Ok(out)
    }
}

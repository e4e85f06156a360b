//! All experts in this process: the oracle of the distributed answer, and the single-machine baseline.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use guildhall_checkpoint::Checkpoint;
use guildhall_ids::ExpertId;
use guildhall_kernels::{Device, ExpertRows, ExpertWeights, Tensor, WeightFormat};
use guildhall_telemetry::Span;

use crate::Error;
use crate::balancer::LoadCounter;
use crate::dispatch::{CallTraces, LayerRows, add_scaled_f32, combine};
use crate::model::{Experts, ExpertsCall};
use crate::traces::StepContext;

/// Computes experts on the router's own device.
pub(crate) struct LocalExperts {
    device: Device,
    weights: BTreeMap<ExpertId, ExpertWeights>,
    /// The sums of layers' experts, and when they were added up.
    combined: VecDeque<(Tensor, Range<Instant>)>,
    traces: CallTraces,
    load: Option<Arc<LoadCounter>>,
}

impl LocalExperts {
    /// Loads every expert of the model.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Self, Error> {
        let load = |id: &ExpertId| {
            let tensors = checkpoint.expert(*id)?;
            let weights =
                device.expert_weights(&tensors.gate, &tensors.up, &tensors.down, format)?;
            Ok((*id, weights))
        };
        let ids: Vec<ExpertId> = checkpoint.config().experts().collect();
        let share = ids.len().div_ceil(device.threads()).max(1);
        let load_all = |ids: &[ExpertId]| ids.iter().map(load).collect();
        // Copying takes as long as packing, so each thread loads experts of its own.
        let loaded: Vec<Result<Vec<_>, Error>> = std::thread::scope(|scope| {
            let loading = ids.chunks(share).map(|ids| scope.spawn(move || load_all(ids)));
            let joined = loading.collect::<Vec<_>>().into_iter().map(|thread| thread.join());
            joined.map(|loaded| loaded.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let mut weights = BTreeMap::new();
        for loaded in loaded {
            weights.extend(loaded?);
        }
        Ok(Self {
            device: device.clone(),
            weights,
            combined: VecDeque::new(),
            traces: CallTraces::default(),
            load: None,
        })
    }

    /// Counts the tokens of each expert from now on.
    pub(crate) fn counted_by(mut self, load: Arc<LoadCounter>) -> Self {
        self.load = Some(load);
        self
    }

    /// Computes the experts of a layer and adds them up; notes when.
    fn compute(&mut self, call: &ExpertsCall) -> Result<(), Error> {
        let ExpertsCall { layer, x, routes, .. } = call;
        let began = Instant::now();
        let mut by_expert: BTreeMap<u32, (Vec<u32>, Vec<usize>)> = BTreeMap::new();
        for (pair, &expert) in routes.experts.iter().enumerate() {
            let (rows, pairs) = by_expert.entry(expert).or_default();
            rows.push((pair / routes.top_k) as u32);
            pairs.push(pair);
        }
        let mut row_of_pair = vec![0; routes.experts.len()];
        let mut groups = Vec::with_capacity(by_expert.len());
        let mut output_rows = 0..;
        for (&expert, (rows, pairs)) in &by_expert {
            let id = ExpertId::new(layer.0, expert);
            let unknown = || Error::Engine(format!("the model has no expert {id}"));
            let weights = self.weights.get(&id).ok_or_else(unknown)?;
            groups.push(ExpertRows { weights, rows });
            for (&pair, row) in pairs.iter().zip(&mut output_rows) {
                row_of_pair[pair] = row;
            }
        }
        let outputs = self.device.expert_ffn(x, &groups)?;
        let hidden = outputs.cols();
        let host = self.device.host(&outputs);
        let computed = Instant::now();
        self.traces.computed(routes.experts.len(), began..computed);
        let sum = combine(&self.device, routes, hidden, |pair, weight, sum| {
            let row = row_of_pair[pair] * hidden;
            add_scaled_f32(sum, weight, host[row..row + hidden].iter().copied());
        });
        self.combined.push_back((sum, computed..Instant::now()));
        Ok(())
    }
}

impl Experts for LocalExperts {
    fn start(&mut self, call: ExpertsCall) -> Result<(), Error> {
        if let Some(load) = &self.load {
            load.count(call.layer, &call.routes.experts);
        }
        self.traces.begin_layer(LayerRows { layer: call.layer, first_row: call.first_row });
        self.compute(&call)
    }

    fn finish(&mut self) -> Result<Tensor, Error> {
        let not_started = || Error::Engine("no experts were started".into());
        let (sum, when) = self.combined.pop_front().ok_or_else(not_started)?;
        self.traces.end_layer(when);
        Ok(sum)
    }

    fn begin_step(&mut self, step: Option<StepContext>) {
        // What a step that failed has left.
        self.combined.clear();
        self.traces.begin_step(step);
    }

    fn end_step(&mut self) -> Vec<Span> {
        self.traces.end_step()
    }
}

//! One step of a lane: from a plan to the tokens that it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use guildhall_kernels::{SequenceSpan, Tensor};
use guildhall_telemetry::{error_chain, trace_ids};

use super::lane::Lane;
use super::sequence::{Next, Sequence};
use crate::Error;
use crate::model::{ForwardBatch, RoutesOfStep};
use crate::request::Failure;
use crate::sampler::Logits;
use crate::scheduler::{Scheduler, SequenceId, Work};
use crate::traces::StepTrace;

/// Rows whose logits are computed at a time: they take 4 bytes for each token of the vocabulary.
const LOGITS_AT_A_TIME: usize = 64;

/// A row whose logits are needed, and for what.
struct WantedRow {
    row: u32,
    id: SequenceId,
    /// The position of the row if its logits say how probable the prompt is.
    scores: Option<usize>,
    samples: bool,
}

impl Lane {
    /// Computes one step and moves every sequence of it on.
    pub(super) fn step(&mut self, plan: &[Work]) -> Result<(), Error> {
        let began = Instant::now();
        let sequences = plan.iter().filter_map(|work| self.sequences.get(&work.id));
        let trace = StepTrace::of(sequences.filter_map(Sequence::traced), self.options.slow_step);
        self.experts.begin_step(trace.as_ref().map(|trace| trace.step));
        let done = self.compute(plan);
        if let Some(trace) = trace {
            let tokens = plan.iter().map(|work| work.tokens).sum();
            let failure = done.as_ref().err().map(|error| error_chain(error));
            trace.end(began, [plan.len(), tokens], self.experts.end_step(), failure);
        }
        done
    }

    fn compute(&mut self, plan: &[Work]) -> Result<(), Error> {
        for work in plan {
            let cached_tokens = self.options.scheduler.cached_tokens(work.id);
            if let Some(sequence) = self.sequences.get_mut(&work.id) {
                sequence.begin(cached_tokens);
            }
        }
        let (hidden, routes) = self.forward(plan)?;
        self.options.scheduler.computed(plan);
        plan.iter().for_each(|work| self.parking.forget(work.id));
        self.keep_routes(plan, &routes);
        for wanted in self.wanted_rows(plan).chunks(LOGITS_AT_A_TIME) {
            let rows: Vec<u32> = wanted.iter().map(|wanted| wanted.row).collect();
            let model = &self.options.model;
            let logits = model.logits(&hidden, &rows)?;
            let device = model.device();
            let (best, values) = (device.largest_of_rows(&logits), device.host(&logits));
            let rows = values.chunks_exact(logits.cols()).zip(best);
            for (wanted, (values, best)) in wanted.iter().zip(rows) {
                self.take_logits(wanted, Logits { values, best });
            }
        }
        Ok(())
    }

    /// Runs the rows of a plan through the model, in one micro-batch or in two.
    fn forward(&mut self, plan: &[Work]) -> Result<(Tensor, RoutesOfStep), Error> {
        let began = Instant::now();
        let options = &mut self.options;
        let batch = batch(&options.scheduler, &self.sequences, plan);
        let rows = batch.token_ids.len();
        let in_two = options.ping_pong.in_two(rows);
        let (cache, experts) = (&mut options.cache, self.experts.as_mut());
        let out = match in_two {
            true => options.model.forward(&batch.split(rows / 2), cache, experts)?,
            false => options.model.forward(&[batch], cache, experts)?,
        };
        if let Some(times) = experts.times() {
            options.ping_pong.took(rows, in_two, (began.elapsed(), times));
        }
        if in_two {
            self.status.step_in_two();
        }
        Ok(out)
    }

    fn keep_routes(&mut self, plan: &[Work], routes: &RoutesOfStep) {
        let mut first_row = 0;
        for work in plan {
            let Some(sequence) = self.sequences.get_mut(&work.id) else { continue };
            if sequence.wants_routes() {
                for offset in 0..work.tokens {
                    let experts = routes.of_row(first_row + offset);
                    sequence.keep_routes(work.first_position + offset, experts);
                }
            }
            first_row += work.tokens;
        }
    }

    /// In the order of the rows.
    fn wanted_rows(&self, plan: &[Work]) -> Vec<WantedRow> {
        let mut wanted = Vec::new();
        let mut first_row = 0;
        for work in plan {
            let Some(sequence) = self.sequences.get(&work.id) else { continue };
            let scored = sequence.scored_positions(work.first_position, work.tokens);
            for offset in 0..work.tokens {
                let position = work.first_position + offset;
                let samples = work.samples && offset + 1 == work.tokens;
                let scores = scored.contains(&position).then_some(position);
                if samples || scores.is_some() {
                    let row = (first_row + offset) as u32;
                    wanted.push(WantedRow { row, id: work.id, scores, samples });
                }
            }
            first_row += work.tokens;
        }
        wanted
    }

    fn take_logits(&mut self, wanted: &WantedRow, logits: Logits<'_>) {
        let Some(sequence) = self.sequences.get_mut(&wanted.id) else { return };
        if let Some(position) = wanted.scores {
            sequence.score(position, logits.values);
        }
        if !wanted.samples {
            return;
        }
        match sequence.advance(logits) {
            Next::Token(token) => self.options.scheduler.extend(wanted.id, token),
            Next::Ended => drop(self.remove(wanted.id)),
        }
    }

    /// Ends sequences of a step that could not be computed.
    pub(super) fn fail(&mut self, ids: &BTreeSet<SequenceId>, error: &Error) {
        let text = error_chain(error);
        let trace_id = trace_ids(self.traces_of(ids));
        tracing::error!(sequences = ids.len(), error = text, trace_id, "a step failed");
        let failure = match error {
            Error::Transport(_) => Failure::Unavailable(text),
            _ => Failure::Internal(text),
        };
        for &id in ids {
            if let Some(mut sequence) = self.remove(id) {
                sequence.fail(failure.clone());
            }
        }
    }
}

/// The rows of a plan, as the model takes them.
fn batch<'a>(
    scheduler: &'a Scheduler,
    sequences: &BTreeMap<SequenceId, Sequence>,
    plan: &[Work],
) -> ForwardBatch<'a> {
    let block_tokens = scheduler.block_tokens();
    let mut batch = ForwardBatch::default();
    for work in plan {
        let Some(sequence) = sequences.get(&work.id) else { continue };
        let blocks = scheduler.blocks(work.id);
        batch.sequences.push(SequenceSpan {
            first_row: batch.token_ids.len(),
            rows: work.tokens,
            first_position: work.first_position,
            blocks,
        });
        for position in work.first_position..work.first_position + work.tokens {
            let block = blocks[position / block_tokens] as usize;
            batch.token_ids.push(sequence.token(position));
            batch.positions.push(position as u32);
            batch.slots.push((block * block_tokens + position % block_tokens) as u32);
        }
        batch.wants_routes |= sequence.wants_routes();
    }
    batch
}

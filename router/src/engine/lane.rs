//! The lane's thread: everything between a queued request and its chunks.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::thread::JoinHandle;

use guildhall_kernels::{KvCache, SequenceSpan};
use guildhall_telemetry::error_chain;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handle::{EngineHandle, Submission};
use super::sequence::{Next, Sequence};
use crate::Error;
use crate::model::{Experts, ForwardBatch, Model};
use crate::request::Failure;
use crate::scheduler::{Scheduler, SequenceId, Work};
use crate::tokenizer::Tokenizer;

/// What a lane is made of.
pub(crate) struct LaneOptions {
    pub(crate) model: Model,
    pub(crate) cache: KvCache,
    pub(crate) scheduler: Scheduler,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// The longest sequence.
    pub(crate) max_positions: usize,
    /// Ends the lane before its next step; what still runs fails.
    pub(crate) stop: CancellationToken,
}

/// A thread that runs steps as long as there are sequences.
pub(crate) struct Lane {
    options: LaneOptions,
    runtime: Rc<Runtime>,
    experts: Box<dyn Experts>,
    submissions: mpsc::Receiver<Submission>,
    sequences: BTreeMap<SequenceId, Sequence>,
    next_id: SequenceId,
}

impl Lane {
    /// Starts the thread. It ends when it is stopped, or when every handle has been dropped and every sequence has ended.
    ///
    /// `connect` makes the experts on the thread itself, because their connections live on its runtime.
    pub(crate) fn start(
        options: LaneOptions,
        connect: impl FnOnce(Rc<Runtime>) -> Box<dyn Experts> + Send + 'static,
    ) -> Result<(EngineHandle, JoinHandle<()>), Error> {
        let (handle, submissions) = EngineHandle::new();
        // A single-threaded runtime: with more threads every round trip to a node takes longer.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::System { what: "starting the lane's runtime", source })?;
        let run = move || {
            let runtime = Rc::new(runtime);
            let experts = connect(Rc::clone(&runtime));
            let sequences = BTreeMap::new();
            Self { options, runtime, experts, submissions, sequences, next_id: 0 }.run();
        };
        let thread = std::thread::Builder::new()
            .name("lane-0".into())
            .spawn(run)
            .map_err(|source| Error::System { what: "starting the lane's thread", source })?;
        Ok((handle, thread))
    }

    fn run(&mut self) {
        while !self.options.stop.is_cancelled() {
            if self.options.scheduler.is_idle() {
                let Some(submission) = self.wait() else { return };
                self.add(submission);
            }
            while let Ok(submission) = self.submissions.try_recv() {
                self.add(submission);
            }
            self.drop_abandoned();
            let plan = self.options.scheduler.plan();
            if plan.is_empty() {
                continue;
            }
            if let Err(error) = self.step(&plan) {
                self.fail(&plan, &error);
            }
        }
        for sequence in self.sequences.values_mut() {
            sequence.fail(Failure::Unavailable("this router is shutting down".into()));
        }
    }

    /// Sleeps until there is something to do; connections are served meanwhile.
    fn wait(&mut self) -> Option<Submission> {
        let (experts, submissions) = (&mut self.experts, &mut self.submissions);
        let next = poll_fn(|cx| {
            experts.poll_idle(cx);
            submissions.poll_recv(cx)
        });
        let stop = &self.options.stop;
        self.runtime.block_on(async { stop.run_until_cancelled(next).await.flatten() })
    }

    fn add(&mut self, submission: Submission) {
        let Submission { request, events } = submission;
        let id = self.next_id;
        self.next_id += 1;
        let prompt = request.prompt.len();
        let longest = prompt + request.stopping.max_tokens.get() as usize;
        let mut sequence = Sequence::new(request, events, self.options.tokenizer.clone());
        if longest > self.options.scheduler.capacity_tokens() {
            // The API checks this first; a sequence that can never run must not block the queue.
            sequence.fail(Failure::Internal(format!("{longest} tokens never fit the KV cache")));
            return;
        }
        self.options.scheduler.add(id, prompt, longest);
        self.sequences.insert(id, sequence);
    }

    fn drop_abandoned(&mut self) {
        // Each is asked once: a client may leave at any moment, and a sequence is in both places or in neither.
        let abandoned = self.sequences.iter().filter(|(_, sequence)| sequence.is_abandoned());
        let abandoned: Vec<SequenceId> = abandoned.map(|(id, _)| *id).collect();
        for id in abandoned {
            self.remove(id);
        }
    }

    /// Takes a sequence out of the queue and frees its blocks.
    fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        self.options.scheduler.remove(id);
        self.sequences.remove(&id)
    }

    /// Computes one step and moves every sequence of it on.
    fn step(&mut self, plan: &[Work]) -> Result<(), Error> {
        let batch = self.batch(plan);
        // A step of several sequences can be in one trace only: the first one's that has one.
        let sequences = plan.iter().filter_map(|work| self.sequences.get(&work.id));
        self.experts.set_trace(sequences.filter_map(Sequence::trace).next());
        let options = &mut self.options;
        let (logits, routes) =
            options.model.forward(&batch, &mut options.cache, self.experts.as_mut())?;
        let mut rows = 0..;
        let mut sampled = 0;
        for work in plan {
            let Some(sequence) = self.sequences.get_mut(&work.id) else { continue };
            for row in rows.by_ref().take(work.tokens) {
                if sequence.wants_routes() {
                    sequence.keep_routes(routes.of_row(row));
                }
            }
            if !work.samples {
                continue;
            }
            let next = sequence.advance(logits.row(sampled));
            sampled += 1;
            self.options.scheduler.extend(work.id);
            if next == Next::Ended {
                self.remove(work.id);
            }
        }
        Ok(())
    }

    fn batch<'a>(&self, plan: &'a [Work]) -> ForwardBatch<'a> {
        let block_tokens = self.options.scheduler.block_tokens();
        let mut batch = ForwardBatch {
            token_ids: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            sequences: Vec::new(),
            sampled_rows: Vec::new(),
            wants_routes: false,
        };
        for work in plan {
            let Some(sequence) = self.sequences.get(&work.id) else { continue };
            batch.sequences.push(SequenceSpan {
                first_row: batch.token_ids.len(),
                rows: work.tokens,
                first_position: work.first_position,
                blocks: &work.blocks,
            });
            for position in work.first_position..work.first_position + work.tokens {
                let block = work.blocks[position / block_tokens] as usize;
                batch.token_ids.push(sequence.token(position));
                batch.positions.push(position as u32);
                batch.slots.push((block * block_tokens + position % block_tokens) as u32);
            }
            if work.samples {
                batch.sampled_rows.push(batch.token_ids.len() as u32 - 1);
            }
            batch.wants_routes |= sequence.wants_routes();
        }
        batch
    }

    /// Ends the sequences of a step that could not be computed.
    fn fail(&mut self, plan: &[Work], error: &Error) {
        let text = error_chain(error);
        tracing::error!(sequences = plan.len(), error = text, "a step failed");
        let failure = match error {
            Error::ExpertsUnavailable { .. } | Error::Transport(_) => Failure::Unavailable(text),
            _ => Failure::Internal(text),
        };
        for work in plan {
            if let Some(mut sequence) = self.remove(work.id) {
                sequence.fail(failure.clone());
            }
        }
    }
}

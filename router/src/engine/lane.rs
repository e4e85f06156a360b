//! The lane's thread: everything between a queued request and its chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guildhall_kernels::KvCache;
use guildhall_telemetry::TraceContext;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::EngineStatus;
use super::handle::{EngineHandle, Message, Submission};
use super::parking::Parking;
use super::ping_pong::PingPong;
use super::sequence::Sequence;
use crate::Error;
use crate::model::{Experts, Model};
use crate::request::Failure;
use crate::scheduler::{Scheduler, SequenceId};
use crate::tokenizer::Tokenizer;

/// How often to look at the sequences when nothing can be computed for any of them.
const LOOK: Duration = Duration::from_millis(20);

/// What a lane is made of.
pub(crate) struct LaneOptions {
    pub(crate) model: Model,
    pub(crate) cache: KvCache,
    pub(crate) scheduler: Scheduler,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// Whether its steps go in two micro-batches.
    pub(crate) ping_pong: PingPong,
    /// The longest sequence.
    pub(crate) max_positions: usize,
    /// A sequence that lacks experts for this long, all in all, fails.
    pub(crate) expert_wait_timeout: Duration,
    /// A step that takes longer is recorded.
    pub(crate) slow_step: Option<Duration>,
    /// Ends the lane before its next step; what still runs fails.
    pub(crate) stop: CancellationToken,
}

/// A thread that runs steps as long as there are sequences.
pub(crate) struct Lane {
    pub(super) options: LaneOptions,
    pub(super) experts: Box<dyn Experts>,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    pub(super) parking: Parking,
    runtime: Arc<Runtime>,
    messages: mpsc::Receiver<Message>,
    pub(super) status: EngineStatus,
    next_id: SequenceId,
}

impl Lane {
    /// Starts the thread. It ends when it is stopped, or when every handle has been dropped and every sequence has ended.
    ///
    /// `connect` makes the experts on the thread itself, because their connections live on its runtime.
    pub(crate) fn start(
        options: LaneOptions,
        connect: impl FnOnce(Arc<Runtime>) -> Box<dyn Experts> + Send + 'static,
    ) -> Result<(EngineHandle, JoinHandle<()>), Error> {
        let status = EngineStatus::new();
        let (handle, messages) = EngineHandle::new(status.clone());
        // A single-threaded runtime: with more threads every round trip to a node takes longer.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::System { what: "starting the lane's runtime", source })?;
        let run = move || {
            options.model.device().pin_caller();
            let runtime = Arc::new(runtime);
            let experts = connect(Arc::clone(&runtime));
            let (sequences, parking) = (BTreeMap::new(), Parking::new(options.expert_wait_timeout));
            Self { options, experts, sequences, parking, runtime, messages, status, next_id: 0 }
                .run();
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
                self.status.publish(self.options.scheduler.occupancy());
                self.status.progress(false);
                let Some(message) = self.wait() else { return };
                self.receive(message);
                self.status.progress(true);
            }
            while let Ok(message) = self.messages.try_recv() {
                self.receive(message);
            }
            self.drop_ended();
            self.mind_parked();
            let plan = self.options.scheduler.plan();
            self.status.publish(self.options.scheduler.occupancy());
            if plan.is_empty() {
                self.pause();
                continue;
            }
            match self.step(&plan) {
                Ok(()) => {
                    self.status.step_ended();
                    self.status.progress(true);
                }
                Err(error) => self.settle(&plan, &error),
            }
        }
        for sequence in self.sequences.values_mut() {
            sequence.fail(Failure::Unavailable("this router is shutting down".into()));
        }
    }

    /// Sleeps until there is something to do; connections are served meanwhile.
    fn wait(&mut self) -> Option<Message> {
        let (experts, messages) = (&mut self.experts, &mut self.messages);
        let next = poll_fn(|cx| {
            experts.poll_idle(cx);
            messages.poll_recv(cx)
        });
        let stop = &self.options.stop;
        self.runtime.block_on(async { stop.run_until_cancelled(next).await.flatten() })
    }

    /// Sleeps a moment if all sequences are parked, so that connections to their experts are opened. This is no
    /// progress: an engine that does nothing else is stalled.
    fn pause(&mut self) {
        if self.options.scheduler.is_idle() {
            return;
        }
        let (experts, messages) = (&mut self.experts, &mut self.messages);
        let next = poll_fn(|cx| {
            experts.poll_idle(cx);
            match messages.poll_recv(cx) {
                Poll::Ready(Some(message)) => Poll::Ready(message),
                // Whoever is parked goes on without those who might have asked for more.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        let next = self.options.stop.run_until_cancelled(next);
        let next = self.runtime.block_on(async { tokio::time::timeout(LOOK, next).await });
        if let Ok(Some(message)) = next {
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => self.add(submission),
            Message::ResetPrefixCache(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.options.scheduler.forget_prefixes());
            }
        }
    }

    fn add(&mut self, submission: Submission) {
        let Submission { request, events, waiting, arrived } = submission;
        let longest = request.prompt.len() + request.stopping.max_tokens;
        let scheduler = &mut self.options.scheduler;
        for index in 0..request.n {
            let id = self.next_id;
            self.next_id += 1;
            let of_request = (Arc::clone(&request), index);
            let tokenizer = self.options.tokenizer.clone();
            let queued = (Arc::clone(&waiting), arrived);
            let mut sequence = Sequence::new(of_request, events.clone(), queued, tokenizer);
            if longest > scheduler.capacity_tokens() {
                // The API checks this first; a sequence that can never run must not block the queue.
                let what = format!("{longest} tokens never fit the KV cache");
                sequence.fail(Failure::Internal(what));
                return;
            }
            scheduler.add(id, sequence.arrival(scheduler.block_tokens()));
            self.sequences.insert(id, sequence);
        }
    }

    /// Ends sequences that nobody waits for, and those whose time is over.
    fn drop_ended(&mut self) {
        // Each is asked once: a client may leave at any moment, and a sequence is in both places or in neither.
        let now = Instant::now();
        let over = self.sequences.iter().filter(|(_, s)| s.is_abandoned() || s.is_overdue(now));
        let over: Vec<SequenceId> = over.map(|(id, _)| *id).collect();
        for id in over {
            if let Some(mut sequence) = self.remove(id) {
                // Whoever has left hears nothing.
                sequence.fail(Failure::DeadlineExceeded);
            }
        }
    }

    /// The traces of the requests of some sequences, for logs.
    pub(super) fn traces_of(
        &self,
        ids: &BTreeSet<SequenceId>,
    ) -> impl Iterator<Item = TraceContext> {
        ids.iter().filter_map(|id| self.sequences.get(id)?.trace())
    }

    /// Takes a sequence out of the queue and frees its blocks.
    pub(super) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        self.options.scheduler.remove(id);
        self.parking.forget(id);
        self.sequences.remove(&id)
    }
}

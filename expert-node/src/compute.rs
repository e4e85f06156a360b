//! The device and whoever has it: one batch at a time is taken from the waiting calls and computed, and each is answered.
//!
//! The compute thread does this, but for a small call that finds the device free: the thread that received it computes
//! it at once, because handing it over and back takes two wakes of a sleeping thread, as long as the layer of a token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use guildhall_ids::{ExpertId, LayerIdx};
use guildhall_kernels::{Device, Dtype, ExpertRows};
use guildhall_telemetry::trace_ids;
use guildhall_transport::{
    BusyPoll, Call, CallFailure, CallOutputs, FailureReason, NodeEvent, NodeTimings, ReplySlot,
};

use crate::batcher::{Waiting, plan_pass, take_batch};
use crate::meters::Meters;
use crate::shard::{Held, Shard};
use crate::{Error, metrics, spans};

/// Pairs of a call that is computed where it was received: some milliseconds at most, in which nothing else is received.
const SMALL_CALL_PAIRS: usize = 32;

/// A call on its way to the device.
struct Job {
    call: Call,
    reply: ReplySlot,
    arrived: Instant,
}

impl Waiting for Job {
    fn layer(&self) -> LayerIdx {
        self.call.layer
    }

    fn pairs(&self) -> usize {
        self.call.pairs.len()
    }
}

impl Job {
    fn fail(self, reason: FailureReason, message: String) {
        metrics::REFUSED.add(&[&reason.to_string()], 1);
        let id = self.call.id;
        self.reply.send(NodeEvent::Failure(CallFailure { id, reason, message }));
    }

    fn expired(&self) -> bool {
        self.call.budget.is_some_and(|budget| self.arrived.elapsed() > budget)
    }
}

/// Sends calls to the compute thread; the thread ends when all of these are dropped.
#[derive(Clone)]
pub(crate) struct ComputeQueue {
    jobs: SyncSender<Job>,
    worker: Arc<Worker>,
    turn: Arc<Turn>,
}

impl ComputeQueue {
    /// Computes a small call if the device is free and `alone`, else queues it, or refuses it at once when the queue is
    /// full. Calls of several routers are queued, so that they become one batch.
    pub(crate) fn submit(&self, call: Call, reply: ReplySlot, alone: bool) {
        let job = Job { call, reply, arrived: Instant::now() };
        if alone
            && job.pairs() <= SMALL_CALL_PAIRS
            && let Some(_device) = self.turn.take_if_idle()
        {
            return self.worker.serve(vec![job]);
        }
        self.turn.queued.fetch_add(1, Ordering::AcqRel);
        let (job, reason, message) = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => {
                (job, FailureReason::Overloaded, "the queue of this node is full")
            }
            Err(TrySendError::Disconnected(job)) => {
                (job, FailureReason::Compute, "the compute thread has ended")
            }
        };
        self.turn.queued.fetch_sub(1, Ordering::AcqRel);
        job.fail(reason, message.into());
    }

    /// Says how many calls were queued and are not answered, for as long as somebody asks; the thread may end meanwhile.
    pub(crate) fn waiting(&self) -> impl Fn() -> usize + Send + 'static {
        let turn = Arc::clone(&self.turn);
        move || turn.queued.load(Ordering::Acquire)
    }
}

/// Whose turn it is to compute.
#[derive(Default)]
struct Turn {
    /// Held by the one thread that uses the device.
    device: Mutex<()>,
    /// Calls that were queued and are not answered.
    queued: AtomicUsize,
}

impl Turn {
    fn take(&self) -> MutexGuard<'_, ()> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing if something waits or is computed.
    fn take_if_idle(&self) -> Option<MutexGuard<'_, ()>> {
        let nothing_waits = self.queued.load(Ordering::Acquire) == 0;
        nothing_waits.then(|| self.device.try_lock().ok()).flatten()
    }
}

/// What computing takes.
pub(crate) struct Worker {
    pub(crate) device: Device,
    pub(crate) dtype: Dtype,
    pub(crate) shard: Arc<Shard>,
    pub(crate) max_batch_pairs: usize,
    /// How long the compute thread looks for calls before it sleeps.
    pub(crate) busy_poll: BusyPoll,
    pub(crate) meters: Meters,
}

impl Worker {
    /// Starts the thread with room for `max_queued` calls.
    pub(crate) fn start(self, max_queued: usize) -> Result<(ComputeQueue, JoinHandle<()>), Error> {
        let (jobs, received) = sync_channel(max_queued);
        let (worker, turn) = (Arc::new(self), Arc::<Turn>::default());
        let queue = ComputeQueue { jobs, worker: Arc::clone(&worker), turn: Arc::clone(&turn) };
        let thread = std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || worker.run(&received, &turn))
            .map_err(|source| Error::System { what: "starting the compute thread", source })?;
        Ok((queue, thread))
    }

    fn run(&self, jobs: &Receiver<Job>, turn: &Turn) {
        self.device.pin_caller();
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let Some(job) = self.busy_poll.receive(jobs) else { return };
                waiting.push_back(job);
            }
            waiting.extend(jobs.try_iter());
            let batch = take_batch(&mut waiting, self.max_batch_pairs);
            let calls = batch.len();
            let device = turn.take();
            self.serve(batch);
            drop(device);
            turn.queued.fetch_sub(calls, Ordering::AcqRel);
        }
    }

    fn serve(&self, batch: Vec<Job>) {
        let held = self.shard.held();
        let ready = batch.into_iter().filter_map(|job| accept(job, &held)).collect::<Vec<_>>();
        let Some(layer) = ready.first().map(Job::layer) else { return };
        let started = Instant::now();
        match self.compute(layer, &ready, &held) {
            Ok(outputs) => self.answer(layer, ready, (outputs, started)),
            Err(error) => {
                let trace_id = trace_ids(ready.iter().filter_map(|job| job.call.trace));
                tracing::error!(%layer, %error, trace_id, "computing experts failed");
                for job in ready {
                    job.fail(FailureReason::Compute, error.to_string());
                }
            }
        }
    }

    /// The outputs of each job, in the order of its pairs and the type of the wire.
    fn compute(&self, layer: LayerIdx, jobs: &[Job], held: &Held) -> Result<Vec<Bytes>, Error> {
        let pass = plan_pass(jobs.iter().map(|job| (job.call.tokens, &job.call.pairs[..])));
        self.meters.read(layer, pass.groups.len());
        let hidden = self.shard.supply().config().hidden_size;
        // Below one another.
        let activations: Vec<&[u8]> = jobs.iter().map(|job| &job.call.activations[..]).collect();
        let x = self.device.rows_from_bytes(&activations, hidden, self.dtype)?;
        let experts = pass.groups.iter().filter_map(|(expert, rows)| {
            let weights = held.get(ExpertId { layer, expert: *expert })?;
            Some(ExpertRows { weights, rows })
        });
        let y = self.device.expert_ffn(&x, &experts.collect::<Vec<_>>())?;
        let values =
            |rows: &Vec<usize>| Ok(Bytes::from(self.device.rows_to_bytes(&y, rows, self.dtype)?));
        pass.output_rows.iter().map(values).collect()
    }

    fn answer(&self, layer: LayerIdx, jobs: Vec<Job>, (outputs, started): (Vec<Bytes>, Instant)) {
        let compute = started.elapsed();
        let pairs: usize = jobs.iter().map(Job::pairs).sum();
        self.meters.computed(layer, pairs, compute);
        for (job, values) in jobs.into_iter().zip(outputs) {
            let queue = started.duration_since(job.arrived);
            let batch_pairs = u32::try_from(pairs).unwrap_or(u32::MAX);
            let timings = NodeTimings { queue, compute, batch_pairs };
            self.meters.waited(layer, queue);
            if let Some(trace) = job.call.trace {
                tracing::debug!(trace_id = %trace, %layer, pairs, ?queue, ?compute, "experts computed");
                spans::record(&job.call, trace, job.arrived, timings);
            }
            job.reply.send(NodeEvent::Outputs(CallOutputs { id: job.call.id, values, timings }));
        }
    }
}

/// Passes on a job that can be computed, and answers one that cannot.
fn accept(job: Job, held: &Held) -> Option<Job> {
    if job.reply.is_abandoned() {
        return None;
    }
    if job.expired() {
        job.fail(FailureReason::Expired, "its time was over before it began".into());
        return None;
    }
    let id = |expert| ExpertId { layer: job.call.layer, expert };
    let absent = job.call.pairs.iter().map(|pair| id(pair.expert)).find(|&e| held.get(e).is_none());
    if let Some(absent) = absent {
        let message = format!("expert {absent} is not on this node");
        job.fail(FailureReason::NotResident, message);
        return None;
    }
    Some(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_in_use_or_waited_for_is_not_idle() {
        let turn = Turn::default();
        let first = turn.take_if_idle();
        assert!(first.is_some());
        assert!(turn.take_if_idle().is_none());
        drop(first);
        turn.queued.fetch_add(1, Ordering::AcqRel);
        assert!(turn.take_if_idle().is_none());
        turn.queued.fetch_sub(1, Ordering::AcqRel);
        assert!(turn.take_if_idle().is_some());
    }
}

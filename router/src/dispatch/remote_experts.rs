//! Experts on other processes, as the model calls them.

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use guildhall_ids::ExpertId;
use guildhall_kernels::{Device, Dtype, Tensor};
use guildhall_telemetry::Span;
use guildhall_transport::{BusyPoll, FrameShape, Handshake};
use tokio::runtime::Runtime;

use super::call_traces::LayerRows;
use super::caller::Caller;
use super::caretaker::Caretaker;
use super::dispatcher::Dispatcher;
use super::fan_out::FanOut;
use super::links::Links;
use crate::Error;
use crate::balancer::LoadCounter;
use crate::model::{ExpertTimes, Experts, ExpertsCall};
use crate::nodes::Topology;
use crate::traces::StepContext;

/// Time between two reports of how fast the nodes are.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Activations of so many bytes are not on their way at once, because sockets take less; somebody must see them off.
const SEEN_OFF_BYTES: usize = 64 << 10;

/// How patient a lane is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchOptions {
    /// A call without an answer for this long is sent elsewhere.
    pub(crate) call_timeout: Duration,
    /// A layer that is not complete after this long is given up, even if somebody still computes.
    pub(crate) layer_timeout: Duration,
    /// How long it looks for answers before it sleeps.
    pub(crate) busy_poll: BusyPoll,
}

/// Lives on its lane's thread, and drives the lane's runtime whenever the lane waits. While the lane computes something
/// beside calls that are large, its caretaker does.
pub(crate) struct RemoteExperts {
    runtime: Arc<Runtime>,
    device: Device,
    dtype: Dtype,
    busy_poll: BusyPoll,
    caretaker: Caretaker,
    /// Nothing while the caretaker has it.
    dispatcher: Option<Box<Dispatcher>>,
    /// Whether the calls in flight are worth the caretaker's trouble.
    are_large: bool,
    times: ExpertTimes,
    /// When to tell next how fast the nodes are.
    report_at: Instant,
}

impl RemoteExperts {
    pub(crate) fn new(
        (runtime, caretaker): (Arc<Runtime>, Caretaker),
        (device, dtype): (Device, Dtype),
        view: (Arc<ArcSwap<Topology>>, Arc<LoadCounter>),
        (handshake, router_id): (Handshake, String),
        options: DispatchOptions,
    ) -> Self {
        let hidden_size = handshake.hidden_size as usize;
        let shape = FrameShape { hidden_size, value_bytes: dtype.size_bytes() };
        let links = Links::new((handshake, router_id), shape, Arc::clone(view.1.links()));
        let caller = Caller::new(view, (device.clone(), links), options.call_timeout);
        Self {
            runtime,
            device,
            dtype,
            busy_poll: options.busy_poll,
            caretaker,
            dispatcher: Some(Box::new(Dispatcher::new(caller, options.layer_timeout))),
            are_large: false,
            times: ExpertTimes::default(),
            report_at: Instant::now(),
        }
    }

    fn dispatcher(&mut self) -> &mut Dispatcher {
        self.dispatcher.get_or_insert_with(|| self.caretaker.take_back())
    }

    /// Leaves the calls in flight to the caretaker, if there are large ones.
    fn leave(&mut self) {
        let busy = self.dispatcher.take_if(|dispatcher| self.are_large && dispatcher.is_busy());
        if let Some(dispatcher) = busy {
            self.caretaker.lend(dispatcher, &self.runtime);
        }
    }

    /// Tells the balancer how fast the nodes are, now and then.
    fn report_slowness(&mut self) {
        let now = Instant::now();
        if now >= self.report_at {
            self.report_at = now + REPORT_EVERY;
            let caller = &self.dispatcher().caller;
            caller.load.note_slowness(caller.links.slowness());
        }
    }
}

impl Experts for RemoteExperts {
    fn start(&mut self, call: ExpertsCall) -> Result<(), Error> {
        let ExpertsCall { layer, x, first_row, routes, overlaps } = call;
        self.are_large = x.rows() * x.cols() * self.dtype.size_bytes() >= SEEN_OFF_BYTES;
        self.report_slowness();
        let (of, sent) = (LayerRows { layer, first_row }, (x, self.dtype));
        let runtime = Arc::clone(&self.runtime);
        let dispatcher = self.dispatcher();
        dispatcher.caller.load.count(layer, &routes.experts);
        dispatcher.caller.traces.begin_layer(of);
        let fan_out = FanOut::new((of, routes), sent, Instant::now());
        runtime.block_on(dispatcher.send(fan_out))?;
        if overlaps {
            self.leave();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Tensor, Error> {
        let (runtime, busy_poll) = (Arc::clone(&self.runtime), self.busy_poll);
        let began = Instant::now();
        let dispatcher = self.dispatcher();
        let fan_out = runtime.block_on(busy_poll.wait(dispatcher.first_complete()))?;
        let is_traced = dispatcher.caller.traces.is_noting();
        self.times.waited += began.elapsed();
        self.times.busy += fan_out.busy;
        self.leave();
        let began = Instant::now();
        let sum = fan_out.combined(&self.device);
        if is_traced {
            self.dispatcher().caller.traces.end_layer(began..Instant::now());
            self.leave();
        }
        Ok(sum)
    }

    fn times(&mut self) -> Option<ExpertTimes> {
        Some(std::mem::take(&mut self.times))
    }

    fn begin_step(&mut self, step: Option<StepContext>) {
        self.times = ExpertTimes::default();
        let dispatcher = self.dispatcher();
        dispatcher.clear();
        let caller = &mut dispatcher.caller;
        caller.traces.begin_step(step);
        caller.links.serve(caller.traces.trace());
    }

    fn end_step(&mut self) -> Vec<Span> {
        let caller = &mut self.dispatcher().caller;
        caller.links.serve(None);
        caller.traces.end_step()
    }

    fn can_ask_for(&mut self, expert: ExpertId) -> bool {
        let caller = &mut self.dispatcher().caller;
        let (links, topology) = (&mut caller.links, caller.topology.load());
        links.open_last_resort(expert, &topology);
        let mut slots = topology.table.replicas(expert).iter();
        slots.any(|&slot| links.is_open(&topology.table.nodes[slot]))
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        self.dispatcher().poll_idle(cx);
    }
}

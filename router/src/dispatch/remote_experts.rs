//! The lane's side of the fan-out: sends, waits, and asks again elsewhere.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use guildhall_ids::{ExpertId, ExpertIdx, NodeId};
use guildhall_kernels::{Device, Dtype, Tensor};
use guildhall_telemetry::{Span, trace_ids};
use guildhall_transport::{
    BusyPoll, Call, FailureReason, FrameShape, Handshake, NodeEvent, max_pairs,
};
use tokio::runtime::Runtime;

use super::call_traces::CallTraces;
use super::fan_out::{FanOut, NotFinite, Outstanding};
use super::health::HedgeBudget;
use super::links::{LinkEvent, Links};
use super::meters::{CallWork, Meters};
use super::plan::{NodeCall, plan};
use crate::balancer::LoadCounter;
use crate::model::{Experts, ExpertsCall};
use crate::nodes::Topology;
use crate::traces::StepContext;
use crate::{Error, Lacking};

/// How long to wait before looking for a replica again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// When for so long no node that does well could take what is unsent, and nobody computes anything, the step is given
/// up, so that sequences that can do without it go on. A link that broke is open again by then if its node is there.
const GIVE_UP: Duration = Duration::from_millis(250);
/// How often to look whether a node is silent for good while its calls are with others too.
const HEDGED_LOOK: Duration = Duration::from_millis(100);
/// Time between two reports of how fast the nodes are.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Turns of the runtime after queueing frames, so that they are on their way before anything else is computed.
const FLUSH_TURNS: usize = 4;

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

/// Experts on other processes. Lives on its lane's thread and drives the lane's runtime itself.
pub(crate) struct RemoteExperts {
    runtime: Rc<Runtime>,
    lane: Lane,
    current: Option<FanOut>,
}

struct Lane {
    device: Device,
    dtype: Dtype,
    topology: Arc<ArcSwap<Topology>>,
    load: Arc<LoadCounter>,
    links: Links,
    options: DispatchOptions,
    hedges: HedgeBudget,
    next_call: u64,
    traces: CallTraces,
    last_failure: String,
    /// When to tell next how fast the nodes are.
    report_at: Instant,
    /// Since when the nodes that do well lack something that the current layer needs.
    lacking_since: Option<Instant>,
    meters: Meters,
}

impl RemoteExperts {
    pub(crate) fn new(
        runtime: Rc<Runtime>,
        (device, dtype): (Device, Dtype),
        (topology, load): (Arc<ArcSwap<Topology>>, Arc<LoadCounter>),
        (handshake, router_id): (Handshake, String),
        options: DispatchOptions,
    ) -> Self {
        let hidden_size = handshake.hidden_size as usize;
        let shape = FrameShape { hidden_size, value_bytes: dtype.size_bytes() };
        let links = Links::new((handshake, router_id), shape, Arc::clone(load.links()));
        let lane = Lane {
            device,
            dtype,
            topology,
            load,
            links,
            options,
            hedges: HedgeBudget::new(Instant::now()),
            next_call: 0,
            traces: CallTraces::default(),
            last_failure: String::new(),
            report_at: Instant::now(),
            lacking_since: None,
            meters: Meters::default(),
        };
        Self { runtime, lane, current: None }
    }
}

impl Experts for RemoteExperts {
    fn start(&mut self, call: ExpertsCall<'_>) -> Result<(), Error> {
        let activations = Bytes::from(match self.lane.dtype {
            Dtype::Bf16 => self.lane.device.host_bf16(call.x),
            Dtype::F32 => {
                self.lane.device.host(call.x).iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        });
        self.lane.load.count(call.layer, &call.routes.experts);
        self.lane.report_slowness();
        let shape = (call.x.cols(), self.lane.dtype);
        let mut fan_out = FanOut::new(call.layer, call.routes, activations, shape);
        let lane = &mut self.lane;
        lane.lacking_since = None;
        lane.traces.begin_layer(fan_out.layer);
        self.runtime.block_on(async {
            lane.send(&mut fan_out);
            for _ in 0..FLUSH_TURNS {
                tokio::task::yield_now().await;
            }
        });
        self.current = Some(fan_out);
        Ok(())
    }

    fn finish(&mut self) -> Result<Tensor, Error> {
        let not_started = || Error::Engine("no experts were started".into());
        let mut fan_out = self.current.take().ok_or_else(not_started)?;
        let busy_poll = self.lane.options.busy_poll;
        self.runtime.block_on(busy_poll.wait(self.lane.collect(&mut fan_out)))?;
        let began = Instant::now();
        let sum = fan_out.combined(&self.lane.device);
        self.lane.traces.end_layer(began..Instant::now());
        Ok(sum)
    }

    fn begin_step(&mut self, step: Option<StepContext>) {
        self.lane.traces.begin_step(step);
        self.lane.links.serve(self.lane.traces.trace());
    }

    fn end_step(&mut self) -> Vec<Span> {
        self.lane.links.serve(None);
        self.lane.traces.end_step()
    }

    fn can_ask_for(&mut self, expert: ExpertId) -> bool {
        let (links, topology) = (&mut self.lane.links, self.lane.topology.load());
        links.open_last_resort(expert, &topology);
        let mut slots = topology.table.replicas(expert).iter();
        slots.any(|&slot| links.is_open(&topology.table.nodes[slot]))
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let lane = &mut self.lane;
        lane.links.open_missing(&lane.topology.load());
        while let Poll::Ready((node, event)) = lane.links.poll_event(cx) {
            if let Err(error) = event {
                lane.note_failure(&node, &error);
            }
        }
        lane.links.close_draining();
    }
}

impl Lane {
    /// Tells the balancer how fast the nodes are, now and then.
    fn report_slowness(&mut self) {
        let now = Instant::now();
        if now >= self.report_at {
            self.report_at = now + REPORT_EVERY;
            self.load.note_slowness(self.links.slowness());
        }
    }

    /// Sends what nobody is computing to the nodes that can; what none can stays unsent.
    fn send(&mut self, fan_out: &mut FanOut) {
        let topology = self.topology.load_full();
        self.links.open_missing(&topology);
        let (pairs, first_call) = (std::mem::take(&mut fan_out.unsent), self.next_call);
        // A node that rests is better than none, and if there is no other, so is one in quarantine.
        let left = self.ask(fan_out, &topology, &pairs, Links::is_well);
        let since = self.lacking_since.unwrap_or_else(Instant::now);
        self.lacking_since = (!left.is_empty()).then_some(since);
        let left = self.ask(fan_out, &topology, &left, Links::is_trusted);
        let left = self.ask(fan_out, &topology, &left, Links::is_open);
        self.hedges.earn(self.next_call - first_call);
        for id in fan_out.experts_of(&left) {
            self.links.open_last_resort(id, &topology);
            if topology.table.replicas(id).is_empty() {
                self.last_failure = format!("no live node holds expert {id}");
            }
        }
        fan_out.give_back(left);
    }

    /// Sends pairs to usable nodes. Returns those that none of these holds, or that could not be sent.
    fn ask(
        &mut self,
        fan_out: &mut FanOut,
        topology: &Topology,
        pairs: &[usize],
        usable: impl Fn(&Links, &NodeId) -> bool,
    ) -> Vec<usize> {
        if pairs.is_empty() {
            return Vec::new();
        }
        let nodes = &topology.table.nodes;
        let usable = |slot: usize| usable(&self.links, &nodes[slot]);
        let limit = max_pairs(self.links.shape());
        let plan = plan(&fan_out.wanted(pairs), &topology.table, usable, limit);
        let mut left = plan.unplaced;
        for NodeCall { slot, tokens, pairs, pair_indices } in plan.calls {
            let node = nodes[slot].clone();
            let id = self.next_call;
            self.next_call += 1;
            let call = Call {
                id,
                layer: fan_out.layer,
                epoch: topology.table.epoch,
                budget: Some(self.options.call_timeout),
                trace: self.traces.send(id, &node, tokens.len(), pairs.len()),
                tokens: tokens.len() as u32,
                activations: fan_out.activations(&tokens),
                pairs,
            };
            let work = CallWork::of(&call);
            match self.links.send(&node, call) {
                Ok(()) => {
                    self.meters.of(&node).sent(fan_out.layer, &work);
                    self.load.count_asked(fan_out.layer, &node, pair_indices.len());
                    fan_out.sent(id, node, pair_indices, Instant::now());
                }
                Err(error) => {
                    self.note_failure(&node, &error);
                    self.lost(fan_out, &node);
                    left.extend(pair_indices);
                }
            }
        }
        left
    }

    /// Waits until every pair has its output; asks others when a node is late or cannot answer. Gives up when no node
    /// can be expected to answer.
    async fn collect(&mut self, fan_out: &mut FanOut) -> Result<(), Error> {
        let started = Instant::now();
        let deadline = started + self.options.layer_timeout;
        while !fan_out.is_complete() {
            let now = Instant::now();
            let lacks = self.lacking_since.is_some_and(|since| now >= since + GIVE_UP);
            if now >= deadline || lacks && fan_out.is_quiet() {
                return Err(Error::ExpertsUnavailable(self.lacking(fan_out, started)));
            }
            if !fan_out.unsent.is_empty() {
                self.send(fan_out);
            }
            let until = deadline.min(self.next_look(fan_out, now));
            let event = poll_fn(|cx| self.links.poll_event(cx));
            match tokio::time::timeout_at(until.into(), event).await {
                Ok((node, event)) => self.handle(fan_out, &node, event)?,
                Err(_) => {
                    self.give_up_on_silent(fan_out);
                    self.hedge_late(fan_out);
                }
            }
        }
        if self.topology.load().complete {
            self.links.close_draining();
        }
        Ok(())
    }

    /// When a call is late or given up, or it is time to look for a replica again.
    fn next_look(&self, fan_out: &FanOut, now: Instant) -> Instant {
        let soon = now + RETRY_PAUSE;
        let late = fan_out.unhedged().map(|(_, call)| {
            let late = self.late_at(call);
            // What is late already waits for the budget.
            if late > now { late } else { soon }
        });
        let retry = (!fan_out.unsent.is_empty()).then_some(soon);
        // All that was hedged is looked at from time to time.
        late.chain(retry).min().unwrap_or(now + HEDGED_LOOK)
    }

    /// When the answer to a call is late.
    fn late_at(&self, call: &Outstanding) -> Instant {
        call.sent + self.links.patience(call.pair_indices.len(), self.options.call_timeout)
    }

    /// Sends what a late node was asked for to others too, as far as there are any and the budget allows.
    fn hedge_late(&mut self, fan_out: &mut FanOut) {
        let now = Instant::now();
        let late = fan_out.unhedged().filter(|(_, call)| now >= self.late_at(call));
        let late: Vec<u64> = late.map(|(id, _)| id).collect();
        let topology = self.topology.load_full();
        for id in late {
            if !self.hedges.spend(now) {
                return;
            }
            let Some((node, pairs)) = fan_out.hedge(id) else { continue };
            let well = |links: &Links, other: &NodeId| *other != node && links.is_well(other);
            let asked = pairs.len() - self.ask(fan_out, &topology, &pairs, well).len();
            if asked > 0 {
                self.links.is_late(&node, id);
                self.meters.of(&node).hedges.increment(1);
                let (layer, trace_id) = (fan_out.layer, trace_ids(self.traces.trace()));
                tracing::debug!(%node, %layer, pairs = asked, trace_id, "late; others are asked too");
            }
        }
    }

    fn handle(
        &mut self,
        fan_out: &mut FanOut,
        node: &NodeId,
        event: Result<LinkEvent, guildhall_transport::Error>,
    ) -> Result<(), Error> {
        let event = match event {
            Ok(LinkEvent::Opened) => return Ok(()),
            Ok(LinkEvent::Said(event)) => Ok(event),
            Err(error) => Err(error),
        };
        match event {
            Ok(NodeEvent::Outputs(outputs)) => {
                if let Some(sent) = fan_out.sent_at(outputs.id) {
                    let times = (sent.elapsed(), outputs.timings);
                    let bytes = outputs.values.len();
                    self.meters.of(node).answered(fan_out.layer, bytes, times);
                    self.traces.answered(outputs.id, outputs.timings);
                }
                if let Err(what) = fan_out.store(outputs.id, &outputs.values) {
                    let from = fan_out.not_finite_from(what.expert);
                    return self.not_finite(node, what, &from);
                }
                self.lacking_since = None;
            }
            Ok(NodeEvent::Failure(failure)) => {
                let (layer, trace_id) = (fan_out.layer, trace_ids(self.traces.trace()));
                tracing::warn!(%node, %layer, %failure, trace_id, "expert call failed");
                self.last_failure = format!("{node}: {failure}");
                self.meters.of(node).failures.increment(1);
                self.traces.failed(failure.id, &self.last_failure);
                fan_out.failed(failure.id);
                match failure.reason {
                    FailureReason::Malformed => return Err(Error::Engine(failure.to_string())),
                    // Its time was over because this router was slow to send or the node to begin.
                    FailureReason::Expired => {}
                    FailureReason::NotResident
                    | FailureReason::Compute
                    | FailureReason::Overloaded
                    | FailureReason::Corrupt => self.links.rest(node),
                }
            }
            Ok(NodeEvent::Draining) => tracing::info!(%node, "expert node is draining"),
            Err(error) => {
                self.note_failure(node, &error);
                self.lost(fan_out, node);
            }
        }
        Ok(())
    }

    /// Takes back what a node will not answer.
    fn lost(&mut self, fan_out: &mut FanOut, node: &NodeId) {
        self.traces.lost(node, &self.last_failure);
        fan_out.lost(node);
    }

    /// Lets a replica be asked, unless all have given the same: then it is the input or the model, and no node's fault.
    fn not_finite(
        &mut self,
        node: &NodeId,
        NotFinite { expert, rows }: NotFinite,
        from: &BTreeSet<NodeId>,
    ) -> Result<(), Error> {
        let topology = self.topology.load();
        let slots = topology.table.replicas(expert);
        if slots.iter().all(|&slot| from.contains(&topology.table.nodes[slot])) {
            from.iter().for_each(|node| self.links.pardon(node));
            return Err(Error::NonFinite { node: node.clone(), expert, rows });
        }
        self.last_failure = format!("{node} returned a value that is not finite for {expert}");
        self.links.quarantine(node, &self.last_failure);
        Ok(())
    }

    /// Closes the links to nodes that have owed an answer for too long.
    fn give_up_on_silent(&mut self, fan_out: &mut FanOut) {
        let Some(moment) = Instant::now().checked_sub(self.options.call_timeout) else { return };
        for node in self.links.silent_since(moment) {
            let (layer, trace_id) = (fan_out.layer, trace_ids(self.traces.trace()));
            tracing::warn!(%node, %layer, trace_id, "expert node does not answer");
            self.last_failure = format!("{node} did not answer in {:?}", self.options.call_timeout);
            self.meters.of(&node).failures.increment(1);
            self.links.fail(&node);
            self.lost(fan_out, &node);
        }
    }

    fn note_failure(&mut self, node: &NodeId, error: &guildhall_transport::Error) {
        let text = format!("{node}: {error}");
        // A quarantine was logged where it began.
        let is_logged = matches!(error, guildhall_transport::Error::Protocol { .. });
        if !is_logged && text != self.last_failure {
            let trace_id = trace_ids(self.traces.trace());
            tracing::warn!(%node, %error, trace_id, "expert node cannot be used");
        }
        self.last_failure = text;
    }

    fn lacking(&self, fan_out: &FanOut, started: Instant) -> Lacking {
        let (experts, rows) = fan_out.lacking();
        let mut experts = experts.into_iter();
        let any = ExpertId { layer: fan_out.layer, expert: ExpertIdx(0) };
        Lacking {
            // There is one, because the layer is not complete.
            first: experts.next().unwrap_or(any),
            others: experts.collect(),
            rows,
            waited: started.elapsed(),
            why: self.last_failure.clone(),
        }
    }
}

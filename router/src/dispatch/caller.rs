//! Asks nodes for what a layer needs, elsewhere if one does not answer, and a second one if it is late.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use guildhall_ids::{ExpertId, ExpertIdx, NodeId};
use guildhall_kernels::Device;
use guildhall_telemetry::trace_ids;
use guildhall_transport::{Call, CallFailure, CallOutputs, FailureReason, max_pairs};

use super::call_traces::CallTraces;
use super::fan_out::{FanOut, NotFinite, Outstanding};
use super::health::HedgeBudget;
use super::links::Links;
use super::meters::{CallWork, Meters};
use super::plan::{NodeCall, plan};
use crate::balancer::LoadCounter;
use crate::nodes::Topology;
use crate::{Error, Lacking};

/// How long to wait before looking for a replica again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often to look whether a node is silent for good while its calls are with others too.
const HEDGED_LOOK: Duration = Duration::from_millis(100);

/// A lane's calls: whom to ask for what, on which links, and what is known of how that goes.
pub(super) struct Caller {
    pub(super) topology: Arc<ArcSwap<Topology>>,
    pub(super) load: Arc<LoadCounter>,
    pub(super) links: Links,
    device: Device,
    /// A call without an answer for this long is sent elsewhere.
    pub(super) call_timeout: Duration,
    pub(super) traces: CallTraces,
    hedges: HedgeBudget,
    next_call: u64,
    last_failure: String,
    /// Nodes whose links broke as something was sent: what any layer has asked of them is lost.
    broken: Vec<NodeId>,
    meters: Meters,
}

impl Caller {
    pub(super) fn new(
        (topology, load): (Arc<ArcSwap<Topology>>, Arc<LoadCounter>),
        (device, links): (Device, Links),
        call_timeout: Duration,
    ) -> Self {
        Self {
            topology,
            load,
            links,
            device,
            call_timeout,
            traces: CallTraces::default(),
            hedges: HedgeBudget::new(Instant::now()),
            next_call: 0,
            last_failure: String::new(),
            broken: Vec::new(),
            meters: Meters::default(),
        }
    }

    /// Sends what nobody is computing to the nodes that can; what none can stays unsent.
    pub(super) fn send(&mut self, fan_out: &mut FanOut) -> Result<(), Error> {
        let topology = self.topology.load_full();
        self.links.open_missing(&topology);
        let (pairs, first_call) = (std::mem::take(&mut fan_out.unsent), self.next_call);
        // A node that rests is better than none, and if there is no other, so is one in quarantine.
        let left = self.ask(fan_out, &topology, &pairs, Links::is_well)?;
        let since = fan_out.lacking_since.unwrap_or_else(Instant::now);
        fan_out.lacking_since = (!left.is_empty()).then_some(since);
        let left = self.ask(fan_out, &topology, &left, Links::is_trusted)?;
        let left = self.ask(fan_out, &topology, &left, Links::is_open)?;
        self.hedges.earn(self.next_call - first_call);
        for id in fan_out.experts_of(&left) {
            self.links.open_last_resort(id, &topology);
            if topology.table.replicas(id).is_empty() {
                self.last_failure = format!("no live node holds expert {id}");
            }
        }
        fan_out.give_back(left);
        Ok(())
    }

    /// Sends pairs to usable nodes. Returns those that none of these holds, or that could not be sent.
    fn ask(
        &mut self,
        fan_out: &mut FanOut,
        topology: &Topology,
        pairs: &[usize],
        usable: impl Fn(&Links, &NodeId) -> bool,
    ) -> Result<Vec<usize>, Error> {
        if pairs.is_empty() {
            return Ok(Vec::new());
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
                layer: fan_out.layer(),
                epoch: topology.table.epoch,
                budget: Some(self.call_timeout),
                trace: self.traces.send(id, (fan_out.of, &node), tokens.len(), pairs.len()),
                tokens: tokens.len() as u32,
                activations: fan_out.activations(&self.device, &tokens)?,
                pairs,
            };
            let work = CallWork::of(&call);
            match self.links.send(&node, call) {
                Ok(()) => {
                    self.meters.of(&node).sent(fan_out.layer(), &work);
                    self.load.count_asked(fan_out.layer(), &node, pair_indices.len());
                    fan_out.sent(id, node, pair_indices, Instant::now());
                }
                Err(error) => {
                    self.note_failure(&node, &error);
                    self.broken.push(node);
                    left.extend(pair_indices);
                }
            }
        }
        Ok(left)
    }

    /// When a call is late or given up, or it is time to look for a replica again.
    pub(super) fn next_look(&self, fan_out: &FanOut, now: Instant) -> Instant {
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
        call.sent + self.links.patience(call.pair_indices.len(), self.call_timeout)
    }

    /// Sends what a late node was asked for to others too, as far as there are any and the budget allows.
    pub(super) fn hedge_late(&mut self, fan_out: &mut FanOut) -> Result<(), Error> {
        let now = Instant::now();
        let late = fan_out.unhedged().filter(|(_, call)| now >= self.late_at(call));
        let late: Vec<u64> = late.map(|(id, _)| id).collect();
        let topology = self.topology.load_full();
        for id in late {
            if !self.hedges.spend(now) {
                return Ok(());
            }
            let Some((node, pairs)) = fan_out.hedge(id) else { continue };
            let well = |links: &Links, other: &NodeId| *other != node && links.is_well(other);
            let asked = pairs.len() - self.ask(fan_out, &topology, &pairs, well)?.len();
            if asked > 0 {
                self.links.is_late(&node, id);
                self.meters.of(&node).hedges.increment(1);
                let (layer, trace_id) = (fan_out.layer(), trace_ids(self.traces.trace()));
                tracing::debug!(%node, %layer, pairs = asked, trace_id, "late; others are asked too");
            }
        }
        Ok(())
    }

    /// A call was computed. An error if no node gives finite values.
    pub(super) fn answered(
        &mut self,
        fan_out: &mut FanOut,
        node: &NodeId,
        outputs: &CallOutputs,
    ) -> Result<(), Error> {
        if let Some(sent) = fan_out.sent_at(outputs.id) {
            let (bytes, timings) = (outputs.values.len(), outputs.timings);
            self.meters.of(node).answered(fan_out.layer(), bytes, (sent.elapsed(), timings));
            self.traces.answered(outputs.id, timings);
            fan_out.busy = fan_out.busy.max(timings.queue + timings.compute);
        }
        if let Err(what) = fan_out.store(outputs.id, &outputs.values) {
            let from = fan_out.not_finite_from(what.expert);
            return self.not_finite(node, what, &from);
        }
        fan_out.lacking_since = None;
        Ok(())
    }

    /// A call was not computed. An error if nobody would compute it.
    pub(super) fn refused(
        &mut self,
        fan_out: Option<&mut FanOut>,
        node: &NodeId,
        failure: &CallFailure,
    ) -> Result<(), Error> {
        let layer = fan_out.as_ref().map(|fan_out| fan_out.layer().0);
        let trace_id = trace_ids(self.traces.trace());
        tracing::warn!(%node, layer, %failure, trace_id, "expert call failed");
        self.last_failure = format!("{node}: {failure}");
        self.meters.of(node).failures.increment(1);
        self.traces.failed(failure.id, &self.last_failure);
        if let Some(fan_out) = fan_out {
            fan_out.failed(failure.id);
        }
        match failure.reason {
            FailureReason::Malformed => return Err(Error::Engine(failure.to_string())),
            // Its time was over because this router was slow to send or the node to begin.
            FailureReason::Expired => {}
            FailureReason::NotResident
            | FailureReason::Compute
            | FailureReason::Overloaded
            | FailureReason::Corrupt => self.links.rest(node),
        }
        Ok(())
    }

    /// Takes back what a node will not answer.
    pub(super) fn lost(&mut self, in_flight: &mut VecDeque<FanOut>, node: &NodeId) {
        self.traces.lost(node, &self.last_failure);
        in_flight.iter_mut().for_each(|fan_out| fan_out.lost(node));
    }

    /// Takes back what was asked of nodes whose links broke as something was sent.
    pub(super) fn settle_broken(&mut self, in_flight: &mut VecDeque<FanOut>) {
        for node in std::mem::take(&mut self.broken) {
            self.lost(in_flight, &node);
        }
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

    /// Closes the links to nodes that have owed an answer for too long, and names them.
    pub(super) fn give_up_on_silent(&mut self) -> Vec<NodeId> {
        let silent = match Instant::now().checked_sub(self.call_timeout) {
            Some(moment) => self.links.silent_since(moment),
            None => Vec::new(),
        };
        for node in &silent {
            let trace_id = trace_ids(self.traces.trace());
            tracing::warn!(%node, trace_id, "expert node does not answer");
            self.last_failure = format!("{node} did not answer in {:?}", self.call_timeout);
            self.meters.of(node).failures.increment(1);
            self.links.fail(node);
        }
        silent
    }

    pub(super) fn note_failure(&mut self, node: &NodeId, error: &guildhall_transport::Error) {
        let text = format!("{node}: {error}");
        // A quarantine was logged where it began.
        let is_logged = matches!(error, guildhall_transport::Error::Protocol { .. });
        if !is_logged && text != self.last_failure {
            let trace_id = trace_ids(self.traces.trace());
            tracing::warn!(%node, %error, trace_id, "expert node cannot be used");
        }
        self.last_failure = text;
    }

    /// Why a layer cannot be completed.
    pub(super) fn lacking(&self, fan_out: &FanOut) -> Lacking {
        let (experts, rows) = fan_out.lacking();
        let mut experts = experts.into_iter();
        let any = ExpertId { layer: fan_out.layer(), expert: ExpertIdx(0) };
        Lacking {
            // There is one, because the layer is not complete.
            first: experts.next().unwrap_or(any),
            others: experts.collect(),
            rows,
            waited: fan_out.began.elapsed(),
            why: self.last_failure.clone(),
        }
    }
}

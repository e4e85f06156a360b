//! The layers whose experts are being computed elsewhere: a loop that sends, waits, and sees to what happens.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use guildhall_ids::NodeId;
use guildhall_transport::NodeEvent;

use super::caller::Caller;
use super::fan_out::FanOut;
use super::links::LinkEvent;
use crate::Error;

/// When for so long no node that does well could take what is unsent, and nobody computes anything, the step is given
/// up, so that sequences that can do without it go on. A link that broke is open again by then if its node is there.
const GIVE_UP: Duration = Duration::from_millis(250);
/// Turns of the runtime after queueing frames, so that they are on their way before anything else is computed.
const FLUSH_TURNS: usize = 4;

/// Whoever drives it decides which thread that is; all it waits for lives on the lane's runtime.
pub(super) struct Dispatcher {
    pub(super) caller: Caller,
    /// The earliest first.
    in_flight: VecDeque<FanOut>,
    /// A layer that is not complete after this long is given up, even if somebody still computes.
    layer_timeout: Duration,
    /// What went wrong while nobody waited.
    failure: Option<Error>,
}

impl Dispatcher {
    pub(super) fn new(caller: Caller, layer_timeout: Duration) -> Self {
        Self { caller, in_flight: VecDeque::new(), layer_timeout, failure: None }
    }

    /// Forgets what an earlier step has left.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.failure = None;
    }

    /// Whether there are layers whose outputs nobody has taken.
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Sends the calls of a layer and sees them off.
    pub(super) async fn send(&mut self, mut fan_out: FanOut) -> Result<(), Error> {
        self.caller.send(&mut fan_out)?;
        self.in_flight.push_back(fan_out);
        self.caller.settle_broken(&mut self.in_flight);
        for _ in 0..FLUSH_TURNS {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits until the earliest layer is complete, and takes it out. Asks others when a node is late or cannot answer;
    /// gives up when no node can be expected to answer.
    pub(super) async fn first_complete(&mut self) -> Result<FanOut, Error> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        loop {
            let is_complete = self.in_flight.front().is_none_or(FanOut::is_complete);
            if is_complete {
                let none = || Error::Engine("no experts were started".into());
                let first = self.in_flight.pop_front().ok_or_else(none)?;
                if self.caller.topology.load().complete {
                    self.caller.links.close_draining();
                }
                return Ok(first);
            }
            self.tend().await?;
        }
    }

    /// Does the same for all layers, and never ends.
    pub(super) async fn tend_all(&mut self) {
        while self.failure.is_none() {
            self.failure = self.tend().await.err();
        }
        std::future::pending().await
    }

    /// Sends what is to be sent, waits until something happens or is due, and sees to that.
    async fn tend(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let mut until = now + self.layer_timeout;
        for fan_out in self.in_flight.iter_mut().filter(|fan_out| !fan_out.is_complete()) {
            let deadline = fan_out.began + self.layer_timeout;
            let lacks = fan_out.lacking_since.is_some_and(|since| now >= since + GIVE_UP);
            if now >= deadline || lacks && fan_out.is_quiet() {
                return Err(Error::ExpertsUnavailable(self.caller.lacking(fan_out)));
            }
            if !fan_out.unsent.is_empty() {
                self.caller.send(fan_out)?;
            }
            until = until.min(deadline).min(self.caller.next_look(fan_out, now));
        }
        self.caller.settle_broken(&mut self.in_flight);
        let event = poll_fn(|cx| self.caller.links.poll_event(cx));
        match tokio::time::timeout_at(until.into(), event).await {
            Ok((node, event)) => self.handle(&node, event),
            Err(_) => self.mind_late(),
        }
    }

    fn mind_late(&mut self) -> Result<(), Error> {
        for node in self.caller.give_up_on_silent() {
            self.caller.lost(&mut self.in_flight, &node);
        }
        self.in_flight.iter_mut().try_for_each(|fan_out| self.caller.hedge_late(fan_out))?;
        self.caller.settle_broken(&mut self.in_flight);
        Ok(())
    }

    fn handle(
        &mut self,
        node: &NodeId,
        event: Result<LinkEvent, guildhall_transport::Error>,
    ) -> Result<(), Error> {
        let event = match event {
            Ok(LinkEvent::Opened) => return Ok(()),
            Ok(LinkEvent::Said(event)) => event,
            Err(error) => {
                self.caller.note_failure(node, &error);
                self.caller.lost(&mut self.in_flight, node);
                return Ok(());
            }
        };
        let mut in_flight = self.in_flight.iter_mut();
        // None of them where the call was given up.
        let mut asked = |id| in_flight.find(|fan_out| fan_out.sent_at(id).is_some());
        match event {
            NodeEvent::Outputs(outputs) => match asked(outputs.id) {
                Some(fan_out) => self.caller.answered(fan_out, node, &outputs),
                None => Ok(()),
            },
            NodeEvent::Failure(failure) => self.caller.refused(asked(failure.id), node, &failure),
            NodeEvent::Draining => {
                tracing::info!(%node, "expert node is draining");
                Ok(())
            }
        }
    }

    /// Lets connections be served while no experts are wanted.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let links = &mut self.caller.links;
        links.open_missing(&self.caller.topology.load());
        while let Poll::Ready((node, event)) = self.caller.links.poll_event(cx) {
            if let Err(error) = event {
                self.caller.note_failure(&node, &error);
            }
        }
        self.caller.links.close_draining();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use bytes::Bytes;
    use guildhall_ids::{Epoch, ExpertId, LayerIdx};
    use guildhall_kernels::{CpuOptions, Device, Dtype, Routes};
    use guildhall_placement::{ExpertGrid, Placement, RoutingTable};
    use guildhall_transport::{
        Call, CallOutputs, Endpoint, ExpertLink, FrameShape, Handshake, NodeTimings,
    };

    use super::*;
    use crate::balancer::LoadCounter;
    use crate::dispatch::LayerRows;
    use crate::dispatch::links::Links;
    use crate::nodes::Topology;

    const HIDDEN: usize = 2;

    /// Takes so many calls, and answers them or not; then it is broken.
    struct Link {
        takes: usize,
        answers: bool,
        taken: VecDeque<Call>,
    }

    impl ExpertLink for Link {
        fn send(&mut self, call: Call) -> Result<(), guildhall_transport::Error> {
            if self.takes == 0 {
                let endpoint = Endpoint::Tcp("a".into());
                let what = "it is broken".into();
                return Err(guildhall_transport::Error::Unreachable {
                    endpoint,
                    what,
                    source: None,
                });
            }
            self.takes -= 1;
            self.taken.push_back(call);
            Ok(())
        }

        fn poll_event(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<Result<NodeEvent, guildhall_transport::Error>> {
            if !self.answers {
                return Poll::Pending;
            }
            let Some(call) = self.taken.pop_front() else { return Poll::Pending };
            let values = Bytes::from([0x80, 0x3f].repeat(HIDDEN * call.pairs.len()));
            let outputs = CallOutputs { id: call.id, values, timings: NodeTimings::default() };
            Poll::Ready(Ok(NodeEvent::Outputs(outputs)))
        }
    }

    /// Nodes n0, n1, … of which each holds the only expert.
    fn dispatcher(links: impl IntoIterator<Item = Link>) -> (Dispatcher, Device) {
        let handshake = Handshake {
            protocol_version: 0,
            model_fingerprint: Vec::new(),
            dtype: "bf16".into(),
            hidden_size: HIDDEN as u32,
            expert_weights: "bf16".into(),
        };
        let grid = ExpertGrid { layers: vec![LayerIdx(0)], n_experts: 1 };
        let load = Arc::new(LoadCounter::new(grid.clone()));
        let shape = FrameShape { hidden_size: HIDDEN, value_bytes: 2 };
        let mut all = Links::new((handshake, "router-1".into()), shape, Arc::clone(load.links()));
        let mut assignments = BTreeMap::new();
        for (index, link) in links.into_iter().enumerate() {
            let node: NodeId = format!("n{index}").parse().unwrap();
            all.insert(node.clone(), Box::new(link));
            assignments.insert(node, BTreeSet::from([ExpertId::new(0, 0)]));
        }
        let placement = Placement { epoch: Epoch(1), assignments };
        let table = RoutingTable::build(&grid, &placement, &placement.assignments);
        let mut topology = Topology::default();
        topology.table = table;
        let topology = Arc::new(ArcSwap::from_pointee(topology));
        let device = Device::cpu(CpuOptions::of_threads(1.try_into().unwrap())).unwrap();
        let long = Duration::from_secs(60);
        let caller = Caller::new((topology, load), (device.clone(), all), long);
        (Dispatcher::new(caller, long), device)
    }

    fn fan_out(device: &Device, first_row: usize) -> FanOut {
        let of = LayerRows { layer: LayerIdx(0), first_row };
        let routes = Routes { top_k: 1, experts: vec![0], weights: vec![1.0] };
        let x = Arc::new(device.upload(&[1.0; HIDDEN], HIDDEN).unwrap());
        FanOut::new((of, routes), (x, Dtype::Bf16), Instant::now())
    }

    #[tokio::test]
    async fn a_link_that_breaks_as_one_half_is_sent_loses_the_calls_of_the_other_half() {
        let silent = Link { takes: 1, answers: false, taken: VecDeque::new() };
        let good = Link { takes: 9, answers: true, taken: VecDeque::new() };
        let (mut dispatcher, device) = dispatcher([silent, good]);
        dispatcher.send(fan_out(&device, 0)).await.unwrap();
        dispatcher.send(fan_out(&device, 7)).await.unwrap();
        for first_row in [0, 7] {
            let first = dispatcher.first_complete();
            let first = tokio::time::timeout(Duration::from_secs(5), first).await.unwrap();
            assert_eq!(first.unwrap().of.first_row, first_row);
        }
        assert!(!dispatcher.is_busy());
    }
}

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

    /// Whether layers are not complete, or have not been asked for.
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Sends the calls of a layer and sees them off.
    pub(super) async fn send(&mut self, mut fan_out: FanOut) -> Result<(), Error> {
        self.caller.send(&mut fan_out)?;
        self.in_flight.push_back(fan_out);
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
        self.in_flight.iter_mut().try_for_each(|fan_out| self.caller.hedge_late(fan_out))
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

//! Sends requests as a schedule says, and says how each went.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::results::Record;
use crate::schedule::{Planned, Schedule};
use crate::target::{Failure, Heard, Target};

/// A client of a closed loop that was refused comes again, but not at once: what refuses quickly would see nothing but it.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What is to be sent, until when.
pub(super) struct Plan {
    pub(super) schedule: Schedule,
    /// Whether the clock says when each is sent.
    pub(super) open: bool,
    /// Requests of a closed loop that run at once; of an open one, at most.
    pub(super) at_once: usize,
    pub(super) until: Duration,
    pub(super) requests: u64,
}

/// Sends requests, and says how each went.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) target: Arc<dyn Target>,
    pub(super) began: Instant,
    pub(super) timeout: Duration,
    pub(super) records: mpsc::Sender<Record>,
    pub(super) meters: Arc<Meters>,
}

/// What passes while requests run, for who watches.
#[derive(Debug, Default)]
pub(super) struct Meters {
    /// Requests that are sent and have not ended.
    running: AtomicUsize,
    /// Tokens that came.
    tokens: Arc<AtomicU64>,
}

impl Meters {
    /// Running requests, and tokens so far.
    pub(super) fn now(&self) -> (usize, u64) {
        (self.running.load(Ordering::Relaxed), self.tokens.load(Ordering::Relaxed))
    }
}

impl Sender {
    /// Sends one request, and says whether it succeeded. `intended` is when it was to be sent; absent: now.
    pub(super) async fn ask(&self, planned: &Planned, intended: Option<Duration>) -> bool {
        let sent = self.began.elapsed();
        let mut heard = Heard::counted(self.began, Arc::clone(&self.meters.tokens));
        self.meters.running.fetch_add(1, Ordering::Relaxed);
        let asked = self.target.ask(planned, &mut heard);
        let result = tokio::time::timeout(self.timeout, asked).await;
        self.meters.running.fetch_sub(1, Ordering::Relaxed);
        let failure = match result {
            Ok(result) => result.err(),
            Err(_) => {
                let within = self.timeout.as_secs_f64();
                Some(Failure::new("timeout", format!("no whole answer within {within} s")))
            }
        };
        let succeeded = failure.is_none();
        let record = Record {
            number: planned.number,
            kind: planned.kind,
            intended: intended.unwrap_or(sent),
            sent,
            ended: self.began.elapsed(),
            heard,
            failure,
        };
        // It fails when nobody adds up any more, because a file could not be written.
        let _ = self.records.send(record).await;
        succeeded
    }
}

/// Sends everything; ends when every request has ended.
pub(super) async fn send(sender: Sender, plan: Plan, stop: CancellationToken) {
    match plan.open {
        true => send_open(sender, plan, stop).await,
        false => send_closed(sender, plan, stop).await,
    }
}

/// As many loops as requests shall run at once, which take from one schedule.
async fn send_closed(sender: Sender, plan: Plan, stop: CancellationToken) {
    let Plan { schedule, at_once, until, requests, .. } = plan;
    // Guards the schedule, from which loops take their next request.
    let schedule = Arc::new(Mutex::new(schedule));
    let mut loops = JoinSet::new();
    for _ in 0..at_once {
        let (sender, schedule, stop) = (sender.clone(), Arc::clone(&schedule), stop.clone());
        loops.spawn(async move {
            while !stop.is_cancelled() && !sender.records.is_closed() {
                if sender.began.elapsed() >= until {
                    return;
                }
                let next = schedule.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(planned) = next.filter(|planned| planned.number < requests) else {
                    return;
                };
                if !sender.ask(&planned, None).await {
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        });
    }
    loops.join_all().await;
}

/// Each request at its time, whatever became of the others.
async fn send_open(sender: Sender, plan: Plan, stop: CancellationToken) {
    let Plan { schedule, at_once, until, requests, .. } = plan;
    let places = Arc::new(Semaphore::new(at_once));
    let mut running = JoinSet::new();
    for planned in schedule {
        let at = planned.at.unwrap_or_default();
        if planned.number >= requests || at >= until || sender.records.is_closed() {
            break;
        }
        let due = tokio::time::Instant::from_std(sender.began + at);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = stop.cancelled() => break,
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let sender = sender.clone();
        running.spawn(async move {
            sender.ask(&planned, Some(at)).await;
            drop(place);
        });
        // What has ended is let go, so that the set does not grow.
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}

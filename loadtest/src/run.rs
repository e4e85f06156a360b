//! Sends what a schedule says, watches the experts meanwhile, and adds everything up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::LoadtestConfig;
use crate::experts::Sampler;
use crate::results::csv::Csv;
use crate::results::{Outcome, Record, Tally};
use crate::schedule::{Load, Planned, Schedule};
use crate::target::{Failure, Heard, Target};

/// Answers that wait to be added up; more hold back who has them.
const RECORDS: usize = 1024;
/// A client of a closed loop that was refused comes again, but not at once: what refuses quickly would see nothing but it.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Time between two looks at the progress.
const LOOK: Duration = Duration::from_secs(1);

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since its start.
    pub elapsed: Duration,
    /// Whether it still warms up.
    pub warming_up: bool,
    /// Whole answers so far.
    pub succeeded: u64,
    /// Failed requests so far.
    pub failed: u64,
    /// Tokens of the answers that have ended.
    pub tokens: u64,
}

/// Runs a load test, until its end or until it is stopped; what has been measured by then counts.
///
/// # Errors
/// Settings that contradict each other, a server or admin API that does not answer, a file that cannot be written.
pub async fn run(
    config: &LoadtestConfig,
    stop: CancellationToken,
    progress: impl FnMut(Progress),
) -> Result<Outcome, Error> {
    let load = config.load()?;
    let csv = config.csv.as_deref().map(Csv::create).transpose()?;
    let target = config.target.connect(config.server()).await?;
    let began = Instant::now();
    let sampling = CancellationToken::new();
    let sampler = match config.watch() {
        Some(watch) => {
            let sampler = Sampler::connect(watch, began).await?;
            Some(tokio::spawn(sampler.run(sampling.clone())))
        }
        None => None,
    };
    let (records, received) = mpsc::channel(RECORDS);
    let sender = Sender { target: target.into(), began, timeout: config.timeout, records };
    let sending = tokio::spawn(send(sender, Plan::of(config, load.clone()), stop.clone()));
    let added = Adding { config, load: &load, began, csv, progress, stop }.add(received).await;
    let sent = sending.await;
    sampling.cancel();
    let mut outcome = added?;
    if let Some(sampler) = sampler {
        outcome.experts = sampler.await.ok();
    }
    if sent.is_err() {
        outcome.warnings.push("the client failed; not all requests were sent".into());
    }
    outcome.settings = config.settings();
    Ok(outcome)
}

/// What is to be sent, until when.
struct Plan {
    schedule: Schedule,
    /// Whether the clock says when each is sent.
    open: bool,
    /// Requests of a closed loop that run at once; of an open one, at most.
    at_once: usize,
    until: Duration,
    requests: u64,
}

impl Plan {
    fn of(config: &LoadtestConfig, load: Load) -> Self {
        let open = load.is_open();
        let at_once = if open { config.max_in_flight } else { config.concurrency };
        Self {
            open,
            schedule: Schedule::new(load),
            at_once: at_once.get().min(Semaphore::MAX_PERMITS),
            until: config.window().to.unwrap_or(Duration::MAX),
            requests: config.requests.unwrap_or(u64::MAX),
        }
    }
}

/// Sends requests, and says how each went.
#[derive(Clone)]
struct Sender {
    target: Arc<dyn Target>,
    began: Instant,
    timeout: Duration,
    records: mpsc::Sender<Record>,
}

impl Sender {
    /// Sends one request, and says whether it succeeded. `intended` is when it was to be sent; absent: now.
    async fn ask(&self, planned: &Planned, intended: Option<Duration>) -> bool {
        let sent = self.began.elapsed();
        let mut heard = Heard::new(self.began);
        let asked = self.target.ask(planned, &mut heard);
        let result = tokio::time::timeout(self.timeout, asked).await;
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
async fn send(sender: Sender, plan: Plan, stop: CancellationToken) {
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

/// Adds up what comes, and says how far it is.
struct Adding<'a, P> {
    config: &'a LoadtestConfig,
    load: &'a Load,
    began: Instant,
    csv: Option<Csv>,
    progress: P,
    stop: CancellationToken,
}

impl<P: FnMut(Progress)> Adding<'_, P> {
    async fn add(mut self, mut received: mpsc::Receiver<Record>) -> Result<Outcome, Error> {
        let mut tally = Tally::new(self.config.window(), self.config.slo);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let record = tokio::select! {
                record = received.recv() => record,
                _ = looks.tick() => {
                    self.look(&tally);
                    continue;
                }
            };
            let Some(record) = record else { break };
            let kind = self.load.kind(record.kind);
            if let Some(csv) = &mut self.csv {
                csv.add(&record, &kind)?;
            }
            tally.add(&record, kind);
        }
        if let Some(csv) = self.csv {
            csv.finish()?;
        }
        Ok(tally.outcome(self.stop.is_cancelled()))
    }

    fn look(&mut self, tally: &Tally) {
        let (succeeded, failed, tokens) = tally.so_far();
        let elapsed = self.began.elapsed();
        let warming_up = elapsed < self.config.warmup;
        (self.progress)(Progress { elapsed, warming_up, succeeded, failed, tokens });
    }
}

#[cfg(test)]
mod tests;

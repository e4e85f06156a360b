//! Loads a server, watches the experts meanwhile, and adds everything up: once, or several times for a comparison.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chaos::{Done, Injector, Kept};
use crate::config::LoadtestConfig;
use crate::experts::{Experts, Sampler, Strip};
use crate::live::Progress;
use crate::results::csv::Csv;
use crate::results::{Outcome, Recent, Record, Tally, Window};
use crate::schedule::{Load, Schedule};
use crate::target::Target;
use crate::{Error, chaos, sweep};
use sending::{Meters, Plan, Sender, send};

mod sending;

/// Answers that wait to be added up; more hold back who has them.
const RECORDS: usize = 1024;
/// Time between two looks at the progress.
const LOOK: Duration = Duration::from_secs(1);

/// Runs a load test, until its end or until it is stopped; what has been measured by then counts.
///
/// # Errors
/// Settings that contradict each other, a server or admin API that does not answer, a file that cannot be written.
pub async fn run(
    config: &LoadtestConfig,
    stop: CancellationToken,
    mut progress: impl FnMut(Progress),
) -> Result<Outcome, Error> {
    let load = config.load()?;
    let csv = config.csv.as_deref().map(Csv::create).transpose()?;
    let faults = match config.faults()? {
        Some((plan, control)) => Some((plan.clone(), Injector::connect(control, plan).await?)),
        None => None,
    };
    let target = config.target.connect(config.server()).await?.into();
    let mut session = Session { config, target, stop, progress: &mut progress };
    let mut outcome = match (config.sweep, faults) {
        (Some(sweep), _) => sweep::run(sweep, &mut session).await?,
        (None, Some(faults)) => chaos::run(faults, csv, &mut session).await?,
        (None, None) => session.measure(Leg { csv, ..Leg::new("", load) }).await?.outcome,
    };
    outcome.settings = config.settings();
    Ok(outcome)
}

/// A server that is loaded, once or several times.
pub(crate) struct Session<'a> {
    pub(crate) config: &'a LoadtestConfig,
    target: Arc<dyn Target>,
    pub(crate) stop: CancellationToken,
    progress: &'a mut dyn FnMut(Progress),
}

/// One run of a session.
pub(crate) struct Leg {
    /// What it is, where there are several.
    pub(crate) name: String,
    pub(crate) load: Load,
    /// Where a line for each request goes.
    pub(crate) csv: Option<Csv>,
    /// What is kept of each stream, if it is to be compared.
    pub(crate) kept: Option<Kept>,
    /// Who has faults done meanwhile.
    pub(crate) injector: Option<Injector>,
}

impl Leg {
    pub(crate) fn new(name: &str, load: Load) -> Self {
        Self { name: name.to_owned(), load, csv: None, kept: None, injector: None }
    }
}

/// What a leg has shown.
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) kept: Kept,
    /// What became of each fault.
    pub(crate) done: Vec<Done>,
}

impl Session<'_> {
    /// Loads the server until all that was sent has ended.
    pub(crate) async fn measure(&mut self, mut leg: Leg) -> Result<Measured, Error> {
        let began = Instant::now();
        let sampling = CancellationToken::new();
        let sampler = self.sampler(began, sampling.clone()).await?;
        let (sampler, strips) = sampler.unzip();
        let meters = Arc::new(Meters::default());
        let (records, received) = mpsc::channel(RECORDS);
        let sender = Sender {
            target: Arc::clone(&self.target),
            began,
            timeout: self.config.timeout,
            records,
            meters: Arc::clone(&meters),
        };
        let ended = CancellationToken::new();
        let injector = leg.injector.take();
        let injecting = injector.map(|of| tokio::spawn(of.run(began, ended.clone())));
        let sending = tokio::spawn(send(sender, self.plan(&leg), self.stop.clone()));
        let window = self.config.window();
        let tally = Tally::new(window, self.config.slo);
        let watched = Watched { meters, strips, recent: Recent::new() };
        let added = Adding { session: self, leg, window, began, watched, tally };
        let added = added.add(received).await;
        let sent = sending.await;
        sampling.cancel();
        ended.cancel();
        let done = match injecting {
            Some(injecting) => injecting.await.unwrap_or_default(),
            None => Vec::new(),
        };
        let (mut outcome, kept) = added?;
        if let Some(sampler) = sampler {
            outcome.experts = sampler.await.ok();
        }
        if sent.is_err() {
            outcome.warnings.push("the client failed; not all requests were sent".into());
        }
        Ok(Measured { outcome, kept, done })
    }

    /// Watches the experts, if there is an admin API to ask; also gives where the last interval is seen.
    async fn sampler(
        &self,
        began: Instant,
        stop: CancellationToken,
    ) -> Result<Option<(JoinHandle<Experts>, watch::Receiver<Option<Strip>>)>, Error> {
        let Some(watch) = self.config.watch() else { return Ok(None) };
        let sampler = Sampler::connect(watch, began).await?;
        let strips = sampler.strips();
        Ok(Some((tokio::spawn(sampler.run(stop)), strips)))
    }

    fn plan(&self, leg: &Leg) -> Plan {
        let open = leg.load.is_open();
        let at_once = if open { self.config.max_in_flight } else { self.config.concurrency };
        Plan {
            open,
            schedule: Schedule::new(leg.load.clone()),
            at_once: at_once.get().min(Semaphore::MAX_PERMITS),
            until: self.config.window().to.unwrap_or(Duration::MAX),
            requests: self.config.requests.unwrap_or(u64::MAX),
        }
    }
}

/// Adds up what comes, and says how far it is.
struct Adding<'a, 'b> {
    session: &'a mut Session<'b>,
    leg: Leg,
    window: Window,
    began: Instant,
    watched: Watched,
    tally: Tally,
}

/// What is there to see while it runs.
struct Watched {
    meters: Arc<Meters>,
    strips: Option<watch::Receiver<Option<Strip>>>,
    recent: Recent,
}

impl Adding<'_, '_> {
    async fn add(mut self, mut received: mpsc::Receiver<Record>) -> Result<(Outcome, Kept), Error> {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let record = tokio::select! {
                record = received.recv() => record,
                _ = looks.tick() => {
                    self.look();
                    continue;
                }
            };
            let Some(record) = record else { break };
            let kind = self.leg.load.kind(record.kind);
            if let Some(csv) = &mut self.leg.csv {
                csv.add(&record, &kind)?;
            }
            if let Some(kept) = &mut self.leg.kept {
                kept.add(&record);
            }
            self.watched.recent.add(&record);
            self.tally.add(&record, kind);
        }
        if let Some(csv) = self.leg.csv {
            csv.finish()?;
        }
        let outcome = self.tally.outcome(self.session.stop.is_cancelled());
        Ok((outcome, self.leg.kept.unwrap_or_default()))
    }

    fn look(&mut self) {
        let (succeeded, failed) = self.tally.so_far();
        let elapsed = self.began.elapsed();
        let Watched { meters, strips, recent } = &mut self.watched;
        let (running, tokens) = meters.now();
        let (ttft, itl) = recent.times(elapsed);
        (self.session.progress)(Progress {
            leg: self.leg.name.clone(),
            elapsed,
            total: self.window.to,
            warming_up: elapsed < self.window.from,
            running,
            succeeded,
            failed,
            tokens,
            rates: recent.rates(elapsed, tokens),
            ttft,
            itl,
            strip: strips.as_ref().and_then(|strips| strips.borrow().clone()),
        });
    }
}

#[cfg(test)]
mod tests;

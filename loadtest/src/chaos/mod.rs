//! Faults under load, and what clients notice of them beside a quiet run of the same requests.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::results::csv::Csv;
use crate::results::{Outcome, Record};
use crate::run::{Leg, Measured, Session};
use crate::target::Digest;
use crate::units::millis;
pub(crate) use control::{Done, Injector};
pub use control::{Reply, Request};
pub use plan::{Fault, Plan, Timed, What};
use recovery::{Gap, Usual, longest};

mod plan;
mod control;
mod recovery;

/// Requests with other answers that are named.
const NAMED: usize = 20;

/// What faults did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chaos {
    /// Each fault, in the order in which they were to be done.
    pub faults: Vec<Injected>,
    /// Requests that have a whole answer in both runs.
    pub compared: u64,
    /// Of these, answers that are not the same.
    pub differing: u64,
    /// The numbers of the first of them.
    pub differing_requests: Vec<u64>,
    /// The run without faults.
    pub quiet: Quiet,
}

/// A run of the same requests without faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// Whole answers, the warm-up included.
    pub answers: u64,
    /// While it was measured.
    pub tokens_per_second: f64,
    /// Time to the first token, 99th percentile.
    pub ttft_p99_ms: f64,
    /// 99 in 100 times between two parts of a stream are no longer.
    pub itl_p99_ms: f64,
}

/// One fault, and what clients noticed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// As it was asked for.
    pub fault: String,
    /// When it was done, or was to be, in seconds from the start of the run.
    pub at: f64,
    /// When the process was there again.
    pub over: Option<f64>,
    /// From the fault until streams flow as in the quiet run; absent: they did not within the run.
    pub recovery_ms: Option<f64>,
    /// The longest time between two parts of a stream that was open between the fault and its end or recovery.
    pub longest_gap_ms: f64,
    /// Requests that were running meanwhile and failed.
    pub failed: u64,
    /// Why it was not done, or not as it should be.
    pub problem: Option<String>,
}

impl Chaos {
    /// The longest recovery; absent if a fault was not done or not recovered from.
    #[must_use]
    pub fn recovery_ms(&self) -> Option<f64> {
        let each: Option<Vec<f64>> = self.faults.iter().map(|fault| fault.recovery_ms).collect();
        each?.into_iter().reduce(f64::max)
    }

    /// The longest gap that a fault caused.
    #[must_use]
    pub fn longest_gap_ms(&self) -> Option<f64> {
        self.faults.iter().map(|fault| fault.longest_gap_ms).reduce(f64::max)
    }
}

impl Injected {
    /// A line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { fault, at, failed, longest_gap_ms, .. } = self;
        let recovery = match self.recovery_ms {
            Some(ms) => format!("recovered after {ms:.0} ms"),
            None => "not recovered within the run".into(),
        };
        let problem = self.problem.as_ref().map(|what| format!("; {what}")).unwrap_or_default();
        let over = self.over.map(|over| format!(" to {over:.2} s")).unwrap_or_default();
        format!(
            "{fault}: {at:.2} s{over}, {recovery}, longest gap {longest_gap_ms:.0} ms, {failed} failed{problem}"
        )
    }
}

/// What a run keeps of its streams so that it can be compared; unlike all else, it grows with the run.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    answers: BTreeMap<u64, Digest>,
    gaps: Vec<Gap>,
    /// When requests that failed were sent and ended.
    failures: Vec<Gap>,
}

impl Kept {
    pub(crate) fn add(&mut self, record: &Record) {
        let parts = &record.heard.parts;
        let gaps = parts.windows(2).map(|pair| Gap { from: pair[0].0, to: pair[1].0 });
        self.gaps.extend(gaps);
        if record.failure.is_none() {
            self.answers.insert(record.number, record.heard.digest());
            return;
        }
        // The wait that nothing ended.
        self.gaps.extend(parts.last().map(|last| Gap { from: last.0, to: record.ended }));
        self.failures.push(Gap { from: record.sent, to: record.ended });
    }

    /// Numbers of requests that were answered in both runs, and whether the answers are the same.
    fn beside<'a>(&'a self, quiet: &'a Self) -> impl Iterator<Item = (u64, bool)> {
        let both = self.answers.iter().filter_map(|(number, answer)| {
            quiet.answers.get(number).map(|other| (*number, answer == other))
        });
        both.into_iter()
    }
}

/// Runs the requests once without faults and once with them.
pub(crate) async fn run(
    (plan, injector): (Plan, Injector),
    csv: Option<Csv>,
    session: &mut Session<'_>,
) -> Result<Outcome, Error> {
    let load = session.config.load()?;
    let quiet = Leg { kept: Some(Kept::default()), ..Leg::new("quiet run", load.clone()) };
    let quiet = session.measure(quiet).await?;
    if session.stop.is_cancelled() {
        return Ok(quiet.outcome);
    }
    let loud = Leg { kept: Some(Kept::default()), csv, ..Leg::new("run with faults", load) };
    let loud = session.measure(Leg { injector: Some(injector), ..loud }).await?;
    let chaos = compare(&plan, &quiet, &loud);
    let mut outcome = loud.outcome;
    outcome.warnings.extend(warnings(&chaos));
    outcome.chaos = Some(chaos);
    Ok(outcome)
}

fn compare(plan: &Plan, quiet: &Measured, loud: &Measured) -> Chaos {
    let usual = Usual::of(&quiet.kept.gaps);
    let faults = plan.0.iter().zip(&loud.done);
    let answers: Vec<(u64, bool)> = loud.kept.beside(&quiet.kept).collect();
    let differing = || answers.iter().filter(|(_, same)| !same).map(|(number, _)| *number);
    Chaos {
        faults: faults.map(|(timed, done)| injected(timed, done, (usual, &loud.kept))).collect(),
        compared: answers.len() as u64,
        differing: differing().count() as u64,
        differing_requests: differing().take(NAMED).collect(),
        quiet: Quiet {
            answers: quiet.kept.answers.len() as u64,
            tokens_per_second: quiet.outcome.throughput.tokens_per_second,
            ttft_p99_ms: quiet.outcome.latency.ttft.p99_ms,
            itl_p99_ms: usual.map_or(0.0, |usual| millis(usual.limit)),
        },
    }
}

fn injected(timed: &Timed, done: &Done, (usual, kept): (Option<Usual>, &Kept)) -> Injected {
    let at = done.begun.unwrap_or(timed.at);
    let nothing = Injected {
        fault: timed.text.clone(),
        at: at.as_secs_f64(),
        over: done.over.map(|over| over.as_secs_f64()),
        problem: done.problem.clone(),
        ..Injected::default()
    };
    if done.begun.is_none() {
        return nothing;
    }
    let recovery = usual.and_then(|usual| usual.recovery(at, &kept.gaps));
    let recovered = recovery.map_or(Duration::MAX, |recovery| at + recovery);
    let until = recovered.max(done.over.unwrap_or(at));
    let running = |failure: &&Gap| failure.to > at && failure.from < until;
    Injected {
        recovery_ms: recovery.map(millis),
        longest_gap_ms: millis(longest(at, until, &kept.gaps)),
        failed: kept.failures.iter().filter(running).count() as u64,
        ..nothing
    }
}

fn warnings(chaos: &Chaos) -> Vec<String> {
    let problems = chaos
        .faults
        .iter()
        .filter_map(|fault| fault.problem.as_ref().map(|what| format!("{}: {what}", fault.fault)));
    let nothing = (chaos.compared == 0).then(|| "no answer could be compared".to_owned());
    problems.chain(nothing).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::target::{Failure, Heard};

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn record(number: u64, times: &[u64], ids: &[u32], ended: u64, failed: bool) -> Record {
        let mut heard = Heard::new(Instant::now());
        heard.token_ids(ids);
        heard.parts = times.iter().map(|at| (MS(*at), 1)).collect();
        Record {
            number,
            kind: 0,
            intended: MS(0),
            sent: MS(0),
            ended: MS(ended),
            heard,
            failure: failed.then(|| Failure::new("timeout", "why")),
        }
    }

    fn measured(records: &[Record], done: Vec<Done>) -> Measured {
        let mut kept = Kept::default();
        records.iter().for_each(|record| kept.add(record));
        Measured { outcome: Outcome::default(), kept, done }
    }

    #[test]
    fn answers_are_compared_by_number_and_failures_are_counted_while_it_lasts() {
        let steady: Vec<u64> = (0..200).map(|at| at * 20).collect();
        let quiet = measured(
            &[record(0, &steady, &[1, 2], 4000, false), record(1, &steady, &[3], 4000, false)],
            vec![],
        );
        let stalled: Vec<u64> =
            (0..250).map(|at| at * 20).filter(|at| !(1020..1500).contains(at)).collect();
        let begun = Some(MS(1005));
        let done = Done { begun, over: Some(MS(1300)), problem: None };
        let loud = measured(
            &[
                record(0, &stalled, &[1, 9], 5000, false),
                record(1, &stalled, &[3], 5000, false),
                record(2, &stalled, &[3], 5000, false),
                record(3, &steady[..50], &[], 1300, true),
                record(4, &steady[..50], &[], 1001, true),
            ],
            vec![done, Done { problem: Some("the run ended before".into()), ..Done::default() }],
        );
        let plan = "kill:n@1s+300ms,kill:n@9s".parse().unwrap();
        let chaos = compare(&plan, &quiet, &loud);
        assert_eq!((chaos.compared, chaos.differing), (2, 1));
        assert_eq!((&chaos.differing_requests[..], chaos.quiet.itl_p99_ms), (&[0][..], 20.0));
        let [first, second] = &chaos.faults[..] else { panic!("two faults") };
        assert_eq!(
            (first.recovery_ms, first.longest_gap_ms, first.failed),
            (Some(495.0), 500.0, 1)
        );
        assert!(first.describe().contains("1.00 s to 1.30 s, recovered after 495 ms"));
        assert_eq!((second.recovery_ms, second.at), (None, 9.0));
        assert_eq!(chaos.recovery_ms(), None, "one was not done");
        assert_eq!(warnings(&chaos), ["kill:n@9s: the run ended before"]);
    }
}

//! Finds the rate that a server can bear: levels of load, one after another, until it is saturated.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::results::{Outcome, Slo};
use crate::run::{Leg, Session};
use crate::schedule::{Arrivals, Load, Pace};
use crate::units::{millis, rate};

/// A server that serves a smaller part of what is offered is saturated.
const SERVED: f64 = 0.95;
/// Saturated levels of a range that are measured, so that the curve shows what comes after the knee.
const BEYOND: usize = 2;
/// The knee is known well enough when the lowest saturated rate is so much above the highest that is not.
const CLOSE: f64 = 1.1;
/// Doublings that find no saturation end the sweep.
const MAX_DOUBLINGS: usize = 16;
/// More steps say nothing more.
const MAX_STEPS: u32 = 1000;

/// Which rates are tried, in requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sweep {
    /// Rates at equal distances.
    Range {
        /// The first.
        from: f64,
        /// The last, above the first.
        to: f64,
        /// How many there are, at least two.
        steps: u32,
    },
    /// Twice as much each time until it is too much, and then between.
    Doubling {
        /// The first.
        from: f64,
    },
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?} is not FROM:TO:STEPS, or FROM alone: {what}");
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [from] => Ok(Self::Doubling { from: rate(from)? }),
            [from, to, steps] => {
                let (from, to) = (rate(from)?, rate(to)?);
                let steps = steps.parse().ok().filter(|steps| (2..=MAX_STEPS).contains(steps));
                let steps = steps.ok_or_else(|| wrong("STEPS is between 2 and 1000"))?;
                let rises = from < to;
                rises.then_some(Self::Range { from, to, steps }).ok_or(wrong("FROM is below TO"))
            }
            _ => Err(wrong("rates are in requests a second")),
        }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { from, to, steps } => write!(f, "{from}:{to}:{steps}"),
            Self::Doubling { from } => from.fmt(f),
        }
    }
}

/// What a sweep has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Levels {
    /// In the order in which they were tried.
    pub levels: Vec<Level>,
    /// The highest rate at which the server was not saturated, if there was one.
    pub highest: Option<f64>,
    /// Why no other rate was tried.
    pub ended: String,
}

/// One rate, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Requests a second, as they were to come.
    pub rate: f64,
    /// As they came: arrivals are random.
    pub offered: f64,
    /// Whole answers a second.
    pub completed: f64,
    /// Requests a second that met the objective, if there is one.
    pub goodput: Option<f64>,
    /// Tokens of answers a second.
    pub tokens_per_second: f64,
    /// Requests that failed.
    pub failed: u64,
    /// Time to the first token, median, in milliseconds.
    pub ttft_p50_ms: f64,
    /// The same, 99th percentile.
    pub ttft_p99_ms: f64,
    /// Time per output token, median, in milliseconds.
    pub tpot_p50_ms: f64,
    /// The same, 99th percentile.
    pub tpot_p99_ms: f64,
    /// Why the server counts as saturated, if it does.
    pub saturated: Option<String>,
}

impl Level {
    fn of(rate: f64, outcome: &Outcome, slo: Option<Slo>) -> Self {
        let (latency, throughput) = (&outcome.latency, &outcome.throughput);
        let seconds = throughput.seconds.max(f64::MIN_POSITIVE);
        let mut level = Self {
            rate,
            offered: outcome.requests.sent as f64 / seconds,
            completed: throughput.requests_per_second,
            goodput: outcome.goodput.as_ref().map(|goodput| goodput.requests_per_second),
            tokens_per_second: throughput.tokens_per_second,
            failed: outcome.n_failed(),
            ttft_p50_ms: latency.ttft.p50_ms,
            ttft_p99_ms: latency.ttft.p99_ms,
            tpot_p50_ms: latency.tpot.p50_ms,
            tpot_p99_ms: latency.tpot.p99_ms,
            saturated: None,
        };
        level.saturated = level.saturation(slo);
        level
    }

    /// What tables show of it: rates, tokens a second, times, and why it is saturated.
    pub(crate) fn cells(&self) -> [String; 10] {
        [
            format!("{:.2}", self.rate),
            format!("{:.2}", self.offered),
            format!("{:.2}", self.completed),
            self.goodput.map_or("-".into(), |goodput| format!("{goodput:.2}")),
            format!("{:.0}", self.tokens_per_second),
            format!("{:.1}", self.ttft_p50_ms),
            format!("{:.1}", self.ttft_p99_ms),
            format!("{:.1}", self.tpot_p50_ms),
            format!("{:.1}", self.tpot_p99_ms),
            self.saturated.clone().unwrap_or_default(),
        ]
    }

    /// Why a server is saturated at this level, if it is.
    fn saturation(&self, slo: Option<Slo>) -> Option<String> {
        let (served, what) = match self.goodput {
            Some(goodput) => (goodput, "within the objective"),
            None => (self.completed, "completed"),
        };
        let limit = slo.and_then(|slo| slo.ttft).map(millis);
        match limit {
            _ if self.offered <= 0.0 => Some("no request was measured".into()),
            _ if served < SERVED * self.offered => {
                Some(format!("{:.0} % {what}", served / self.offered * 100.0))
            }
            Some(limit) if self.ttft_p99_ms > limit => {
                Some(format!("p99 of TTFT is {:.0} ms, over {limit:.0} ms", self.ttft_p99_ms))
            }
            _ => None,
        }
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    Try(f64),
    /// Nothing, and why.
    End(String),
}

/// Decides whether to go on, and at which rate.
fn next(sweep: Sweep, levels: &[Level]) -> Next {
    match sweep {
        Sweep::Range { from, to, steps } => {
            let saturated = levels.iter().rev().take_while(|level| level.saturated.is_some());
            match levels.len() as u32 {
                _ if saturated.count() >= BEYOND => {
                    Next::End(format!("{BEYOND} levels in a row were saturated"))
                }
                done if done >= steps => Next::End("all levels were measured".into()),
                done => Next::Try(from + (to - from) * f64::from(done) / f64::from(steps - 1)),
            }
        }
        Sweep::Doubling { from } => {
            let too_much = levels.iter().filter(|level| level.saturated.is_some());
            let least_too_much = too_much.map(|level| level.rate).min_by(f64::total_cmp);
            match (highest(levels), least_too_much) {
                (None, None) => Next::Try(from),
                (None, Some(least)) => {
                    Next::End(format!("{least} requests/s are too many already"))
                }
                (Some(_), None) if levels.len() > MAX_DOUBLINGS => {
                    Next::End(format!("{MAX_DOUBLINGS} doublings found no saturation"))
                }
                (Some(most), None) => Next::Try(2.0 * most),
                (Some(most), Some(least)) if least <= CLOSE * most => {
                    Next::End(format!("{most:.4} requests/s are borne and {least:.4} are not"))
                }
                (Some(most), Some(least)) => Next::Try((most * least).sqrt()),
            }
        }
    }
}

/// The highest rate at which nothing was saturated.
fn highest(levels: &[Level]) -> Option<f64> {
    let borne = levels.iter().filter(|level| level.saturated.is_none());
    borne.map(|level| level.rate).max_by(f64::total_cmp)
}

/// Measures level after level. The outcome is that of the highest that was borne, or of the first.
pub(crate) async fn run(sweep: Sweep, session: &mut Session<'_>) -> Result<Outcome, Error> {
    let mut levels = Vec::new();
    let mut outcomes = Vec::new();
    let ended = loop {
        let rate = match next(sweep, &levels) {
            Next::Try(rate) => rate,
            Next::End(why) => break why,
        };
        let leg = Leg::new(&format!("{rate:.4} requests/s"), at(rate, session)?);
        let outcome = session.measure(leg).await?.outcome;
        let stopped = session.stop.is_cancelled();
        if !stopped || outcomes.is_empty() {
            levels.push(Level::of(rate, &outcome, session.config.slo));
            outcomes.push(outcome);
        }
        if stopped {
            break "it was stopped".into();
        }
    };
    let highest = highest(&levels);
    let shown = levels.iter().position(|level| Some(level.rate) == highest).unwrap_or(0);
    let mut outcome = outcomes.swap_remove(shown);
    outcome.sweep = Some(Levels { levels, highest, ended });
    Ok(outcome)
}

fn at(rate: f64, session: &Session<'_>) -> Result<Load, Error> {
    let mut load = session.config.load()?;
    if let Load::Drawn(drawn) = &mut load {
        let process = session.config.arrivals;
        drawn.arrivals = Arrivals::Open { pace: Pace::Steady(rate), process };
    }
    Ok(load)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rates that are tried where a server bears so much, and why no other is.
    fn tried(sweep: Sweep, bears: f64) -> (Vec<Level>, String) {
        let mut levels = Vec::new();
        loop {
            match next(sweep, &levels) {
                Next::End(why) => return (levels, why),
                Next::Try(rate) => {
                    let saturated = (rate > bears).then(|| "too much".to_owned());
                    levels.push(Level { rate, saturated, ..Level::default() });
                }
            }
            assert!(levels.len() < 2000, "it has no end");
        }
    }

    fn rates(sweep: Sweep, bears: f64) -> Vec<f64> {
        tried(sweep, bears).0.iter().map(|level| level.rate).collect()
    }

    #[test]
    fn a_range_goes_on_until_two_levels_are_saturated() {
        let range = Sweep::Range { from: 10.0, to: 50.0, steps: 5 };
        assert_eq!(rates(range, 1e9), [10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(rates(range, 25.0), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!(rates(range, 1.0), [10.0, 20.0]);
    }

    #[test]
    fn doubling_ends_where_the_first_rate_is_too_much_or_nothing_is() {
        let doubling = Sweep::Doubling { from: 8.0 };
        let (levels, why) = tried(doubling, 1.0);
        assert_eq!((levels.len(), &why[..]), (1, "8 requests/s are too many already"));
        let (levels, why) = tried(doubling, f64::INFINITY);
        assert_eq!(levels.len(), MAX_DOUBLINGS + 1);
        assert!(why.contains("no saturation"), "{why}");
    }

    #[test]
    fn a_level_is_saturated_where_too_little_is_served_or_too_late() {
        let slo: Slo = "ttft:200ms".parse().unwrap();
        let level = |completed, goodput, ttft_p99_ms| Level {
            offered: 100.0,
            completed,
            goodput,
            ttft_p99_ms,
            ..Level::default()
        };
        let check = |level: Level, slo, expected: Option<&str>| {
            assert_eq!(level.saturation(slo).as_deref(), expected, "{level:?}");
        };
        check(level(95.0, None, 9e9), None, None);
        check(level(94.0, None, 1.0), None, Some("94 % completed"));
        check(level(99.0, Some(90.0), 1.0), Some(slo), Some("90 % within the objective"));
        check(
            level(99.0, Some(98.0), 201.0),
            Some(slo),
            Some("p99 of TTFT is 201 ms, over 200 ms"),
        );
        check(level(99.0, Some(98.0), 200.0), Some(slo), None);
        check(Level::default(), None, Some("no request was measured"));
    }

    #[test]
    fn sweeps_are_read_and_wrong_ones_named() {
        for text in ["5:50:10", "2.5"] {
            assert_eq!(text.parse::<Sweep>().unwrap().to_string(), text);
        }
        for wrong in ["", "5:50", "50:5:3", "5:50:1", "5:50:1001", "0", "1:2:3:4", "a:2:3"] {
            assert!(wrong.parse::<Sweep>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn doubling_finds_the_knee(from in 0.1f64..10.0, times in 1.0f64..1000.0) {
            let bears = from * times;
            let (levels, _) = tried(Sweep::Doubling { from }, bears);
            let highest = highest(&levels).unwrap();
            prop_assert!(highest <= bears && bears <= CLOSE * highest, "{highest} of {bears}");
            prop_assert!(levels.len() <= MAX_DOUBLINGS + 6);
        }

        #[test]
        fn a_range_is_tried_from_below_and_never_twice(
            (from, more, steps) in (0.1f64..10.0, 0.1f64..1e3, 2u32..50),
            bears in 0.0f64..1e3,
        ) {
            let rates = rates(Sweep::Range { from, to: from + more, steps }, bears);
            prop_assert!(rates.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(rates.len() <= steps as usize);
            prop_assert!(rates.iter().filter(|rate| **rate > bears).count() <= BEYOND);
        }
    }
}

//! Conditions on the results of a run: `p99_ttft<300ms,balancedness>0.9`.

use std::fmt;
use std::str::FromStr;

use crate::results::{Outcome, Percentiles};
use crate::units::{duration, millis};

/// What must hold at the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertions(Vec<Assertion>);

/// One condition.
#[derive(Clone, Debug, PartialEq)]
struct Assertion {
    metric: Metric,
    comparison: Comparison,
    /// In milliseconds, if it is a time.
    limit: f64,
    /// As it was written.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// A number that a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Time(Time, Statistic),
    RequestsPerSecond,
    TokensPerSecond,
    Succeeded,
    Failed,
    /// Failed requests over all.
    ErrorRate,
    /// Requests that meet the objective, over all.
    Goodput,
    /// How evenly nodes are used since the placement was last changed.
    Balancedness,
    /// The same before it was changed for the first time.
    BalancednessBefore,
    /// Answers that faults changed.
    Differing,
    /// The longest recovery from a fault.
    Recovery,
    /// The longest gap that a fault caused.
    LongestGap,
    /// The highest rate of a sweep that was borne.
    MaxRate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Ttft,
    Tpot,
    Itl,
    E2e,
    SendLag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistic {
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

const TIMES: [(&str, Time); 5] = [
    ("ttft", Time::Ttft),
    ("tpot", Time::Tpot),
    ("itl", Time::Itl),
    ("e2e", Time::E2e),
    ("send_lag", Time::SendLag),
];

const STATISTICS: [(&str, Statistic); 7] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("p99.9", Statistic::P999),
    ("max", Statistic::Max),
];

const OTHERS: [(&str, Metric); 12] = [
    ("requests_per_second", Metric::RequestsPerSecond),
    ("tokens_per_second", Metric::TokensPerSecond),
    ("succeeded", Metric::Succeeded),
    ("failed", Metric::Failed),
    ("error_rate", Metric::ErrorRate),
    ("goodput", Metric::Goodput),
    ("balancedness", Metric::Balancedness),
    ("balancedness_before", Metric::BalancednessBefore),
    ("max_rate", Metric::MaxRate),
    ("differing", Metric::Differing),
    ("recovery", Metric::Recovery),
    ("longest_gap", Metric::LongestGap),
];

/// Two characters before one, so that `<=` is not taken for `<`.
const COMPARISONS: [(&str, Comparison); 4] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Below),
    (">", Comparison::Above),
];

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, metric)) = OTHERS.iter().find(|(name, _)| *name == text) {
            return Ok(*metric);
        }
        let of_time = text.split_once('_').and_then(|(statistic, time)| {
            let (_, statistic) = STATISTICS.iter().find(|(name, _)| *name == statistic)?;
            let (_, time) = TIMES.iter().find(|(name, _)| *name == time)?;
            Some(Self::Time(*time, *statistic))
        });
        of_time.ok_or_else(|| {
            let (times, statistics) = (TIMES.map(|of| of.0), STATISTICS.map(|of| of.0));
            format!(
                "{text:?} is nothing that is measured: there are {}, and one of {} before one of {}, as in p99_ttft",
                OTHERS.map(|of| of.0).join(", "),
                statistics.join(", "),
                times.map(|time| format!("_{time}")).join(", ")
            )
        })
    }
}

impl Metric {
    /// Its value; absent if the run has not measured it.
    pub(crate) fn of(self, outcome: &Outcome) -> Option<f64> {
        let (requests, throughput) = (&outcome.requests, &outcome.throughput);
        match self {
            Self::Time(time, statistic) => statistic.of(time.of(outcome)),
            Self::RequestsPerSecond => Some(throughput.requests_per_second),
            Self::TokensPerSecond => Some(throughput.tokens_per_second),
            Self::Succeeded => Some(requests.succeeded as f64),
            Self::Failed => Some(outcome.n_failed() as f64),
            Self::ErrorRate if requests.sent == 0 => None,
            Self::ErrorRate => Some(outcome.n_failed() as f64 / requests.sent as f64),
            Self::Goodput => outcome.goodput.as_ref().map(|goodput| goodput.share),
            Self::Balancedness => outcome.experts.as_ref().map(|of| of.balancedness()),
            Self::BalancednessBefore => outcome.experts.as_ref()?.balancedness_before(),
            Self::Differing => {
                let chaos = outcome.chaos.as_ref().filter(|chaos| chaos.compared > 0)?;
                Some(chaos.differing as f64)
            }
            Self::Recovery => outcome.chaos.as_ref()?.recovery_ms(),
            Self::LongestGap => outcome.chaos.as_ref()?.longest_gap_ms(),
            Self::MaxRate => outcome.sweep.as_ref()?.highest,
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Self::Time(..) | Self::Recovery | Self::LongestGap)
    }

    /// What it takes for this to be measured.
    fn needs(self) -> &'static str {
        match self {
            Self::Goodput => "give --slo",
            Self::Balancedness => "give --admin and --admin-api-key",
            Self::BalancednessBefore => "the placement was not changed, or was not watched",
            Self::Differing => "give --chaos; or no answer could be compared",
            Self::Recovery => "give --chaos; or a fault was not done, or not recovered from",
            Self::LongestGap => "give --chaos",
            Self::MaxRate => "give --sweep; or no rate of it was borne",
            _ => "no request succeeded",
        }
    }
}

impl Time {
    fn of(self, outcome: &Outcome) -> &Percentiles {
        let latency = &outcome.latency;
        match self {
            Self::Ttft => &latency.ttft,
            Self::Tpot => &latency.tpot,
            Self::Itl => &latency.itl,
            Self::E2e => &latency.e2e,
            Self::SendLag => &latency.send_lag,
        }
    }
}

impl Statistic {
    fn of(self, times: &Percentiles) -> Option<f64> {
        let ms = match self {
            Self::Mean => times.mean_ms,
            Self::P50 => times.p50_ms,
            Self::P90 => times.p90_ms,
            Self::P95 => times.p95_ms,
            Self::P99 => times.p99_ms,
            Self::P999 => times.p999_ms,
            Self::Max => times.max_ms,
        };
        (times.count > 0).then_some(ms)
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let found = COMPARISONS.iter().find(|(sign, _)| text.contains(sign));
        let (sign, comparison) = found.ok_or_else(|| format!("{text:?} has no <, <=, > or >="))?;
        let (name, limit) = text.split_once(sign).unwrap_or_default();
        let (name, limit) = (name.trim(), limit.trim());
        let metric: Metric = name.parse()?;
        let limit = match metric {
            _ if metric.is_time() => millis(duration(limit).map_err(|e| format!("{name}: {e}"))?),
            _ => number(limit).ok_or_else(|| format!("{name}: {limit:?} is no number"))?,
        };
        Ok(Self { metric, comparison: *comparison, limit, text: text.to_owned() })
    }
}

/// A number, or one in percent.
fn number(text: &str) -> Option<f64> {
    let (text, scale) = match text.strip_suffix('%') {
        Some(text) => (text.trim(), 0.01),
        None => (text, 1.0),
    };
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * scale)
}

impl Assertion {
    /// Why it does not hold, if so.
    fn failure(&self, outcome: &Outcome) -> Option<String> {
        let text = &self.text;
        let Some(value) = self.metric.of(outcome) else {
            return Some(format!("{text}: not measured ({})", self.metric.needs()));
        };
        let holds = match self.comparison {
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
        };
        let unit = if self.metric.is_time() { " ms" } else { "" };
        (!holds).then(|| format!("{text}: it is {value:.3}{unit}"))
    }
}

impl FromStr for Assertions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Assertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|assertion| assertion.text.as_str()).collect();
        f.write_str(&texts.join(", "))
    }
}

impl Assertions {
    /// What does not hold, a sentence each.
    #[must_use]
    pub fn failures(&self, outcome: &Outcome) -> Vec<String> {
        self.0.iter().filter_map(|assertion| assertion.failure(outcome)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{Chaos, Injected};
    use crate::results::{Goodput, Requests};
    use crate::sweep::Levels;

    fn outcome() -> Outcome {
        let mut outcome = Outcome {
            requests: Requests { sent: 200, succeeded: 200, ..Requests::default() },
            ..Outcome::default()
        };
        outcome.latency.ttft = Percentiles { count: 200, p99_ms: 250.0, ..Percentiles::default() };
        outcome.throughput.tokens_per_second = 100.0;
        outcome
    }

    #[test]
    fn conditions_hold_or_say_what_was_found() {
        let outcome = outcome();
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(text.parse::<Assertions>().unwrap().failures(&outcome), expected, "{text}");
        };
        check("p99_ttft<300ms,tokens_per_second>99", &[]);
        check("p99_ttft < 0.25s", &["p99_ttft < 0.25s: it is 250.000 ms"]);
        check("p99_ttft<=250ms", &[]);
        check("error_rate<1%, failed<=0, succeeded>=200", &[]);
        check("tokens_per_second>=100.5", &["tokens_per_second>=100.5: it is 100.000"]);
        check("p50_tpot<1s", &["p50_tpot<1s: not measured (no request succeeded)"]);
        check(
            "balancedness>0.9",
            &["balancedness>0.9: not measured (give --admin and --admin-api-key)"],
        );
        check(
            "max_rate>5",
            &["max_rate>5: not measured (give --sweep; or no rate of it was borne)"],
        );
        check("goodput>90%", &["goodput>90%: not measured (give --slo)"]);
    }

    #[test]
    fn goodput_is_a_share() {
        let goodput = Goodput { share: 0.9, ..Goodput::default() };
        let outcome = Outcome { goodput: Some(goodput), ..outcome() };
        let assertions: Assertions = "goodput>95%,goodput>=0.9".parse().unwrap();
        assert_eq!(assertions.failures(&outcome), ["goodput>95%: it is 0.900"]);
    }

    #[test]
    fn a_sweep_has_a_highest_rate() {
        let sweep = Levels { highest: Some(40.0), ..Levels::default() };
        let outcome = Outcome { sweep: Some(sweep), ..outcome() };
        let assertions: Assertions = "max_rate>=40,max_rate>41".parse().unwrap();
        assert_eq!(assertions.failures(&outcome), ["max_rate>41: it is 40.000"]);
    }

    #[test]
    fn faults_have_a_recovery_if_all_were_recovered_from() {
        let fault =
            |recovery_ms| Injected { recovery_ms, longest_gap_ms: 90.0, ..Injected::default() };
        let chaos = |faults| Chaos { faults, compared: 5, differing: 1, ..Chaos::default() };
        let check = |faults: Vec<Injected>, text: &str, expected: &[&str]| {
            let outcome = Outcome { chaos: Some(chaos(faults)), ..outcome() };
            assert_eq!(text.parse::<Assertions>().unwrap().failures(&outcome), expected, "{text}");
        };
        let both = vec![fault(Some(0.0)), fault(Some(1500.0))];
        check(both.clone(), "recovery<2s,longest_gap<100ms,differing<=1", &[]);
        check(
            both,
            "recovery<1s,differing<=0",
            &["recovery<1s: it is 1500.000 ms", "differing<=0: it is 1.000"],
        );
        let text = "recovery<9s: not measured (give --chaos; or a fault was not done, or not recovered from)";
        check(vec![fault(Some(0.0)), fault(None)], "recovery<9s", &[text]);
    }

    #[test]
    fn wrong_conditions_are_named() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Assertions>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "no <");
        check("p99_ttft=3ms", "\"p99_ttft=3ms\" has no <");
        check("p98_ttft<3ms", "\"p98_ttft\" is nothing that is measured");
        check("p99_ttft<3ms,,", "\"\" has no <");
        check("p99_ttft<300", "p99_ttft: \"300\" is no time");
        check("balancedness>most", "balancedness: \"most\" is no number");
        check("goodput>nan", "\"nan\" is no number");
    }
}

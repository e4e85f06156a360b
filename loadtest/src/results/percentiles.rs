//! Distributions of times.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Times above are counted as this one.
const MAX_MICROS: u64 = 24 * 3600 * 1_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// The percentiles of a time, in milliseconds, to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Times that were measured.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// Nine in ten are below.
    pub p90_ms: f64,
    /// 19 in 20 are below.
    pub p95_ms: f64,
    /// 99 in 100 are below.
    pub p99_ms: f64,
    /// 999 in 1000 are below.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The times of requests. Where there is a schedule, they count from the moment that it says, so that a server cannot
/// look faster by keeping the client from sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// To the first token.
    pub ttft: Percentiles,
    /// For each token after the first part of an answer: one mean for each request.
    pub tpot: Percentiles,
    /// Between two parts of an answer that bring tokens.
    pub itl: Percentiles,
    /// To the end of the answer.
    pub e2e: Percentiles,
    /// From the intended moment to the one at which the client sent.
    pub send_lag: Percentiles,
}

impl Latencies {
    /// The times that are about the server, with the names that people know.
    #[must_use]
    pub fn of_server(&self) -> [(&'static str, &'static str, Percentiles); 4] {
        [
            ("ttft", "time to first token", self.ttft),
            ("tpot", "time per output token", self.tpot),
            ("itl", "inter-token latency", self.itl),
            ("e2e", "end to end", self.e2e),
        ]
    }
}

/// Times as they come.
#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_MICROS, DIGITS).expect("the bounds are in order"))
    }

    pub(super) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MAX_MICROS);
        self.0.saturating_record(micros);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let times = &self.0;
        if times.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| times.value_at_quantile(quantile).min(times.max()) as f64 / 1e3;
        Percentiles {
            count: times.len(),
            mean_ms: times.mean() / 1e3,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: times.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_times(
            mut micros in prop::collection::vec(1u64..10_000_000, 1..300),
        ) {
            let mut times = Times::new();
            micros.iter().for_each(|&micros| times.add(Duration::from_micros(micros)));
            micros.sort_unstable();
            let found = times.percentiles();
            let all = [
                (0.5, found.p50_ms), (0.9, found.p90_ms), (0.95, found.p95_ms),
                (0.99, found.p99_ms), (0.999, found.p999_ms), (1.0, found.max_ms),
            ];
            for (quantile, ms) in all {
                let rank = (quantile * micros.len() as f64).ceil() as usize;
                let exact = micros[rank - 1] as f64 / 1e3;
                prop_assert!((ms - exact).abs() <= 0.002 * exact + 0.001, "{quantile}: {ms}, not {exact}");
            }
            prop_assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        }
    }
}

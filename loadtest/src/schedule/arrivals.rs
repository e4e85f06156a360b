//! When requests are sent: a pace, and how irregular it is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma};

/// Shape of the gamma distribution where none is given: bursts.
const BURSTY: f64 = 0.5;

/// Who decides when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// The end of another one: so many are always running.
    Closed,
    /// The clock: whatever the server does, requests come.
    Open {
        /// How many come in a second.
        pace: Pace,
        /// How irregularly.
        process: Process,
    },
}

/// Requests in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Always as many.
    Steady(f64),
    /// More (or fewer) with each moment, and then as many as at the end.
    Ramp {
        /// At the start.
        from: f64,
        /// At the end.
        to: f64,
        /// From the start to the end.
        over: Duration,
    },
}

/// Gaps between requests, in units of the mean gap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Process {
    /// All alike.
    Constant,
    /// Exponential: requests that know nothing of each other.
    Poisson,
    /// Gamma of this shape: below 1 there are bursts, above 1 it is more regular than Poisson.
    Gamma {
        /// One over the squared coefficient of variation.
        shape: f64,
    },
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = match text {
            "constant" => return Ok(Self::Constant),
            "poisson" => return Ok(Self::Poisson),
            "gamma" => return Ok(Self::Gamma { shape: BURSTY }),
            other => other.strip_prefix("gamma:"),
        };
        let shape = shape
            .ok_or_else(|| format!("{text:?} is not constant, poisson, gamma or gamma:SHAPE"))?;
        let number = shape.parse().ok().filter(|shape| (0.01..=1000.0).contains(shape));
        let shape = number
            .ok_or_else(|| format!("the shape {shape:?} of gamma is not between 0.01 and 1000"))?;
        Ok(Self::Gamma { shape })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Gamma { shape } => write!(f, "gamma:{shape}"),
        }
    }
}

impl Pace {
    /// The moment, in seconds, before which `requests` are expected: the inverse of the integral of the pace. Gaps of
    /// mean 1 that go through it become gaps of any pace (time rescaling of a point process).
    fn moment(self, requests: f64) -> f64 {
        let (from, to, over) = match self {
            Self::Steady(rate) => return requests / rate,
            Self::Ramp { from, to, over } => (from, to, over.as_secs_f64()),
        };
        let whole = (from + to) / 2.0 * over;
        if requests >= whole {
            return over + (requests - whole) / to;
        }
        // from·t + slope·t²/2 = requests, in the form that stays exact where the slope is nearly 0.
        let slope = (to - from) / over;
        let root = (from * from + 2.0 * slope * requests).max(0.0).sqrt();
        2.0 * requests / (from + root)
    }
}

/// The moments of an open loop.
#[derive(Debug)]
pub(super) struct Times {
    arrivals: Arrivals,
    rng: ChaCha8Rng,
    /// Sum of the gaps, in units of the mean gap.
    passed: f64,
}

impl Times {
    pub(super) fn new(arrivals: Arrivals, rng: ChaCha8Rng) -> Self {
        Self { arrivals, rng, passed: 0.0 }
    }

    /// The moment of the next request; absent in a closed loop.
    pub(super) fn next(&mut self) -> Option<Duration> {
        let Arrivals::Open { pace, process } = self.arrivals else {
            return None;
        };
        self.passed += match process {
            Process::Constant => 1.0,
            Process::Poisson => Exp1.sample(&mut self.rng),
            Process::Gamma { shape } => {
                Gamma::new(shape, shape.recip()).map_or(1.0, |gamma| gamma.sample(&mut self.rng))
            }
        };
        Duration::try_from_secs_f64(pace.moment(self.passed)).ok().or(Some(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn seconds(pace: Pace, process: Process, count: usize) -> Vec<f64> {
        let arrivals = Arrivals::Open { pace, process };
        let mut times = Times::new(arrivals, ChaCha8Rng::seed_from_u64(3));
        (0..count).map(|_| times.next().unwrap().as_secs_f64()).collect()
    }

    fn gaps(process: Process) -> (f64, f64) {
        let count = 40_000;
        let times = seconds(Pace::Steady(10.0), process, count);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let squares = gaps.iter().map(|gap| (gap / mean - 1.0).powi(2)).sum::<f64>();
        (mean, squares / gaps.len() as f64)
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_of_their_process() {
        let check = |process, variation: f64| {
            let (mean, measured) = gaps(process);
            assert!((mean - 0.1).abs() < 0.003, "{process}: {mean}");
            assert!(
                (measured - variation).abs() < 0.1 * variation.max(0.01),
                "{process}: {measured}"
            );
        };
        check(Process::Constant, 0.0);
        check(Process::Poisson, 1.0);
        check(Process::Gamma { shape: 0.5 }, 2.0);
        check(Process::Gamma { shape: 4.0 }, 0.25);
    }

    #[test]
    fn a_ramp_has_as_many_requests_as_the_area_below_it() {
        let over = Duration::from_secs(10);
        let up = Pace::Ramp { from: 1.0, to: 3.0, over };
        let times = seconds(up, Process::Constant, 40);
        // By t = 5: 1·5 + 0.2·25/2 = 7.5; by t = 10: 20; then 3 in a second.
        assert_eq!(times.iter().filter(|time| **time <= 5.0).count(), 7);
        assert_eq!(times.iter().filter(|time| **time <= 10.0 + 1e-9).count(), 20);
        assert!((times[22] - 11.0).abs() < 1e-9, "{times:?}");
        let down = Pace::Ramp { from: 3.0, to: 1.0, over };
        let times = seconds(down, Process::Constant, 21);
        assert!((times[19] - 10.0).abs() < 1e-6 && (times[20] - 11.0).abs() < 1e-6, "{times:?}");
    }

    #[test]
    fn processes_are_read_and_wrong_ones_named() {
        for text in ["constant", "poisson", "gamma:0.5", "gamma:2"] {
            assert_eq!(text.parse::<Process>().unwrap().to_string(), text);
        }
        assert_eq!("gamma".parse(), Ok(Process::Gamma { shape: BURSTY }));
        for wrong in ["uniform", "gamma:", "gamma:0", "gamma:-1", "gamma:nan", ""] {
            assert!(wrong.parse::<Process>().is_err(), "{wrong}");
        }
    }
}

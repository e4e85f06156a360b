//! What is asked, and when: a pure function of settings and a seed.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::units::Count;

pub use arrivals::{Arrivals, Pace, Process};
pub use prompts::{Prompt, Prompts, RandomIds};
pub use skew::Skew;
pub use trace::{Replay, Replaying};

mod arrivals;
mod skew;
mod prompts;
mod trace;
mod demo_kinds;

/// Streams of random numbers that have nothing to do with each other.
const ARRIVALS: u64 = 0;
const KINDS: u64 = 1;
/// That of request 0; each request has one of its own.
const REQUESTS: u64 = 16;

/// What is to be sent.
#[derive(Clone, Debug)]
pub enum Load {
    /// What settings and a seed say.
    Drawn(Drawn),
    /// What a file says; it has an end.
    Replayed(Replay),
}

/// Everything that a schedule follows from.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// What they ask.
    pub prompts: Prompts,
    /// Which kinds of prompts they choose.
    pub skew: Skew,
    /// After so many requests a skew that changes does so.
    pub skew_period: u64,
    /// Tokens of an answer.
    pub output_tokens: Count,
    /// The same seed gives the same requests.
    pub seed: u64,
}

impl Load {
    /// Whether requests come by the clock, whatever the server does.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Drawn(drawn) => drawn.arrivals != Arrivals::Closed,
            Self::Replayed(_) => true,
        }
    }

    /// What to call a kind of prompt.
    #[must_use]
    pub fn kind(&self, kind: usize) -> String {
        match self {
            Self::Drawn(drawn) => drawn.prompts.name(kind),
            Self::Replayed(_) => "trace".into(),
        }
    }
}

/// One request of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Counts from 0.
    pub number: u64,
    /// When it is sent, from the start; absent: as soon as another has ended.
    pub at: Option<Duration>,
    /// The kind of its prompt.
    pub kind: usize,
    /// Its prompt.
    pub prompt: Prompt,
    /// Tokens of its answer.
    pub output_tokens: u32,
}

/// The requests of a load, one after another.
#[derive(Debug)]
pub struct Schedule(Requests);

#[derive(Debug)]
enum Requests {
    Drawn(Box<Drawing>),
    Replayed { replay: Replay, number: u64 },
}

/// A load that is being drawn.
#[derive(Debug)]
struct Drawing {
    load: Drawn,
    times: arrivals::Times,
    kinds: skew::Kinds,
    number: u64,
}

impl Schedule {
    /// Begins a schedule.
    #[must_use]
    pub fn new(load: Load) -> Self {
        Self(match load {
            Load::Drawn(load) => Requests::Drawn(Drawing::new(load).into()),
            Load::Replayed(replay) => Requests::Replayed { replay, number: 0 },
        })
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        match &mut self.0 {
            Requests::Drawn(drawing) => Some(drawing.next()),
            Requests::Replayed { replay, number } => {
                *number += 1;
                replay.request(*number - 1)
            }
        }
    }
}

impl Drawing {
    fn new(load: Drawn) -> Self {
        let times = arrivals::Times::new(load.arrivals, stream(load.seed, ARRIVALS));
        let of = skew::Of { n_kinds: load.prompts.n_kinds(), period: load.skew_period };
        let kinds = skew::Kinds::new(load.skew, of, stream(load.seed, KINDS));
        Self { load, times, kinds, number: 0 }
    }

    fn next(&mut self) -> Planned {
        let number = self.number;
        self.number += 1;
        let mut rng = request_rng(self.load.seed, number);
        let kind = self.kinds.draw(number, &mut rng);
        let Count { from, to } = self.load.output_tokens;
        Planned {
            number,
            at: self.times.next(),
            kind,
            prompt: self.load.prompts.draw(kind, &mut rng),
            output_tokens: rng.random_range(from..=to),
        }
    }
}

/// Random numbers of one request.
fn request_rng(seed: u64, number: u64) -> ChaCha8Rng {
    stream(seed, REQUESTS + number)
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(
        arrivals: Arrivals,
        skew: Skew,
        (random, seed): (bool, u64),
        output_tokens: Count,
    ) -> Drawn {
        let ids =
            RandomIds { vocabulary: 500, tokens: Count { from: 3, to: 9 }, shared_prefix: 2, seed };
        let prompts = if random { Prompts::Random(ids) } else { Prompts::DemoKinds };
        Drawn { arrivals, prompts, skew, skew_period: 5, output_tokens, seed }
    }

    fn schedule(load: Drawn) -> Schedule {
        Schedule::new(Load::Drawn(load))
    }

    fn any_arrivals() -> impl Strategy<Value = Arrivals> {
        let process = prop_oneof![
            Just(Process::Constant),
            Just(Process::Poisson),
            (0.1..4.0).prop_map(|shape| Process::Gamma { shape }),
        ];
        let over = Duration::from_secs(3);
        let pace = prop_oneof![
            (0.1..1e3).prop_map(Pace::Steady),
            (0.1..1e3, 0.1..1e3).prop_map(move |(from, to)| Pace::Ramp { from, to, over }),
        ];
        prop_oneof![
            Just(Arrivals::Closed),
            (pace, process).prop_map(|(pace, process)| Arrivals::Open { pace, process }),
        ]
    }

    fn any_skew() -> impl Strategy<Value = Skew> {
        prop::sample::select(Skew::ALL)
    }

    proptest! {
        #[test]
        fn one_seed_gives_one_schedule(
            arrivals in any_arrivals(),
            skew in any_skew(),
            random: bool,
            seed: u64,
            (from, more) in (1u32..50, 0u32..50),
        ) {
            let output = Count { from, to: from + more };
            let load = load(arrivals, skew, (random, seed), output);
            let first: Vec<Planned> = schedule(load.clone()).take(40).collect();
            let second: Vec<Planned> = schedule(load.clone()).take(40).collect();
            prop_assert_eq!(&first, &second);
            let closed = arrivals == Arrivals::Closed;
            prop_assert!(first.iter().all(|planned| planned.at.is_none() == closed));
            prop_assert!(first.windows(2).all(|pair| pair[0].at <= pair[1].at));
            for planned in &first {
                prop_assert!((from..=from + more).contains(&planned.output_tokens));
                prop_assert!(planned.kind < load.prompts.n_kinds());
            }
        }

        #[test]
        fn another_seed_gives_another_schedule(seed in 0u64..1000) {
            let of = |seed| {
                let output = Count { from: 1, to: 1000 };
                let load = load(Arrivals::Closed, Skew::Natural, (true, seed), output);
                schedule(load).take(10).collect::<Vec<_>>()
            };
            prop_assert_ne!(of(seed), of(seed + 1));
        }

        #[test]
        fn what_is_asked_does_not_depend_on_when(arrivals in any_arrivals(), seed: u64) {
            let output = Count { from: 1, to: 1000 };
            let of = |arrivals| {
                let load = load(arrivals, Skew::Rotating, (true, seed), output);
                let asked = schedule(load).take(20);
                asked.map(|planned| (planned.prompt, planned.output_tokens)).collect::<Vec<_>>()
            };
            prop_assert_eq!(of(arrivals), of(Arrivals::Closed));
        }
    }
}

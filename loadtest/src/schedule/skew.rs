//! Which kinds of prompts are asked for how often, and how that changes.

use std::fmt;
use std::str::FromStr;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

/// Share of the requests that go to the hot kinds.
const HOT_SHARE: f64 = 0.9;
/// One kind in so many is hot, and at least one.
const HOT_OF: usize = 5;
/// Standard deviation of the logarithm of a kind's weight, from one period to the next.
const DRIFT: f64 = 0.5;

/// How requests are distributed over the kinds of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// All kinds alike.
    Natural,
    /// One kind, which the seed chooses.
    OneKind,
    /// Nine in ten requests are of a fifth of the kinds.
    HotSet,
    /// A hot set that is another one in each period.
    Rotating,
    /// Zipf at first; then each kind becomes more or less frequent in each period, by chance.
    Drifting,
}

impl Skew {
    /// Every one.
    pub const ALL: &[Self] =
        &[Self::Natural, Self::OneKind, Self::HotSet, Self::Rotating, Self::Drifting];

    fn name(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::OneKind => "one-kind",
            Self::HotSet => "hot-set",
            Self::Rotating => "rotating",
            Self::Drifting => "drifting",
        }
    }
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|skew| skew.name() == text);
        found.copied().ok_or_else(|| {
            format!("{text:?} is not natural, one-kind, hot-set, rotating or drifting")
        })
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a skew is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of {
    pub(super) n_kinds: usize,
    pub(super) period: u64,
}

/// Draws kinds.
#[derive(Debug)]
pub(super) struct Kinds {
    skew: Skew,
    period: u64,
    rng: ChaCha8Rng,
    /// The kinds in the order in which they are hot.
    order: Vec<usize>,
    /// How often each kind is asked for, relative to the others.
    weights: Vec<f64>,
    /// Periods that have begun after the first.
    periods: u64,
}

impl Kinds {
    pub(super) fn new(skew: Skew, of: Of, mut rng: ChaCha8Rng) -> Self {
        let mut order: Vec<usize> = (0..of.n_kinds).collect();
        order.shuffle(&mut rng);
        let mut weights = vec![0.0; of.n_kinds];
        for (rank, &kind) in order.iter().enumerate() {
            weights[kind] = match skew {
                Skew::Natural => 1.0,
                Skew::OneKind => f64::from(u8::from(rank == 0)),
                Skew::HotSet | Skew::Rotating => hot_weight(rank, of.n_kinds),
                Skew::Drifting => (rank as f64 + 1.0).recip(),
            };
        }
        Self { skew, period: of.period.max(1), rng, order, weights, periods: 0 }
    }

    /// The kind of a request; numbers must ascend.
    pub(super) fn draw(&mut self, number: u64, rng: &mut ChaCha8Rng) -> usize {
        while self.periods < number / self.period {
            self.periods += 1;
            self.change();
        }
        let all: f64 = self.weights.iter().sum();
        let mut point = rng.random::<f64>() * all;
        for (kind, weight) in self.weights.iter().enumerate() {
            point -= weight;
            if point < 0.0 {
                return kind;
            }
        }
        // Rounding took the point past the end.
        self.order[0]
    }

    fn change(&mut self) {
        match self.skew {
            Skew::Natural | Skew::OneKind | Skew::HotSet => {}
            Skew::Rotating => {
                let n_kinds = self.order.len();
                self.order.rotate_left(hot(n_kinds));
                for (rank, &kind) in self.order.iter().enumerate() {
                    self.weights[kind] = hot_weight(rank, n_kinds);
                }
            }
            Skew::Drifting => {
                for weight in &mut self.weights {
                    let step: f64 = StandardNormal.sample(&mut self.rng);
                    *weight = (*weight * (DRIFT * step).exp()).clamp(1e-6, 1e6);
                }
            }
        }
    }
}

fn hot(n_kinds: usize) -> usize {
    n_kinds.div_ceil(HOT_OF).max(1)
}

fn hot_weight(rank: usize, n_kinds: usize) -> f64 {
    let hot = hot(n_kinds);
    let cold = n_kinds.saturating_sub(hot).max(1);
    if rank < hot { HOT_SHARE / hot as f64 } else { (1.0 - HOT_SHARE) / cold as f64 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// How often each of ten kinds is drawn in requests of these numbers, the most frequent first.
    fn counts(skew: Skew, numbers: std::ops::Range<u64>) -> Vec<(usize, usize)> {
        let of = Of { n_kinds: 10, period: 5000 };
        let mut kinds = Kinds::new(skew, of, ChaCha8Rng::seed_from_u64(5));
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut counts: Vec<(usize, usize)> = (0..10).map(|kind| (0, kind)).collect();
        for number in numbers {
            counts[kinds.draw(number, &mut rng)].0 += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn natural_asks_for_all_kinds_alike() {
        let counts = counts(Skew::Natural, 0..5000);
        assert!(counts.iter().all(|(count, _)| (400..600).contains(count)), "{counts:?}");
    }

    #[test]
    fn one_kind_is_one() {
        assert_eq!(counts(Skew::OneKind, 0..500)[0].0, 500);
    }

    #[test]
    fn a_hot_set_has_nine_tenths() {
        let counts = counts(Skew::HotSet, 0..5000);
        let hot = counts[0].0 + counts[1].0;
        assert!((4400..4600).contains(&hot), "{counts:?}");
    }

    #[test]
    fn a_rotating_set_is_another_one_in_the_next_period() {
        let (first, second) =
            (counts(Skew::Rotating, 0..5000), counts(Skew::Rotating, 5000..10_000));
        let hot = |counts: &[(usize, usize)]| counts[..2].iter().map(|c| c.1).collect::<Vec<_>>();
        assert!(
            hot(&first).iter().all(|kind| !hot(&second).contains(kind)),
            "{first:?} {second:?}"
        );
    }

    #[test]
    fn a_drifting_load_changes_from_period_to_period() {
        let (first, later) =
            (counts(Skew::Drifting, 0..5000), counts(Skew::Drifting, 40_000..45_000));
        let order = |counts: &[(usize, usize)]| counts.iter().map(|c| c.1).collect::<Vec<_>>();
        assert_ne!(order(&first), order(&later));
    }

    #[test]
    fn skews_have_names() {
        for skew in Skew::ALL {
            assert_eq!(skew.to_string().parse(), Ok(*skew));
        }
        assert!("zipf".parse::<Skew>().unwrap_err().contains("\"zipf\""));
    }
}

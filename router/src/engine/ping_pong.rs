//! Whether a step goes through the model in two micro-batches, so that one is computed here while the experts of the
//! other are away. No clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::ExpertTimes;

/// Rows that the experts of a half should have on average. Each half reads the weights of its experts for itself, and
/// reading them takes as long as computing some rows, so with fewer of them the halves take as long as the whole.
const ROWS_OF_EXPERT: usize = 8;
/// What could be gained at best must be a tenth of a step.
const WORTH_TRYING: f64 = 0.9;
/// Halves that take a larger share of the whole's time are not faster: steps are never quite alike.
const FASTER: f64 = 0.97;
/// Steps until the way that was slower is tried again; twice as many each time that it is slower again.
const FIRST_PAUSE: u32 = 32;
/// No pause is longer.
const LONGEST_PAUSE: u32 = 2048;

/// When steps go in two micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PingPongMode {
    /// When it was faster for steps of that size.
    #[default]
    Auto,
    /// Whenever there are two rows.
    On,
    /// Never.
    Off,
}

/// What is known of steps, by size.
#[derive(Debug, Default)]
pub(crate) struct PingPong {
    mode: PingPongMode,
    /// Steps of fewer rows are never worth it.
    least_rows: usize,
    /// By the logarithm of their rows.
    sizes: BTreeMap<u32, Size>,
}

/// Steps of 64 to 127 rows, or of 128 to 255, and so on.
#[derive(Debug)]
struct Size {
    /// The time of a row, and the best share of it that might be left in two micro-batches.
    whole: Option<(f64, f64)>,
    /// The time of a row in steps that went in two.
    halves: Option<f64>,
    /// Steps since the way that was slower was tried.
    since_trial: u32,
    pause: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { whole: None, halves: None, since_trial: 0, pause: FIRST_PAUSE }
    }
}

impl PingPong {
    /// For a model in which a token has `top_k` of `n_experts`.
    pub(crate) fn new(mode: PingPongMode, (top_k, n_experts): (usize, usize)) -> Self {
        let least_rows = 2 * ROWS_OF_EXPERT * n_experts / top_k.max(1);
        Self { mode, least_rows, sizes: BTreeMap::new() }
    }

    /// Decides about a step of so many rows.
    pub(super) fn in_two(&self, rows: usize) -> bool {
        match self.mode {
            PingPongMode::Off => false,
            PingPongMode::On => rows >= 2,
            PingPongMode::Auto => {
                let known = self.sizes.get(&rows.max(1).ilog2());
                rows >= self.least_rows && known.is_some_and(Size::in_two)
            }
        }
    }

    /// Learns how long a step took, all in all and for its experts.
    pub(super) fn took(
        &mut self,
        rows: usize,
        in_two: bool,
        (all, experts): (Duration, ExpertTimes),
    ) {
        let size = self.sizes.entry(rows.max(1).ilog2()).or_default();
        let before = size.halves_are_faster();
        let of_row = all.as_secs_f64() / rows.max(1) as f64;
        if in_two {
            size.halves = Some(mean(size.halves, of_row));
        } else {
            let known = size.whole.map(|(time, _)| time);
            size.whole = Some((mean(known, of_row), best_share(all, experts)));
        }
        size.note_trial(before, in_two);
    }
}

impl Size {
    fn in_two(&self) -> bool {
        let is_due = self.since_trial >= self.pause;
        match (self.whole, self.halves_are_faster()) {
            (None, _) => false,
            (Some((_, best_share)), None) => best_share < WORTH_TRYING,
            (Some(_), Some(faster)) => faster != is_due,
        }
    }

    /// Nothing before both ways were tried.
    fn halves_are_faster(&self) -> Option<bool> {
        Some(self.halves? < FASTER * self.whole?.0)
    }

    /// Counts, and sees what a trial has changed.
    fn note_trial(&mut self, before: Option<bool>, in_two: bool) {
        self.since_trial = self.since_trial.saturating_add(1);
        match (before, self.halves_are_faster()) {
            (Some(faster), Some(still)) if faster != in_two => {
                self.since_trial = 0;
                let is_settled = faster == still;
                self.pause =
                    if is_settled { (2 * self.pause).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            }
            (None, Some(_)) => self.since_trial = 0,
            _ => {}
        }
    }
}

/// The mean of a new value and of what was known, which counts three times as much.
fn mean(known: Option<f64>, new: f64) -> f64 {
    known.map_or(new, |known| (3.0 * known + new) / 4.0)
}

/// The least that may be left of a step's time in two micro-batches, as a share.
///
/// With T_a for what the lane computes, T_e for the experts and T_c for the way there and back, a step takes
/// T_a + T_e + T_c. In two halves, one after the other everywhere, nothing can be faster than the lane, than the nodes,
/// or than both halves of which each waits for its own calls: max(T_a, T_e, (T_a + T_e + T_c) / 2), as in
/// MegaScale-Infer (arXiv 2504.02263), section 4.
fn best_share(all: Duration, ExpertTimes { waited, busy }: ExpertTimes) -> f64 {
    let all = all.as_secs_f64().max(1e-9);
    let lane = all - waited.as_secs_f64();
    let experts = busy.as_secs_f64().min(waited.as_secs_f64());
    lane.max(experts).max(all / 2.0) / all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Steps of at least 64 rows.
    const EIGHT_OF_32: (usize, usize) = (8, 32);
    const MS: Duration = Duration::from_millis(1);

    /// A step of 100 ms, of which the lane waits 60 and the experts compute 50.
    const EVEN: (Duration, ExpertTimes) = (
        Duration::from_millis(100),
        ExpertTimes { waited: Duration::from_millis(60), busy: Duration::from_millis(50) },
    );

    fn halves(all: Duration) -> (Duration, ExpertTimes) {
        (all, ExpertTimes::default())
    }

    #[test]
    fn what_could_be_gained_follows_from_the_three_times() {
        let share = |all: u32, waited: u32, busy: u32| {
            let times = ExpertTimes { waited: waited * MS, busy: busy * MS };
            (best_share(all * MS, times) * 1000.0).round() / 1000.0
        };
        assert_eq!(share(100, 60, 50), 0.5);
        assert_eq!(share(100, 90, 85), 0.85, "the nodes are the slower part");
        assert_eq!(share(100, 20, 15), 0.8, "the lane is");
        assert_eq!(share(100, 90, 5), 0.5, "the network is, of which both halves wait for a half");
        assert_eq!(share(100, 0, 0), 1.0);
    }

    #[test]
    fn two_are_tried_where_much_could_be_gained_and_kept_if_it_was() {
        let mut auto = PingPong::new(PingPongMode::Auto, EIGHT_OF_32);
        assert!(!auto.in_two(512));
        auto.took(512, false, EVEN);
        assert!(auto.in_two(512) && auto.in_two(1000));
        assert!(!auto.in_two(511) && !auto.in_two(1024), "other sizes are not known");
        auto.took(512, true, halves(70 * MS));
        assert!(auto.in_two(512));
        // A little later the other way is looked at again, and is not better.
        for _ in 0..FIRST_PAUSE {
            assert!(auto.in_two(512));
            auto.took(512, true, halves(70 * MS));
        }
        assert!(!auto.in_two(512));
        auto.took(512, false, EVEN);
        assert!(auto.in_two(512));
    }

    #[test]
    fn what_was_slower_is_tried_less_and_less_often() {
        let mut auto = PingPong::new(PingPongMode::Auto, EIGHT_OF_32);
        let mut trials = Vec::new();
        for step in 0..10_000 {
            let in_two = auto.in_two(64);
            if in_two {
                trials.push(step);
            }
            auto.took(64, in_two, if in_two { halves(130 * MS) } else { EVEN });
        }
        assert!(trials.len() < 12, "{trials:?}");
        assert!(trials.windows(3).all(|at| at[2] - at[1] >= at[1] - at[0]), "{trials:?}");
    }

    #[test]
    fn small_steps_and_steps_without_waiting_stay_whole() {
        let mut auto = PingPong::new(PingPongMode::Auto, EIGHT_OF_32);
        auto.took(63, false, EVEN);
        assert!(!auto.in_two(63));
        auto.took(64, false, EVEN);
        assert!(auto.in_two(64));
        auto.took(512, false, (100 * MS, ExpertTimes { waited: 5 * MS, busy: 4 * MS }));
        assert!(!auto.in_two(512));
    }

    #[test]
    fn who_says_on_or_off_is_obeyed() {
        let [mut on, mut off] =
            [PingPongMode::On, PingPongMode::Off].map(|mode| PingPong::new(mode, EIGHT_OF_32));
        for rows in [2, 3, 1000] {
            on.took(rows, false, (100 * MS, ExpertTimes::default()));
            off.took(rows, false, EVEN);
            assert!(on.in_two(rows) && !off.in_two(rows));
        }
        assert!(!on.in_two(1));
    }

    proptest! {
        /// Whatever the two ways cost, the faster one is taken in nearly all steps after the first ones.
        #[test]
        fn the_faster_way_is_taken_nearly_always(whole in 1u32..1000, halves_take in 1u32..1000) {
            let share = f64::from(halves_take) / f64::from(whole);
            prop_assume!(!(FASTER - 0.01..1.0).contains(&share));
            let mut auto = PingPong::new(PingPongMode::Auto, EIGHT_OF_32);
            let times = ExpertTimes { waited: whole * MS / 2, busy: whole * MS / 2 };
            let mut slower = 0;
            for _ in 0..2_000 {
                let in_two = auto.in_two(256);
                slower += usize::from(in_two != (halves_take < whole));
                let step = if in_two { halves(halves_take * MS) } else { (whole * MS, times) };
                auto.took(256, in_two, step);
            }
            prop_assert!(slower <= 10, "{slower} of 2000");
        }
    }
}

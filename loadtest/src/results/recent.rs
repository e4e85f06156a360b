//! The times of answers that ended in the last seconds, and tokens of each second, for those who watch.

use std::collections::VecDeque;
use std::time::Duration;

use super::Record;
use super::percentiles::{Percentiles, Times};

/// How far back it looks.
const SECONDS: u64 = 5;
/// Seconds whose tokens are kept.
const RATES: usize = 60;

/// What happened just now.
pub(crate) struct Recent {
    /// Of each of the last seconds in which an answer ended: its number, and times.
    seconds: VecDeque<(u64, Times, Times)>,
    rates: VecDeque<f64>,
    last: (Duration, u64),
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self { seconds: VecDeque::new(), rates: VecDeque::new(), last: (Duration::ZERO, 0) }
    }

    /// Takes in an answer; failed requests have no times.
    pub(crate) fn add(&mut self, record: &Record) {
        if record.failure.is_some() {
            return;
        }
        let second = record.ended.as_secs();
        if self.seconds.back().is_none_or(|last| last.0 < second) {
            self.seconds.push_back((second, Times::new(), Times::new()));
            self.forget(second);
        }
        if let Some((_, ttft, itl)) = self.seconds.back_mut() {
            record.ttft().into_iter().for_each(|time| ttft.add(time));
            record.heard.parts.windows(2).for_each(|pair| itl.add(pair[1].0 - pair[0].0));
        }
    }

    fn forget(&mut self, now: u64) {
        while self.seconds.front().is_some_and(|first| first.0 + SECONDS <= now) {
            self.seconds.pop_front();
        }
    }

    /// Takes in how many tokens there were by now, and gives the tokens a second of the last looks.
    pub(crate) fn rates(&mut self, now: Duration, tokens: u64) -> Vec<f64> {
        let (before, had) = self.last;
        let seconds = now.saturating_sub(before).as_secs_f64();
        if seconds > 0.0 && before > Duration::ZERO {
            self.rates.push_back(tokens.saturating_sub(had) as f64 / seconds);
        }
        if self.rates.len() > RATES {
            self.rates.pop_front();
        }
        self.last = (now, tokens);
        self.rates.iter().copied().collect()
    }

    /// Times to the first token and between parts, of the last seconds before now.
    pub(crate) fn times(&mut self, now: Duration) -> (Percentiles, Percentiles) {
        self.forget(now.as_secs());
        let (mut all_ttft, mut all_itl) = (Times::new(), Times::new());
        for (_, ttft, itl) in &self.seconds {
            all_ttft.merge(ttft);
            all_itl.merge(itl);
        }
        (all_ttft.percentiles(), all_itl.percentiles())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::target::Heard;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn record(sent: u64, parts: &[u64]) -> Record {
        let mut heard = Heard::new(Instant::now());
        heard.parts = parts.iter().map(|at| (MS(*at), 1)).collect();
        let ended = MS(*parts.last().unwrap());
        let (intended, failure) = (MS(sent), None);
        Record { number: 0, kind: 0, intended, sent: MS(sent), ended, heard, failure }
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut recent = Recent::new();
        recent.add(&record(0, &[500, 900]));
        recent.add(&record(4000, &[4010, 4030]));
        assert_eq!(recent.times(MS(4500)).0.count, 2);
        let (ttft, itl) = recent.times(MS(6000));
        // To three digits.
        let rounded = (ttft.max_ms.round(), itl.max_ms.round());
        assert_eq!((ttft.count, rounded), (1, (10.0, 20.0)));
        assert_eq!(recent.times(MS(60_000)).0.count, 0);
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let mut recent = Recent::new();
        assert_eq!(recent.rates(MS(10), 5), [] as [f64; 0]);
        assert_eq!(recent.rates(MS(1010), 105), [100.0]);
        assert_eq!(recent.rates(MS(1510), 205), [100.0, 200.0]);
        for look in 2..200 {
            recent.rates(MS(look * 1000), 205);
        }
        assert_eq!(recent.rates(MS(200_000), 205).len(), RATES);
    }
}

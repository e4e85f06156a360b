//! Answers as they end, added up: what is kept does not grow with their number.

use std::time::Duration;

use super::percentiles::Times;
use super::{Failed, Goodput, Latencies, Outcome, Requests, Second, Slo, Throughput};
use crate::target::{Failure, Heard};
use crate::units::millis;

/// A client that sends later than this is too slow for what it measures.
const MAX_SEND_LAG_MS: f64 = 20.0;

/// Kinds that are counted by name; a file may have a million lines.
const MAX_KINDS: usize = 64;

/// One request, as it went. Times are from the start of the run.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) kind: usize,
    /// When it was to be sent.
    pub(crate) intended: Duration,
    /// When it was.
    pub(crate) sent: Duration,
    pub(crate) ended: Duration,
    pub(crate) heard: Heard,
    pub(crate) failure: Option<Failure>,
}

impl Record {
    /// To the first token.
    pub(crate) fn ttft(&self) -> Option<Duration> {
        Some(self.heard.parts.first()?.0.saturating_sub(self.intended))
    }

    /// For each token after the first part.
    pub(crate) fn tpot(&self) -> Option<Duration> {
        let (first, more) = self.heard.parts.split_first()?;
        let tokens: u32 = more.iter().map(|(_, tokens)| tokens).sum();
        Some((more.last()?.0 - first.0) / tokens)
    }

    /// To the end.
    pub(crate) fn e2e(&self) -> Duration {
        self.ended.saturating_sub(self.intended)
    }

    fn meets(&self, slo: &Slo) -> bool {
        let within = |time: Option<Duration>, limit: Option<Duration>| {
            limit.is_none_or(|limit| time.is_none_or(|time| time <= limit))
        };
        self.failure.is_none()
            && within(self.ttft(), slo.ttft)
            && within(self.tpot(), slo.tpot)
            && within(Some(self.e2e()), slo.e2e)
    }
}

/// The part of a run that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Duration,
    /// Absent: until the last answer.
    pub(crate) to: Option<Duration>,
}

impl Window {
    fn contains(self, time: Duration) -> bool {
        time >= self.from && self.to.is_none_or(|to| time < to)
    }
}

/// The sums so far.
pub(crate) struct Tally {
    window: Window,
    slo: Option<Slo>,
    requests: Requests,
    met: u64,
    /// Tokens and whole answers within the window.
    tokens: u64,
    ended: u64,
    ttft: Times,
    tpot: Times,
    itl: Times,
    e2e: Times,
    send_lag: Times,
    seconds: Vec<Second>,
    last: Duration,
}

impl Tally {
    pub(crate) fn new(window: Window, slo: Option<Slo>) -> Self {
        Self {
            window,
            slo,
            requests: Requests::default(),
            met: 0,
            tokens: 0,
            ended: 0,
            ttft: Times::new(),
            tpot: Times::new(),
            itl: Times::new(),
            e2e: Times::new(),
            send_lag: Times::new(),
            seconds: Vec::new(),
            last: Duration::ZERO,
        }
    }

    /// Whole answers and failures so far, the warm-up included.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        self.seconds.iter().fold((0, 0), |(succeeded, failed), second| {
            (succeeded + second.succeeded, failed + second.failed)
        })
    }

    /// Adds a request that has ended; `kind` is the name of its kind.
    pub(crate) fn add(&mut self, record: &Record, kind: String) {
        self.last = self.last.max(record.ended);
        self.add_to_timeline(record);
        for &(at, tokens) in &record.heard.parts {
            self.tokens += if self.window.contains(at) { u64::from(tokens) } else { 0 };
        }
        let whole = record.failure.is_none();
        self.ended += u64::from(whole && self.window.contains(record.ended));
        if !self.window.contains(record.intended) {
            self.requests.warm_up += 1;
            return;
        }
        self.requests.sent += 1;
        let known = &mut self.requests.kinds;
        let full = known.len() >= MAX_KINDS && !known.contains_key(&kind);
        *known.entry(if full { "others".into() } else { kind }).or_default() += 1;
        self.send_lag.add(record.sent.saturating_sub(record.intended));
        match &record.failure {
            Some(failure) => self.add_failure(failure),
            None => self.add_answer(record),
        }
    }

    fn add_failure(&mut self, failure: &Failure) {
        let new = || Failed { count: 0, example: failure.message.clone() };
        self.requests.failed.entry(failure.code.clone()).or_insert_with(new).count += 1;
    }

    fn add_answer(&mut self, record: &Record) {
        self.requests.succeeded += 1;
        self.requests.prompt_tokens += u64::from(record.heard.usage.prompt);
        self.requests.cached_tokens += u64::from(record.heard.usage.cached);
        self.requests.output_tokens += u64::from(record.heard.output_tokens());
        self.met += u64::from(self.slo.is_some_and(|slo| record.meets(&slo)));
        record.ttft().into_iter().for_each(|time| self.ttft.add(time));
        record.tpot().into_iter().for_each(|time| self.tpot.add(time));
        self.e2e.add(record.e2e());
        for pair in record.heard.parts.windows(2) {
            self.itl.add(pair[1].0 - pair[0].0);
        }
    }

    fn add_to_timeline(&mut self, record: &Record) {
        for &(at, tokens) in &record.heard.parts {
            self.second(at).tokens += u64::from(tokens);
        }
        let (ttft, whole) = (record.ttft(), record.failure.is_none());
        let second = self.second(record.ended);
        second.failed += u64::from(!whole);
        if whole {
            let before = second.succeeded as f64;
            let ttft = millis(ttft.unwrap_or_default());
            second.mean_ttft_ms = (second.mean_ttft_ms * before + ttft) / (before + 1.0);
            second.succeeded += 1;
        }
    }

    fn second(&mut self, at: Duration) -> &mut Second {
        let index = at.as_secs() as usize;
        while self.seconds.len() <= index {
            let at = self.seconds.len() as f64;
            self.seconds.push(Second { at, seconds: 1.0, ..Second::default() });
        }
        &mut self.seconds[index]
    }

    /// What all of it comes to; a run that was stopped is measured up to its last answer.
    pub(crate) fn outcome(self, stopped: bool) -> Outcome {
        let to = self.window.to.filter(|to| !stopped || *to < self.last).unwrap_or(self.last);
        let seconds = to.saturating_sub(self.window.from).as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let mut timeline = self.seconds;
        if let Some(last) = timeline.last_mut() {
            last.seconds = (self.last.as_secs_f64() - last.at).clamp(1e-3, 1.0);
        }
        let latency = Latencies {
            ttft: self.ttft.percentiles(),
            tpot: self.tpot.percentiles(),
            itl: self.itl.percentiles(),
            e2e: self.e2e.percentiles(),
            send_lag: self.send_lag.percentiles(),
        };
        let goodput = self.slo.map(|slo| Goodput {
            slo: slo.to_string(),
            requests: self.met,
            share: self.met as f64 / self.requests.sent.max(1) as f64,
            requests_per_second: per_second(self.met),
        });
        Outcome {
            format: super::FORMAT,
            throughput: Throughput {
                from_seconds: self.window.from.as_secs_f64(),
                seconds,
                requests_per_second: per_second(self.ended),
                tokens_per_second: per_second(self.tokens),
            },
            warnings: warnings(&latency, &self.requests),
            requests: self.requests,
            latency,
            goodput,
            timeline,
            ..Outcome::default()
        }
    }
}

fn warnings(latency: &Latencies, requests: &Requests) -> Vec<String> {
    let mut warnings = Vec::new();
    let lag = latency.send_lag.p99_ms;
    if lag > MAX_SEND_LAG_MS {
        warnings.push(format!(
            "the client itself was late: one request in a hundred was sent {lag:.0} ms after its time or later; the \
             latencies include that"
        ));
    }
    if (1..100).contains(&requests.succeeded) {
        let count = requests.succeeded;
        warnings.push(format!("{count} answers say little about p99: at least 100 are needed"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn record(intended: u64, ended: u64, parts: &[(u64, u32)], failure: Option<&str>) -> Record {
        let mut heard = Heard::new(Instant::now());
        heard.parts = parts.iter().map(|&(at, tokens)| (MS(at), tokens)).collect();
        Record {
            number: 0,
            kind: 0,
            intended: MS(intended),
            sent: MS(intended + 5),
            ended: MS(ended),
            heard,
            failure: failure.map(|code| Failure::new(code, "why")),
        }
    }

    fn outcome(records: &[Record]) -> Outcome {
        let slo = "ttft:150ms,tpot:60ms".parse().unwrap();
        let window = Window { from: MS(1000), to: Some(MS(3000)) };
        let mut tally = Tally::new(window, Some(slo));
        records.iter().for_each(|record| tally.add(record, "a".into()));
        tally.outcome(false)
    }

    #[test]
    fn latencies_count_from_the_intended_moment() {
        let found = outcome(&[record(1000, 1500, &[(1100, 1), (1200, 1), (1400, 2)], None)]);
        let near =
            |found: f64, ms: f64| assert!((found - ms).abs() <= 0.001 * ms, "{found}, not {ms}");
        near(found.latency.ttft.max_ms, 100.0);
        near(found.latency.tpot.max_ms, 100.0);
        near(found.latency.itl.max_ms, 200.0);
        near(found.latency.itl.p50_ms, 100.0);
        near(found.latency.e2e.max_ms, 500.0);
        near(found.latency.send_lag.max_ms, 5.0);
        assert_eq!((found.latency.itl.count, found.requests.output_tokens), (2, 4));
    }

    #[test]
    fn the_warm_up_and_what_comes_after_are_left_out() {
        let found = outcome(&[
            record(0, 1500, &[(900, 1), (1400, 3)], None),
            record(2000, 3500, &[(2100, 2), (3100, 5)], None),
            record(3000, 3500, &[(3200, 7)], None),
        ]);
        assert_eq!((found.requests.sent, found.requests.warm_up), (1, 2));
        assert_eq!(found.requests.output_tokens, 7);
        // In the two seconds that are measured: 3 + 2 tokens, and one answer ended.
        assert_eq!(found.throughput.tokens_per_second, 2.5);
        assert_eq!(found.throughput.requests_per_second, 0.5);
        let tokens: Vec<u64> = found.timeline.iter().map(|second| second.tokens).collect();
        assert_eq!(tokens, [1, 3, 2, 12]);
        assert_eq!(found.timeline[3].seconds, 0.5);
    }

    #[test]
    fn goodput_is_of_all_requests() {
        let found = outcome(&[
            record(1000, 1200, &[(1100, 1), (1150, 1)], None),
            record(1000, 1200, &[(1160, 1), (1170, 1)], None),
            record(1000, 1400, &[(1100, 1), (1300, 1)], None),
            record(1000, 1200, &[(1100, 1)], Some("Unavailable")),
        ]);
        let goodput = found.goodput.as_ref().unwrap();
        assert_eq!((goodput.requests, goodput.share, goodput.requests_per_second), (1, 0.25, 0.5));
        assert_eq!(found.n_failed(), 1);
        assert_eq!(found.requests.failed["Unavailable"].example, "why");
        assert_eq!(found.latency.ttft.count, 3, "a failed request has no latency");
    }

    #[test]
    fn a_run_that_was_stopped_is_shorter() {
        let mut tally = Tally::new(Window { from: MS(1000), to: Some(MS(9000)) }, None);
        tally.add(&record(1000, 3000, &[(2000, 8)], None), "a".into());
        let throughput = tally.outcome(true).throughput;
        assert_eq!((throughput.seconds, throughput.tokens_per_second), (2.0, 4.0));
    }

    #[test]
    fn kinds_without_end_are_others() {
        let mut tally = Tally::new(Window { from: MS(0), to: None }, None);
        for number in 0..MAX_KINDS + 5 {
            tally.add(&record(0, 10, &[], None), number.to_string());
        }
        let kinds = tally.outcome(false).requests.kinds;
        assert_eq!((kinds.len(), kinds["others"]), (MAX_KINDS + 1, 5));
    }

    #[test]
    fn a_client_that_is_late_says_so() {
        let mut late = record(1000, 1200, &[(1100, 1)], None);
        late.sent = MS(1050);
        assert!(outcome(&[late]).warnings[0].contains("50 ms"));
        assert_eq!(outcome(&[record(1000, 1200, &[(1100, 1)], None)]).warnings.len(), 1);
    }
}

//! What a lane has seen of a node, and what follows: when an answer is late, and when the node may be asked again. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_ids::NodeId;

/// Calls of 1 to 2 pairs, of 3 to 4, of 5 to 8 and so on are compared with one another.
const SIZES: usize = 16;
/// Rest after a first failure; it doubles with each further one.
const FIRST_REST: Duration = Duration::from_millis(100);
/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Rest of a node that sent what no correct node sends. Nobody can say what else such a node gets wrong, so it gets at
/// most one chance in a minute while others can do its work; a fault that passes needs nobody to repair it.
pub(super) const QUARANTINE: Duration = Duration::from_secs(60);
/// What is known of a node's speed counts for so long after its last answer. A node that got slow and lost its load is
/// tried again after that.
const REMEMBERED: Duration = Duration::from_secs(300);
/// After this time an answer counts half for a node's speed: a node that stutters answers many calls at once, and then
/// none for a while.
const HALF_LIFE: Duration = Duration::from_secs(3);
/// An answer is never late before this: the time in which a busy machine wakes a thread.
const LEAST_PATIENCE: Duration = Duration::from_millis(40);

/// One node's record with one lane.
#[derive(Debug, Default)]
pub(super) struct Health {
    latency: [Latency; SIZES],
    pace: [Pace; SIZES],
    /// Failures and late answers since the last answer in time.
    strikes: u32,
    rests_until: Option<Instant>,
    quarantined_until: Option<Instant>,
    /// Calls that were sent elsewhere too because the answer was late, and have no answer yet.
    owed: BTreeSet<u64>,
}

/// Mean and mean deviation of answers' times, as TCP estimates round trips (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
struct Latency {
    mean: Option<Duration>,
    deviation: Duration,
}

/// What a node's calls took all together, in which what is long ago counts little.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    seconds: f64,
    calls: f64,
    /// When the last answer came.
    known: Option<Instant>,
}

fn size_class(pairs: usize) -> usize {
    (pairs.max(1).next_power_of_two().trailing_zeros() as usize).min(SIZES - 1)
}

impl Health {
    /// Whether new calls should go to others where there are any.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.is_struck(now) || self.is_quarantined(now)
    }

    /// Whether what went wrong last is not long ago.
    fn is_struck(&self, now: Instant) -> bool {
        !self.owed.is_empty() || self.rests_until.is_some_and(|until| until > now)
    }

    /// Whether the node should be asked only for what nobody else has, not even a node that rests.
    pub(super) fn is_quarantined(&self, now: Instant) -> bool {
        self.quarantined_until.is_some_and(|until| until > now)
    }

    /// Whether a link that was lost may be opened again; while the node is in quarantine only if nobody else has what
    /// it holds.
    pub(super) fn may_open(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| until <= now)
    }

    /// The time within which a call of so many pairs is answered, almost always; nothing before the first answer.
    pub(super) fn usual(&self, pairs: usize) -> Option<Duration> {
        let Latency { mean, deviation, .. } = self.latency[size_class(pairs)];
        Some(mean? + 4 * deviation)
    }

    /// The answer to a call is late, and others are asked.
    pub(super) fn is_late(&mut self, call: u64) {
        self.owed.insert(call);
    }

    /// A call was answered.
    pub(super) fn answered(&mut self, call: u64, pairs: usize, took: Duration, now: Instant) {
        self.latency[size_class(pairs)].add(took);
        self.pace[size_class(pairs)].add(took, now);
        if self.owed.remove(&call) {
            self.strike(now);
        } else if !self.is_struck(now) {
            // Also in quarantine: a node that nobody can replace shall not rest longer each time.
            self.strikes = 0;
        }
    }

    /// A call or the link failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.owed.clear();
        self.strike(now);
    }

    /// The node sent what no correct node sends. Says whether that is news.
    pub(super) fn quarantine(&mut self, now: Instant) -> bool {
        let is_news = !self.is_quarantined(now);
        self.failed(now);
        self.quarantined_until = Some(now + QUARANTINE);
        is_news
    }

    /// It was not the node's fault.
    pub(super) fn pardon(&mut self) {
        self.quarantined_until = None;
    }

    fn strike(&mut self, now: Instant) {
        let rest = FIRST_REST * 2u32.pow(self.strikes.min(10));
        self.strikes += 1;
        self.rests_until = Some(now + rest.min(LONGEST_REST));
    }
}

impl Latency {
    fn add(&mut self, took: Duration) {
        match self.mean {
            None => (self.mean, self.deviation) = (Some(took), took / 2),
            Some(mean) => {
                self.deviation = (3 * self.deviation + took.abs_diff(mean)) / 4;
                self.mean = Some((7 * mean + took) / 8);
            }
        }
    }
}

impl Pace {
    fn add(&mut self, took: Duration, now: Instant) {
        let before = self.at(now).unwrap_or_default();
        let (seconds, calls) = (before.seconds + took.as_secs_f64(), before.calls + 1.0);
        *self = Self { seconds, calls, known: Some(now) };
    }

    /// The same as it counts now; `None` once the last answer is too long ago to count.
    fn at(&self, now: Instant) -> Option<Self> {
        let passed = now.duration_since(self.known?);
        let keep = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let counts = Self { seconds: keep * self.seconds, calls: keep * self.calls, ..*self };
        (passed < REMEMBERED).then_some(counts)
    }

    fn seconds_of_call(&self) -> f64 {
        (self.seconds / self.calls).max(1e-6)
    }
}

/// How long each node's calls took, over what they would have taken the node in the middle for calls of their size; of all
/// sizes in which there is another node to compare with. Nodes that have not answered for long are left out.
pub(super) fn slowness(nodes: &BTreeMap<NodeId, Health>, now: Instant) -> BTreeMap<NodeId, f64> {
    let mut sums: BTreeMap<&NodeId, (f64, f64)> = BTreeMap::new();
    for size in 0..SIZES {
        let of_size = |(node, health): (_, &Health)| Some((node, health.pace[size].at(now)?));
        let paces: Vec<(&NodeId, Pace)> = nodes.iter().filter_map(of_size).collect();
        let mut ascending: Vec<f64> =
            paces.iter().map(|(_, pace)| pace.seconds_of_call()).collect();
        ascending.sort_unstable_by(f64::total_cmp);
        if ascending.len() < 2 {
            continue;
        }
        let middle = ascending[(ascending.len() - 1) / 2];
        for (node, pace) in paces {
            let (took, would_have_taken) = sums.entry(node).or_default();
            *took += pace.calls * pace.seconds_of_call();
            *would_have_taken += pace.calls * middle;
        }
    }
    sums.into_iter().map(|(node, (took, middle))| (node.clone(), took / middle)).collect()
}

/// When the answer to a call is late: twice what is usual for the nodes in the middle, so that neither one slow node
/// nor one fast one decides; `patience` while nothing is known.
pub(super) fn patience(mut usual: Vec<Duration>, patience: Duration) -> Duration {
    usual.sort_unstable();
    let middle = usual.get(usual.len().saturating_sub(1) / 2);
    middle.map_or(patience, |middle| (2 * *middle).clamp(LEAST_PATIENCE.min(patience), patience))
}

/// How many calls may be sent twice: a twentieth, a few more each second, and a few at a time.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    left: f64,
    counted: Instant,
}

const HEDGE_SHARE: f64 = 0.05;
/// So that a lane which waits for its only call gets on.
const HEDGES_PER_SECOND: f64 = 5.0;
const HEDGE_BURST: f64 = 16.0;

impl HedgeBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: HEDGE_BURST, counted: now }
    }

    /// So many calls were sent for the first time.
    pub(super) fn earn(&mut self, calls: u64) {
        self.left = (self.left + HEDGE_SHARE * calls as f64).min(HEDGE_BURST);
    }

    /// Takes one second sending out of the budget, if it is there.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let seconds = now.duration_since(self.counted).as_secs_f64();
        self.left = (self.left + HEDGES_PER_SECOND * seconds).min(HEDGE_BURST);
        self.counted = now;
        let can = self.left >= 1.0;
        if can {
            self.left -= 1.0;
        }
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_late_node_rests_until_it_has_answered_and_a_while_longer() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert!(!health.rests(start));
        health.is_late(7);
        assert!(health.rests(start + 1000 * MS));
        health.answered(7, 1, 500 * MS, start + 1000 * MS);
        assert!(health.rests(start + 1099 * MS));
        assert!(!health.rests(start + 1100 * MS));
        // Late again: twice as long.
        health.is_late(8);
        health.answered(8, 1, 500 * MS, start + 2000 * MS);
        assert!(health.rests(start + 2199 * MS));
        assert!(!health.rests(start + 2200 * MS));
        // In time: forgiven.
        health.answered(9, 1, MS, start + 3000 * MS);
        health.failed(start + 4000 * MS);
        assert!(!health.rests(start + 4100 * MS));
    }

    #[test]
    fn rests_grow_to_a_limit_and_say_when_a_link_is_opened_again() {
        let (mut health, start) = (Health::default(), Instant::now());
        for _ in 0..100 {
            health.failed(start);
        }
        assert!(!health.may_open(start + LONGEST_REST - MS));
        assert!(health.may_open(start + LONGEST_REST));
    }

    #[test]
    fn a_quarantine_is_longer_than_any_rest_and_is_news_once() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert!(health.quarantine(start));
        assert!(health.rests(start + QUARANTINE - MS));
        // A node that nobody can replace is tried again as soon as after any failure.
        assert!(health.may_open(start + FIRST_REST));
        assert!(!health.quarantine(start + 1000 * MS));
        assert!(health.rests(start + QUARANTINE) && health.is_quarantined(start + QUARANTINE));
        // Answers in time do not end it, but the next rest before it is tried again is the first one again.
        health.answered(1, 1, MS, start + 2000 * MS);
        assert!(health.rests(start + 3000 * MS));
        health.failed(start + 3000 * MS);
        assert!(health.may_open(start + 3000 * MS + FIRST_REST));
        assert!(!health.rests(start + QUARANTINE + 1000 * MS));
        assert!(health.quarantine(start + 2 * QUARANTINE));
        health.pardon();
        assert!(!health.is_quarantined(start + 2 * QUARANTINE));
    }

    #[test]
    fn what_is_usual_follows_the_answers_of_a_size() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.usual(4), None);
        for call in 0..100 {
            health.answered(call, 3, 10 * MS, now);
        }
        let usual = health.usual(4).unwrap();
        assert!(usual >= 10 * MS && usual < 11 * MS, "{usual:?}");
        assert_eq!(health.usual(64), None);
        health.answered(100, 4, 50 * MS, now);
        assert!(health.usual(4).unwrap() > 40 * MS);
    }

    #[test]
    fn a_node_is_slow_beside_the_node_in_the_middle_for_calls_of_the_same_size() {
        let now = Instant::now();
        let mut nodes: BTreeMap<NodeId, Health> = BTreeMap::new();
        let mut answer = |node: &str, pairs: usize, took: u32| {
            let health = nodes.entry(node.parse().unwrap()).or_default();
            health.answered(0, pairs, took * MS, now);
        };
        // Large calls take long for everybody, and count for more; c has only those.
        for (node, pairs, took) in
            [("a", 1, 2), ("a", 64, 100), ("b", 1, 2), ("b", 64, 50), ("c", 64, 800), ("d", 1, 18)]
        {
            answer(node, pairs, took);
        }
        // Nobody else has calls of this size.
        answer("a", 1000, 9000);
        let of = |at| -> Vec<(String, u64)> {
            let slowness = slowness(&nodes, at).into_iter();
            slowness
                .map(|(node, times)| (node.to_string(), (times * 100.0).round() as u64))
                .collect()
        };
        let expected = [("a", 100), ("b", 51), ("c", 800), ("d", 900)];
        assert_eq!(of(now), expected.map(|(node, times)| (node.to_owned(), times)));
        assert_eq!(of(now + REMEMBERED), []);
    }

    #[test]
    fn a_node_that_stutters_is_as_slow_as_its_calls_are_together() {
        let start = Instant::now();
        let mut nodes: BTreeMap<NodeId, Health> = BTreeMap::new();
        let [steady, stutters] = ["a", "b"].map(|id| id.parse::<NodeId>().unwrap());
        let mut slow = Vec::new();
        for tenth in 0..600_u32 {
            let now = start + tenth * 100 * MS;
            // Both are fast, b stutters from the twentieth second to the fortieth, and both are fast again.
            let late = if (200..400).contains(&tenth) { 90 } else { 1 };
            for took in [1, 1, 1, 1, 1, 1, 1, 1, 1, late] {
                nodes.entry(stutters.clone()).or_default().answered(0, 1, took * MS, now);
            }
            for _ in 0..50 {
                nodes.entry(steady.clone()).or_default().answered(0, 1, MS, now);
            }
            slow.push(slowness(&nodes, now)[&stutters]);
        }
        let near = |times: f64, expected: f64| (times / expected - 1.0).abs() < 0.05;
        assert!(slow[..200].iter().all(|&times| near(times, 1.0)));
        assert!(slow[350..400].iter().all(|&times| near(times, 9.9)), "{:?}", &slow[350..400]);
        assert!(slow[230] > 3.0 && slow[430] < 6.0 && slow[490] < 3.0);
        assert!(slow[599] < 1.2);
    }

    #[test]
    fn patience_goes_by_the_node_in_the_middle() {
        let check = |usual: &[u32], expected: u32| {
            let usual = usual.iter().map(|&ms| ms * MS).collect();
            assert_eq!(patience(usual, 10_000 * MS), expected * MS);
        };
        check(&[], 10_000);
        check(&[30, 900, 30], 60);
        check(&[900, 30], 60);
        check(&[1, 2], 40);
        check(&[9000], 10_000);
    }

    #[test]
    fn a_twentieth_of_the_calls_and_some_each_second_may_be_sent_twice() {
        let now = Instant::now();
        let mut budget = HedgeBudget::new(now);
        while budget.spend(now) {}
        let mut hedges = 0;
        for _ in 0..1000 {
            budget.earn(1);
            hedges += u32::from(budget.spend(now));
        }
        assert!((49..=51).contains(&hedges), "{hedges}");
        while budget.spend(now) {}
        assert!(!budget.spend(now + 100 * MS));
        assert!(budget.spend(now + 250 * MS));
    }
}

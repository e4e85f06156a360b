//! When streams flow again after a fault: a comparison of gaps between tokens with those of a quiet run.

use std::time::Duration;

/// After its recovery a run is as it should be for so long.
const WINDOW: Duration = Duration::from_secs(1);
/// So much more of the streams' time than in the quiet run may be in long gaps.
const MORE: f64 = 0.1;
/// Moments closer than this are not told apart.
const GRAIN: Duration = Duration::from_millis(5);

/// From one part of a stream to the next; times are from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gap {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Gap {
    pub(crate) fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// What of it lies in a span of time.
    fn within(self, from: Duration, to: Duration) -> f64 {
        self.to.min(to).saturating_sub(self.from.max(from)).as_secs_f64()
    }
}

/// What is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usual {
    /// 99 in 100 gaps are no longer; those that are, are long.
    pub(crate) limit: Duration,
    /// Share of the streams' time that is in long gaps.
    share: f64,
}

impl Usual {
    /// What was usual in a run with these gaps; absent if there were none.
    pub(crate) fn of(gaps: &[Gap]) -> Option<Self> {
        let mut lengths: Vec<Duration> = gaps.iter().map(|gap| gap.length()).collect();
        lengths.sort_unstable();
        let limit = *lengths.get((lengths.len() * 99).div_ceil(100).checked_sub(1)?)?;
        let seconds = |lengths: &[Duration]| lengths.iter().map(Duration::as_secs_f64).sum::<f64>();
        let long = lengths.partition_point(|length| *length <= limit);
        let share = seconds(&lengths[long..]) / seconds(&lengths).max(f64::MIN_POSITIVE);
        Some(Self { limit, share })
    }

    /// Whether streams flow in the second from a moment on; not if none runs.
    fn holds(&self, from: Duration, gaps: &[Gap]) -> bool {
        let (mut all, mut long) = (0.0, 0.0);
        for gap in gaps {
            let within = gap.within(from, from + WINDOW);
            all += within;
            long += if gap.length() > self.limit { within } else { 0.0 };
        }
        all > 0.0 && long <= (self.share + MORE) * all
    }

    /// From a fault to the first moment after which, for a second, no more than a tenth more of the running streams'
    /// time lies in long gaps than in the quiet run; absent if there is no such moment.
    pub(crate) fn recovery(&self, fault: Duration, gaps: &[Gap]) -> Option<Duration> {
        let after: Vec<Gap> = gaps.iter().copied().filter(|gap| gap.to > fault).collect();
        let ends = after.iter().filter(|gap| gap.length() > self.limit).map(|gap| gap.to);
        let mut moments: Vec<Duration> = ends.collect();
        moments.sort_unstable();
        // The later of two moments that are close: then all of a step's streams have their token.
        let mut kept: Vec<Duration> = Vec::new();
        for moment in moments {
            match kept.last_mut() {
                Some(last) if moment - *last < GRAIN => *last = moment,
                _ => kept.push(moment),
            }
        }
        let moments = std::iter::once(fault).chain(kept);
        moments.into_iter().find(|moment| self.holds(*moment, &after)).map(|moment| moment - fault)
    }
}

/// The longest gap of any stream that is open at some moment of a span.
pub(crate) fn longest(from: Duration, to: Duration, gaps: &[Gap]) -> Duration {
    let open = gaps.iter().filter(|gap| gap.to > from && gap.from < to);
    open.map(|gap| gap.length()).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Streams that get a token every 20 ms for so long, but not from one moment to another.
    fn streams(count: u64, until: u64, (from, to): (u64, u64)) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for stream in 0..count {
            let times = (0..until).step_by(20).map(|at| at + stream % 3);
            let times: Vec<u64> = times.filter(|at| *at <= from || *at >= to).collect();
            gaps.extend(times.windows(2).map(|pair| Gap { from: MS(pair[0]), to: MS(pair[1]) }));
        }
        gaps
    }

    fn usual() -> Usual {
        Usual::of(&streams(8, 5000, (0, 0))).unwrap()
    }

    #[test]
    fn a_stall_of_all_streams_ends_the_recovery_where_it_ends() {
        let gaps = streams(8, 6000, (2000, 2700));
        let recovery = usual().recovery(MS(2010), &gaps).unwrap();
        assert!((MS(690)..MS(720)).contains(&recovery), "{recovery:?}");
        let found = longest(MS(2010), MS(2710), &gaps);
        assert!((MS(700)..MS(730)).contains(&found), "{found:?}");
    }

    #[test]
    fn a_fault_that_nobody_notices_is_recovered_from_at_once() {
        assert_eq!(usual().recovery(MS(2010), &streams(8, 6000, (0, 0))), Some(Duration::ZERO));
    }

    #[test]
    fn streams_that_never_flow_again_do_not_recover() {
        let gaps = streams(8, 6000, (2000, 5990));
        assert_eq!(usual().recovery(MS(2010), &gaps), None, "no second after it");
        assert_eq!(usual().recovery(MS(7000), &gaps), None, "nothing runs");
    }

    #[test]
    fn two_stalls_that_follow_each_other_are_one() {
        let mut gaps = streams(8, 6000, (2000, 2400));
        gaps.retain(|gap| gap.to <= MS(2500) || gap.from >= MS(3000));
        gaps.extend((0..8).map(|_| Gap { from: MS(2500), to: MS(3000) }));
        let recovery = usual().recovery(MS(2010), &gaps).unwrap();
        assert_eq!(recovery, MS(990));
    }

    #[test]
    fn nothing_is_usual_where_nothing_was() {
        assert_eq!(Usual::of(&[]), None);
        let usual = Usual::of(&[Gap { from: MS(0), to: MS(7) }]).unwrap();
        assert_eq!((usual.limit, usual.share), (MS(7), 0.0));
    }

    proptest! {
        #[test]
        fn recovery_is_as_long_as_the_stall(count in 1u64..20, stall in 200u64..3000) {
            let gaps = streams(count, 9000, (2000, 2000 + stall));
            let recovery = usual().recovery(MS(2000), &gaps).unwrap();
            prop_assert!((MS(stall)..=MS(stall + 25)).contains(&recovery), "{recovery:?}");
        }
    }
}

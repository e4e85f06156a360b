//! Sequences that wait for experts which no node can compute now, while the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_ids::ExpertId;
use guildhall_telemetry::trace_ids;

use super::lane::Lane;
use crate::request::Failure;
use crate::scheduler::{SequenceId, Work};
use crate::{Error, Lacking};

/// How long a sequence is left alone after it first lacked experts; twice as long each further time. A step that is
/// given up costs everybody in it time, and a node may be there and still not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Who is parked, why, and until when. No IO and no clock.
pub(super) struct Parking {
    /// How long a sequence waits, all in all.
    patience: Duration,
    parked: BTreeMap<SequenceId, Parked>,
}

struct Parked {
    lacking: Lacking,
    /// When it began to lack experts; no step with it has ended since.
    since: Instant,
    pause: Duration,
    /// `None` while it takes part in steps again and none has ended.
    rests_until: Option<Instant>,
}

impl Parking {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, parked: BTreeMap::new() }
    }

    /// A step could not be computed for this sequence. Says whether it is the first one in a row.
    fn park(&mut self, id: SequenceId, lacking: &Lacking, now: Instant) -> bool {
        let before = self.parked.remove(&id);
        let is_first = before.is_none();
        let (since, pause) = match before {
            Some(before) => (before.since, (2 * before.pause).min(LONGEST_PAUSE)),
            None => (now.checked_sub(lacking.waited).unwrap_or(now), FIRST_PAUSE),
        };
        let rests_until = Some(now + pause);
        self.parked.insert(id, Parked { lacking: lacking.clone(), since, pause, rests_until });
        is_first
    }

    /// Takes out the sequences that have waited too long, each with what it lacks.
    fn take_overdue(&mut self, now: Instant) -> Vec<(SequenceId, Lacking)> {
        let patience = self.patience;
        let overdue = self.parked.extract_if(.., |_, parked| {
            parked.rests_until.is_some() && now.duration_since(parked.since) >= patience
        });
        let with_time =
            |parked: Parked| Lacking { waited: now.duration_since(parked.since), ..parked.lacking };
        overdue.map(|(id, parked)| (id, with_time(parked))).collect()
    }

    /// The sequences that take part in steps again: their pause is over, and somebody can be asked for all they lack.
    fn unpark(
        &mut self,
        now: Instant,
        mut can_ask_for: impl FnMut(ExpertId) -> bool,
    ) -> Vec<SequenceId> {
        let mut unparked = Vec::new();
        for (id, parked) in &mut self.parked {
            let is_over = parked.rests_until.is_some_and(|until| until <= now);
            if is_over && parked.lacking.experts().all(&mut can_ask_for) {
                parked.rests_until = None;
                unparked.push(*id);
            }
        }
        unparked
    }

    /// A step with this sequence has ended, or the sequence has.
    pub(super) fn forget(&mut self, id: SequenceId) {
        self.parked.remove(&id);
    }
}

/// The sequences that these rows of a step belong to.
fn owners(plan: &[Work], rows: &[usize]) -> BTreeSet<SequenceId> {
    let mut owners = BTreeSet::new();
    let mut first_row = 0;
    for work in plan {
        let its_rows = first_row..first_row + work.tokens;
        if rows.iter().any(|row| its_rows.contains(row)) {
            owners.insert(work.id);
        }
        first_row = its_rows.end;
    }
    owners
}

impl Lane {
    /// After a step that could not be computed: who cannot go on is parked or fails, the others go on.
    pub(super) fn settle(&mut self, plan: &[Work], error: &Error) {
        match error {
            Error::ExpertsUnavailable(lacking) => {
                self.options.scheduler.abandon(plan);
                self.park(&owners(plan, &lacking.rows), lacking);
            }
            Error::NonFinite { rows, .. } => {
                self.options.scheduler.abandon(plan);
                self.fail(&owners(plan, rows), error);
            }
            _ => self.fail(&plan.iter().map(|work| work.id).collect(), error),
        }
    }

    fn park(&mut self, ids: &BTreeSet<SequenceId>, lacking: &Lacking) {
        let now = Instant::now();
        let mut first_times = BTreeSet::new();
        for &id in ids {
            self.options.scheduler.park(id);
            if self.parking.park(id, lacking, now) {
                first_times.insert(id);
            }
        }
        if !first_times.is_empty() {
            let (sequences, trace_id) =
                (first_times.len(), trace_ids(self.traces_of(&first_times)));
            tracing::warn!(sequences, why = %lacking, trace_id, "sequences wait for experts");
        }
    }

    /// Lets parked sequences go on that can, and ends those that have waited too long.
    pub(super) fn mind_parked(&mut self) {
        let now = Instant::now();
        for (id, lacking) in self.parking.take_overdue(now) {
            if let Some(mut sequence) = self.remove(id) {
                let trace_id = trace_ids(sequence.trace());
                tracing::error!(why = %lacking, trace_id, "a sequence waited too long for experts");
                sequence.fail(Failure::Unavailable(lacking.to_string()));
            }
        }
        let experts = &mut self.experts;
        for id in self.parking.unpark(now, |expert| experts.can_ask_for(expert)) {
            self.options.scheduler.unpark(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lacking(experts: &[u32]) -> Lacking {
        let mut ids = experts.iter().map(|&expert| ExpertId::new(3, expert));
        let (first, others) = (ids.next().unwrap(), ids.collect());
        Lacking { first, others, rows: vec![0], waited: 300 * MS, why: "n0: gone".into() }
    }

    #[test]
    fn rows_belong_to_the_sequences_of_the_plan() {
        let work = |id, tokens| Work { id, first_position: 7, tokens, samples: true };
        let plan = [work(4, 1), work(5, 3), work(9, 2)];
        let check = |rows: &[usize], expected: &[SequenceId]| {
            assert_eq!(owners(&plan, rows), expected.iter().copied().collect(), "{rows:?}");
        };
        check(&[], &[]);
        check(&[0], &[4]);
        check(&[1, 3], &[5]);
        check(&[0, 5], &[4, 9]);
        check(&[0, 1, 4], &[4, 5, 9]);
    }

    #[test]
    fn pauses_double_and_end_when_somebody_can_be_asked() {
        let (mut parking, mut now) = (Parking::new(Duration::from_secs(60)), Instant::now());
        for (time, pause) in [250, 500, 1000, 2000, 2000].into_iter().enumerate() {
            assert_eq!(parking.park(1, &lacking(&[5, 6]), now), time == 0);
            let pause = pause * MS;
            assert!(parking.unpark(now + pause - MS, |_| true).is_empty());
            assert!(parking.unpark(now + pause, |id| id == ExpertId::new(3, 5)).is_empty());
            now += pause;
            assert_eq!(parking.unpark(now, |_| true), [1]);
            assert!(parking.unpark(now, |_| true).is_empty(), "it is not parked any more");
        }
        // A step has ended: all is forgotten.
        parking.forget(1);
        assert!(parking.park(1, &lacking(&[5]), now));
        assert_eq!(parking.unpark(now + 250 * MS, |_| true), [1]);
    }

    #[test]
    fn who_waits_too_long_in_a_row_is_given_up_with_all_its_time() {
        let (mut parking, start) = (Parking::new(1000 * MS), Instant::now());
        parking.park(1, &lacking(&[5, 6, 7]), start);
        parking.park(2, &lacking(&[5]), start + 100 * MS);
        assert!(parking.take_overdue(start + 699 * MS).is_empty());
        // Who takes part in steps again is given up only if it is parked once more.
        assert_eq!(parking.unpark(start + 699 * MS, |_| true), [1, 2]);
        assert!(parking.take_overdue(start + 5000 * MS).is_empty());
        parking.park(1, &lacking(&[5, 6, 7]), start + 800 * MS);
        parking.forget(2);
        parking.park(2, &lacking(&[5]), start + 800 * MS);
        let overdue = parking.take_overdue(start + 800 * MS);
        assert_eq!(overdue.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1]);
        assert_eq!(
            overdue[0].1.to_string(),
            "no expert node answered for expert 3/5 and 2 others of its layer within 1100 ms: \
             n0: gone"
        );
        assert!(parking.unpark(start + 9000 * MS, |_| true) == [2]);
    }
}

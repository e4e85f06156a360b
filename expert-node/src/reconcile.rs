//! Decides what a node loads and forgets to come to what it is assigned. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_ids::ExpertId;

/// An expert that is no longer assigned is forgotten after this time: by then every router has the table without it,
/// and every call that was on its way is answered.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(2);
/// What could not be loaded is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(20);
/// What was not to be had is asked for again after this time.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a node has to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// In this order.
    pub(crate) load: Vec<ExpertId>,
    pub(crate) forget: BTreeSet<ExpertId>,
    /// There may be more to do then.
    pub(crate) look_again: Option<Instant>,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    /// Resident, not assigned: since when.
    leaving: BTreeMap<ExpertId, Instant>,
    /// Assigned, not loadable: why, and when it was tried.
    failed: BTreeMap<ExpertId, (String, Instant)>,
    /// Assigned, not to be had or without room when it was tried: when that was.
    absent: BTreeMap<ExpertId, Instant>,
}

impl Reconciler {
    /// Compares. `assigned` is nothing while no placement is known: then nothing changes. What is not `elsewhere` is
    /// kept, for it may be the last copy: a leader that saw it on a node did not see that node die.
    pub(crate) fn look(
        &mut self,
        assigned: Option<&BTreeSet<ExpertId>>,
        resident: &BTreeSet<ExpertId>,
        elsewhere: impl Fn(&ExpertId) -> bool,
        now: Instant,
    ) -> Todo {
        let Some(assigned) = assigned else { return Todo::default() };
        self.failed.retain(|id, _| assigned.contains(id));
        self.absent.retain(|id, _| assigned.contains(id));
        let (failed, absent) = (&self.failed, &self.absent);
        let waits = |id: &ExpertId| {
            failed.get(id).is_some_and(|(_, at)| now < *at + RETRY_AFTER)
                || absent.get(id).is_some_and(|at| now < *at + ASK_AGAIN_AFTER)
        };
        let load: Vec<ExpertId> =
            assigned.difference(resident).filter(|id| !waits(id)).copied().collect();
        self.leaving.retain(|id, _| resident.contains(id) && !assigned.contains(id));
        for &id in resident.difference(assigned) {
            self.leaving.entry(id).or_insert(now);
        }
        let over =
            |(id, since): &(&ExpertId, &Instant)| now >= **since + FORGET_AFTER && elsewhere(id);
        let forget = self.leaving.iter().filter(over).map(|(id, _)| *id).collect();
        let leaving = self.leaving.values().map(|since| *since + FORGET_AFTER);
        let retries = self.failed.values().map(|(_, at)| *at + RETRY_AFTER);
        let retries = retries.chain(self.absent.values().map(|at| *at + ASK_AGAIN_AFTER));
        let look_again = leaving.chain(retries).filter(|at| *at > now).min();
        Todo { load, forget, look_again }
    }

    /// Nobody says who is there: what leaves has its time anew once somebody does.
    pub(crate) fn out_of_touch(&mut self) {
        self.leaving.clear();
    }

    /// An expert could not be loaded.
    pub(crate) fn failed(&mut self, id: ExpertId, why: String, now: Instant) {
        self.failed.insert(id, (why, now));
    }

    /// Nobody gave an expert, or there is no room for it yet. That is no fault of its weights, so it does not count among
    /// what this node cannot load.
    pub(crate) fn absent(&mut self, id: ExpertId, now: Instant) {
        self.absent.insert(id, now);
    }

    /// An expert was loaded.
    pub(crate) fn loaded(&mut self, id: ExpertId) {
        self.failed.remove(&id);
        self.absent.remove(&id);
    }

    /// What cannot be loaded, and why.
    pub(crate) fn unloadable(&self) -> BTreeMap<ExpertId, String> {
        self.failed.iter().map(|(id, (why, _))| (*id, why.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(of: &[u32]) -> BTreeSet<ExpertId> {
        of.iter().map(|&expert| ExpertId::new(0, expert)).collect()
    }

    fn list(of: &[u32]) -> Vec<ExpertId> {
        experts(of).into_iter().collect()
    }

    #[test]
    fn what_is_assigned_is_loaded_and_what_is_not_is_forgotten_later() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        let todo = reconciler.look(Some(&experts(&[1, 2, 3])), &experts(&[2, 7]), |_| true, start);
        let again = Some(start + FORGET_AFTER);
        assert_eq!(todo, Todo { load: list(&[1, 3]), forget: experts(&[]), look_again: again });
        let later = start + FORGET_AFTER;
        let todo = reconciler.look(Some(&experts(&[2])), &experts(&[2, 7]), |_| true, later);
        assert_eq!(todo, Todo { forget: experts(&[7]), ..Todo::default() });
    }

    #[test]
    fn an_expert_that_comes_back_in_time_stays() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        reconciler.look(Some(&experts(&[])), &experts(&[4]), |_| true, start);
        reconciler.look(Some(&experts(&[4])), &experts(&[4]), |_| true, start + FORGET_AFTER / 2);
        let todo =
            reconciler.look(Some(&experts(&[])), &experts(&[4]), |_| true, start + FORGET_AFTER);
        assert!(todo.forget.is_empty());
        assert_eq!(todo.look_again, Some(start + 2 * FORGET_AFTER));
    }

    #[test]
    fn what_is_nowhere_else_is_kept_until_it_is() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        let (none, held) = (experts(&[]), experts(&[4, 5]));
        reconciler.look(Some(&none), &held, |_| false, start);
        let later = start + FORGET_AFTER;
        let todo = reconciler.look(Some(&none), &held, |id| *id == ExpertId::new(0, 5), later);
        assert_eq!(todo, Todo { forget: experts(&[5]), ..Todo::default() });
        let todo = reconciler.look(Some(&none), &experts(&[4]), |_| true, later);
        assert_eq!(todo, Todo { forget: experts(&[4]), ..Todo::default() });
    }

    #[test]
    fn after_a_silence_what_leaves_has_its_time_anew() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        let (none, held) = (experts(&[]), experts(&[4]));
        reconciler.look(Some(&none), &held, |_| true, start);
        reconciler.out_of_touch();
        let back = start + 5 * FORGET_AFTER;
        let todo = reconciler.look(Some(&none), &held, |_| true, back);
        assert_eq!(todo, Todo { look_again: Some(back + FORGET_AFTER), ..Todo::default() });
        let todo = reconciler.look(Some(&none), &held, |_| true, back + FORGET_AFTER);
        assert_eq!(todo.forget, held);
    }

    #[test]
    fn without_a_placement_nothing_changes() {
        let todo = Reconciler::default().look(None, &experts(&[1]), |_| true, Instant::now());
        assert_eq!(todo, Todo::default());
    }

    #[test]
    fn what_nobody_gave_is_asked_for_again_soon_and_is_no_fault() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        reconciler.absent(ExpertId::new(0, 1), start);
        let todo = reconciler.look(Some(&experts(&[1, 2])), &experts(&[]), |_| true, start);
        assert_eq!((todo.load, todo.look_again), (list(&[2]), Some(start + ASK_AGAIN_AFTER)));
        assert!(reconciler.unloadable().is_empty());
        let later = start + ASK_AGAIN_AFTER;
        let todo = reconciler.look(Some(&experts(&[1])), &experts(&[]), |_| true, later);
        assert_eq!(todo.load, list(&[1]));
    }

    #[test]
    fn what_cannot_be_loaded_is_tried_again_later() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        reconciler.failed(ExpertId::new(0, 1), "corrupt".into(), start);
        let todo = reconciler.look(Some(&experts(&[1, 2])), &experts(&[]), |_| true, start);
        assert_eq!((todo.load, todo.look_again), (list(&[2]), Some(start + RETRY_AFTER)));
        assert_eq!(reconciler.unloadable().len(), 1);
        let later = start + RETRY_AFTER;
        assert_eq!(
            reconciler.look(Some(&experts(&[1])), &experts(&[]), |_| true, later).load,
            list(&[1])
        );
        reconciler.loaded(ExpertId::new(0, 1));
        assert!(reconciler.unloadable().is_empty());
    }
}

//! An ordered map with revisions, leases and a history, as etcd has them: no IO, and time is a parameter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::{Change, Entry, Expected, LeaseId, Revision};

/// Changes that a watcher can still ask for. A cluster writes a few each second at most.
const HISTORY: usize = 10_000;

/// The state of a store. What acts on it at once is [`super::Memory`]; a simulation decides about time itself.
#[derive(Debug)]
pub struct State {
    revision: Revision,
    entries: BTreeMap<String, Held>,
    /// Ascending by revision.
    history: VecDeque<Change>,
    /// The history has everything after this revision.
    compacted: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
}

#[derive(Clone, Debug)]
struct Held {
    value: Vec<u8>,
    revision: Revision,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<String>,
}

/// Why a change is not made.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The key is not as expected.
    Conflict,
    /// The lease has ended, or never was.
    NoLease,
}

impl State {
    /// An empty store whose leases are named from here on. A store that begins anew must not use the names of an
    /// earlier one: whoever still has such a lease would share it with a stranger, and outlive its own end.
    #[must_use]
    pub fn new(last_lease: LeaseId) -> Self {
        Self {
            revision: Revision(0),
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: Revision(0),
            leases: BTreeMap::new(),
            last_lease: last_lease.0,
        }
    }

    /// The newest change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Changes up to this one are forgotten.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Everything whose key begins with `prefix`.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<Entry> {
        let from = (Bound::Included(prefix.to_owned()), Bound::Unbounded);
        let entries = self.entries.range(from).take_while(|(key, _)| key.starts_with(prefix));
        let entry = |(key, held): (&String, &Held)| Entry {
            key: key.clone(),
            value: held.value.clone(),
            revision: held.revision,
        };
        entries.map(entry).collect()
    }

    /// Writes a key, under a lease if there is one.
    ///
    /// # Errors
    /// [`Rejected`]: nothing is changed then.
    pub fn put(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        expected: Expected,
    ) -> Result<Revision, Rejected> {
        self.expect(key, expected)?;
        if let Some(lease) = lease {
            let lease = self.leases.get_mut(&lease).ok_or(Rejected::NoLease)?;
            lease.keys.insert(key.to_owned());
        }
        let before = self.entries.get(key).and_then(|held| held.lease);
        if let Some(old) = before.filter(|&before| Some(before) != lease) {
            self.unlink(old, key);
        }
        self.revision.0 += 1;
        let held = Held { value: value.to_vec(), revision: self.revision, lease };
        self.entries.insert(key.to_owned(), held);
        self.remember(Change {
            key: key.to_owned(),
            value: Some(value.to_vec()),
            revision: self.revision,
        });
        Ok(self.revision)
    }

    /// Deletes a key; one that is not there is deleted already.
    ///
    /// # Errors
    /// [`Rejected::Conflict`].
    pub fn delete(&mut self, key: &str, expected: Expected) -> Result<Revision, Rejected> {
        self.expect(key, expected)?;
        if self.entries.contains_key(key) {
            self.revision.0 += 1;
            self.forget(key);
        }
        Ok(self.revision)
    }

    fn expect(&self, key: &str, expected: Expected) -> Result<(), Rejected> {
        let revision = self.entries.get(key).map(|held| held.revision);
        let as_expected = match expected {
            Expected::Anything => true,
            Expected::Absent => revision.is_none(),
            Expected::Revision(expected) => revision == Some(expected),
        };
        if as_expected { Ok(()) } else { Err(Rejected::Conflict) }
    }

    /// Changes with this prefix after a revision, or nothing if some of them are forgotten.
    #[must_use]
    pub fn changes_after(&self, prefix: &str, after: Revision) -> Option<Vec<Change>> {
        if after < self.compacted {
            return None;
        }
        let first = self.history.partition_point(|change| change.revision <= after);
        let later = self.history.range(first..);
        Some(later.filter(|change| change.key.starts_with(prefix)).cloned().collect())
    }

    /// A new lease, which ends `ttl` from now unless it is kept alive.
    #[must_use]
    pub fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        self.leases.insert(lease, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
        lease
    }

    /// Starts a lease's time again. False if it has ended.
    pub fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(&lease) else { return false };
        lease.ends = now + lease.ttl;
        true
    }

    /// How long a lease lasts without a sign of life.
    #[must_use]
    pub fn ttl(&self, lease: LeaseId) -> Option<Duration> {
        self.leases.get(&lease).map(|lease| lease.ttl)
    }

    /// Ends a lease, with the keys that hang on it, all in one revision.
    pub fn revoke(&mut self, lease: LeaseId) {
        let Some(lease) = self.leases.remove(&lease) else { return };
        if !lease.keys.is_empty() {
            self.revision.0 += 1;
        }
        for key in lease.keys {
            self.forget(&key);
        }
    }

    /// Ends the leases whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        for lease in over {
            self.revoke(lease);
        }
    }

    /// Forgets the history up to a revision.
    pub fn compact(&mut self, up_to: Revision) {
        let up_to = up_to.min(self.revision);
        self.history.retain(|change| change.revision > up_to);
        self.compacted = self.compacted.max(up_to);
    }

    fn forget(&mut self, key: &str) {
        let Some(held) = self.entries.remove(key) else { return };
        if let Some(lease) = held.lease {
            self.unlink(lease, key);
        }
        self.remember(Change { key: key.to_owned(), value: None, revision: self.revision });
    }

    fn unlink(&mut self, lease: LeaseId, key: &str) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compact(oldest.revision);
        }
    }
}

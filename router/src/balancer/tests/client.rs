//! The session of one member with the simulated store: the rules of the real one, a step at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use guildhall_cluster::store::{Expected, LeaseId, Listing, Rejected, Revision, State};
use guildhall_cluster::{Mirror, SessionOptions, View};

/// What every key begins with.
pub(super) const PREFIX: &str = "s/";

/// The store, and whether it answers.
pub(super) struct Store {
    pub(super) state: State,
    pub(super) away: bool,
}

/// Nothing came back: the store is away, or this client is cut off from it.
pub(super) struct Lost;

/// What a member knows of the store, and wants to be in it.
#[derive(Default)]
pub(super) struct Client {
    mirror: Mirror,
    /// What the mirror says.
    pub(super) view: View,
    /// Changes up to here have come; nothing while there is no watch.
    watched: Option<Revision>,
    lease: Option<LeaseId>,
    /// Its own keys.
    pub(super) published: BTreeMap<String, Vec<u8>>,
    /// Keys that belong to whoever puts them while they are not there.
    pub(super) claimed: BTreeMap<String, Vec<u8>>,
    /// What was put under the lease, and when.
    sent: BTreeMap<String, (Vec<u8>, Revision)>,
    /// Whether nothing comes through. The client finds out when it next tries.
    pub(super) cut_off: bool,
    /// Whether the store ends its next put without an answer.
    pub(super) loses_answer: bool,
}

impl Client {
    fn reach<'a>(&self, store: &'a mut Store) -> Result<&'a mut State, Lost> {
        if store.away || self.cut_off { Err(Lost) } else { Ok(&mut store.state) }
    }

    /// The connection is gone.
    pub(super) fn disconnect(&mut self) {
        self.watched = None;
        self.mirror.connected = false;
        self.read();
    }

    fn read(&mut self) {
        self.view = View::read(&self.mirror, PREFIX);
    }

    /// Starts from a listing, if there is no watch.
    pub(super) fn connect(&mut self, store: &mut Store, now: Instant) {
        if self.watched.is_some() {
            return;
        }
        let Ok(state) = self.reach(store) else { return };
        let listing = Listing { entries: state.list(PREFIX), revision: state.revision() };
        let revision = listing.revision;
        let listed = |key: &str, value: &[u8]| {
            listing.entries.iter().any(|entry| entry.key == key && entry.value == value)
        };
        self.sent.retain(|key, (value, _)| listed(key, value));
        self.sent.values_mut().for_each(|(_, at)| *at = revision);
        self.mirror.list(listing, now, SessionOptions::default().grace);
        self.mirror.connected = true;
        self.watched = Some(revision);
        self.read();
    }

    /// Takes the changes of at most so many revisions.
    pub(super) fn deliver(&mut self, store: &mut Store, most: usize) {
        let Some(after) = self.watched else { return };
        // What is on its way does not tell that no more will come.
        let Ok(state) = self.reach(store) else { return };
        let Some(mut changes) = state.changes_after(PREFIX, after) else {
            return self.disconnect();
        };
        let mut revisions: Vec<Revision> = changes.iter().map(|change| change.revision).collect();
        revisions.dedup();
        let Some(&last) = revisions.get(most.min(revisions.len()).saturating_sub(1)) else {
            return;
        };
        changes.retain(|change| change.revision <= last);
        self.watched = Some(last);
        self.mirror.apply(changes);
        self.read();
    }

    /// A sign of life, and a look at what has been unconfirmed for too long.
    pub(super) fn beat(&mut self, store: &mut Store, now: Instant) {
        if self.mirror.expire(now) {
            self.read();
        }
        if self.watched.is_none() {
            return;
        }
        let lease = self.lease;
        match self.reach(store) {
            Err(Lost) => self.disconnect(),
            Ok(state) => {
                if lease.is_some_and(|lease| !state.keep_alive(lease, now)) {
                    self.lease = None;
                    self.sent.clear();
                }
            }
        }
    }

    /// Brings the store to what is wanted, as far as it goes.
    pub(super) fn publish(&mut self, store: &mut Store, now: Instant) {
        if self.watched.is_none() {
            return;
        }
        if let Err(Lost) = self.publish_wanted(store, now) {
            self.disconnect();
        }
    }

    fn publish_wanted(&mut self, store: &mut Store, now: Instant) -> Result<(), Lost> {
        for (key, value) in self.published.clone() {
            if !self.is_published(&key, &value) {
                self.put(store, (key, value), Expected::Anything, now)?;
            }
        }
        for (key, value) in self.claimed.clone() {
            let free = self.mirror.get(&key).is_none_or(|known| known.unconfirmed_until.is_some());
            let sent = self.sent.get(&key).is_some_and(|(_, at)| *at > self.mirror.revision());
            if free && !sent {
                self.put(store, (key, value), Expected::Absent, now)?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        store: &mut Store,
        (key, value): (String, Vec<u8>),
        expected: Expected,
        now: Instant,
    ) -> Result<(), Lost> {
        let state = self.reach(store)?;
        let ttl = SessionOptions::default().ttl;
        let lease = *self.lease.get_or_insert_with(|| state.grant(ttl, now));
        let result = state.put(&key, &value, Some(lease), expected);
        if std::mem::take(&mut self.loses_answer) {
            return Err(Lost);
        }
        match result {
            Ok(revision) => drop(self.sent.insert(key, (value, revision))),
            Err(Rejected::Conflict) => {}
            Err(Rejected::NoLease) => {
                self.lease = None;
                self.sent.clear();
                return Err(Lost);
            }
        }
        Ok(())
    }

    fn is_published(&self, key: &str, value: &[u8]) -> bool {
        let Some((sent, at)) = self.sent.get(key) else { return false };
        let shown = self.mirror.get(key).filter(|known| known.unconfirmed_until.is_none());
        let is_shown = shown.is_some_and(|known| known.value == value);
        sent == value && (self.mirror.revision() < *at || is_shown)
    }
}

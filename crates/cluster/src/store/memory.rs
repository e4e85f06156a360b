//! A store in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::state::{Rejected, State};
use super::{Change, Expected, LeaseId, Listing, Revision, Store, Watch};
use crate::Error;

/// How late the end of a lease may be noticed while nobody else touches the store.
const EXPIRY_LOOK: Duration = Duration::from_millis(100);

/// A store in memory, shared by its clones.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Everything; held for no longer than one operation.
    state: Mutex<State>,
    /// Tells watchers of each new revision.
    revision: watch::Sender<Revision>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        // Later than every lease of a store that was here before: none had one in each microsecond.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last_lease = LeaseId(i64::try_from(since.as_micros()).unwrap_or_default());
        let state = Mutex::new(State::new(last_lease));
        Self(Arc::new(Shared { state, revision: watch::Sender::default() }))
    }

    /// Does something to the state, after ending the leases whose time is over, and tells the watchers.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<'_, State> =
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(Instant::now());
        let result = change(&mut state);
        let revision = state.revision();
        self.0.revision.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision;
            newer
        });
        result
    }

    /// Forgets the history up to a revision, as an administrator of etcd may.
    pub fn compact(&self, up_to: Revision) {
        self.with(|state| state.compact(up_to));
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Conflict => Self::Conflict,
            Rejected::NoLease => Self::NoLease,
        }
    }
}

impl Store for Memory {
    type Watch = MemoryWatch;

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        Ok(self.with(|state| Listing { entries: state.list(prefix), revision: state.revision() }))
    }

    async fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        expected: Expected,
    ) -> Result<Revision, Error> {
        Ok(self.with(|state| state.put(key, value, lease, expected))?)
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<Revision, Error> {
        Ok(self.with(|state| state.delete(key, expected))?)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<MemoryWatch, Error> {
        let revision = self.0.revision.subscribe();
        Ok(MemoryWatch { store: self.clone(), prefix: prefix.to_owned(), after, revision })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        Ok(self.with(|state| state.grant(ttl, Instant::now())))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let alive = self.with(|state| state.keep_alive(lease, Instant::now()));
        if alive { Ok(()) } else { Err(Error::NoLease) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.with(|state| state.revoke(lease));
        Ok(())
    }
}

/// Changes of a [`Memory`].
#[derive(Debug)]
pub struct MemoryWatch {
    store: Memory,
    prefix: String,
    after: Revision,
    revision: watch::Receiver<Revision>,
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Vec<Change>, Error> {
        loop {
            let (changes, revision) = self
                .store
                .with(|state| (state.changes_after(&self.prefix, self.after), state.revision()));
            let changes = changes.ok_or(Error::Compacted)?;
            self.after = self.after.max(revision);
            if !changes.is_empty() {
                return Ok(changes);
            }
            // Looking again ends leases in time.
            let _ = tokio::time::timeout(EXPIRY_LOOK, self.revision.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_of_an_earlier_store_is_not_one_of_this_store() {
        let ttl = Duration::from_secs(5);
        let before = Memory::new().grant(ttl).await.unwrap();
        let store = Memory::new();
        for _ in 0..3 {
            store.grant(ttl).await.unwrap();
        }
        assert_eq!(store.keep_alive(before).await, Err(Error::NoLease));
        let put = store.put("k", b"v", Some(before), Expected::Anything).await;
        assert_eq!(put, Err(Error::NoLease));
    }
}

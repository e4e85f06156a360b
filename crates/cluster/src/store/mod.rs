//! A small store that a cluster agrees through: keys with revisions, leases, and changes as they come.

mod etcd;
mod memory;
mod serve;
mod state;

pub use etcd::{Etcd, EtcdOptions};
pub use memory::Memory;
pub use serve::serve;
pub use state::{Rejected, State};

use std::future::Future;
use std::time::Duration;

use crate::Error;

/// Counts the changes of a store; each change has a larger one than those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// Names a lease: the keys that hang on it go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
}

/// All entries with some prefix at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Ascending by key.
    pub entries: Vec<Entry>,
    /// The newest change of the whole store.
    pub revision: Revision,
}

/// A key was written or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value; nothing if it was deleted.
    pub value: Option<Vec<u8>>,
    /// When.
    pub revision: Revision,
}

/// What a key must be like for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Anything,
    /// Not there.
    Absent,
    /// Last written at this revision.
    Revision(Revision),
}

/// Changes from some revision on, in order, none left out.
pub trait Watch: Send {
    /// The next changes, at least one.
    ///
    /// # Errors
    /// [`Error::Compacted`] when older changes than the store remembers were asked for: list again.
    /// [`Error::Unavailable`] when the connection broke: watch again after the last revision that was seen.
    fn next(&mut self) -> impl Future<Output = Result<Vec<Change>, Error>> + Send;
}

/// Where a cluster's shared state is. Cheap to clone. None of this retries; [`crate::Session`] does.
pub trait Store: Clone + Send + Sync + 'static {
    /// What [`Store::watch`] gives.
    type Watch: Watch;

    /// Everything whose key begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, Error>> + Send;

    /// Writes a key, under a lease if there is one.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key is not as expected, [`Error::NoLease`], [`Error::Unavailable`].
    fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        expected: Expected,
    ) -> impl Future<Output = Result<Revision, Error>> + Send;

    /// Deletes a key; one that is not there is deleted already.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::Unavailable`].
    fn delete(
        &self,
        key: &str,
        expected: Expected,
    ) -> impl Future<Output = Result<Revision, Error>> + Send;

    /// Changes of keys that begin with `prefix`, after a revision.
    ///
    /// # Errors
    /// As [`Watch::next`].
    fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> impl Future<Output = Result<Self::Watch, Error>> + Send;

    /// A new lease, which ends after `ttl` unless it is kept alive.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, Error>> + Send;

    /// Starts a lease's time again.
    ///
    /// # Errors
    /// [`Error::NoLease`] if it has ended, [`Error::Unavailable`].
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends a lease now.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), Error>> + Send;
}

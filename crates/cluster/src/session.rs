//! A process's place in the cluster: keeps a lease, publishes under it, and mirrors what others publish, through
//! whatever happens to the store. Store clients do none of this by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::mirror::Mirror;
use crate::store::{Change, Expected, LeaseId, Revision, Store, Watch};

/// How a session keeps time.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Without a sign of life for this long, the store forgets what this process published.
    pub ttl: Duration,
    /// What a store lost while it was away is believed for this long after it is back.
    pub grace: Duration,
    /// Pause after a failure.
    pub retry: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { ttl: 5 * second, grace: 10 * second, retry: second / 4 }
    }
}

/// A handle to a running session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    wanted: Arc<watch::Sender<Wanted>>,
    mirror: watch::Receiver<Arc<Mirror>>,
}

/// What this process wants to be in the store, by key.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// Its own keys.
    published: BTreeMap<String, Vec<u8>>,
    /// Keys that belong to whoever puts them while they are not there.
    claimed: BTreeMap<String, Vec<u8>>,
}

impl Session {
    /// A session on everything under `prefix`, and the task that has to run for it. When `stop` is cancelled it ends
    /// its lease and returns.
    pub fn new<S: Store>(
        store: S,
        prefix: &str,
        options: SessionOptions,
    ) -> (Self, SessionTask<S>) {
        let (wanted, wanted_changes) = watch::channel(Wanted::default());
        let (mirror, mirrored) = watch::channel(Arc::new(Mirror::default()));
        let task = SessionTask {
            store,
            prefix: prefix.to_owned(),
            options,
            wanted: wanted_changes,
            mirror,
            lease: None,
            sent: BTreeMap::new(),
        };
        (Self { wanted: Arc::new(wanted), mirror: mirrored }, task)
    }

    /// Publishes a key, and keeps it published as long as this process lives and a store is there.
    pub fn publish(&self, key: impl Into<String>, value: Vec<u8>) {
        let key = key.into();
        self.wanted
            .send_if_modified(|wanted| wanted.published.insert(key, value.clone()) != Some(value));
    }

    /// Puts a key whenever nobody else has it, and keeps it as long as this process lives and a store is there.
    /// Whether it has it is to be seen in the mirror.
    pub fn claim(&self, key: impl Into<String>, value: Vec<u8>) {
        let key = key.into();
        self.wanted
            .send_if_modified(|wanted| wanted.claimed.insert(key, value.clone()) != Some(value));
    }

    /// Takes a key back.
    pub fn withdraw(&self, key: &str) {
        self.wanted.send_if_modified(|wanted| {
            let published = wanted.published.remove(key).is_some();
            wanted.claimed.remove(key).is_some() || published
        });
    }

    /// What is known now.
    #[must_use]
    pub fn mirror(&self) -> Arc<Mirror> {
        Arc::clone(&self.mirror.borrow())
    }

    /// Waits until more is known. False once the session has ended.
    pub async fn changed(&mut self) -> bool {
        self.mirror.changed().await.is_ok()
    }
}

/// The work of a session.
#[derive(Debug)]
pub struct SessionTask<S: Store> {
    store: S,
    prefix: String,
    options: SessionOptions,
    wanted: watch::Receiver<Wanted>,
    mirror: watch::Sender<Arc<Mirror>>,
    lease: Option<LeaseId>,
    /// What was put under the lease, and when.
    sent: BTreeMap<String, (Vec<u8>, Revision)>,
}

impl<S: Store> SessionTask<S> {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// [`Error::Taken`] when another process writes what this one publishes: then both have the same name.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut said = String::new();
        let mut result = Ok(());
        loop {
            let ended = tokio::select! {
                ended = self.attend() => ended,
                // The lease ends below.
                () = stop.cancelled() => break,
            };
            if matches!(ended, Err(Error::Taken { .. })) {
                result = ended;
                break;
            }
            self.change_mirror(|mirror| std::mem::replace(&mut mirror.connected, false));
            if let Err(error) = ended {
                let text = error.to_string();
                if text != said {
                    tracing::warn!(error = %text, "the store is away; serving goes on");
                }
                said = text;
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.retry) => {}
                () = stop.cancelled() => break,
            }
            self.change_mirror(|mirror| mirror.expire(Instant::now()));
        }
        if let Some(lease) = self.lease {
            // Whoever waits for this process to leave does not have to wait for the lease to end by itself.
            let _ = tokio::time::timeout(self.options.ttl, self.store.revoke(lease)).await;
        }
        result
    }

    /// One connection: catches up, then follows, until something fails.
    async fn attend(&mut self) -> Result<(), Error> {
        let mut watch = self.list_and_watch().await?;
        tracing::info!(revision = self.mirror.borrow().revision().0, "following the store");
        let mut beat = tokio::time::interval(self.options.ttl / 4);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.publish_wanted().await?;
            tokio::select! {
                changes = watch.next() => match changes {
                    Ok(changes) => self.apply(changes)?,
                    // Too far behind to follow: start from a listing.
                    Err(Error::Compacted) => watch = self.list_and_watch().await?,
                    Err(error) => return Err(error),
                },
                _ = beat.tick() => {
                    self.change_mirror(|mirror| mirror.expire(Instant::now()));
                    self.keep_alive().await?;
                }
                changed = self.wanted.changed() => if changed.is_err() {
                    // Nobody can want anything else any more; the lease is still to be kept.
                    self.keep_alive().await?;
                    tokio::time::sleep(self.options.ttl / 4).await;
                },
            }
        }
    }

    /// Starts from a listing. After a gap only that tells what is true: a store that lost its data may be at any
    /// revision. It is small, and gaps are rare.
    async fn list_and_watch(&mut self) -> Result<S::Watch, Error> {
        let listing = self.store.list(&self.prefix).await?;
        let revision = listing.revision;
        let listed = |key: &str, value: &[u8]| {
            listing.entries.iter().any(|entry| entry.key == key && entry.value == value)
        };
        // Everything else is put again.
        self.sent.retain(|key, (value, _)| listed(key, value));
        self.sent.values_mut().for_each(|(_, at)| *at = revision);
        let grace = self.options.grace;
        self.change_mirror(|mirror| {
            mirror.list(listing, Instant::now(), grace);
            mirror.connected = true;
            true
        });
        self.store.watch(&self.prefix, revision).await
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let taken = changes.iter().find(|change| self.is_taken(change));
        if let Some(Change { key, .. }) = taken {
            return Err(Error::Taken { key: key.clone() });
        }
        self.change_mirror(|mirror| {
            mirror.apply(changes);
            true
        });
        Ok(())
    }

    /// Whether somebody else has written a key of this process after it did.
    fn is_taken(&self, change: &Change) -> bool {
        let own = self
            .sent
            .get(&change.key)
            .filter(|_| self.wanted.borrow().published.contains_key(&change.key));
        let later = own.is_some_and(|(_, at)| change.revision > *at);
        later && change.value.as_ref().is_some_and(|value| own.is_some_and(|(own, _)| own != value))
    }

    fn change_mirror(&self, change: impl FnOnce(&mut Mirror) -> bool) {
        self.mirror.send_if_modified(|mirror| change(Arc::make_mut(mirror)));
    }

    async fn keep_alive(&mut self) -> Result<(), Error> {
        let Some(lease) = self.lease else { return Ok(()) };
        match self.store.keep_alive(lease).await {
            Err(Error::NoLease) => {
                tracing::warn!("the lease has ended; publishing again");
                self.lease = None;
                self.sent.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// Brings the store to what is wanted.
    async fn publish_wanted(&mut self) -> Result<(), Error> {
        let Wanted { published, claimed } = self.wanted.borrow_and_update().clone();
        let stale = |key: &&String| !published.contains_key(*key) && !claimed.contains_key(*key);
        let stale: Vec<String> = self.sent.keys().filter(stale).cloned().collect();
        for key in stale {
            self.store.delete(&key, Expected::Anything).await?;
            self.sent.remove(&key);
        }
        let mirror = Arc::clone(&self.mirror.borrow());
        for (key, value) in published {
            if !self.is_published(&mirror, &key, &value) {
                self.put(key, value, Expected::Anything).await?;
            }
        }
        for (key, value) in claimed {
            let free = mirror.get(&key).is_none_or(|known| known.unconfirmed_until.is_some());
            let sent_later = self.sent.get(&key).is_some_and(|(_, at)| *at > mirror.revision());
            if free && !sent_later {
                match self.put(key, value, Expected::Absent).await {
                    // Somebody was faster.
                    Err(Error::Conflict) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Puts a key under the lease, which is taken first if there is none.
    async fn put(&mut self, key: String, value: Vec<u8>, expected: Expected) -> Result<(), Error> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => *self.lease.insert(self.store.grant(self.options.ttl).await?),
        };
        match self.store.put(&key, &value, Some(lease), expected).await {
            Ok(revision) => drop(self.sent.insert(key, (value, revision))),
            Err(Error::NoLease) => {
                self.lease = None;
                self.sent.clear();
                return Err(Error::NoLease);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the store has the value, or will show it soon.
    fn is_published(&self, mirror: &Mirror, key: &str, value: &[u8]) -> bool {
        let Some((sent, at)) = self.sent.get(key) else { return false };
        if sent != value {
            return false;
        }
        let shown = mirror.get(key).filter(|known| known.unconfirmed_until.is_none());
        // A mirror that has not come so far says nothing.
        mirror.revision() < *at || shown.is_some_and(|known| known.value == value)
    }
}

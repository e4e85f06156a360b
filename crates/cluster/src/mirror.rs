//! What this process knows of the store: a copy that outlives the connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::{Change, Listing, Revision};

/// A copy of everything under one prefix.
///
/// A store that was away may come back without what hung on leases, or empty. Whoever lives publishes again; until
/// then its entries stay, unconfirmed, so that nobody acts on an absence that is only a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    entries: BTreeMap<String, Known>,
    revision: Revision,
    /// Whether changes arrive as they happen.
    pub connected: bool,
}

/// An entry as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The value.
    pub value: Vec<u8>,
    /// When it was written.
    pub revision: Revision,
    /// The store does not have it any more, since a gap in the connection; forgotten at this time.
    pub unconfirmed_until: Option<Instant>,
}

impl Mirror {
    /// The newest change that it includes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// An entry by its key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Known> {
        self.entries.get(key)
    }

    /// Keys that begin with `prefix`, with what is known of each.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Known)> {
        let from = self.entries.range(prefix.to_owned()..);
        from.map(|(key, known)| (key.as_str(), known))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes over a listing. What it lacks stays for `grace`.
    pub fn list(&mut self, listing: Listing, now: Instant, grace: Duration) {
        let listed = listing.entries.into_iter().map(|entry| {
            let known =
                Known { value: entry.value, revision: entry.revision, unconfirmed_until: None };
            (entry.key, known)
        });
        let mut entries: BTreeMap<String, Known> = listed.collect();
        for (key, mut known) in std::mem::take(&mut self.entries) {
            known.unconfirmed_until.get_or_insert(now + grace);
            entries.entry(key).or_insert(known);
        }
        self.entries = entries;
        self.revision = listing.revision;
    }

    /// Takes over changes, in their order.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for Change { key, value, revision } in changes {
            // A watch may begin with what the listing had already.
            if revision <= self.entries.get(&key).map_or(Revision(0), Known::confirmed_revision) {
                continue;
            }
            self.revision = self.revision.max(revision);
            match value {
                Some(value) => {
                    let known = Known { value, revision, unconfirmed_until: None };
                    self.entries.insert(key, known);
                }
                None => drop(self.entries.remove(&key)),
            }
        }
    }

    /// Forgets what has been unconfirmed for too long. Says whether anything was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, known| known.unconfirmed_until.is_none_or(|until| until > now));
        self.entries.len() < before
    }
}

impl Known {
    /// Its revision in the store as it is now; 0 if it is not there.
    #[must_use]
    pub fn confirmed_revision(&self) -> Revision {
        if self.unconfirmed_until.is_some() { Revision(0) } else { self.revision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    const GRACE: Duration = Duration::from_secs(10);

    fn listing(revision: i64, entries: &[(&str, &str, i64)]) -> Listing {
        let entry = |&(key, value, revision): &(&str, &str, i64)| Entry {
            key: key.into(),
            value: value.into(),
            revision: Revision(revision),
        };
        Listing { entries: entries.iter().map(entry).collect(), revision: Revision(revision) }
    }

    fn change(key: &str, value: Option<&str>, revision: i64) -> Change {
        let value = value.map(|value| value.as_bytes().to_vec());
        Change { key: key.into(), value, revision: Revision(revision) }
    }

    fn text(mirror: &Mirror) -> String {
        let entry = |(key, known): (&str, &Known)| {
            let mark = if known.unconfirmed_until.is_some() { "?" } else { "" };
            format!("{key}={}{mark}", String::from_utf8_lossy(&known.value))
        };
        mirror.under("").map(entry).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn changes_follow_the_listing() {
        let (mut mirror, now) = (Mirror::default(), Instant::now());
        mirror.list(listing(5, &[("a", "1", 3), ("b", "2", 5)]), now, GRACE);
        // The first is older than the listing.
        mirror.apply(vec![
            change("b", Some("0"), 4),
            change("c", Some("3"), 6),
            change("a", None, 7),
        ]);
        assert_eq!(text(&mirror), "b=2 c=3");
        assert_eq!(mirror.revision(), Revision(7));
        assert_eq!(mirror.under("c").count(), 1);
    }

    #[test]
    fn what_a_gap_swallowed_stays_for_a_while() {
        let (mut mirror, now) = (Mirror::default(), Instant::now());
        mirror.list(listing(9, &[("a", "1", 8), ("b", "2", 9)]), now, GRACE);
        // The store comes back empty, with smaller revisions.
        mirror.list(listing(1, &[]), now, GRACE);
        assert_eq!(text(&mirror), "a=1? b=2?");
        mirror.apply(vec![change("b", Some("2"), 2)]);
        assert_eq!(text(&mirror), "a=1? b=2");
        assert!(!mirror.expire(now + GRACE / 2));
        // Another gap starts no new grace.
        mirror.list(listing(2, &[("b", "2", 2)]), now + GRACE / 2, GRACE);
        assert!(mirror.expire(now + GRACE));
        assert_eq!(text(&mirror), "b=2");
    }
}

//! What every store must do.

use std::time::Duration;

use guildhall_cluster::Error;
use guildhall_cluster::store::{Change, Expected, LeaseId, Revision, Store, Watch};

const TTL: Duration = Duration::from_secs(1);
/// etcd looks for leases that are over twice a second.
const EXPIRED: Duration = Duration::from_secs(4);

/// Runs everything on an empty store; `compact` makes it forget changes up to a revision.
pub(crate) async fn run<S: Store>(store: S, compact: impl AsyncFn(&S, Revision)) {
    writes_need_the_expected_revision(&store).await;
    listings_have_a_prefix_and_a_revision(&store).await;
    a_watch_gives_all_changes_in_order(&store).await;
    keys_go_with_their_lease(&store).await;
    a_lease_that_is_kept_alive_stays(&store).await;
    a_compacted_past_is_refused(&store, compact).await;
}

async fn writes_need_the_expected_revision<S: Store>(store: &S) {
    let first = store.put("cas/a", b"1", None, Expected::Absent).await.unwrap();
    let again = store.put("cas/a", b"2", None, Expected::Absent).await;
    assert_eq!(again, Err(Error::Conflict));
    let second = store.put("cas/a", b"2", None, Expected::Revision(first)).await.unwrap();
    assert!(second > first);
    let late = store.put("cas/a", b"3", None, Expected::Revision(first)).await;
    assert_eq!(late, Err(Error::Conflict));
    assert_eq!(store.delete("cas/a", Expected::Revision(first)).await, Err(Error::Conflict));
    store.put("cas/a", b"4", None, Expected::Anything).await.unwrap();
    store.delete("cas/a", Expected::Anything).await.unwrap();
    store.delete("cas/a", Expected::Anything).await.unwrap();
    store.delete("cas/a", Expected::Absent).await.unwrap();
    assert!(store.list("cas/").await.unwrap().entries.is_empty());
}

async fn listings_have_a_prefix_and_a_revision<S: Store>(store: &S) {
    for key in ["list/b", "list/a", "list0", "lis", "list/a/x"] {
        store.put(key, key.as_bytes(), None, Expected::Anything).await.unwrap();
    }
    let listing = store.list("list/").await.unwrap();
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["list/a", "list/a/x", "list/b"]);
    assert_eq!(listing.entries[2].value, b"list/b");
    assert!(listing.entries.iter().all(|entry| entry.revision <= listing.revision));
    let later = store.put("list/c", b"", None, Expected::Anything).await.unwrap();
    assert!(later > listing.revision);
}

async fn changes<S: Store>(watch: &mut S::Watch, n: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < n {
        let next = tokio::time::timeout(EXPIRED, watch.next()).await;
        changes.extend(next.expect("a change in time").unwrap());
    }
    changes
}

async fn a_watch_gives_all_changes_in_order<S: Store>(store: &S) {
    let before = store.put("watch/a", b"0", None, Expected::Anything).await.unwrap();
    let put = store.put("watch/a", b"1", None, Expected::Anything).await.unwrap();
    store.put("elsewhere", b"", None, Expected::Anything).await.unwrap();
    let mut watch = store.watch("watch/", before).await.unwrap();
    let change = |key: &str, value: Option<&[u8]>, revision| Change {
        key: key.into(),
        value: value.map(<[u8]>::to_vec),
        revision,
    };
    assert_eq!(changes::<S>(&mut watch, 1).await, [change("watch/a", Some(b"1"), put)]);
    let deleted = store.delete("watch/a", Expected::Anything).await.unwrap();
    let other = store.put("watch/b", b"2", None, Expected::Anything).await.unwrap();
    assert_eq!(
        changes::<S>(&mut watch, 2).await,
        [change("watch/a", None, deleted), change("watch/b", Some(b"2"), other)]
    );
}

async fn keys_go_with_their_lease<S: Store>(store: &S) {
    let lease = store.grant(TTL).await.unwrap();
    store.put("lease/a", b"1", Some(lease), Expected::Absent).await.unwrap();
    let at = store.put("lease/b", b"2", Some(lease), Expected::Absent).await.unwrap();
    // This one leaves the lease again.
    let stays = store.put("lease/b", b"3", None, Expected::Revision(at)).await.unwrap();
    let mut watch = store.watch("lease/", stays).await.unwrap();
    let gone = changes::<S>(&mut watch, 1).await;
    assert_eq!((gone[0].key.as_str(), &gone[0].value), ("lease/a", &None));
    assert_eq!(store.list("lease/").await.unwrap().entries.len(), 1);
    assert_eq!(store.keep_alive(lease).await, Err(Error::NoLease));
    let put = store.put("lease/a", b"1", Some(lease), Expected::Anything).await;
    assert_eq!(put, Err(Error::NoLease));
    let never = store.keep_alive(LeaseId(987_654_321)).await;
    assert_eq!(never, Err(Error::NoLease));
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    store.put("lease/c", b"1", Some(lease), Expected::Absent).await.unwrap();
    store.revoke(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.list("lease/c").await.unwrap().entries, []);
}

async fn a_lease_that_is_kept_alive_stays<S: Store>(store: &S) {
    let lease = store.grant(2 * TTL).await.unwrap();
    store.put("alive", b"1", Some(lease), Expected::Absent).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(TTL / 2).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert_eq!(store.list("alive").await.unwrap().entries.len(), 1);
    store.revoke(lease).await.unwrap();
}

async fn a_compacted_past_is_refused<S: Store>(store: &S, compact: impl AsyncFn(&S, Revision)) {
    let old = store.put("old", b"1", None, Expected::Anything).await.unwrap();
    store.put("old", b"2", None, Expected::Anything).await.unwrap();
    let new = store.put("old", b"3", None, Expected::Anything).await.unwrap();
    compact(store, new).await;
    let mut watch = store.watch("old", old).await.unwrap();
    assert_eq!(watch.next().await, Err(Error::Compacted));
    let mut watch = store.watch("old", new).await.unwrap();
    store.put("old", b"4", None, Expected::Anything).await.unwrap();
    assert_eq!(changes::<S>(&mut watch, 1).await[0].value.as_deref(), Some(&b"4"[..]));
}

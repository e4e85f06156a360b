//! Sessions through everything that can happen to a real etcd.

use std::time::{Duration, Instant};

use guildhall_cluster::store::{Etcd, Expected, Revision, Store as _};
use guildhall_cluster::{Mirror, Session, SessionOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use guildhall_testkit::etcd::EtcdProcess;

const PREFIX: &str = "guildhall/";
/// After its return the state is whole within this time.
const WHOLE: Duration = Duration::from_secs(5);

const OPTIONS: SessionOptions = SessionOptions {
    ttl: Duration::from_secs(2),
    grace: Duration::from_secs(8),
    retry: Duration::from_millis(100),
};

struct Running {
    session: Session,
    stop: CancellationToken,
    task: JoinHandle<Result<(), guildhall_cluster::Error>>,
}

/// A session that publishes its name.
fn start(etcd: &EtcdProcess, name: &str) -> Running {
    let (session, task) = Session::new(Etcd::new(etcd.options()), PREFIX, OPTIONS);
    session.publish(format!("{PREFIX}{name}"), name.into());
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    Running { session, stop, task }
}

impl Running {
    /// Waits until the mirror is as it should be.
    async fn wait(&mut self, what: &str, limit: Duration, fits: impl Fn(&Mirror) -> bool) {
        let deadline = Instant::now() + limit;
        while !fits(&self.session.mirror()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let changed = tokio::time::timeout(left, self.session.changed()).await;
            assert!(changed.is_ok(), "not {what}: {:?}", self.session.mirror());
        }
    }
}

/// Names that are there and confirmed.
fn names(mirror: &Mirror) -> Vec<&str> {
    let confirmed = mirror.under(PREFIX).filter(|(_, known)| known.unconfirmed_until.is_none());
    confirmed.map(|(key, _)| &key[PREFIX.len()..]).collect()
}

/// Names that are there.
fn all_names(mirror: &Mirror) -> Vec<&str> {
    mirror.under(PREFIX).map(|(key, _)| &key[PREFIX.len()..]).collect()
}

#[tokio::test]
async fn sessions_see_each_other_come_and_go() {
    let etcd = EtcdProcess::start();
    let (mut a, b) = (start(&etcd, "a"), start(&etcd, "b"));
    a.wait("both there", WHOLE, |mirror| names(mirror) == ["a", "b"]).await;
    b.session.publish(format!("{PREFIX}b2"), b"1".into());
    a.wait("three there", WHOLE, |mirror| names(mirror) == ["a", "b", "b2"]).await;
    b.session.withdraw(&format!("{PREFIX}b2"));
    a.wait("two there", WHOLE, |mirror| names(mirror) == ["a", "b"]).await;
    // One that says goodbye is gone at once, one that is killed when its lease ends.
    b.stop.cancel();
    b.task.await.unwrap().unwrap();
    a.wait("one there", Duration::from_millis(500), |mirror| names(mirror) == ["a"]).await;
    let c = start(&etcd, "c");
    a.wait("two there", WHOLE, |mirror| names(mirror) == ["a", "c"]).await;
    c.task.abort();
    a.wait("one there", 2 * OPTIONS.ttl + WHOLE, |mirror| names(mirror) == ["a"]).await;
}

#[tokio::test]
async fn a_store_that_was_away_is_followed_again() {
    let mut etcd = EtcdProcess::start();
    let (mut a, mut b) = (start(&etcd, "a"), start(&etcd, "b"));
    a.wait("both there", WHOLE, |mirror| names(mirror) == ["a", "b"]).await;
    etcd.kill();
    a.wait("cut off", WHOLE, |mirror| !mirror.connected).await;
    // Longer than the lease.
    tokio::time::sleep(2 * OPTIONS.ttl).await;
    assert_eq!(all_names(&a.session.mirror()), ["a", "b"], "the last view stays");
    b.session.publish(format!("{PREFIX}new"), b"1".into());
    etcd.restart();
    for running in [&mut a, &mut b] {
        let whole = |mirror: &Mirror| mirror.connected && names(mirror) == ["a", "b", "new"];
        running.wait("whole again", WHOLE, whole).await;
    }
}

#[tokio::test]
async fn a_store_that_lost_everything_is_filled_again() {
    let mut etcd = EtcdProcess::start();
    let (mut a, mut b) = (start(&etcd, "a"), start(&etcd, "b"));
    a.wait("both there", WHOLE, |mirror| names(mirror) == ["a", "b"]).await;
    // Under no lease, so nobody publishes it again.
    let store = Etcd::new(etcd.options());
    store.put(&format!("{PREFIX}orphan"), b"1", None, Expected::Anything).await.unwrap();
    for running in [&mut a, &mut b] {
        let three = |mirror: &Mirror| names(mirror) == ["a", "b", "orphan"];
        running.wait("three there", WHOLE, three).await;
    }
    etcd.kill();
    etcd.wipe();
    etcd.restart();
    for running in [&mut a, &mut b] {
        let whole = |mirror: &Mirror| mirror.connected && names(mirror) == ["a", "b"];
        running.wait("whole again", WHOLE, whole).await;
        assert_eq!(all_names(&running.session.mirror()), ["a", "b", "orphan"], "for some time");
    }
    for running in [&mut a, &mut b] {
        let only = |mirror: &Mirror| all_names(mirror) == ["a", "b"];
        running.wait("rid of the orphan", OPTIONS.grace + WHOLE, only).await;
    }
}

#[tokio::test]
async fn a_compacted_past_is_made_up_for_by_a_listing() {
    let etcd = EtcdProcess::start();
    let mut a = start(&etcd, "a");
    a.wait("there", WHOLE, |mirror| names(mirror) == ["a"]).await;
    let store = Etcd::new(etcd.options());
    let mut last = Revision(0);
    for n in 0..20 {
        let key = format!("{PREFIX}n");
        last = store.put(&key, n.to_string().as_bytes(), None, Expected::Anything).await.unwrap();
    }
    etcd.compact(last);
    let shows =
        |mirror: &Mirror| mirror.get("guildhall/n").is_some_and(|known| known.value == b"19");
    a.wait("at the newest value", WHOLE, shows).await;
}

#[tokio::test]
async fn a_claimed_key_belongs_to_one_and_passes_on() {
    let etcd = EtcdProcess::start();
    let key = format!("{PREFIX}leader");
    let owner = |mirror: &Mirror| mirror.get("guildhall/leader").map(|known| known.value.clone());
    let (mut a, b) = (start(&etcd, "a"), start(&etcd, "b"));
    a.session.claim(&key, b"a".into());
    a.wait("led by a", WHOLE, |mirror| owner(mirror).as_deref() == Some(b"a")).await;
    b.session.claim(&key, b"b".into());
    b.session.publish(format!("{PREFIX}b2"), b"1".into());
    a.wait("three there", WHOLE, |mirror| names(mirror) == ["a", "b", "b2", "leader"]).await;
    assert_eq!(owner(&a.session.mirror()).as_deref(), Some(&b"a"[..]));
    let mut b = b;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    b.wait("led by b", WHOLE, |mirror| owner(mirror).as_deref() == Some(b"b")).await;
    b.session.withdraw(&key);
    b.wait("led by nobody", WHOLE, |mirror| owner(mirror).is_none()).await;
}

#[tokio::test]
async fn of_two_processes_with_one_name_the_first_ends() {
    let etcd = EtcdProcess::start();
    let mut first = start(&etcd, "a");
    first.wait("there", WHOLE, |mirror| names(mirror) == ["a"]).await;
    let second = start(&etcd, "b");
    second.session.publish(format!("{PREFIX}a"), b"another".into());
    let ended = tokio::time::timeout(WHOLE, first.task).await.unwrap().unwrap();
    assert_eq!(ended, Err(guildhall_cluster::Error::Taken { key: format!("{PREFIX}a") }));
}

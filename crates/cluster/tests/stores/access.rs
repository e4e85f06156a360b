//! An etcd that does not talk to everybody: with certificates, or with passwords.

use std::time::{Duration, Instant};

use guildhall_cluster::Error;
use guildhall_cluster::store::{Etcd, EtcdOptions, Expected, Revision, Store as _, Watch as _};

use super::suite;
use guildhall_testkit::certificates::Certificates;
use guildhall_testkit::etcd::EtcdProcess;

/// No operation takes longer, whoever asks.
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn etcd_with_certificates_keeps_the_contract() {
    let etcd = EtcdProcess::start_with_certificates();
    suite::run(Etcd::new(etcd.options()), async |_: &Etcd, at| etcd.compact(at)).await;
}

#[tokio::test]
async fn etcd_with_a_password_keeps_the_contract() {
    let etcd = EtcdProcess::start_with_password();
    suite::run(Etcd::new(etcd.options()), async |_: &Etcd, at| etcd.compact(at)).await;
}

/// Whoever has these options is told why nothing works, in time, by every operation.
async fn check_refused(options: EtcdOptions, reason: &str) {
    let store = Etcd::new(options);
    let started = Instant::now();
    let listed = store.list("a").await.map(drop);
    let put = store.put("a", b"1", None, Expected::Anything).await.map(drop);
    let watched = async { store.watch("a", Revision(0)).await?.next().await.map(drop) };
    for (what, result) in [("list", listed), ("put", put), ("watch", watched.await)] {
        let Err(Error::Unavailable(text)) = result else { panic!("{what}: {result:?}") };
        assert!(text.contains(reason), "{what}: {text:?} does not say {reason:?}");
    }
    assert!(started.elapsed() < 3 * LIMIT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn who_has_no_certificate_is_told_so() {
    let etcd = EtcdProcess::start_with_certificates();
    check_refused(EtcdOptions { identity: None, ..etcd.options() }, "ertificate").await;
}

#[tokio::test]
async fn who_has_a_certificate_of_somebody_else_is_told_so() {
    let etcd = EtcdProcess::start_with_certificates();
    let others = Certificates::generate().identity;
    let identity = Some((others.certificate.into(), others.key.into()));
    check_refused(EtcdOptions { identity, ..etcd.options() }, "ertificate").await;
}

#[tokio::test]
async fn an_etcd_of_somebody_else_is_not_trusted() {
    let etcd = EtcdProcess::start_with_certificates();
    let ca_certificate = Some(Certificates::generate().authority.into());
    check_refused(EtcdOptions { ca_certificate, ..etcd.options() }, "ertificate").await;
}

#[tokio::test]
async fn who_does_not_encrypt_is_told_so() {
    let etcd = EtcdProcess::start_with_certificates();
    let options = etcd.options();
    check_refused(EtcdOptions { ca_certificate: None, identity: None, ..options }, "not encrypted")
        .await;
}

#[tokio::test]
async fn a_wrong_password_or_none_is_refused() {
    let etcd = EtcdProcess::start_with_password();
    let wrong = Some(("root".to_owned(), "a guess".to_owned()));
    let text = "authentication failed, invalid user ID or password";
    check_refused(EtcdOptions { user: wrong, ..etcd.options() }, text).await;
    check_refused(EtcdOptions { user: None, ..etcd.options() }, "user name is empty").await;
}

#[tokio::test]
async fn who_may_not_do_something_is_told_so() {
    let etcd = EtcdProcess::start_with_password();
    assert!(etcd.control(&["user", "add", "guest:welcome"]));
    let guest = Some(("guest".to_owned(), "welcome".to_owned()));
    check_refused(EtcdOptions { user: guest, ..etcd.options() }, "permission denied").await;
}

#[tokio::test]
async fn a_client_whose_login_was_forgotten_logs_in_again() {
    let mut etcd = EtcdProcess::start_with_password();
    let store = Etcd::new(etcd.options());
    let at = store.put("a", b"1", None, Expected::Absent).await.unwrap();
    // etcd keeps what it gave to those who logged in in its memory only.
    etcd.kill();
    etcd.restart();
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = store.list("a").await {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert!(store.put("a", b"2", None, Expected::Revision(at)).await.unwrap() > at);
    let mut watch = store.watch("a", at).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_goes_on_when_somebody_else_gets_access() {
    let etcd = EtcdProcess::start_with_password();
    let store = Etcd::new(etcd.options());
    store.put("a", b"1", None, Expected::Absent).await.unwrap();
    // From now on etcd refuses who logged in before.
    assert!(etcd.control(&["user", "add", "guest:welcome"]));
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = store.put("a", b"2", None, Expected::Anything).await {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < deadline, "{error}");
    }
}

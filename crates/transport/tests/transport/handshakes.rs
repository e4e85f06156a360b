//! Who is let in, and in what words the others are refused.

use guildhall_transport::{Error, GrpcLink, Handshake, InProcessLink, Refusal};

use crate::support::{SHAPE, TestNode, handshake, serve_everywhere};

/// Changes what the router states and expects every kind of link to be refused.
async fn check(change: fn(&mut Handshake), expected: &str) {
    let mut router = handshake();
    change(&mut router);
    for served in serve_everywhere().await {
        let opened = GrpcLink::open(&served.endpoint, &router, "router-1", SHAPE).await;
        match opened.err() {
            Some(Error::Refused { endpoint, reason }) => {
                assert_eq!(endpoint, served.endpoint);
                assert!(reason.contains(expected), "{reason}");
            }
            other => panic!("{other:?} instead of {expected:?}"),
        }
    }
    match InProcessLink::open(TestNode::new(), &router).err() {
        Some(Refusal::Mismatch(reason)) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

#[tokio::test]
async fn each_difference_is_refused_with_its_reason() {
    check(|router| router.protocol_version += 1, "protocol version 5, this node 4").await;
    check(|router| router.model_fingerprint[0] = 0, "fingerprint 00abab").await;
    check(|router| router.model_fingerprint.clear(), "a model with fingerprint , this").await;
    check(|router| router.dtype = "f32".into(), "dtype f32, this node bf16").await;
    check(|router| router.hidden_size = 0, "hidden size 0, this node 1024").await;
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("absent.sock").display());
    for address in ["127.0.0.1:1", &path] {
        let endpoint = address.parse().unwrap();
        let error = GrpcLink::open(&endpoint, &handshake(), "router-1", SHAPE).await.err();
        assert!(matches!(error, Some(Error::Unreachable { .. })), "{address}: {error:?}");
    }
}

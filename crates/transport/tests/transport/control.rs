//! Describing and assigning over the wire.

use std::error::Error as _;

use guildhall_ids::{Epoch, ExpertId};
use guildhall_transport::{
    Error, ExpertBackend as _, Handshake, NodeControl, NodeDescription, Resident,
};

use crate::support::{handshake, hash, serve_everywhere};

#[tokio::test]
async fn a_description_arrives_as_the_node_gave_it() {
    for served in serve_everywhere().await {
        let mut control = NodeControl::connect(&served.endpoint).await.unwrap();
        // The hidden size is not part of a description.
        let handshake = Handshake { hidden_size: 0, ..handshake() };
        let expected = NodeDescription { handshake, ..served.node.describe() };
        assert_eq!(control.describe().await.unwrap(), expected);
        served.node.lifecycle.draining().cancel();
        assert!(control.describe().await.unwrap().draining);
    }
}

async fn assign(fingerprint: &[u8], epoch: u64, experts: &[(u32, u32)]) -> Result<Resident, Error> {
    let [_, served] = serve_everywhere().await;
    let mut control = NodeControl::connect(&served.endpoint).await.unwrap();
    let experts = experts.iter().map(|&(layer, expert)| ExpertId::new(layer, expert));
    control.assign(fingerprint, Epoch(epoch), experts).await
}

#[tokio::test]
async fn an_assignment_arrives_in_any_order_of_its_experts() {
    let fingerprint = handshake().model_fingerprint;
    let held = assign(&fingerprint, 12, &[(3, 1), (0, 2), (3, 0), (0, 2)]).await.unwrap();
    let expected = [(0, 2), (3, 0), (3, 1)].map(|(layer, expert)| ExpertId::new(layer, expert));
    assert_eq!(held, expected.into_iter().map(|id| (id, hash(id))).collect());
}

#[tokio::test]
async fn a_refused_assignment_says_why() {
    let error = assign(&[1], 12, &[(0, 0)]).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { reason, .. } if reason == "another model"),
        "{error}"
    );
    let fingerprint = handshake().model_fingerprint;
    let error = assign(&fingerprint, 12, &[]).await.unwrap_err();
    assert!(error.to_string().ends_with("refused: expert 0/0 is corrupt"), "{error}");
    let error = assign(&fingerprint, 11, &[(0, 0)]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let source = error.source().unwrap().to_string();
    assert!(source.contains("assignment 11 is older than 12"), "{source}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let error = NodeControl::connect(&"127.0.0.1:1".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

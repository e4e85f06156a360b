//! Experts that one node fetches from another, and givers that do not keep to the protocol.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Iter};
use guildhall_ids::ExpertId;
use guildhall_proto::v1;
use guildhall_proto::v1::experts_server::{Experts, ExpertsServer};
use guildhall_proto::v1::fetch_response::Message;
use guildhall_transport::{Endpoint, Error, Listener, StoredExpert, fetch};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{FINGERPRINT, serve_everywhere, serve_tcp, soon, stored};

/// Longer than any expert here.
const MAX_BYTES: usize = 4 << 20;

async fn fetch_from(endpoint: &Endpoint, expert: u32) -> Result<StoredExpert, Error> {
    let wanted = (&FINGERPRINT[..], ExpertId::new(0, expert));
    soon(fetch(endpoint, &"new".parse().unwrap(), wanted, MAX_BYTES)).await
}

#[tokio::test]
async fn an_expert_arrives_as_it_is_stored() {
    for served in serve_everywhere().await {
        // Of less than a part, of several, and with an empty matrix.
        for expert in 0..3 {
            let fetched = fetch_from(&served.endpoint, expert).await.unwrap();
            assert!(fetched == stored(expert).unwrap(), "expert {expert} has changed");
        }
    }
}

#[tokio::test]
async fn what_a_node_does_not_have_is_refused_in_its_words() {
    let served = serve_tcp().await;
    let error = fetch_from(&served.endpoint, 9).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason == "no expert 9"), "{error}");
    let wanted = (&[7; 32][..], ExpertId::new(0, 0));
    let error = fetch(&served.endpoint, &"new".parse().unwrap(), wanted, MAX_BYTES).await;
    assert!(
        matches!(error.unwrap_err(), Error::Refused { reason, .. } if reason == "another model")
    );
}

#[tokio::test]
async fn receivers_that_read_nothing_take_the_place_of_two_others_for_a_while() {
    let served = serve_tcp().await;
    let channel = tonic::transport::Endpoint::from_shared(served.endpoint.to_string()).unwrap();
    let channel = channel.initial_stream_window_size(1 << 10).connect().await.unwrap();
    let mut client = v1::experts_client::ExpertsClient::new(channel);
    let request = || v1::FetchRequest {
        protocol_version: guildhall_proto::EXPERT_PROTOCOL_VERSION,
        model_fingerprint: Bytes::from_static(&FINGERPRINT),
        layer: 0,
        expert: 1,
        node_id: "idle".into(),
    };
    let idle = [client.fetch(request()).await.unwrap(), client.fetch(request()).await.unwrap()];
    let error = fetch_from(&served.endpoint, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    drop(idle);
    while fetch_from(&served.endpoint, 1).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// Answers everybody with these messages.
struct Script(Vec<Message>);

type Answers<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl Experts for Script {
    type ComputeStream = Answers<v1::ComputeResponse>;
    type FetchStream = Answers<v1::FetchResponse>;

    async fn compute(
        &self,
        _: Request<Streaming<v1::ComputeRequest>>,
    ) -> Result<Response<Self::ComputeStream>, Status> {
        Err(Status::unimplemented("it only hands out experts"))
    }

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let response = |message: &Message| Ok(v1::FetchResponse { message: Some(message.clone()) });
        let responses: Vec<_> = self.0.iter().map(response).collect();
        Ok(Response::new(stream::iter(responses)))
    }
}

/// Fetches from a node that answers with this.
async fn check(messages: Vec<Message>, expected: &str) {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = listener.endpoint().unwrap();
    let Listener::Tcp(listener) = listener else { unreachable!("it was asked for TCP") };
    let service = ExpertsServer::from_arc(Arc::new(Script(messages)));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    match fetch_from(&endpoint, 0).await {
        Err(Error::Protocol { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

fn header(lengths: &[u64], hash_bytes: usize) -> Message {
    let matrix = |&bytes: &u64| v1::StoredMatrix { value_type: "bf16".into(), bytes };
    let matrices = lengths.iter().map(matrix).collect();
    Message::Expert(v1::StoredExpert { matrices, hash: vec![7; hash_bytes].into() })
}

#[tokio::test]
async fn givers_that_break_the_protocol_are_found_out() {
    let part = |bytes: usize| Message::Part(vec![1; bytes].into());
    check(vec![], "no header before").await;
    check(vec![part(3), header(&[1, 1, 1], 32)], "no header before").await;
    check(vec![header(&[1, 1], 32)], "an expert of 2 matrices").await;
    check(vec![header(&[1, 1, 1], 31)], "a hash of 31 bytes").await;
    check(vec![header(&[u64::MAX, 1, 1], 32)], "4194304 are the most").await;
    check(vec![header(&[4 << 20, 1, 0], 32)], "4194304 are the most").await;
    check(vec![header(&[2, 2, 2], 32), part(4)], "4 bytes of an expert, 6 announced").await;
    check(vec![header(&[2, 2, 2], 32), part(4), part(3)], "more bytes than announced").await;
    check(vec![header(&[2, 2, 2], 32), header(&[2, 2, 2], 32)], "a second header").await;
}

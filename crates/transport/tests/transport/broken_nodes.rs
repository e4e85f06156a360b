//! Nodes that do not keep to the protocol, as the raw bytes that they answer with.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use guildhall_proto::v1;
use guildhall_proto::v1::compute_response::Message;
use guildhall_transport::{Endpoint, Error, ExpertLink as _, Listener};
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{ECHO, call, next, open};

/// Answers every stream with these messages, whatever it is sent, and then with nothing more.
#[derive(Clone)]
struct Script(Arc<Vec<Bytes>>);

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl NamedService for Script {
    const NAME: &'static str = "guildhall.v1.Experts";
}

impl Service<http::Request<tonic::body::Body>> for Script {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let script = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(script, request).await) })
    }
}

impl StreamingService<Bytes> for Script {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = Answer<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Streaming<Bytes>>) -> Self::Future {
        let messages: Vec<_> = self.0.iter().cloned().map(Ok).collect();
        let answers = stream::iter(messages).chain(stream::pending());
        Box::pin(async move { Ok(Response::new(answers.boxed())) })
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn bytes(message: Message) -> Bytes {
    v1::ComputeResponse { message: Some(message) }.encode_to_vec().into()
}

fn welcome() -> v1::Welcome {
    v1::Welcome { node_id: "node-7".into(), instance: 1, max_calls_in_flight: 64 }
}

async fn serve(messages: Vec<Bytes>) -> Endpoint {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = listener.endpoint().unwrap();
    let Listener::Tcp(listener) = listener else { unreachable!("it was asked for TCP") };
    let server = tonic::transport::Server::builder().add_service(Script(Arc::new(messages)));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    endpoint
}

fn expect_protocol(error: Option<Error>, expected: &str) {
    match error {
        Some(Error::Protocol { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

/// Expects the link not to open on this first message.
async fn check_first(message: Bytes, expected: &str) {
    let endpoint = serve(vec![message]).await;
    expect_protocol(open(&endpoint).await.err(), expected);
}

/// Expects this answer to a call to break the link.
async fn check_answer(message: Bytes, expected: &str) {
    let endpoint = serve(vec![bytes(Message::Welcome(welcome())), message]).await;
    let mut link = open(&endpoint).await.unwrap();
    link.send(call(1, ECHO, 1)).unwrap();
    expect_protocol(next(&mut link).await.err(), expected);
}

/// Field 1 of the wire type 7, which does not exist.
const GARBAGE: &[u8] = &[0x0f, 0xff, 0xff];

#[tokio::test]
async fn a_node_that_does_not_welcome_is_not_used() {
    let no_welcome = "no welcome after the handshake";
    check_first(Bytes::new(), no_welcome).await;
    check_first(bytes(Message::Draining(v1::Draining {})), no_welcome).await;
    let nameless = v1::Welcome { node_id: "a/b".into(), ..welcome() };
    check_first(bytes(Message::Welcome(nameless)), "node id \"a/b\" is not").await;
    let idle = v1::Welcome { max_calls_in_flight: 0, ..welcome() };
    check_first(bytes(Message::Welcome(idle)), "it accepts no calls").await;
    check_first(Bytes::from_static(GARBAGE), "failed to decode").await;
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_breaks_the_link() {
    check_answer(Bytes::new(), "a message of an unknown kind").await;
    check_answer(bytes(Message::Welcome(welcome())), "a second welcome").await;
    check_answer(Bytes::from_static(GARBAGE), "failed to decode").await;
    let outputs = |id, len| {
        let values = Bytes::from(vec![0; len]);
        v1::CallOutputs { id, crc32: crc32fast::hash(&values), values, ..Default::default() }
    };
    check_answer(bytes(Message::Outputs(outputs(2, 2048))), "unknown call 2").await;
    check_answer(bytes(Message::Outputs(outputs(1, 0))), "0 bytes of outputs").await;
    check_answer(bytes(Message::Outputs(outputs(1, 4096))), "4096 bytes of outputs").await;
    let failure = v1::CallFailure { id: 9, ..Default::default() };
    check_answer(bytes(Message::Failure(failure)), "unknown call 9").await;
}

#[tokio::test]
async fn a_flipped_bit_of_an_answer_breaks_the_link() {
    let mut values = vec![1; 2048];
    let crc32 = crc32fast::hash(&values);
    values[2047] ^= 0x80;
    let outputs = v1::CallOutputs { id: 1, values: values.into(), crc32, ..Default::default() };
    let expected = "the checksum of the outputs is ";
    check_answer(bytes(Message::Outputs(outputs)), expected).await;
}

/// A later version may know more reasons.
#[tokio::test]
async fn a_failure_of_an_unknown_reason_is_a_failed_computation() {
    let failure = v1::CallFailure { id: 1, reason: 99, message: "new".into() };
    let messages = vec![bytes(Message::Welcome(welcome())), bytes(Message::Failure(failure))];
    let mut link = open(&serve(messages).await).await.unwrap();
    link.send(call(1, ECHO, 1)).unwrap();
    let failure = crate::support::expect_failure(&mut link).await;
    assert_eq!(failure.reason, guildhall_transport::FailureReason::Compute);
}

#[tokio::test]
async fn the_limit_is_the_one_that_the_node_states() {
    let two = v1::Welcome { max_calls_in_flight: 2, ..welcome() };
    let mut link = open(&serve(vec![bytes(Message::Welcome(two))]).await).await.unwrap();
    link.send(call(1, ECHO, 1)).unwrap();
    link.send(call(2, ECHO, 1)).unwrap();
    let error = link.send(call(3, ECHO, 1)).unwrap_err();
    assert!(matches!(error, Error::TooManyCalls { limit: 2, .. }), "{error}");
}

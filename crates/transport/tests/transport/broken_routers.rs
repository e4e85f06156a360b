//! Routers that do not keep to the protocol, as the raw messages that they send.

use bytes::Bytes;
use guildhall_proto::v1;
use guildhall_proto::v1::compute_request::Message as ToNode;
use guildhall_proto::v1::compute_response::Message as FromNode;
use guildhall_proto::v1::experts_client::ExpertsClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::{ECHO, HOLD, MAX_CALLS, SHAPE, Served, handshake, serve_tcp, soon};

fn hello() -> ToNode {
    let handshake = handshake();
    ToNode::Hello(v1::Hello {
        protocol_version: handshake.protocol_version,
        model_fingerprint: handshake.model_fingerprint.into(),
        dtype: handshake.dtype,
        hidden_size: handshake.hidden_size,
        router_id: "raw".into(),
        expert_weights: handshake.expert_weights,
    })
}

fn call(id: u64) -> v1::Call {
    let activations = Bytes::from(vec![1; SHAPE.row_bytes()]);
    v1::Call {
        id,
        layer: ECHO.0,
        tokens: 1,
        crc32: crc32fast::hash(&activations),
        activations,
        pair_tokens: vec![0],
        pair_experts: vec![0],
        ..Default::default()
    }
}

/// A stream whose messages are written by hand.
struct RawRouter {
    to_node: mpsc::Sender<v1::ComputeRequest>,
    from_node: Streaming<v1::ComputeResponse>,
}

async fn client(served: &Served) -> ExpertsClient<Channel> {
    let channel = Channel::from_shared(served.endpoint.to_string()).unwrap();
    ExpertsClient::new(channel.connect().await.unwrap())
}

impl RawRouter {
    async fn open(served: &Served) -> Self {
        let (to_node, requests) = mpsc::channel(2 * MAX_CALLS);
        to_node.try_send(v1::ComputeRequest { message: Some(hello()) }).unwrap();
        let mut client = client(served).await;
        let from_node = soon(client.compute(ReceiverStream::new(requests))).await.unwrap();
        let mut router = Self { to_node, from_node: from_node.into_inner() };
        let welcome = router.next().await;
        assert!(matches!(welcome, Ok(Some(FromNode::Welcome(_)))), "{welcome:?}");
        router
    }

    fn send(&self, message: Option<ToNode>) {
        self.to_node.try_send(v1::ComputeRequest { message }).unwrap();
    }

    async fn next(&mut self) -> Result<Option<FromNode>, Status> {
        let response = soon(self.from_node.message()).await?;
        Ok(response.and_then(|response| response.message))
    }

    async fn expect_answer(&mut self, expected: u64) {
        self.send(Some(ToNode::Call(call(expected))));
        match self.next().await {
            Ok(Some(FromNode::Outputs(outputs))) => assert_eq!(outputs.id, expected),
            other => panic!("{other:?} instead of outputs"),
        }
    }
}

/// Opens a stream with these messages and expects it to be refused.
async fn check_opening(messages: Vec<ToNode>, expected: &str) {
    let served = serve_tcp().await;
    let requests = messages.into_iter().map(|m| v1::ComputeRequest { message: Some(m) });
    let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
    let status = soon(client(&served).await.compute(stream)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_hello_is_refused() {
    check_opening(vec![ToNode::Call(call(1))], "the first message must be a hello").await;
    check_opening(vec![], "the stream ended before the handshake").await;
}

/// Sends a message after the handshake and expects it to end the stream.
async fn check_ends_stream(message: Option<ToNode>, expected: &str) {
    let served = serve_tcp().await;
    let mut router = RawRouter::open(&served).await;
    router.send(message);
    let status = router.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn after_the_handshake_only_calls_may_follow() {
    check_ends_stream(Some(hello()), "after the handshake only calls may follow").await;
    check_ends_stream(None, "after the handshake only calls may follow").await;
}

#[tokio::test]
async fn a_call_that_contradicts_itself_is_answered_and_the_stream_goes_on() {
    let served = serve_tcp().await;
    let mut router = RawRouter::open(&served).await;
    type Change = fn(&mut v1::Call);
    let changes: [(Change, &str); 6] = [
        (|call| call.pair_tokens.push(0), "2 pair_tokens, but 1 pair_experts"),
        (|call| call.pair_experts.clear(), "1 pair_tokens, but 0 pair_experts"),
        (|call| call.pair_tokens[0] = u32::MAX, "pair 0 names token 4294967295"),
        (|call| call.tokens = u32::MAX, "4294967295 tokens"),
        (|call| (call.activations, call.crc32) = (Bytes::new(), 0), "activations are 0 bytes"),
        (|call| call.trace_context = vec![1; 24].into(), "trace context"),
    ];
    for (id, (change, expected)) in (1..).zip(changes) {
        let mut call = call(id);
        change(&mut call);
        router.send(Some(ToNode::Call(call)));
        let Ok(Some(FromNode::Failure(failure))) = router.next().await else {
            panic!("no failure that says {expected:?}");
        };
        assert_eq!(failure.id, id);
        assert_eq!(failure.reason(), v1::call_failure::Reason::Malformed);
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
    router.expect_answer(9).await;
}

#[tokio::test]
async fn a_call_with_a_flipped_bit_is_asked_for_again_and_the_stream_goes_on() {
    let served = serve_tcp().await;
    let mut router = RawRouter::open(&served).await;
    let mut corrupt = call(1);
    let mut activations = corrupt.activations.to_vec();
    activations[SHAPE.row_bytes() - 1] ^= 1;
    corrupt.activations = activations.into();
    router.send(Some(ToNode::Call(corrupt)));
    let Ok(Some(FromNode::Failure(failure))) = router.next().await else {
        panic!("no failure");
    };
    assert_eq!((failure.id, failure.reason()), (1, v1::call_failure::Reason::Corrupt));
    assert!(failure.message.contains("the checksum of the activations is"), "{failure:?}");
    router.expect_answer(2).await;
}

#[tokio::test]
async fn more_calls_than_the_node_accepts_end_the_stream_and_only_that() {
    let served = serve_tcp().await;
    let mut router = RawRouter::open(&served).await;
    for id in 0..=MAX_CALLS as u64 {
        router.send(Some(ToNode::Call(v1::Call { layer: HOLD.0, ..call(id) })));
    }
    let status = router.next().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "64 calls are unanswered");
    RawRouter::open(&served).await.expect_answer(1).await;
}

#[tokio::test]
async fn a_router_that_closes_its_side_still_gets_its_answers() {
    let served = serve_tcp().await;
    let mut router = RawRouter::open(&served).await;
    router.send(Some(ToNode::Call(v1::Call { layer: HOLD.0, ..call(5) })));
    served.node.holds(1).await;
    let (closed, _) = mpsc::channel(1);
    router.to_node = closed;
    served.node.answer_newest();
    let outputs = router.next().await;
    assert!(matches!(outputs, Ok(Some(FromNode::Outputs(_)))), "{outputs:?}");
    assert!(matches!(router.next().await, Ok(None)));
}

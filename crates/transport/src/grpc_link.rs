//! A link over gRPC: one long bidirectional stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use guildhall_ids::NodeId;
use guildhall_proto::v1;
use guildhall_proto::v1::experts_client::ExpertsClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::Stream as _;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::http;
use tonic::transport::{Channel, Endpoint as TonicEndpoint, Uri};
use tower::util::MapRequest;

use crate::grpc::{HTTP2_FRAME_BYTES, WINDOW_BYTES};
use crate::heads_first::HeadsFirst;
use crate::unanswered::Unanswered;
use crate::{Call, Endpoint, Error, ExpertLink, FrameShape, Handshake, MAX_FRAME_BYTES, NodeEvent};
use crate::{server, wire};

/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An open stream to a node, with the calls that it has not answered.
pub struct GrpcLink {
    endpoint: Endpoint,
    node: NodeId,
    calls: mpsc::Sender<v1::ComputeRequest>,
    events: Streaming<v1::ComputeResponse>,
    unanswered: Unanswered,
}

/// Opens a connection on which the node may send so much before it is read.
pub(crate) async fn connect_with_window(
    endpoint: &Endpoint,
    window_bytes: u32,
) -> Result<Channel, Error> {
    let uri = match endpoint {
        Endpoint::Tcp(authority) => format!("http://{authority}"),
        // The authority of a Unix socket is never resolved.
        Endpoint::Unix(_) => "http://localhost".into(),
    };
    let tonic_endpoint = TonicEndpoint::from_shared(uri)
        .map_err(|e| Error::unreachable(endpoint, "reading the address", e))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(window_bytes)
        .initial_connection_window_size(window_bytes)
        .http2_max_header_list_size(16 << 10);
    let tonic_endpoint = max_frame(tonic_endpoint);
    let channel = match endpoint {
        Endpoint::Tcp(_) => tonic_endpoint.connect().await,
        Endpoint::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            tonic_endpoint.connect_with_connector(connector).await
        }
    };
    channel.map_err(|e| Error::unreachable(endpoint, "connecting", e))
}

fn max_frame(endpoint: TonicEndpoint) -> TonicEndpoint {
    endpoint.max_frame_size(HTTP2_FRAME_BYTES)
}

impl GrpcLink {
    /// Connects, shakes hands, and knows the node's name afterwards.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`] with the node's reason, or [`Error::Protocol`].
    pub async fn open(
        endpoint: &Endpoint,
        handshake: &Handshake,
        router_id: &str,
        shape: FrameShape,
    ) -> Result<Self, Error> {
        let opening = Self::open_unbounded(endpoint, handshake, router_id, shape);
        tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|e| Error::unreachable(endpoint, "opening a stream", e))?
    }

    async fn open_unbounded(
        endpoint: &Endpoint,
        handshake: &Handshake,
        router_id: &str,
        shape: FrameShape,
    ) -> Result<Self, Error> {
        let channel = connect_with_window(endpoint, WINDOW_BYTES).await?;
        let channel =
            MapRequest::new(channel, |request: http::Request<_>| request.map(HeadsFirst::wrap));
        let mut client = ExpertsClient::new(channel)
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        let (calls, receiver) = mpsc::channel(server::MAX_CALLS_IN_FLIGHT + 1);
        let hello = v1::compute_request::Message::Hello(wire::hello_to_wire(handshake, router_id));
        calls
            .try_send(v1::ComputeRequest { message: Some(hello) })
            .map_err(|e| Error::unreachable(endpoint, "queueing the handshake", e))?;
        let failed = |status| Error::from_status(endpoint, "opening a stream", status);
        let mut events =
            client.compute(ReceiverStream::new(receiver)).await.map_err(failed)?.into_inner();
        let first = events.next().await.transpose().map_err(failed)?;
        let Some(v1::compute_response::Message::Welcome(welcome)) = first.and_then(|m| m.message)
        else {
            return Err(Error::protocol(endpoint, "no welcome after the handshake"));
        };
        let node = server::node_id(&welcome.node_id).map_err(|e| Error::protocol(endpoint, e))?;
        let max_calls = server::MAX_CALLS_IN_FLIGHT.min(welcome.max_calls_in_flight as usize);
        if max_calls == 0 {
            return Err(Error::protocol(endpoint, "it accepts no calls"));
        }
        let (endpoint, unanswered) = (endpoint.clone(), Unanswered::new(shape, max_calls));
        Ok(Self { endpoint, node, calls, events, unanswered })
    }

    /// The node's own name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}

impl ExpertLink for GrpcLink {
    fn send(&mut self, call: Call) -> Result<(), Error> {
        if self.unanswered.is_full() {
            return Err(Error::TooManyCalls {
                endpoint: self.endpoint.clone(),
                limit: self.unanswered.limit(),
            });
        }
        self.unanswered.add(&call);
        let message = Some(v1::compute_request::Message::Call(wire::call_to_wire(call)));
        self.calls.try_send(v1::ComputeRequest { message }).map_err(|_| Error::Unreachable {
            endpoint: self.endpoint.clone(),
            what: "the stream is closed".into(),
            source: None,
        })
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<NodeEvent, Error>> {
        let event = match ready!(Pin::new(&mut self.events).poll_next(cx)) {
            Some(Ok(response)) => {
                wire::event_from_wire(response).map_err(|e| Error::protocol(&self.endpoint, e))
            }
            Some(Err(status)) => Err(Error::from_status(&self.endpoint, "waiting", status)),
            None => Err(Error::Unreachable {
                endpoint: self.endpoint.clone(),
                what: "the node closed the stream".into(),
                source: None,
            }),
        };
        Poll::Ready(event.and_then(|event| {
            let settled = self.unanswered.settle(&event);
            settled.map(|()| event).map_err(|e| Error::protocol(&self.endpoint, e))
        }))
    }
}

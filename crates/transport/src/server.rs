//! The node's side: a gRPC service in front of whatever computes experts.

use std::time::Duration;

use guildhall_ids::{ExpertId, NodeId};
use guildhall_proto::v1;
use guildhall_proto::v1::experts_server::{Experts, ExpertsServer};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http;
use tonic::service::LayerExt as _;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapResponseLayer;

use crate::busy_poll::Wakefulness;
use crate::compute_stream::ComputeStream;
use crate::connection::Connection;
use crate::grpc::{ServerOptions, server_builder, standard_services};
use crate::handout::{Counter, Parts};
use crate::heads_first::HeadsFirst;
use crate::{
    BusyPoll, Call, CallFailure, Error, FailureReason, FrameShape, Handshake, Lifecycle, Listener,
};
use crate::{MAX_FRAME_BYTES, NodeEvent, Refusal, StoredExpert, wire};

/// What computes experts behind a server or an in-process link.
pub trait ExpertBackend: Clone + Send + Sync + Unpin + 'static {
    /// Its name, and a number that differs after a restart.
    fn identity(&self) -> (NodeId, u64);

    /// Accepts a router and says how large its rows are.
    ///
    /// # Errors
    /// A mismatch, or that the node is draining.
    fn accept(&self, router: &Handshake) -> Result<FrameShape, Refusal>;

    /// Reads an expert of the model with this fingerprint from its files. Blocks.
    ///
    /// # Errors
    /// Why it has no such expert, in words.
    fn stored(&self, model_fingerprint: &[u8], expert: ExpertId) -> Result<StoredExpert, String>;

    /// Computes a call, whose counts agree with each other: at once if that takes some milliseconds at most, since nothing
    /// is received meanwhile, or some time later.
    fn submit(&self, call: Call, reply: ReplySlot);
}

/// Room for the answer to one call in the stream it came from.
#[derive(Debug)]
pub struct ReplySlot {
    replies: mpsc::Sender<NodeEvent>,
    // A call is in flight until its answer has left the channel, so every answer finds room.
    room: mpsc::OwnedPermit<NodeEvent>,
}

impl ReplySlot {
    /// Takes the room for one answer, or nothing when as many calls as `replies` has room for are in flight.
    pub(crate) fn reserve(replies: &mpsc::Sender<NodeEvent>) -> Option<Self> {
        let room = replies.clone().try_reserve_owned().ok()?;
        Some(Self { replies: replies.clone(), room })
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.replies.is_closed()
    }

    /// Answers, unless the router has gone.
    pub fn send(self, event: NodeEvent) {
        if self.is_abandoned() {
            tracing::debug!("the router left before its answer");
        }
        self.room.send(event);
    }

    /// Answers that the call contradicts itself.
    pub(crate) fn refuse(self, id: u64, message: String) {
        let reason = FailureReason::Malformed;
        self.send(NodeEvent::Failure(CallFailure { id, reason, message }));
    }
}

/// Unanswered calls that one stream may have.
pub(crate) const MAX_CALLS_IN_FLIGHT: usize = 64;
/// A router that opens a stream and says nothing is cut off after this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Router lanes that one node serves over one connection; each lane has a connection of its own.
const MAX_STREAMS: u32 = 64;
/// A peer that is frozen or silent has this long to close its connection after the server was stopped.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves `backend` until `lifecycle` stops; soon afterwards no connection is left. After each call and each answer the
/// thread stays awake for the time of `busy_poll`, since in the middle of a step the next call is near.
///
/// # Errors
/// When the server fails; not when a client does.
pub async fn serve<B: ExpertBackend>(
    listener: Listener,
    backend: B,
    lifecycle: Lifecycle,
    busy_poll: BusyPoll,
) -> Result<(), Error> {
    let (drain, stop) = (lifecycle.draining().clone(), lifecycle.stopping().clone());
    let awake = Wakefulness::default();
    let service =
        Service { backend, lifecycle, awake: awake.clone(), handouts: Counter::default() };
    let service = ExpertsServer::new(service)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES);
    // A router lane is polled only while it has work, so it could not answer pings.
    let options = ServerOptions { max_streams_per_connection: MAX_STREAMS, keepalive: None };
    let heads_first =
        MapResponseLayer::new(|response: http::Response<_>| response.map(HeadsFirst::wrap));
    let service = heads_first.named_layer(service);
    let router = server_builder(&options).add_service(service);
    let (router, health) = standard_services(router, &["guildhall.v1.Experts"]).await;
    health.set(true).await;
    let watch_drain = async {
        drain.cancelled().await;
        health.set(false).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serve_connections(router, listener, &stop) => served.map_err(Error::Serve),
        () = watch_drain => Ok(()),
        () = awake.keep(busy_poll) => Ok(()),
    }
}

/// Accepts connections until `stop`, and ends when none is left; those that linger are cut.
async fn serve_connections(
    router: Router,
    listener: Listener,
    stop: &CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let cut = CancellationToken::new();
    let serving = async {
        match listener {
            Listener::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                let incoming = incoming.map(|io| io.map(|io| Connection::new(io, &cut)));
                router.serve_with_incoming_shutdown(incoming, stop.cancelled()).await
            }
            Listener::Unix(listener, path) => {
                let incoming = UnixListenerStream::new(listener);
                let incoming = incoming.map(|io| io.map(|io| Connection::new(io, &cut)));
                let stopped = async {
                    stop.cancelled().await;
                    // Before the socket is closed: afterwards the path may belong to a new process. It may be gone
                    // already with its folder; nothing depends on it.
                    let _ = std::fs::remove_file(path);
                };
                router.serve_with_incoming_shutdown(incoming, stopped).await
            }
        }
    };
    let cut_lingering = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
        cut.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => served,
        () = cut_lingering => Ok(()),
    }
}

struct Service<B> {
    backend: B,
    lifecycle: Lifecycle,
    awake: Wakefulness,
    handouts: Counter,
}

#[tonic::async_trait]
impl<B: ExpertBackend> Experts for Service<B> {
    type ComputeStream = ComputeStream<B>;
    type FetchStream = Parts;

    async fn compute(
        &self,
        request: Request<Streaming<v1::ComputeRequest>>,
    ) -> Result<Response<Self::ComputeStream>, Status> {
        if self.lifecycle.draining().is_cancelled() {
            return Err(Status::unavailable(Refusal::Draining.to_string()));
        }
        let mut calls = request.into_inner();
        let first = tokio::time::timeout(HANDSHAKE_TIMEOUT, calls.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no handshake"))?
            .ok_or_else(|| Status::invalid_argument("the stream ended before the handshake"))??;
        let Some(v1::compute_request::Message::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let router_id = hello.router_id.clone();
        let shape = self.backend.accept(&wire::hello_from_wire(hello)).map_err(|refusal| {
            tracing::warn!(router = %router_id, %refusal, "router refused");
            match refusal {
                Refusal::Mismatch(_) => Status::failed_precondition(refusal.to_string()),
                Refusal::Draining => Status::unavailable(refusal.to_string()),
            }
        })?;
        tracing::info!(router = %router_id, "router connected");
        let (node, instance) = self.backend.identity();
        let welcome = v1::Welcome {
            node_id: node.to_string(),
            instance,
            max_calls_in_flight: u32::try_from(MAX_CALLS_IN_FLIGHT).unwrap_or(u32::MAX),
        };
        let backend = self.backend.clone();
        let stream = ComputeStream::new(calls, backend, (shape, welcome), &self.lifecycle);
        Ok(Response::new(stream.keeping(self.awake.clone())))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let parts = self.handouts.hand_out(self.backend.clone(), request.into_inner()).await?;
        Ok(Response::new(parts))
    }
}

pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|e: guildhall_ids::InvalidNodeId| e.to_string())
}

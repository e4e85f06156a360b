//! The gRPC service `guildhall.v1.Generation`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use guildhall_proto::v1;
use guildhall_proto::v1::generation_server::{Generation, GenerationServer};
use guildhall_telemetry::TraceContext;
use guildhall_transport::{HealthSwitch, ServerOptions, server_builder, standard_services};
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::{Admission, responses, validate};
use crate::Error;
use crate::engine::{EngineHandle, Events, Refused};
use crate::request::{Chunk, Failure};
use crate::tokenizer::Tokenizer;

/// What requests are checked against.
#[derive(Clone)]
pub(crate) struct ServedModel {
    pub(crate) name: String,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) vocab_size: usize,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) max_model_len: usize,
    pub(crate) moe_layers: Vec<u32>,
    pub(crate) top_k: u32,
}

struct Service {
    model: ServedModel,
    admission: Admission,
    engine: EngineHandle,
}

/// Largest request: a long prompt as token ids.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// How often the health status follows the state of the cluster.
const HEALTH_INTERVAL: Duration = Duration::from_millis(200);
/// Requests that one connection may have open.
const MAX_STREAMS: u32 = 4096;

/// Serves until `shutdown`, then until every open request has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    (model, engine): (ServedModel, EngineHandle),
    admission: Admission,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let service = GenerationServer::new(Service { model, admission: admission.clone(), engine })
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let keepalive = Some(Duration::from_secs(30));
    let options = ServerOptions { max_streams_per_connection: MAX_STREAMS, keepalive };
    let router = server_builder(&options).add_service(service);
    let (router, health) = standard_services(router, &["guildhall.v1.Generation"]).await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        never = follow_health(health, admission) => never,
    }
}

async fn follow_health(health: HealthSwitch, admission: Admission) -> Result<(), Error> {
    loop {
        health.set(admission.takes_traffic()).await;
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

impl Service {
    async fn begin(&self, request: Request<v1::GenerateRequest>) -> Result<Running, Status> {
        let permit = self.admission.enter()?;
        // A header that cannot be read starts no trace, but is no reason to refuse the request.
        let header = request.metadata().get("traceparent").and_then(|value| value.to_str().ok());
        let trace = header.and_then(|header| TraceContext::from_traceparent(header).ok());
        let wire = request.into_inner();
        // Tokenising a long text takes milliseconds, which other requests should not wait for.
        let model = self.model.clone();
        let mut request = tokio::task::spawn_blocking(move || validate::request(&model, wire))
            .await
            .map_err(|e| Status::internal(format!("reading the request: {e}")))??;
        request.trace = trace;
        let request_id = request.id.clone();
        let events = self.engine.submit(request).map_err(|refused| match refused {
            Refused::Full => Status::resource_exhausted("too many requests at once"),
            Refused::Stopped => Status::unavailable("the engine has stopped"),
        })?;
        Ok(Running { events, request_id, model: self.model.clone(), ended: false, _permit: permit })
    }
}

/// A request whose sequence is in the engine. Dropping it ends the sequence.
pub(crate) struct Running {
    events: Events,
    request_id: String,
    model: ServedModel,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Running {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.events.poll_recv(cx));
        // Without a last chunk the engine has given the sequence up.
        let event = event.unwrap_or(Err(Failure::SlowReader));
        self.ended = event.as_ref().map_or(true, |chunk| chunk.end.is_some());
        Poll::Ready(Some(event.map_err(responses::status)))
    }
}

impl Stream for Running {
    type Item = Result<v1::GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = std::task::ready!(self.poll_chunk(cx));
        let to_wire = |chunk| responses::chunk(&self.model, &self.request_id, chunk);
        Poll::Ready(chunk.map(|chunk| chunk.map(to_wire)))
    }
}

#[tonic::async_trait]
impl Generation for Service {
    type GenerateStreamStream = Running;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        let mut running = self.begin(request).await?;
        let mut whole = Chunk::default();
        while let Some(part) = std::future::poll_fn(|cx| running.poll_chunk(cx)).await {
            responses::append(&mut whole, part?);
        }
        Ok(Response::new(responses::chunk(&running.model, &running.request_id, whole)))
    }

    async fn generate_stream(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Running>, Status> {
        Ok(Response::new(self.begin(request).await?))
    }
}

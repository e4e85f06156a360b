//! A collector of OpenTelemetry that keeps the spans that processes send it.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Everything that has come so far.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Collected>>>);

/// A collector, for as long as the test's runtime (or process) lives.
pub struct Collector {
    /// Its address, as processes are told it.
    pub address: String,
    kept: Kept,
}

/// A span, and who sent it.
#[derive(Clone, Debug)]
pub struct Collected {
    /// `service.name` of the process.
    pub service: String,
    /// Its `service.instance.id`, if it has one.
    pub instance: String,
    /// As it came.
    pub span: Span,
}

impl Collector {
    /// Starts one that is spoken to over gRPC.
    pub async fn start() -> Self {
        let kept = Kept::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(kept.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, kept }
    }

    /// Starts one that is spoken to over HTTP; it takes one connection after another.
    pub fn start_http() -> Self {
        let kept = Kept::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let keeps = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mut reader, mut writer) =
                    (BufReader::new(stream.try_clone().unwrap()), stream);
                while let Some(body) = read_request(&mut reader) {
                    keeps.keep(ExportTraceServiceRequest::decode(&body[..]).unwrap());
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n";
                    writer
                        .write_all(format!("{head}content-length: 0\r\n\r\n").as_bytes())
                        .unwrap();
                }
            }
        });
        Self { address, kept }
    }

    /// What has come so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Collected> {
        self.kept.0.lock().unwrap().clone()
    }
}

/// The body of the next request to `/v1/traces`; nothing when the client has gone.
fn read_request(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    assert!(first.starts_with("POST /v1/traces "), "{first}");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

impl Kept {
    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut kept = self.0.lock().unwrap();
        for of in request.resource_spans {
            let resource = of.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name");
            let instance = text(&resource.attributes, "service.instance.id");
            for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Collected { service: service.clone(), instance: instance.clone(), span });
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collected {
    /// How long it took, in nanoseconds.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        self.span.end_time_unix_nano - self.span.start_time_unix_nano
    }

    /// Whether it did not go well.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }

    /// A whole number that it says of itself.
    #[must_use]
    pub fn number(&self, attribute: &str) -> i64 {
        match value(&self.span.attributes, attribute) {
            Some(Value::IntValue(number)) => *number,
            other => panic!("{attribute} of {} is {other:?}", self.span.name),
        }
    }

    /// A text that it says of itself.
    #[must_use]
    pub fn text(&self, attribute: &str) -> String {
        text(&self.span.attributes, attribute)
    }
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|pair| pair.key == name)?.value.as_ref()?.value.as_ref()
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    match value(attributes, name) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

//! A collector of OpenTelemetry that keeps what processes send it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
pub use opentelemetry_proto::tonic::metrics::v1::{
    Metric, NumberDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::certificates::Identity;

/// Everything that has come so far.
#[derive(Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<Collected>>>,
    /// By service.
    metrics: Arc<Mutex<Vec<(String, Metric)>>>,
    /// With traces, and with metrics.
    headers: Arc<Mutex<[Headers; 2]>>,
}

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
        Self::serve_grpc(Server::builder(), "http").await
    }

    /// The same over TLS.
    pub async fn start_tls(identity: &Identity) -> Self {
        let own = tonic::transport::Identity::from_pem(&identity.certificate, &identity.key);
        let tls = ServerTlsConfig::new().identity(own);
        Self::serve_grpc(Server::builder().tls_config(tls).unwrap(), "https").await
    }

    async fn serve_grpc(mut server: Server, scheme: &str) -> Self {
        let kept = Kept::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let server = server
            .add_service(TraceServiceServer::new(kept.clone()))
            .add_service(MetricsServiceServer::new(kept.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, kept }
    }

    /// Starts one that is spoken to over HTTP; it takes one connection after another.
    pub fn start_http() -> Self {
        Self::serve_http("http", |kept, stream| kept.answer(stream))
    }

    /// The same over TLS.
    pub fn start_http_tls(identity: &Identity) -> Self {
        let config = Arc::new(tls_config(identity));
        Self::serve_http("https", move |kept, stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            kept.answer(StreamOwned::new(connection, stream));
        })
    }

    fn serve_http(scheme: &str, answer: impl Fn(&Kept, TcpStream) + Send + 'static) -> Self {
        let kept = Kept::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let keeps = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(&keeps, stream);
            }
        });
        Self { address, kept }
    }

    /// What has come so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Collected> {
        self.kept.spans.lock().unwrap().clone()
    }

    /// The values that a header had with traces and with metrics so far.
    #[must_use]
    pub fn header(&self, name: &str) -> [BTreeSet<String>; 2] {
        let values = |of: &Headers| -> BTreeSet<String> {
            of.iter().filter(|(of, _)| of == name).map(|(_, value)| value.clone()).collect()
        };
        self.kept.headers.lock().unwrap().each_ref().map(values)
    }

    /// The last that a service said of a metric.
    #[must_use]
    pub fn metric(&self, service: &str, name: &str) -> Option<Metric> {
        let metrics = self.kept.metrics.lock().unwrap();
        let found = metrics.iter().rev().find(|(of, metric)| of == service && metric.name == name);
        found.map(|(_, metric)| metric.clone())
    }
}

fn tls_config(identity: &Identity) -> ServerConfig {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    config.with_single_cert(certificates.map(Result::unwrap).collect(), key).unwrap()
}

/// Names and values.
type Headers = Vec<(String, String)>;

/// The headers of a call that are text.
fn texts(metadata: &MetadataMap) -> Headers {
    let texts = metadata.iter().filter_map(|of| match of {
        KeyAndValueRef::Ascii(name, value) => Some((name.to_string(), value.to_str().ok()?.into())),
        KeyAndValueRef::Binary(..) => None,
    });
    texts.collect()
}

/// Path, headers and body of the next request; nothing when the client has gone.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Headers, Vec<u8>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let path = first.strip_prefix("POST ").unwrap().split(' ').next().unwrap().to_owned();
    let mut headers = Headers::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((path, headers, body))
}

impl Kept {
    /// Keeps what comes over a connection until that ends.
    fn answer(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some((path, headers, body)) = read_request(&mut stream) {
            self.keep_body(&path, headers, &body);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n";
            let writer = stream.get_mut();
            writer.write_all(format!("{head}content-length: 0\r\n\r\n").as_bytes()).unwrap();
            writer.flush().unwrap();
        }
    }

    fn keep_body(&self, path: &str, headers: Headers, body: &[u8]) {
        match path {
            "/v1/traces" => {
                self.headers.lock().unwrap()[0].extend(headers);
                self.keep(ExportTraceServiceRequest::decode(body).unwrap());
            }
            "/v1/metrics" => {
                self.headers.lock().unwrap()[1].extend(headers);
                self.keep_metrics(ExportMetricsServiceRequest::decode(body).unwrap());
            }
            other => panic!("nobody should ask for {other}"),
        }
    }

    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut kept = self.spans.lock().unwrap();
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

impl Kept {
    fn keep_metrics(&self, request: ExportMetricsServiceRequest) {
        let mut kept = self.metrics.lock().unwrap();
        for of in request.resource_metrics {
            let resource = of.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name");
            let metrics = of.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            kept.extend(metrics.map(|metric| (service.clone(), metric)));
        }
    }
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.headers.lock().unwrap()[1].extend(texts(request.metadata()));
        self.keep_metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.headers.lock().unwrap()[0].extend(texts(request.metadata()));
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

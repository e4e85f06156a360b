//! A server that computes nothing: each of its streams gets a token every 200 ms.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt as _};
use guildhall_proto::v1;
use guildhall_proto::v1::generation_server::{Generation, GenerationServer};
use tonic::{Request, Response, Status};

/// What the program is told to be one.
pub(crate) const ROLE: &str = "serve";

/// Time between two tokens of a stream.
const PACE: Duration = Duration::from_millis(200);

/// Streams begin at moments of their own within the pace, as those of requests that know nothing of each other.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// Numbers of tokens from 1 on, at their pace.
fn paced(tokens: u32, streams: usize) -> impl Stream<Item = u32> {
    let phase = f64::from(BEGUN.fetch_add(1, Ordering::Relaxed)) / streams as f64;
    let first = tokio::time::Instant::now() + PACE.mul_f64(phase.fract());
    let ticks = tokio::time::interval_at(first, PACE);
    futures_util::stream::unfold((ticks, 0), move |(mut ticks, sent)| async move {
        if sent == tokens {
            return None;
        }
        ticks.tick().await;
        Some((sent + 1, (ticks, sent + 1)))
    })
}

struct Paced {
    streams: usize,
}

type Parts = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for Paced {
    async fn generate(
        &self,
        _: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        Err(Status::unimplemented("it only streams"))
    }

    type GenerateStreamStream = Parts;

    async fn generate_stream(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Parts>, Status> {
        let tokens = request.into_inner().stopping.and_then(|of| of.max_tokens).unwrap_or(1);
        let part = move |number: u32| Ok(part(number, tokens));
        Ok(Response::new(Box::pin(paced(tokens, self.streams).map(part))))
    }
}

/// A part as the router sends it.
fn part(number: u32, tokens: u32) -> v1::GenerateResponse {
    let last = number == tokens;
    let reason = if last { v1::FinishReason::Length } else { v1::FinishReason::Unspecified };
    v1::GenerateResponse {
        request_id: "0123456789abcdef".into(),
        model: "none".into(),
        choices: vec![v1::Choice {
            text: " token".into(),
            token_ids: vec![number],
            finish_reason: reason.into(),
            ..Default::default()
        }],
        usage: last.then_some(v1::Usage { completion_tokens: tokens, ..Default::default() }),
        ..Default::default()
    }
}

async fn completions(streams: usize, body: Bytes) -> Body {
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let tokens = u32::try_from(asked["max_tokens"].as_u64().unwrap()).unwrap();
    let event = |number: u32| {
        let text = format!(
            "data: {{\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1,\"model\":\"none\",\
             \"choices\":[{{\"index\":0,\"text\":\" token\",\"token_ids\":[{number}],\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        );
        Ok::<_, std::convert::Infallible>(text)
    };
    let end = futures_util::stream::iter([Ok("data: [DONE]\n\n".to_owned())]);
    Body::from_stream(paced(tokens, streams).map(event).chain(end))
}

/// Serves on free ports, which it prints, until its parent closes its standard input.
pub(crate) fn run(streams: usize) {
    // Whoever started it has gone when nothing can be read any more.
    std::thread::spawn(|| {
        let _ = std::io::read_to_string(std::io::stdin());
        std::process::exit(0);
    });
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(async {
        let grpc = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for listener in [&grpc, &http] {
            println!("http://{}", listener.local_addr().unwrap());
        }
        std::io::stdout().flush().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(GenerationServer::new(Paced { streams }))
            .serve_with_incoming(
                tonic::transport::server::TcpIncoming::from(grpc).with_nodelay(Some(true)),
            );
        let route = axum::routing::post(move |body| completions(streams, body));
        let app = axum::Router::new().route("/v1/completions", route);
        let (served, listened) = tokio::join!(serving, async { axum::serve(http, app).await });
        served.unwrap();
        listened.unwrap();
    });
}

//! A process in the place of an expert node: it has the node compute, and then answers what it likes, with a checksum
//! that fits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use guildhall_proto::v1;
use guildhall_proto::v1::experts_client::ExpertsClient;
use guildhall_proto::v1::experts_server::{Experts, ExpertsServer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use v1::compute_response::Message;

use crate::proxy::Proxy;

/// The largest frame.
const MAX_BYTES: usize = 256 << 20;
/// Not a number, in bf16, little-endian.
const NAN: [u8; 2] = 0x7fc0_u16.to_le_bytes();

/// Answers calls as the node behind it does, or, when it is told to, with values that are no numbers. Ends when it is
/// dropped.
pub struct Impostor {
    address: String,
    manner: Arc<Manner>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Manner {
    spoils: AtomicBool,
    spoiled: AtomicU64,
}

impl Impostor {
    /// Starts one before the node at `target`, which computes in bf16 and need not be there yet.
    pub fn start(target: &str) -> Self {
        let proxy = Proxy::start(target);
        let manner = Arc::new(Manner::default());
        let (address_sender, address) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let for_thread = Arc::clone(&manner);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_sender.send(listener.local_addr().unwrap()).unwrap();
                let node = Node { target: proxy.address().to_owned(), manner: for_thread };
                let service = ExpertsServer::new(node)
                    .max_decoding_message_size(MAX_BYTES)
                    .max_encoding_message_size(MAX_BYTES);
                let serving = Server::builder().add_service(service);
                let serving = serving.serve_with_incoming(TcpIncoming::from(listener));
                tokio::select! {
                    served = serving => served.unwrap(),
                    // Or the sender was dropped.
                    _ = stopped => {}
                }
            });
        });
        let address = format!("http://{}", address.recv().unwrap());
        Self { address, manner, stop: Some(stop), thread: Some(thread) }
    }

    /// Where routers connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes every value of the answers from now on no number.
    pub fn spoil(&self) {
        self.manner.spoils.store(true, Ordering::Relaxed);
    }

    /// How many answers were spoiled.
    pub fn spoiled(&self) -> u64 {
        self.manner.spoiled.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has shown where it happened.
            let _ = thread.join();
        }
    }
}

struct Node {
    target: String,
    manner: Arc<Manner>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Experts for Node {
    type ComputeStream = Answers<v1::ComputeResponse>;
    type FetchStream = Answers<v1::FetchResponse>;

    async fn compute(
        &self,
        request: Request<Streaming<v1::ComputeRequest>>,
    ) -> Result<Response<Self::ComputeStream>, Status> {
        let client = ExpertsClient::connect(self.target.clone()).await;
        let mut client = client
            .map_err(|e| Status::unavailable(e.to_string()))?
            .max_decoding_message_size(MAX_BYTES)
            .max_encoding_message_size(MAX_BYTES);
        // The router's own error ends its stream.
        let calls = request.into_inner().map_while(Result::ok);
        let answers = client.compute(calls).await?.into_inner();
        let manner = Arc::clone(&self.manner);
        let answers = answers.map(move |answer| answer.map(|answer| manner.pass_on(answer)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("it hands nothing out"))
    }
}

impl Manner {
    fn pass_on(&self, mut answer: v1::ComputeResponse) -> v1::ComputeResponse {
        if let Some(Message::Outputs(outputs)) = &mut answer.message
            && self.spoils.load(Ordering::Relaxed)
        {
            let values = NAN.repeat(outputs.values.len() / NAN.len());
            outputs.crc32 = crc32fast::hash(&values);
            outputs.values = values.into();
            self.spoiled.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}

//! Experts for nodes that have no copy of the model's files: how one is handed out, part by part, beside the calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guildhall_ids::{ExpertId, ExpertIdx, LayerIdx};
use guildhall_proto::{EXPERT_PROTOCOL_VERSION, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use v1::fetch_response::Message;

use crate::ExpertBackend;

/// An expert as it is in a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredExpert {
    /// Gate, up and down.
    pub matrices: [StoredMatrix; 3],
    /// Over type and bytes of each matrix.
    pub hash: [u8; 32],
}

/// A matrix as it is in a file: row-major, little-endian, with the scales of its blocks behind it if it has some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMatrix {
    /// In the words of whoever stores it, such as `bf16`.
    pub value_type: String,
    /// All of its values.
    pub bytes: Bytes,
}

/// What one message carries: few enough that a call which comes meanwhile hardly waits.
const PART_BYTES: usize = 256 << 10;
/// Experts that are in memory for others at a time.
const AT_A_TIME: usize = 2;
/// A receiver gets this long for each part.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Parts = ReceiverStream<Result<v1::FetchResponse, Status>>;

/// Hands out experts, few at a time.
#[derive(Clone, Debug)]
pub(crate) struct Counter(Arc<Semaphore>);

impl Default for Counter {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Counter {
    pub(crate) async fn hand_out<B: ExpertBackend>(
        &self,
        backend: B,
        request: v1::FetchRequest,
    ) -> Result<Parts, Status> {
        if request.protocol_version != EXPERT_PROTOCOL_VERSION {
            let (theirs, ours) = (request.protocol_version, EXPERT_PROTOCOL_VERSION);
            let what = format!("{} has protocol version {theirs}", request.node_id);
            return Err(Status::failed_precondition(format!("{what}, this node {ours}")));
        }
        let full = |_| Status::resource_exhausted("enough experts are being handed out already");
        let turn = Arc::clone(&self.0).try_acquire_owned().map_err(full)?;
        let expert = ExpertId { layer: LayerIdx(request.layer), expert: ExpertIdx(request.expert) };
        // It reads and hashes some megabytes.
        let read = move || backend.stored(&request.model_fingerprint, expert);
        let read = tokio::task::spawn_blocking(read).await;
        let stored = read.map_err(|panic| Status::internal(panic.to_string()))?;
        let stored = stored.map_err(Status::failed_precondition)?;
        tracing::debug!(%expert, node = request.node_id, "handing an expert out");
        let (sender, parts) = mpsc::channel(1);
        tokio::spawn(send(stored, sender, turn));
        Ok(ReceiverStream::new(parts))
    }
}

/// Ends when all is sent, or when the receiver has left or takes nothing for too long.
async fn send(
    expert: StoredExpert,
    sender: mpsc::Sender<Result<v1::FetchResponse, Status>>,
    _turn: OwnedSemaphorePermit,
) {
    let matrix = |matrix: &StoredMatrix| v1::StoredMatrix {
        value_type: matrix.value_type.clone(),
        bytes: matrix.bytes.len() as u64,
    };
    let header = v1::StoredExpert {
        matrices: expert.matrices.iter().map(matrix).collect(),
        hash: Bytes::copy_from_slice(&expert.hash),
    };
    let parts = expert.matrices.iter().flat_map(|matrix| {
        let starts = (0..matrix.bytes.len()).step_by(PART_BYTES);
        starts.map(|start| matrix.bytes.slice(start..matrix.bytes.len().min(start + PART_BYTES)))
    });
    for message in std::iter::once(Message::Expert(header)).chain(parts.map(Message::Part)) {
        let response = v1::FetchResponse { message: Some(message) };
        if sender.send_timeout(Ok(response), PATIENCE).await.is_err() {
            return;
        }
    }
}

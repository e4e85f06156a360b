//! How a node without the model's files gets an expert from one that has them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_proto::v1::experts_client::ExpertsClient;
use guildhall_proto::{EXPERT_PROTOCOL_VERSION, v1};
use tonic::Streaming;
use v1::fetch_response::Message;

use crate::grpc_link::connect_with_window;
use crate::{Endpoint, Error, StoredExpert, StoredMatrix};

/// Longest time between two messages.
const PATIENCE: Duration = Duration::from_secs(10);
/// What may be on its way: a node that hands out an expert shall not fill its connection's memory with it at once.
const WINDOW_BYTES: u32 = 512 << 10;

/// Asks the node at `endpoint` for an expert of at most `max_bytes` bytes. Whether these are the right ones is for the
/// caller to check.
///
/// # Errors
/// [`Error::Unreachable`] if it does not answer or hands out enough already, [`Error::Refused`] if it has no such
/// expert, [`Error::Protocol`] if it sends something else than it announces.
pub async fn fetch(
    endpoint: &Endpoint,
    own: &NodeId,
    (model_fingerprint, expert): (&[u8], ExpertId),
    max_bytes: usize,
) -> Result<StoredExpert, Error> {
    let channel = patient(endpoint, connect_with_window(endpoint, WINDOW_BYTES)).await??;
    let request = v1::FetchRequest {
        protocol_version: EXPERT_PROTOCOL_VERSION,
        model_fingerprint: Bytes::copy_from_slice(model_fingerprint),
        layer: expert.layer.0,
        expert: expert.expert.0,
        node_id: own.to_string(),
    };
    let mut client = ExpertsClient::new(channel);
    let answer = patient(endpoint, client.fetch(request)).await?;
    let failed = |status| Error::from_status(endpoint, "fetching an expert", status);
    let mut messages = answer.map_err(failed)?.into_inner();
    let Some(Message::Expert(header)) = next(endpoint, &mut messages).await? else {
        return Err(Error::protocol(endpoint, "no header before the parts of an expert"));
    };
    let (lengths, mut stored) =
        read_header(header, max_bytes).map_err(|what| Error::protocol(endpoint, what))?;
    let total = lengths.iter().sum();
    let mut bytes = BytesMut::with_capacity(total);
    while let Some(message) = next(endpoint, &mut messages).await? {
        match message {
            Message::Part(part) if part.len() <= total - bytes.len() => bytes.extend(part),
            Message::Part(_) => return Err(Error::protocol(endpoint, "more bytes than announced")),
            Message::Expert(_) => return Err(Error::protocol(endpoint, "a second header")),
        }
    }
    if bytes.len() < total {
        let what = format!("{} bytes of an expert, {total} announced", bytes.len());
        return Err(Error::protocol(endpoint, what));
    }
    for (matrix, length) in stored.matrices.iter_mut().zip(lengths) {
        matrix.bytes = bytes.split_to(length).freeze();
    }
    Ok(stored)
}

async fn next(
    endpoint: &Endpoint,
    messages: &mut Streaming<v1::FetchResponse>,
) -> Result<Option<Message>, Error> {
    let failed = |status| Error::from_status(endpoint, "fetching an expert", status);
    let response = patient(endpoint, messages.message()).await?.map_err(failed)?;
    let unknown = || Error::protocol(endpoint, "a message of an unknown kind");
    response.map(|response| response.message.ok_or_else(unknown)).transpose()
}

async fn patient<T>(endpoint: &Endpoint, answer: impl Future<Output = T>) -> Result<T, Error> {
    let answered = tokio::time::timeout(PATIENCE, answer).await;
    answered.map_err(|e| Error::unreachable(endpoint, "fetching an expert", e))
}

/// Lengths of the matrices, and the expert without its bytes.
fn read_header(
    header: v1::StoredExpert,
    max_bytes: usize,
) -> Result<([usize; 3], StoredExpert), String> {
    let hash = header.hash.as_ref().try_into();
    let hash = hash.map_err(|_| format!("a hash of {} bytes", header.hash.len()))?;
    let matrices = <[v1::StoredMatrix; 3]>::try_from(header.matrices);
    let matrices =
        matrices.map_err(|matrices| format!("an expert of {} matrices", matrices.len()))?;
    let lengths = matrices.each_ref().map(|of| usize::try_from(of.bytes).unwrap_or(usize::MAX));
    let total = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    if total.is_none_or(|total| total > max_bytes) {
        return Err(format!("an expert of {lengths:?} bytes; {max_bytes} are the most"));
    }
    let empty =
        |of: v1::StoredMatrix| StoredMatrix { value_type: of.value_type, bytes: Bytes::new() };
    Ok((lengths, StoredExpert { matrices: matrices.map(empty), hash }))
}

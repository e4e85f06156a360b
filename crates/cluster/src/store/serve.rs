//! etcd's API over a store in memory, for clusters without an etcd: as much of it as a session uses.
//!
//! Clients are the same as with etcd, so there is one way to talk to a store, and `etcdctl` can look at this one too.

use std::pin::Pin;
use std::time::{Duration, Instant};

use etcd_client::proto as pb;
use etcd_client::proto::{PbKvServer, PbLeaseServer, PbWatchServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::state::{Rejected, State};
use super::{Change, Expected, LeaseId, Memory, Revision, Store as _, Watch as _};
use crate::Error;

/// Answers that may wait for a slow watcher.
const QUEUED_ANSWERS: usize = 16;
/// As much as our client takes: a listing has the records of all nodes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// The services, to be added to a server.
#[must_use]
pub fn serve(store: &Memory) -> Routes {
    let api = Api(store.clone());
    let kv = PbKvServer::new(api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let watch = PbWatchServer::new(api.clone()).max_encoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(kv).add_service(watch).add_service(PbLeaseServer::new(api))
}

#[derive(Clone)]
struct Api(Memory);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn header(revision: Revision) -> Option<pb::PbResponseHeader> {
    Some(pb::PbResponseHeader { revision: revision.0, ..Default::default() })
}

fn text(key: Vec<u8>) -> Result<String, Status> {
    String::from_utf8(key).map_err(|_| Status::invalid_argument("a key is not UTF-8"))
}

/// The prefix that a range stands for; the others that etcd knows are not needed here.
fn prefix(key: Vec<u8>, range_end: &[u8]) -> Result<String, Status> {
    let mut end = key.clone();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    if end == range_end || (key.is_empty() && range_end == [0]) {
        return text(key);
    }
    Err(Status::unimplemented("only ranges of one key or of a prefix"))
}

fn status(rejected: Rejected) -> Status {
    match rejected {
        Rejected::Conflict => Status::failed_precondition("the key is not as expected"),
        Rejected::NoLease => Status::not_found("etcdserver: requested lease not found"),
    }
}

fn key_value(key: String, value: Vec<u8>, revision: Revision) -> pb::PbKeyValue {
    pb::PbKeyValue {
        key: key.into_bytes(),
        value,
        mod_revision: revision.0,
        create_revision: revision.0,
        ..Default::default()
    }
}

fn range(state: &State, request: pb::PbRangeRequest) -> Result<pb::PbRangeResponse, Status> {
    let entries = if request.range_end.is_empty() {
        let key = text(request.key)?;
        state.list(&key).into_iter().filter(|entry| entry.key == key).collect()
    } else {
        state.list(&prefix(request.key, &request.range_end)?)
    };
    let kvs = entries.into_iter().map(|entry| key_value(entry.key, entry.value, entry.revision));
    let kvs: Vec<_> = kvs.collect();
    Ok(pb::PbRangeResponse {
        header: header(state.revision()),
        count: kvs.len() as i64,
        kvs,
        more: false,
    })
}

fn put(state: &mut State, request: pb::PbPutRequest) -> Result<pb::PbPutResponse, Status> {
    let lease = (request.lease != 0).then_some(LeaseId(request.lease));
    let key = text(request.key)?;
    let put = state.put(&key, &request.value, lease, Expected::Anything);
    Ok(pb::PbPutResponse { header: header(put.map_err(status)?), prev_kv: None })
}

fn delete(state: &mut State, request: pb::PbDeleteRequest) -> Result<pb::PbDeleteResponse, Status> {
    let keys = if request.range_end.is_empty() {
        vec![text(request.key)?]
    } else {
        let entries = state.list(&prefix(request.key, &request.range_end)?);
        entries.into_iter().map(|entry| entry.key).collect()
    };
    let before = state.revision();
    for key in keys {
        state.delete(&key, Expected::Anything).map_err(status)?;
    }
    Ok(pb::PbDeleteResponse {
        header: header(state.revision()),
        deleted: state.revision().0 - before.0,
        prev_kvs: Vec::new(),
    })
}

/// Whether a condition of a transaction holds: only ones about the revision of a key's last change are known here.
fn holds(state: &State, compare: &pb::PbCompare) -> Result<bool, Status> {
    let key = text(compare.key.clone())?;
    let entry = state.list(&key).into_iter().find(|entry| entry.key == key);
    let actual = entry.map_or(0, |entry| entry.revision.0);
    match compare.target_union {
        // The first relation is equality.
        Some(pb::PbTargetUnion::ModRevision(expected)) if compare.result == 0 => {
            Ok(actual == expected)
        }
        _ => Err(Status::unimplemented("only conditions on an equal mod_revision")),
    }
}

fn transact(state: &mut State, request: pb::PbTxnRequest) -> Result<pb::PbTxnResponse, Status> {
    let mut succeeded = true;
    for compare in &request.compare {
        succeeded &= holds(state, compare)?;
    }
    let operations = if succeeded { request.success } else { request.failure };
    let mut responses = Vec::new();
    for operation in operations {
        use pb::{PbTxnOpRequest as Operation, PbTxnOpResponse as Answer};
        let response = match operation.request {
            Some(Operation::RequestRange(of)) => Answer::ResponseRange(range(state, of)?),
            Some(Operation::RequestPut(of)) => Answer::ResponsePut(put(state, of)?),
            Some(Operation::RequestDeleteRange(of)) => {
                Answer::ResponseDeleteRange(delete(state, of)?)
            }
            _ => return Err(Status::unimplemented("no transactions within transactions")),
        };
        responses.push(pb::PbResponseOp { response: Some(response) });
    }
    Ok(pb::PbTxnResponse { header: header(state.revision()), succeeded, responses })
}

#[tonic::async_trait]
impl pb::PbKvService for Api {
    type RangeStreamStream = Answers<pb::PbRangeStreamResponse>;

    async fn range(
        &self,
        request: Request<pb::PbRangeRequest>,
    ) -> Result<Response<pb::PbRangeResponse>, Status> {
        self.0.with(|state| range(state, request.into_inner())).map(Response::new)
    }

    async fn range_stream(
        &self,
        _: Request<pb::PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("ask for a range at once"))
    }

    async fn put(
        &self,
        request: Request<pb::PbPutRequest>,
    ) -> Result<Response<pb::PbPutResponse>, Status> {
        self.0.with(|state| put(state, request.into_inner())).map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::PbDeleteRequest>,
    ) -> Result<Response<pb::PbDeleteResponse>, Status> {
        self.0.with(|state| delete(state, request.into_inner())).map(Response::new)
    }

    async fn txn(
        &self,
        request: Request<pb::PbTxnRequest>,
    ) -> Result<Response<pb::PbTxnResponse>, Status> {
        self.0.with(|state| transact(state, request.into_inner())).map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::PbCompactionRequest>,
    ) -> Result<Response<pb::PbCompactionResponse>, Status> {
        self.0.compact(Revision(request.into_inner().revision));
        let header = header(self.0.with(|state| state.revision()));
        Ok(Response::new(pb::PbCompactionResponse { header }))
    }
}

#[tonic::async_trait]
impl pb::PbLeaseService for Api {
    type LeaseKeepAliveStream = Answers<pb::PbLeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<pb::PbLeaseGrantRequest>,
    ) -> Result<Response<pb::PbLeaseGrantResponse>, Status> {
        let ttl = request.into_inner().ttl;
        let seconds = u64::try_from(ttl).ok().filter(|&seconds| seconds > 0);
        let seconds = seconds.ok_or_else(|| Status::invalid_argument("the ttl is not above 0"))?;
        let (lease, revision) = self.0.with(|state| {
            (state.grant(Duration::from_secs(seconds), Instant::now()), state.revision())
        });
        let (header, error) = (header(revision), String::new());
        Ok(Response::new(pb::PbLeaseGrantResponse { header, id: lease.0, ttl, error }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::PbLeaseRevokeRequest>,
    ) -> Result<Response<pb::PbLeaseRevokeResponse>, Status> {
        let lease = LeaseId(request.into_inner().id);
        let revision = self.0.with(|state| {
            state.revoke(lease);
            state.revision()
        });
        Ok(Response::new(pb::PbLeaseRevokeResponse { header: header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let store = self.0.clone();
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            let (revision, ttl) = store.with(|state| {
                state.keep_alive(LeaseId(id), Instant::now());
                (state.revision(), state.ttl(LeaseId(id)))
            });
            // 0 says that there is no such lease.
            let ttl = ttl.map_or(0, |ttl| ttl.as_secs() as i64);
            Ok(pb::PbLeaseKeepAliveResponse { header: header(revision), id, ttl })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::PbLeaseTimeToLiveResponse>, Status> {
        let id = request.into_inner().id;
        let ttl = self.0.with(|state| state.ttl(LeaseId(id)));
        let ttl = ttl.map_or(-1, |ttl| ttl.as_secs() as i64);
        let granted_ttl = ttl.max(0);
        let answer = pb::PbLeaseTimeToLiveResponse { id, ttl, granted_ttl, ..Default::default() };
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::PbLeaseLeasesRequest>,
    ) -> Result<Response<pb::PbLeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("leases are not listed"))
    }
}

#[tonic::async_trait]
impl pb::PbWatchService for Api {
    type WatchStream = Answers<pb::PbWatchResponse>;

    /// One watch for each stream, which is what a session opens.
    async fn watch(
        &self,
        request: Request<Streaming<pb::PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.next().await.transpose()?.and_then(|first| first.request_union);
        let Some(pb::PbWatchRequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("a watch begins with a create request"));
        };
        let prefix = if create.range_end.is_empty() {
            text(create.key)?
        } else {
            prefix(create.key, &create.range_end)?
        };
        let now = self.0.with(|state| state.revision());
        // 0 means from now on.
        let after = if create.start_revision == 0 { now.0 } else { create.start_revision - 1 };
        let (answers, receiver) = mpsc::channel(QUEUED_ANSWERS);
        let created =
            pb::PbWatchResponse { header: header(now), created: true, ..Default::default() };
        // There is room for the first one.
        let _ = answers.try_send(Ok(created));
        tokio::spawn(follow(self.0.clone(), prefix, Revision(after), requests, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Passes changes on until the client has left.
async fn follow(
    store: Memory,
    prefix: String,
    after: Revision,
    mut requests: Streaming<pb::PbWatchRequest>,
    answers: mpsc::Sender<Result<pb::PbWatchResponse, Status>>,
) {
    let Ok(mut watch) = store.watch(&prefix, after).await else { return };
    loop {
        let changes = tokio::select! {
            changes = watch.next() => changes,
            // Cancelled, or asks for something else: the client watches again.
            _ = requests.next() => return,
            () = answers.closed() => return,
        };
        let answer = match changes {
            Ok(changes) => pb::PbWatchResponse {
                header: header(changes.last().map_or(after, |change| change.revision)),
                events: changes.into_iter().map(event).collect(),
                ..Default::default()
            },
            Err(Error::Compacted) => {
                let compacted = store.with(|state| state.compacted());
                let (compact_revision, canceled) = (compacted.0.max(1), true);
                pb::PbWatchResponse { compact_revision, canceled, ..Default::default() }
            }
            Err(_) => return,
        };
        let ends = answer.canceled;
        if answers.send(Ok(answer)).await.is_err() || ends {
            return;
        }
    }
}

fn event(change: Change) -> pb::PbEvent {
    // 0 is a put, 1 a deletion.
    let kind = i32::from(change.value.is_none());
    let kv = key_value(change.key, change.value.unwrap_or_default(), change.revision);
    pb::PbEvent { r#type: kind, kv: Some(kv), prev_kv: None }
}

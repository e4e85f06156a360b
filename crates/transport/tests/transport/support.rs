//! A node that does what the layer of a call says, and ways to reach it.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertId, ExpertIdx, LayerIdx, NodeId};
use guildhall_transport::{
    BusyPoll, Call, CallFailure, CallOutputs, Endpoint, Error, ExpertBackend, ExpertLink,
    FailureReason, FrameShape, GrpcLink, Handshake, Lifecycle, Listener, NodeEvent, NodeTimings,
    Pair, Refusal, ReplySlot, StoredExpert, StoredMatrix, serve,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// 2048 bytes in a row.
pub(crate) const SHAPE: FrameShape = FrameShape { hidden_size: 1024, value_bytes: 2 };
/// What a node states as its limit.
pub(crate) const MAX_CALLS: usize = 64;

/// Answers at once; the output of a pair is the row of its token.
pub(crate) const ECHO: LayerIdx = LayerIdx(0);
/// Keeps the call until [`TestNode::answer_newest`].
pub(crate) const HOLD: LayerIdx = LayerIdx(1);
/// Fails; the reason is that of the first expert's index.
pub(crate) const FAIL: LayerIdx = LayerIdx(2);
/// Answers with one byte too few.
pub(crate) const SHORT: LayerIdx = LayerIdx(3);
/// Answers a call that nobody made.
pub(crate) const STRANGE: LayerIdx = LayerIdx(4);

/// Of the model whose experts a node hands out.
pub(crate) const FINGERPRINT: [u8; 32] = [0xab; 32];

pub(crate) const REASONS: [FailureReason; 6] = [
    FailureReason::NotResident,
    FailureReason::Expired,
    FailureReason::Malformed,
    FailureReason::Compute,
    FailureReason::Overloaded,
    FailureReason::Corrupt,
];

#[derive(Clone)]
pub(crate) struct TestNode {
    held: Arc<Mutex<Vec<(Call, ReplySlot)>>>,
    n_held: Arc<watch::Sender<usize>>,
    pub(crate) lifecycle: Lifecycle,
}

impl TestNode {
    pub(crate) fn new() -> Self {
        let (n_held, _) = watch::channel(0);
        Self { held: Arc::default(), n_held: Arc::new(n_held), lifecycle: Lifecycle::default() }
    }

    /// Waits until so many calls are held.
    pub(crate) async fn holds(&self, calls: usize) {
        let mut n_held = self.n_held.subscribe();
        soon(n_held.wait_for(|&held| held == calls)).await.unwrap();
    }

    pub(crate) fn answer_newest(&self) {
        let (call, slot) = self.held.lock().unwrap().pop().unwrap();
        self.n_held.send_modify(|held| *held -= 1);
        slot.send(outputs(call.id, echo(&call)));
    }

    /// Serves on `listener`; the task ends with the server.
    pub(crate) fn serve(&self, listener: Listener) -> JoinHandle<Result<(), Error>> {
        tokio::spawn(serve(listener, self.clone(), self.lifecycle.clone(), BusyPoll::default()))
    }
}

impl ExpertBackend for TestNode {
    fn identity(&self) -> (NodeId, u64) {
        ("node-7".parse().unwrap(), u64::MAX)
    }

    fn accept(&self, router: &Handshake) -> Result<FrameShape, Refusal> {
        if self.lifecycle.draining().is_cancelled() {
            return Err(Refusal::Draining);
        }
        handshake().accept(router)?;
        Ok(SHAPE)
    }

    fn stored(&self, model_fingerprint: &[u8], expert: ExpertId) -> Result<StoredExpert, String> {
        let ours = model_fingerprint == FINGERPRINT;
        ours.then(|| stored(expert.expert.0)).ok_or("another model")?
    }

    fn submit(&self, call: Call, reply: ReplySlot) {
        match call.layer {
            ECHO => reply.send(outputs(call.id, echo(&call))),
            HOLD => {
                self.held.lock().unwrap().push((call, reply));
                self.n_held.send_modify(|held| *held += 1);
            }
            FAIL => {
                let reason = REASONS[call.pairs[0].expert.0 as usize];
                let message = format!("{reason} it is");
                reply.send(NodeEvent::Failure(CallFailure { id: call.id, reason, message }));
            }
            SHORT => reply.send(outputs(call.id, echo(&call).slice(1..))),
            STRANGE => reply.send(outputs(call.id + 1, echo(&call))),
            layer => unreachable!("no test uses layer {layer}"),
        }
    }
}

/// The experts that a node hands out.
pub(crate) fn stored(expert: u32) -> Result<StoredExpert, String> {
    let lengths = match expert {
        0 => [6, 6, 6],
        1 => [1 << 20, (1 << 20) + 1, 3 << 18],
        2 => [1 << 18, 0, 1],
        _ => return Err(format!("no expert {expert}")),
    };
    let matrix = |length: usize| StoredMatrix {
        value_type: "bf16".into(),
        bytes: (0..length).map(|at| (at * 31 % 251) as u8).collect(),
    };
    Ok(StoredExpert { matrices: lengths.map(matrix), hash: [expert as u8; 32] })
}

pub(crate) fn handshake() -> Handshake {
    Handshake {
        protocol_version: guildhall_proto::EXPERT_PROTOCOL_VERSION,
        model_fingerprint: FINGERPRINT.into(),
        dtype: "bf16".into(),
        hidden_size: 1024,
        expert_weights: "bf16".into(),
    }
}

pub(crate) fn outputs(id: u64, values: Bytes) -> NodeEvent {
    let timings = NodeTimings {
        queue: Duration::from_micros(3),
        compute: Duration::from_micros(4),
        batch_pairs: 5,
    };
    NodeEvent::Outputs(CallOutputs { id, values, timings })
}

/// The row of each pair's token.
pub(crate) fn echo(call: &Call) -> Bytes {
    let rows = call.pairs.iter().map(|pair| {
        let start = pair.token as usize * SHAPE.row_bytes();
        &call.activations[start..start + SHAPE.row_bytes()]
    });
    rows.collect::<Vec<_>>().concat().into()
}

/// A call for each of `tokens` rows, the last one first; the bytes depend on the id and the row.
pub(crate) fn call(id: u64, layer: LayerIdx, tokens: u32) -> Call {
    let row = |token: u32| vec![(id as u32 + token) as u8; SHAPE.row_bytes()];
    Call {
        id,
        layer,
        epoch: Epoch(12),
        budget: Some(Duration::from_secs(1)),
        trace: None,
        tokens,
        activations: (0..tokens).flat_map(row).collect::<Vec<_>>().into(),
        pairs: (0..tokens).rev().map(|token| Pair { token, expert: ExpertIdx(0) }).collect(),
    }
}

/// Fails a test that would wait for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened")
}

pub(crate) async fn next(link: &mut dyn ExpertLink) -> Result<NodeEvent, Error> {
    soon(poll_fn(|cx| link.poll_event(cx))).await
}

pub(crate) async fn expect_outputs(link: &mut dyn ExpertLink, call: &Call) {
    match next(link).await {
        Ok(NodeEvent::Outputs(outputs)) => {
            assert_eq!(outputs.id, call.id);
            assert!(outputs.values == echo(call), "other values than those of call {}", call.id);
        }
        other => panic!("{other:?} instead of the outputs of call {}", call.id),
    }
}

pub(crate) async fn expect_failure(link: &mut dyn ExpertLink) -> CallFailure {
    match next(link).await {
        Ok(NodeEvent::Failure(failure)) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

pub(crate) async fn open(endpoint: &Endpoint) -> Result<GrpcLink, Error> {
    GrpcLink::open(endpoint, &handshake(), "router-1", SHAPE).await
}

/// A node behind each kind of socket.
pub(crate) struct Served {
    pub(crate) node: TestNode,
    pub(crate) endpoint: Endpoint,
    pub(crate) server: JoinHandle<Result<(), Error>>,
    _folder: TempDir,
}

pub(crate) async fn serve_everywhere() -> [Served; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = Endpoint::Unix(folder.path().join("node.sock"));
    let tcp = "127.0.0.1:0".parse().unwrap();
    [served(&tcp, tempfile::tempdir().unwrap()).await, served(&path, folder).await]
}

pub(crate) async fn serve_tcp() -> Served {
    let [tcp, _] = serve_everywhere().await;
    tcp
}

async fn served(endpoint: &Endpoint, folder: TempDir) -> Served {
    let node = TestNode::new();
    let listener = Listener::bind(endpoint).await.unwrap();
    let endpoint = listener.endpoint().unwrap();
    Served { server: node.serve(listener), node, endpoint, _folder: folder }
}

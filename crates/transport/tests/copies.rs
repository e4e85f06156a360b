//! How often a frame is copied on its way, counted in bytes that pass through `memcpy`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::ffi::c_void;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertId, ExpertIdx, LayerIdx, NodeId};
use guildhall_transport::{
    BusyPoll, Call, CallOutputs, Endpoint, ExpertBackend, ExpertLink as _, FrameShape, GrpcLink,
    Handshake, Lifecycle, Listener, NodeEvent, NodeTimings, Pair, Refusal, ReplySlot, StoredExpert,
    serve,
};

/// Bytes of all copies that are not small.
static COPIED: AtomicUsize = AtomicUsize::new(0);
const SMALL_BYTES: usize = 1024;

/// What every copy of this program calls, in the place of the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    if bytes > SMALL_BYTES {
        COPIED.fetch_add(bytes, Ordering::Relaxed);
    }
    // SAFETY: the caller may copy so many bytes from there to there; memmove asks for less than memcpy.
    unsafe { libc::memmove(to, from, bytes) }
}

const SHAPE: FrameShape = FrameShape { hidden_size: 2048, value_bytes: 2 };
const CALLS: u64 = 20;

/// A node whose outputs are there already.
#[derive(Clone)]
struct Mirror(Bytes);

impl ExpertBackend for Mirror {
    fn identity(&self) -> (NodeId, u64) {
        ("node-0".parse().unwrap(), u64::MAX)
    }

    fn accept(&self, _: &Handshake) -> Result<FrameShape, Refusal> {
        Ok(SHAPE)
    }

    fn stored(&self, _: &[u8], expert: ExpertId) -> Result<StoredExpert, String> {
        Err(format!("no expert {expert}"))
    }

    fn submit(&self, call: Call, reply: ReplySlot) {
        let (id, values, timings) = (call.id, self.0.clone(), NodeTimings::default());
        reply.send(NodeEvent::Outputs(CallOutputs { id, values, timings }));
    }
}

fn handshake() -> Handshake {
    Handshake {
        protocol_version: guildhall_proto::EXPERT_PROTOCOL_VERSION,
        model_fingerprint: [7; 32].into(),
        dtype: "bf16".into(),
        hidden_size: SHAPE.hidden_size as u32,
        expert_weights: "bf16".into(),
    }
}

/// Sends a call of one pair for each token, and waits for its outputs.
async fn ask(link: &mut GrpcLink, id: u64, activations: &Bytes) {
    let tokens = (activations.len() / SHAPE.row_bytes()) as u32;
    let pairs = (0..tokens).map(|token| Pair { token, expert: ExpertIdx(0) }).collect();
    let call = Call {
        id,
        layer: LayerIdx(0),
        epoch: Epoch(0),
        budget: None,
        trace: None,
        tokens,
        activations: activations.clone(),
        pairs,
    };
    link.send(call).unwrap();
    match poll_fn(|cx| link.poll_event(cx)).await {
        Ok(NodeEvent::Outputs(outputs)) => assert_eq!(outputs.values, activations),
        other => panic!("{other:?}"),
    }
}

/// How often each frame of so many tokens is copied on its way.
async fn copies(tokens: usize) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(folder.path().join("node.sock"));
    let listener = Listener::bind(&endpoint).await.unwrap();
    let bytes = Bytes::from(vec![1; tokens * SHAPE.row_bytes()]);
    let node = Mirror(bytes.clone());
    tokio::spawn(serve(listener, node, Lifecycle::default(), BusyPoll::default()));
    let mut link = GrpcLink::open(&endpoint, &handshake(), "router-1", SHAPE).await.unwrap();
    // Buffers grow with the first calls, and what is in them is copied.
    for id in 0..CALLS {
        ask(&mut link, id, &bytes).await;
    }
    let before = COPIED.load(Ordering::Relaxed);
    for id in CALLS..2 * CALLS {
        ask(&mut link, id, &bytes).await;
    }
    let copied = COPIED.load(Ordering::Relaxed) - before;
    copied as f64 / (2 * CALLS as usize * bytes.len()) as f64
}

#[tokio::test]
async fn a_frame_is_copied_once_by_its_sender_and_once_by_its_receiver() {
    // A frame of a decoding step, one of HTTP/2, and several of them.
    for tokens in [16, 128, 1024] {
        let times = copies(tokens).await;
        assert!((1.9..2.2).contains(&times), "{tokens} tokens are copied {times:.2} times");
    }
}

//! A node without a network: what it holds, what it computes, what it refuses.

use std::future::poll_fn;
use std::path::Path;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use guildhall_checkpoint::Checkpoint;
use guildhall_ids::{Epoch, ExpertId, ExpertIdx, LayerIdx};
use guildhall_kernels::{CpuOptions, Device, Dtype};
use guildhall_transport::{
    BusyPoll, Call, CallOutputs, ExpertLink as _, FailureReason, Handshake, InProcessLink,
    Lifecycle, NodeEvent, Pair,
};

use crate::Error;
use crate::service::{Node, NodeOptions};
use crate::shard::Pace;
use crate::supply::Supply;

/// Two tokens of the model `mixtral` of the golden tests.
const HIDDEN: usize = 32;
const TOKENS: u32 = 2;

struct Running {
    node: Node,
    thread: JoinHandle<()>,
    checkpoint: Checkpoint,
    lifecycle: Lifecycle,
    hashes: tempfile::TempDir,
}

fn cpu() -> CpuOptions {
    CpuOptions::of_threads(2.try_into().unwrap())
}

fn checkpoint() -> Checkpoint {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../router/tests/golden/mixtral");
    Checkpoint::open(&golden).unwrap()
}

fn start(dtype: Dtype) -> Running {
    start_with(dtype, u64::MAX)
}

fn start_with(dtype: Dtype, capacity: u64) -> Running {
    let hashes = tempfile::tempdir().unwrap();
    let options = NodeOptions {
        node_id: "n0".parse().unwrap(),
        dtype,
        expert_weights: None,
        device: cpu(),
        capacity,
        max_queued_calls: 8,
        max_batch_pairs: 64,
        busy_poll: BusyPoll::default(),
    };
    let lifecycle = Lifecycle::default();
    let checkpoint = checkpoint();
    let supply = Supply::open(checkpoint.dir(), Some(hashes.path())).unwrap();
    let (node, thread) = Node::start(supply, options, lifecycle.clone()).unwrap();
    Running { node, thread, checkpoint, lifecycle, hashes }
}

impl Running {
    fn handshake(&self, dtype: Dtype) -> Handshake {
        Handshake {
            protocol_version: guildhall_proto::EXPERT_PROTOCOL_VERSION,
            model_fingerprint: self.checkpoint.fingerprint().0.to_vec(),
            dtype: dtype.to_string(),
            hidden_size: HIDDEN as u32,
            expert_weights: dtype.to_string(),
        }
    }

    fn link(&self, dtype: Dtype) -> InProcessLink<Node> {
        InProcessLink::open(self.node.clone(), &self.handshake(dtype)).unwrap()
    }

    /// Loads experts; says how many the node has then.
    fn load(&self, experts: &[(u32, u32)]) -> usize {
        let experts: Vec<_> = experts.iter().map(|&(l, e)| ExpertId::new(l, e)).collect();
        for (id, loaded) in self.node.shard().load(&experts, Pace::AtOnce, Duration::MAX) {
            loaded.unwrap_or_else(|e| panic!("{id}: {e}"));
        }
        self.node.shard().held().ids().len()
    }
}

fn row(token: u32) -> Vec<f32> {
    (0..HIDDEN).map(|i| ((i as f32) * 0.37 + token as f32).sin()).collect()
}

fn call(id: u64, layer: u32, pairs: &[(u32, u32)]) -> Call {
    let rows: Vec<u8> = (0..TOKENS).flat_map(row).flat_map(f32::to_le_bytes).collect();
    let pair = |&(token, expert): &(u32, u32)| Pair { token, expert: ExpertIdx(expert) };
    Call {
        id,
        layer: LayerIdx(layer),
        epoch: Epoch(1),
        budget: None,
        trace: None,
        tokens: TOKENS,
        activations: Bytes::from(rows),
        pairs: pairs.iter().map(pair).collect(),
    }
}

async fn event(link: &mut InProcessLink<Node>) -> NodeEvent {
    poll_fn(|cx| link.poll_event(cx)).await.unwrap()
}

async fn outputs(link: &mut InProcessLink<Node>) -> CallOutputs {
    match event(link).await {
        NodeEvent::Outputs(outputs) => outputs,
        other => panic!("{other:?}"),
    }
}

async fn failure(link: &mut InProcessLink<Node>) -> (FailureReason, String) {
    match event(link).await {
        NodeEvent::Failure(failure) => (failure.reason, failure.message),
        other => panic!("{other:?}"),
    }
}

/// What an expert gives for a token, computed without the node.
fn expected(checkpoint: &Checkpoint, layer: u32, token: u32, expert: u32) -> Vec<u8> {
    let device = Device::cpu(cpu()).unwrap();
    let tensors = checkpoint.expert(ExpertId::new(layer, expert)).unwrap();
    let (gate, up, down) = (&tensors.gate, &tensors.up, &tensors.down);
    let weights = device.expert_weights(gate, up, down, Dtype::F32).unwrap();
    let y = device.ffn(&device.upload(&row(token), HIDDEN).unwrap(), &weights).unwrap();
    device.host(&y).iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test]
async fn outputs_come_in_the_order_of_the_pairs() {
    let running = start(Dtype::F32);
    assert_eq!(running.load(&[(0, 2), (0, 5), (1, 2)]), 3);
    let mut link = running.link(Dtype::F32);
    let pairs = [(1, 5), (0, 2), (0, 5), (1, 2)];
    link.send(call(7, 0, &pairs)).unwrap();
    let answer = outputs(&mut link).await;
    assert_eq!((answer.id, answer.timings.batch_pairs), (7, 4));
    for ((token, expert), values) in pairs.into_iter().zip(answer.values.chunks(HIDDEN * 4)) {
        assert_eq!(values, expected(&running.checkpoint, 0, token, expert), "{token} {expert}");
    }
}

#[tokio::test]
async fn a_small_call_of_a_lone_router_is_answered_before_it_is_waited_for() {
    let running = start(Dtype::F32);
    running.load(&[(0, 1)]);
    let mut link = running.link(Dtype::F32);
    for id in 0..20 {
        link.send(call(id, 0, &[(0, 1)])).unwrap();
        let there = link.poll_event(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(NodeEvent::Outputs(answer))) = there else { panic!("{there:?}") };
        assert_eq!(
            (answer.id, &answer.values[..]),
            (id, &expected(&running.checkpoint, 0, 0, 1)[..])
        );
    }
}

#[tokio::test]
async fn calls_of_two_routers_get_the_bits_of_calls_alone() {
    let running = start(Dtype::F32);
    running.load(&[(0, 0), (0, 1), (0, 2)]);
    let mut links = [running.link(Dtype::F32), running.link(Dtype::F32)];
    let pairs = [[(0, 0), (0, 1), (1, 2)], [(1, 0), (0, 1), (0, 2)]];
    for id in 0..4 {
        for (link, pairs) in links.iter_mut().zip(&pairs) {
            link.send(call(id, 0, pairs)).unwrap();
        }
    }
    for (link, pairs) in links.iter_mut().zip(&pairs) {
        for _ in 0..4 {
            let answer = outputs(link).await;
            for (&(token, expert), values) in pairs.iter().zip(answer.values.chunks(HIDDEN * 4)) {
                assert_eq!(values, expected(&running.checkpoint, 0, token, expert));
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_resident_is_refused_and_the_link_goes_on() {
    let running = start(Dtype::F32);
    running.load(&[(0, 1)]);
    let mut link = running.link(Dtype::F32);
    link.send(call(1, 0, &[(0, 1), (1, 3)])).unwrap();
    let (reason, message) = failure(&mut link).await;
    assert_eq!(reason, FailureReason::NotResident);
    assert!(message.contains("expert 0/3"), "{message}");
    link.send(call(2, 0, &[(0, 1)])).unwrap();
    assert_eq!(outputs(&mut link).await.id, 2);

    assert_eq!(running.load(&[(0, 3), (1, 0)]), 3);
    running.node.shard().forget(&[ExpertId::new(0, 1)].into());
    link.send(call(3, 0, &[(0, 1)])).unwrap();
    assert_eq!(failure(&mut link).await.0, FailureReason::NotResident);
    link.send(call(4, 0, &[(1, 3)])).unwrap();
    assert_eq!(outputs(&mut link).await.id, 4);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_computed() {
    let running = start(Dtype::F32);
    running.load(&[(0, 1)]);
    let mut link = running.link(Dtype::F32);
    link.send(Call { budget: Some(Duration::ZERO), ..call(1, 0, &[(0, 1)]) }).unwrap();
    assert_eq!(failure(&mut link).await.0, FailureReason::Expired);
}

#[test]
fn an_expert_that_the_model_does_not_have_is_refused_and_changes_nothing() {
    let running = start(Dtype::F32);
    running.load(&[(0, 1)]);
    for unknown in [(0, 8), (3, 0)] {
        let id = ExpertId::new(unknown.0, unknown.1);
        let tried = running.node.shard().load(&[id], Pace::Leisurely, Duration::ZERO);
        assert!(matches!(&tried[..], [(tried, Err(_))] if *tried == id));
    }
    let held = running.node.shard().held();
    assert_eq!(held.ids().len(), 1);
    assert!(held.bytes() > 0);
}

#[test]
fn a_node_holds_no_more_than_it_may() {
    let running = start(Dtype::F32);
    assert_eq!(running.load(&[(0, 0), (0, 1)]), 2);
    let two = running.node.shard().held().bytes();
    let running = start_with(Dtype::F32, two);
    assert_eq!(running.load(&[(0, 0), (0, 1)]), 2);
    let third = ExpertId::new(0, 2);
    let load = || running.node.shard().load(&[third], Pace::AtOnce, Duration::ZERO);
    assert!(matches!(&load()[..], [(_, Err(Error::NoRoom { free: 0, .. }))]));
    running.node.shard().forget(&[ExpertId::new(0, 0)].into());
    assert!(load()[0].1.is_ok());
}

#[tokio::test]
async fn a_draining_node_refuses_routers_but_answers_those_it_has() {
    let running = start(Dtype::F32);
    running.load(&[(0, 1)]);
    let mut link = running.link(Dtype::F32);
    running.lifecycle.drain(Duration::ZERO).await;
    assert!(InProcessLink::open(running.node.clone(), &running.handshake(Dtype::F32)).is_err());
    link.send(call(1, 0, &[(0, 1)])).unwrap();
    assert_eq!(outputs(&mut link).await.id, 1);
}

#[tokio::test]
async fn the_compute_thread_ends_with_the_node() {
    let running = start(Dtype::Bf16);
    let Running { node, thread, hashes, .. } = running;
    drop(node);
    thread.join().unwrap();
    drop(hashes);
}

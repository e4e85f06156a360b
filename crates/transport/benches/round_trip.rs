//! Times a call to an expert node beside a bare TCP ping-pong of the same sizes.
//!
//! Both ends run on a thread of their own with a single-threaded runtime, as in the product. The node answers at once
//! with as many bytes as it was given, so that only the transport is measured. Contenders take turns, so that a
//! machine which others use too treats them alike; figures are medians and 95th percentiles of all their turns.
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]
#![expect(clippy::panic, reason = "a benchmark may stop at the first surprise")]

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertId, ExpertIdx, LayerIdx, NodeId};
use guildhall_transport::{
    BusyPoll, Call, CallOutputs, Endpoint, ExpertBackend, ExpertLink as _, FrameShape, GrpcLink,
    Handshake, Lifecycle, Listener, NodeEvent, NodeTimings, Pair, Refusal, ReplySlot, StoredExpert,
    serve,
};
use tokio::runtime::{Builder, Runtime};

/// Bytes of activations in a call, and of outputs in its answer.
const PAYLOADS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// Rounds with new threads and connections. Waking a thread on an idle core of a virtual machine can take ten times as
/// long as the whole ping-pong on one core, and where a thread runs rarely changes while it lives.
const ROUNDS: usize = 10;
const TURNS: usize = 8;
const CALLS_IN_A_TURN: usize = 50;
const VALUE_BYTES: usize = 2;
/// For ends that do not sleep between calls.
const AWAKE: BusyPoll = BusyPoll(Duration::from_micros(200));

fn main() {
    let calls = ROUNDS * TURNS * CALLS_IN_A_TURN;
    println!("a call and its answer, {calls} round trips each, us");
    println!("payload  contender         best     p50     p95  best / plain  p50 / plain");
    for payload in PAYLOADS {
        let mut contenders = [
            Contender::new("plain TCP", |_, payload| Wire::plain(payload)),
            Contender::new("call over TCP", |_, payload| {
                Wire::link(&"127.0.0.1:0".parse().unwrap(), payload, BusyPoll::default())
            }),
            Contender::new("  awake", |_, payload| {
                Wire::link(&"127.0.0.1:0".parse().unwrap(), payload, AWAKE)
            }),
            Contender::new("call over Unix", |folder, payload| {
                let socket = Endpoint::Unix(folder.join("node.sock"));
                Wire::link(&socket, payload, BusyPoll::default())
            }),
            Contender::new("  awake", |folder, payload| {
                Wire::link(&Endpoint::Unix(folder.join("awake.sock")), payload, AWAKE)
            }),
        ];
        for _ in 0..ROUNDS {
            run_round(payload, &mut contenders);
        }
        print_rows(payload, &mut contenders);
    }
}

fn run_round(payload: usize, contenders: &mut [Contender]) {
    let folder = tempfile::tempdir().unwrap();
    let mut wires: Vec<_> =
        contenders.iter().map(|contender| (contender.connect)(folder.path(), payload)).collect();
    for turn in 0..=TURNS {
        for (contender, wire) in contenders.iter_mut().zip(&mut wires) {
            let microseconds = take_turn(wire, payload);
            // The first turn warms up.
            if turn > 0 {
                contender.microseconds.extend(microseconds);
            }
        }
    }
}

fn take_turn(wire: &mut Wire, payload: usize) -> Vec<f64> {
    let bytes = Bytes::from(vec![7; payload]);
    let time = |_| {
        let start = Instant::now();
        wire.round_trip(&bytes);
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..CALLS_IN_A_TURN).map(time).collect()
}

/// Prints each contender with its ratios to the first one. The best run is the one on a single core, where a call has
/// nothing to hide behind; the median is what this machine did most of the time.
fn print_rows(payload: usize, contenders: &mut [Contender]) {
    let (plain_best, plain_p50) = (contenders[0].percentile(0), contenders[0].percentile(50));
    for contender in contenders {
        let [best, p50, p95] = [0, 50, 95].map(|percent| contender.percentile(percent));
        println!(
            "{:>4} KiB  {:<14} {best:>6.1}  {p50:>6.1}  {p95:>6.1}  {:>12.2}  {:>11.2}",
            payload >> 10,
            contender.name,
            best / plain_best,
            p50 / plain_p50,
        );
    }
}

struct Contender {
    name: &'static str,
    /// Connects to a new peer, whose socket may be in this folder, for payloads of this size.
    connect: fn(&Path, usize) -> Wire,
    microseconds: Vec<f64>,
}

impl Contender {
    fn new(name: &'static str, connect: fn(&Path, usize) -> Wire) -> Self {
        Self { name, connect, microseconds: Vec::new() }
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        self.microseconds.sort_by(f64::total_cmp);
        self.microseconds[self.microseconds.len() * percent / 100]
    }
}

enum Wire {
    Plain { stream: TcpStream, answer: Vec<u8> },
    Link { runtime: Runtime, link: Box<GrpcLink>, next_id: u64, busy_poll: BusyPoll },
}

impl Wire {
    /// A blocking socket whose peer returns what it gets.
    fn plain(payload: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut bytes = vec![0; payload];
            while stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).unwrap();
            }
        });
        Self::Plain { stream, answer: vec![0; payload] }
    }

    /// A link to a new node that listens there.
    fn link(endpoint: &Endpoint, payload: usize, busy_poll: BusyPoll) -> Self {
        let node = start_node(endpoint, busy_poll);
        let shape = FrameShape { hidden_size: payload / VALUE_BYTES, value_bytes: VALUE_BYTES };
        let handshake = Handshake {
            protocol_version: guildhall_proto::EXPERT_PROTOCOL_VERSION,
            model_fingerprint: vec![1; 32],
            dtype: "bf16".into(),
            hidden_size: u32::try_from(shape.hidden_size).unwrap(),
            expert_weights: "bf16".into(),
        };
        let runtime = runtime();
        let link = runtime.block_on(GrpcLink::open(&node, &handshake, "bench", shape)).unwrap();
        Self::Link { runtime, link: Box::new(link), next_id: 0, busy_poll }
    }

    fn round_trip(&mut self, bytes: &Bytes) {
        match self {
            Self::Plain { stream, answer } => {
                stream.write_all(bytes).unwrap();
                stream.read_exact(answer).unwrap();
            }
            Self::Link { runtime, link, next_id, busy_poll } => {
                *next_id += 1;
                link.send(call(*next_id, bytes.clone())).unwrap();
                let event = busy_poll.wait(poll_fn(|cx| link.poll_event(cx)));
                let event = runtime.block_on(event).unwrap();
                let NodeEvent::Outputs(outputs) = event else { panic!("{event:?}") };
                assert_eq!(outputs.values.len(), bytes.len());
            }
        }
    }
}

fn call(id: u64, activations: Bytes) -> Call {
    Call {
        id,
        layer: LayerIdx(0),
        epoch: Epoch(1),
        budget: None,
        trace: None,
        tokens: 1,
        activations,
        pairs: vec![Pair { token: 0, expert: ExpertIdx(0) }],
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Serves on a thread that ends with the process.
fn start_node(endpoint: &Endpoint, busy_poll: BusyPoll) -> Endpoint {
    let runtime = runtime();
    let listener = runtime.block_on(Listener::bind(endpoint)).unwrap();
    let endpoint = listener.endpoint().unwrap();
    thread::spawn(move || {
        runtime.block_on(serve(listener, Echo, Lifecycle::default(), busy_poll)).unwrap()
    });
    endpoint
}

/// Answers with the activations, whatever the width of a row.
#[derive(Clone)]
struct Echo;

impl ExpertBackend for Echo {
    fn identity(&self) -> (NodeId, u64) {
        ("echo".parse().unwrap(), 1)
    }

    fn accept(&self, router: &Handshake) -> Result<FrameShape, Refusal> {
        Ok(FrameShape { hidden_size: router.hidden_size as usize, value_bytes: VALUE_BYTES })
    }

    fn stored(&self, _: &[u8], _: ExpertId) -> Result<StoredExpert, String> {
        Err("it has no files".into())
    }

    fn submit(&self, call: Call, reply: ReplySlot) {
        let timings = NodeTimings::default();
        reply.send(NodeEvent::Outputs(CallOutputs {
            id: call.id,
            values: call.activations,
            timings,
        }));
    }
}

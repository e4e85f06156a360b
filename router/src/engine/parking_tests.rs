//! A lane whose experts go away and come back.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guildhall_checkpoint::Checkpoint;
use guildhall_ids::{ExpertId, ExpertIdx};
use guildhall_kernels::{CpuOptions, Device, Dtype, KvShape, Tensor};
use tokio_util::sync::CancellationToken;

use super::{EngineHandle, Events, Lane, LaneOptions, PingPong};
use crate::local_experts::LocalExperts;
use crate::model::{Experts, ExpertsCall, Model};
use crate::request::{Chunk, Failure, Outputs, Request, Sampling, Stopping};
use crate::scheduler::{BlockPool, Limits, Scheduler};
use crate::{Error, Lacking};

const LAYERS: u32 = 3;
const TOP_K: usize = 2;
const TOKENS: usize = 3;

/// What the experts do.
#[derive(Default)]
struct Weather {
    /// No node holds these.
    away: BTreeSet<ExpertId>,
    /// These give values that are not finite.
    broken: BTreeSet<ExpertId>,
}

struct Unreliable {
    experts: LocalExperts,
    weather: Arc<Mutex<Weather>>,
    error: Option<Error>,
}

impl Experts for Unreliable {
    fn start(&mut self, call: ExpertsCall) -> Result<(), Error> {
        let weather = self.weather.lock().unwrap();
        let pairs = call.routes.experts.iter().map(|&expert| ExpertIdx(expert));
        let pairs = pairs.map(|expert| ExpertId { layer: call.layer, expert }).enumerate();
        let pairs: Vec<(usize, ExpertId)> = pairs.collect();
        let among = |experts: &BTreeSet<ExpertId>| -> (Vec<ExpertId>, Vec<usize>) {
            let pairs = pairs.iter().filter(|(_, expert)| experts.contains(expert));
            pairs.map(|(pair, expert)| (*expert, pair / TOP_K)).unzip()
        };
        let (away, rows) = among(&weather.away);
        if let [first, others @ ..] = &away[..] {
            let (others, waited) = (others.to_vec(), Duration::ZERO);
            let lacking = Lacking { first: *first, others, rows, waited, why: "n0: gone".into() };
            self.error = Some(Error::ExpertsUnavailable(lacking));
            return Ok(());
        }
        let (broken, rows) = among(&weather.broken);
        if let Some(&expert) = broken.first() {
            let node = "n0".parse().unwrap();
            self.error = Some(Error::NonFinite { node, expert, rows });
            return Ok(());
        }
        self.experts.start(call)
    }

    fn finish(&mut self) -> Result<Tensor, Error> {
        self.error.take().map_or_else(|| self.experts.finish(), Err)
    }

    fn can_ask_for(&mut self, expert: ExpertId) -> bool {
        !self.weather.lock().unwrap().away.contains(&expert)
    }
}

struct Running {
    engine: EngineHandle,
    weather: Arc<Mutex<Weather>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn start(expert_wait_timeout: Duration) -> Running {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mixtral");
    let checkpoint = Checkpoint::open(&golden).unwrap();
    let threads = 1.try_into().unwrap();
    let device = Device::cpu(CpuOptions::of_threads(threads)).unwrap();
    let shape = KvShape { layers: 3, blocks: 16, block_tokens: 4, kv_heads: 2, head_dim: 8 };
    let limits = Limits { max_running: 8, max_batched_tokens: 64 };
    let options = LaneOptions {
        model: Model::load(&checkpoint, &device, (Dtype::F32, Dtype::F32.into()), 64).unwrap(),
        cache: device.kv_cache(shape, Dtype::F32).unwrap(),
        scheduler: Scheduler::new(limits, BlockPool::new(16, 4)),
        ping_pong: PingPong::default(),
        tokenizer: None,
        max_positions: 64,
        expert_wait_timeout,
        slow_step: None,
        stop: CancellationToken::new(),
    };
    let experts = LocalExperts::load(&checkpoint, &device, Dtype::F32.into()).unwrap();
    let (weather, stop) = (Arc::<Mutex<Weather>>::default(), options.stop.clone());
    let experts = Unreliable { experts, weather: Arc::clone(&weather), error: None };
    let (engine, thread) = Lane::start(options, move |_| Box::new(experts)).unwrap();
    Running { engine, weather, stop, thread: Some(thread) }
}

fn request(token: u32) -> Request {
    Request {
        id: token.to_string(),
        prompt: [token].into(),
        n: 1,
        sampling: Sampling::GREEDY,
        stopping: Stopping { max_tokens: TOKENS, ..Stopping::default() },
        outputs: Outputs { routed_experts: true, ..Outputs::default() },
        constraint: None,
        cache_salt: String::new(),
        deadline: None,
        cancel: CancellationToken::new(),
        trace: crate::traces::RequestTrace::default(),
    }
}

/// The tokens of an answer, and the experts that it needed.
type Answer = (Vec<u32>, BTreeSet<ExpertId>);

impl Running {
    fn submit(&self, request: Request) -> Events {
        self.engine.submit(request, ()).unwrap()
    }

    /// Changes what the experts do.
    fn set(&self, away: &[ExpertId], broken: &[ExpertId]) {
        let (away, broken) = (away.iter().copied().collect(), broken.iter().copied().collect());
        *self.weather.lock().unwrap() = Weather { away, broken };
    }
}

fn answer(mut events: Events) -> Result<Answer, Failure> {
    let (mut tokens, mut experts) = (Vec::new(), BTreeSet::new());
    while let Some(chunk) = events.blocking_recv() {
        let chunk = chunk?;
        tokens.extend(chunk.tokens.iter().map(|token| token.id));
        let routes = chunk.routes.unwrap_or_default();
        for (at, &expert) in routes.experts.iter().enumerate() {
            experts.insert(ExpertId::new((at / TOP_K) as u32 % LAYERS, expert));
        }
        if chunk.end.is_some() {
            return Ok((tokens, experts));
        }
    }
    panic!("no end")
}

/// Two prompts, what they give, and an expert that only the first one needs.
fn two_prompts(running: &Running) -> ((u32, Answer), (u32, Answer), ExpertId) {
    let first = answer(running.submit(request(5))).unwrap();
    for token in 6..60 {
        let second = answer(running.submit(request(token))).unwrap();
        if let Some(&expert) = first.1.difference(&second.1).next() {
            return ((5, first), (token, second), expert);
        }
    }
    panic!("all prompts need all experts of the first one");
}

#[test]
fn who_lacks_an_expert_waits_while_others_go_on_and_nobody_sees_a_difference() {
    let running = start(Duration::from_secs(60));
    let ((first, expected), (second, expected_second), expert) = two_prompts(&running);
    running.set(&[expert], &[]);
    let mut waits = running.submit(request(first));
    for _ in 0..3 {
        assert_eq!(answer(running.submit(request(second))).as_ref(), Ok(&expected_second));
    }
    let early: Vec<Chunk> = std::iter::from_fn(|| waits.try_recv().ok()?.ok()).collect();
    assert!(early.iter().all(|chunk| chunk.end.is_none()));
    running.set(&[], &[]);
    let mut tokens: Vec<u32> = early.iter().flat_map(|c| &c.tokens).map(|t| t.id).collect();
    tokens.extend(answer(waits).unwrap().0);
    assert_eq!(tokens, expected.0);
    assert_eq!(answer(running.submit(request(first))), Ok(expected));
}

#[test]
fn a_value_that_is_not_finite_fails_only_the_sequences_that_need_it() {
    let running = start(Duration::from_secs(60));
    let ((first, expected), (second, expected_second), expert) = two_prompts(&running);
    running.set(&[], &[expert]);
    // In one step.
    let (fails, goes_on) = (running.submit(request(first)), running.submit(request(second)));
    let Err(Failure::Internal(text)) = answer(fails) else { panic!("it did not fail") };
    assert!(text.contains(&format!("not finite for expert {expert}")), "{text}");
    assert_eq!(answer(goes_on), Ok(expected_second));
    running.set(&[], &[]);
    assert_eq!(answer(running.submit(request(first))), Ok(expected));
}

#[test]
fn parked_sequences_end_in_time_and_are_no_progress() {
    let running = start(Duration::from_secs(4));
    let ((first, expected), _, expert) = two_prompts(&running);
    let all: Vec<ExpertId> = (0..8).map(|index| ExpertId::new(expert.layer.0, index)).collect();
    running.set(&all, &[]);
    let started = Instant::now();
    let fails = running.submit(request(first));
    let deadline = Some(started + Duration::from_millis(400));
    let ends = running.submit(Request { deadline, ..request(first) });
    let cancelled = request(first);
    let cancel = cancelled.cancel.clone();
    let leaves = running.submit(cancelled);
    assert_eq!(answer(ends), Err(Failure::DeadlineExceeded));
    cancel.cancel();
    answer(leaves).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(running.engine.status().stalled_for() > Duration::from_millis(300));
    let steps = running.engine.status().steps();
    let Err(Failure::Unavailable(text)) = answer(fails) else { panic!("it did not fail") };
    assert!(text.starts_with(&format!("no expert node answered for expert {}/", expert.layer.0)));
    assert!(text.ends_with("ms: n0: gone"), "{text}");
    assert!(started.elapsed() >= Duration::from_secs(4));
    assert_eq!(running.engine.status().steps(), steps);
    running.set(&[], &[]);
    assert_eq!(answer(running.submit(request(first))), Ok(expected));
}

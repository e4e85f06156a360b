//! The distributed answer equals the single-process answer, bit for bit.

use guildhall_proto::v1;

use guildhall_testkit::client::{Essence, collect, connect, essence, greedy, idle_status};
use guildhall_testkit::cluster::{Cluster, demo, golden};

fn requests() -> Vec<v1::GenerateRequest> {
    let prompt = |n: u32, len: u32| (0..len).map(|i| 3 + (i * 7 + n * 13) % 90).collect::<Vec<_>>();
    (0..6).map(|n| greedy(&prompt(n, 1 + n * 9), 20)).chain([sampled(&prompt(9, 12))]).collect()
}

fn sampled(prompt: &[u32]) -> v1::GenerateRequest {
    let sampling = v1::Sampling { temperature: 1.0, seed: Some(5), ..Default::default() };
    v1::GenerateRequest { sampling: Some(sampling), ..greedy(prompt, 30) }
}

/// All answers, one request after the other or all at once.
async fn answers(
    cluster: &Cluster,
    requests: Vec<v1::GenerateRequest>,
    at_once: bool,
) -> Vec<Essence> {
    let client = connect(&cluster.address).await;
    let ask = |request: v1::GenerateRequest| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let stream = client.generate_stream(request).await.unwrap().into_inner();
            essence(&collect(stream).await.unwrap())
        })
    };
    let mut answers = Vec::new();
    if at_once {
        let tasks: Vec<_> = requests.into_iter().map(ask).collect();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        return answers;
    }
    for request in requests {
        answers.push(ask(request).await.unwrap());
    }
    answers
}

/// `experts` are told to routers and nodes, `dense` to routers.
async fn check(case: &str, dtype: &str, experts: &[&str], dense: &[&str]) {
    let model = golden(case);
    let formats = [experts, dense].concat();
    let local = Cluster::start(&model, dtype, 0, &formats);
    let expected = answers(&local, requests(), false).await;
    assert_eq!(
        answers(&local, requests(), true).await,
        expected,
        "{case} {dtype}: local, in a batch"
    );
    for nodes in [1, 3] {
        // Steps of few tokens cut the prompts into chunks; steps in two halves cut those again.
        let chunks = ["--max-num-batched-tokens", "8", "--max-num-seqs", "8"];
        for more in [&[][..], &chunks, &["--ping-pong", "on"]] {
            let more = [&formats, more].concat();
            let remote = Cluster::start_with(&model, dtype, nodes, experts, &more);
            let alone = answers(&remote, requests(), false).await;
            assert_eq!(alone, expected, "{case} {dtype}: {nodes} nodes {more:?}");
            let at_once = answers(&remote, requests(), true).await;
            assert_eq!(at_once, expected, "{case} {dtype}: {nodes} nodes {more:?}, in a batch");
        }
    }
}

/// Requests without routed experts, so that they read the cache; half of them begin alike.
fn long_requests() -> Vec<v1::GenerateRequest> {
    let prompt = |n: u32| {
        let alike = (0..100).map(move |i| 3 + (i * 7 + n % 2) % 90);
        alike.chain((0..20).map(move |i| 3 + (i * 11 + n * 5) % 90)).collect::<Vec<u32>>()
    };
    let outputs = Some(v1::Outputs { top_logprobs: Some(4), ..Default::default() });
    let request = |n| v1::GenerateRequest { outputs, ..sampled(&prompt(n)) };
    let longer = |mut request: v1::GenerateRequest| {
        request.stopping.get_or_insert_default().max_tokens = Some(100);
        request
    };
    (0..10).map(request).map(longer).collect()
}

#[tokio::test]
async fn preemption_and_found_prefixes_change_no_bit() {
    let model = demo();
    let roomy = Cluster::start(&model, "bf16", 2, &[]);
    let expected = answers(&roomy, long_requests(), false).await;
    // Blocks for 1024 tokens, and ten sequences of 220.
    let small = ["--kv-cache-memory", "1MiB", "--max-model-len", "512"];
    let admin = ["--admin-port", "0", "--admin-api-key", "secret"];
    let tight = Cluster::start(&model, "bf16", 2, &[&small[..], &admin].concat());
    // On a busy machine the requests may come one after another, and find room.
    for round in 0..30 {
        let at_once = answers(&tight, long_requests(), true).await;
        assert_eq!(at_once, expected, "round {round}");
        let status = idle_status(tight.admin.as_ref().unwrap(), "secret").await;
        if round > 1 && status.preemptions > 0 && status.prefix_hit_tokens > 0 {
            return;
        }
    }
    panic!("nobody had to give way, or no prefix was found");
}

#[tokio::test]
async fn nodes_batches_and_chunks_change_no_bit_in_f32() {
    check("qwen2_moe", "f32", &[], &[]).await;
}

#[tokio::test]
async fn nodes_batches_and_chunks_change_no_bit_in_bf16() {
    check("qwen3_moe", "bf16", &[], &[]).await;
}

#[tokio::test]
async fn nodes_batches_and_chunks_change_no_bit_of_quantised_weights() {
    let (experts, dense) = (["--expert-weights", "int8"], ["--dense-weights", "int4"]);
    check("qwen3_moe", "bf16", &experts, &dense).await;
}

//! The distributed answer equals the single-process answer, bit for bit.

use guildhall_proto::v1;

use crate::client::{Essence, collect, connect, essence, greedy};
use crate::process::{Cluster, golden};

fn requests() -> Vec<v1::GenerateRequest> {
    let prompt = |n: u32, len: u32| (0..len).map(|i| 3 + (i * 7 + n * 13) % 90).collect::<Vec<_>>();
    (0..6).map(|n| greedy(&prompt(n, 1 + n * 9), 20)).chain([sampled(&prompt(9, 12))]).collect()
}

fn sampled(prompt: &[u32]) -> v1::GenerateRequest {
    let sampling = v1::Sampling { temperature: 1.0, seed: Some(5), ..Default::default() };
    v1::GenerateRequest { sampling: Some(sampling), ..greedy(prompt, 30) }
}

/// All answers, one request after the other or all at once.
async fn answers(cluster: &Cluster, at_once: bool) -> Vec<Essence> {
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
        let tasks: Vec<_> = requests().into_iter().map(ask).collect();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        return answers;
    }
    for request in requests() {
        answers.push(ask(request).await.unwrap());
    }
    answers
}

async fn check(case: &str, dtype: &str) {
    let model = golden(case);
    let local = Cluster::start(&model, dtype, 0, &[]);
    let expected = answers(&local, false).await;
    assert_eq!(answers(&local, true).await, expected, "{case} {dtype}: local, in a batch");
    for nodes in [1, 3] {
        // Steps of few tokens cut the prompts into chunks.
        for more in [&[][..], &["--max-num-batched-tokens", "8", "--max-num-seqs", "8"]] {
            let remote = Cluster::start(&model, dtype, nodes, more);
            let alone = answers(&remote, false).await;
            assert_eq!(alone, expected, "{case} {dtype}: {nodes} nodes {more:?}");
            let at_once = answers(&remote, true).await;
            assert_eq!(at_once, expected, "{case} {dtype}: {nodes} nodes {more:?}, in a batch");
        }
    }
}

#[tokio::test]
async fn nodes_batches_and_chunks_change_no_bit_in_f32() {
    check("qwen2_moe", "f32").await;
}

#[tokio::test]
async fn nodes_batches_and_chunks_change_no_bit_in_bf16() {
    check("qwen3_moe", "bf16").await;
}

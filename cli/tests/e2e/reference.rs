//! `guildhall up` against the reference implementation, for every family.

use std::path::Path;

use serde::Deserialize;

use guildhall_testkit::client::{connect, greedy, only, text};
use guildhall_testkit::cluster::{demo, golden};
use guildhall_testkit::process::Process;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    /// Only where there is a tokenizer.
    text: Option<String>,
    continuation_text: Option<String>,
    token_ids: Vec<u32>,
    last_logits: Vec<f32>,
    experts: Vec<Vec<Vec<u32>>>,
    moe_layers: Vec<u32>,
    continuation: Vec<u32>,
}

/// Logits shifted so that their softmax sums to 1, which is what the API returns.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

async fn check(case: &str) {
    check_model(case, &golden(case), &golden(case).join("golden.json")).await;
}

async fn check_model(case: &str, model: &Path, golden: &Path) {
    let golden: Golden = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let args =
        ["--grpc-port", "0", "--port", "0", "--dtype", "f32", "--expert-nodes", "3", "--model"];
    let up = Process::start([&["up"], &args[..], &[model.to_str().unwrap()]].concat());
    let mut client = connect(&up.line_after("router ")).await;
    for prompt in golden.prompts {
        let max_tokens = prompt.continuation.len() as u32;
        let mut request = match &prompt.text {
            Some(given) => text(given, max_tokens),
            None => greedy(&prompt.token_ids, max_tokens),
        };
        let top = prompt.last_logits.len().min(1024) as u32;
        request.outputs.as_mut().unwrap().top_logprobs = Some(top);
        let answer = only(client.generate(request).await.unwrap().into_inner());
        assert_eq!(answer.token_ids, prompt.continuation, "{case}: tokens");
        assert_eq!(answer.text, prompt.continuation_text.unwrap_or_default(), "{case}: text");

        let routes = answer.routed_experts.unwrap();
        assert_eq!(routes.layers, prompt.moe_layers, "{case}: layers with experts");
        let experts: Vec<u32> = prompt.experts.concat().concat();
        assert_eq!(routes.experts[..experts.len()], experts, "{case}: experts of the prompt");
        let positions = prompt.token_ids.len() + prompt.continuation.len() - 1;
        assert_eq!(routes.tokens as usize, positions);

        let expected = log_softmax(&prompt.last_logits);
        let scale = prompt.last_logits.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        for top in &answer.logprobs[0].top {
            let error = (f64::from(top.logprob) - expected[top.token_id as usize]).abs();
            assert!(error < 1e-4 * f64::from(scale), "{case}: logit of token {}", top.token_id);
        }
    }
}

#[tokio::test]
async fn mixtral_over_three_nodes_gives_the_answers_of_the_reference() {
    for case in ["mixtral", "mixtral_f16", "mixtral_window"] {
        check(case).await;
    }
}

#[tokio::test]
async fn olmoe_over_three_nodes_gives_the_answers_of_the_reference() {
    check("olmoe").await;
}

#[tokio::test]
async fn qwen2_moe_over_three_nodes_gives_the_answers_of_the_reference() {
    check("qwen2_moe").await;
}

#[tokio::test]
async fn qwen3_moe_over_three_nodes_gives_the_answers_of_the_reference() {
    for case in ["qwen3_moe", "qwen3_moe_llama3", "qwen3_moe_tied", "qwen3_moe_yarn"] {
        check(case).await;
    }
}

#[tokio::test]
async fn quantised_checkpoints_over_three_nodes_give_the_answers_of_the_reference() {
    for format in ["fp8", "gptq", "awq", "packed", "int8"] {
        check(&format!("qwen3_moe_{format}")).await;
    }
}

#[tokio::test]
async fn the_demonstration_model_continues_text_like_the_reference() {
    check_model("demo", &demo(), &golden("demo.json")).await;
}

//! The generate API on the demonstration model: text, streams, stops, seeds, limits.

use std::process::Command;

use guildhall_proto::v1;
use guildhall_proto::v1::FinishReason;
use tonic::Code;

use guildhall_testkit::client::{collect, connect, essence, greedy, only, text};
use guildhall_testkit::cluster::{Cluster, demo, start_node};
use guildhall_testkit::process::{Process, binary};

#[tokio::test]
async fn a_stream_says_the_same_as_a_unary_call() {
    let cluster = Cluster::start(&demo(), "bf16", 3, &[]);
    let mut client = connect(&cluster.address).await;
    let request = v1::GenerateRequest { request_id: "mine".into(), ..text("Once upon", 40) };
    let unary = client.generate(request.clone()).await.unwrap().into_inner();
    let stream = client.generate_stream(request).await.unwrap().into_inner();
    let streamed = collect(stream).await.unwrap();
    assert_eq!(essence(&streamed), essence(&unary));
    assert_eq!((streamed.request_id.as_str(), streamed.model.as_str()), ("mine", "demo"));
    let usage = unary.usage.unwrap();
    let unary = only(unary);
    assert_eq!(unary.finish_reason(), FinishReason::Length);
    assert_eq!((usage.completion_tokens, unary.token_ids.len()), (40, 40));
    let routes = unary.routed_experts.unwrap();
    assert_eq!(routes.tokens, usage.prompt_tokens + 39);
    let rows = (routes.tokens * routes.top_k) as usize * routes.layers.len();
    assert_eq!(routes.experts.len(), rows);
    assert!(unary.logprobs.iter().all(|token| token.top.len() == 8 && token.logprob <= 0.0));
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_is_not_in_it() {
    let cluster = Cluster::start(&demo(), "bf16", 2, &[]);
    let mut client = connect(&cluster.address).await;
    let whole = only(client.generate(text("Once upon a time", 60)).await.unwrap().into_inner());
    // A text from the middle of the answer, so that it crosses the border of tokens.
    let characters: Vec<char> = whole.text.chars().collect();
    let stop: String = characters[20..27].iter().collect();
    let expected = &whole.text[..whole.text.find(&stop).unwrap()];

    let mut request = text("Once upon a time", 60);
    request.stopping.as_mut().unwrap().stop = vec!["not in it".into(), stop];
    let unary = only(client.generate(request.clone()).await.unwrap().into_inner());
    assert_eq!((unary.text.as_str(), unary.finish_reason()), (expected, FinishReason::Stop));
    let streamed = client.generate_stream(request).await.unwrap().into_inner();
    assert_eq!(only(collect(streamed).await.unwrap()).text, expected);

    let mut request = text("Once upon a time", 60);
    request.stopping.as_mut().unwrap().stop_token_ids = vec![whole.token_ids[7]];
    let stopped = only(client.generate(request).await.unwrap().into_inner());
    let first = whole.token_ids.iter().position(|&id| id == whole.token_ids[7]).unwrap();
    assert_eq!(stopped.token_ids, whole.token_ids[..=first]);
    assert_eq!(stopped.finish_reason(), FinishReason::Stop);
}

#[tokio::test]
async fn a_seed_repeats_an_answer_and_another_changes_it() {
    let cluster = Cluster::start(&demo(), "bf16", 2, &[]);
    let mut client = connect(&cluster.address).await;
    let mut answers = Vec::new();
    for seed in [1, 1, 2] {
        let sampling = v1::Sampling { temperature: 1.2, seed: Some(seed), ..Default::default() };
        let request = v1::GenerateRequest { sampling: Some(sampling), ..text("The weather", 40) };
        answers.push(only(client.generate(request).await.unwrap().into_inner()).token_ids);
    }
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0], answers[2]);
}

#[tokio::test]
async fn bad_requests_are_refused_by_field_and_the_router_goes_on() {
    let cluster = Cluster::start(&demo(), "bf16", 1, &["--max-model-len", "64"]);
    let mut client = connect(&cluster.address).await;
    let unknown = v1::GenerateRequest { model: "gpt".into(), ..greedy(&[1], 1) };
    for (request, code, named) in [
        (v1::GenerateRequest::default(), Code::InvalidArgument, "prompt"),
        (greedy(&[5000], 1), Code::InvalidArgument, "token 5000 at 0"),
        (greedy(&[1; 64], 1), Code::InvalidArgument, "64 tokens leave no room within 64"),
        (greedy(&[1], 0), Code::InvalidArgument, "stopping.max_tokens"),
        (unknown, Code::NotFound, "\"gpt\" is not \"demo\""),
    ] {
        let status = client.generate(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(named), "{status:?}");
        let status = client.generate_stream(request).await.unwrap_err();
        assert_eq!(status.code(), code);
    }
    let answer = client.generate(greedy(&[1; 60], 100)).await.unwrap().into_inner();
    assert_eq!(answer.usage.unwrap().completion_tokens, 4, "the context ends the answer");
}

#[tokio::test]
async fn the_command_line_prints_what_the_api_answers() {
    let cluster = Cluster::start(&demo(), "bf16", 3, &[]);
    let expected = connect(&cluster.address).await.generate(text("Question:", 30)).await;
    let output = Command::new(binary())
        .args(["generate", "--server", &cluster.address, "--max-tokens", "30", "Question:"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected = only(expected.unwrap().into_inner()).text;
    // The command stops at the end of the sequence, the request above does not.
    assert!(expected.starts_with(printed.trim_end_matches('\n')), "{printed:?} {expected:?}");
    assert!(printed.len() > 10);
}

#[tokio::test]
async fn a_trace_reaches_the_expert_nodes() {
    let model = demo();
    let args = ["--grpc-port", "0", "--port", "0", "--cluster-port", "0", "--min-nodes", "1"];
    let named = ["--model", model.to_str().unwrap()];
    let router = Process::start([&["router"], &args[..], &named].concat());
    let store = router.line_after("cluster port on ");
    let more =
        ["--listen", "127.0.0.1:0", "--store", &store, "--log", "debug", "--log-format", "json"];
    let node = start_node(&model, "bf16", 0, &more);
    let mut client = connect(&router.line_after("router listening on ")).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut request = tonic::Request::new(greedy(&[1, 2], 2));
    let header = format!("00-{trace}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", header.parse().unwrap());
    client.generate(request).await.unwrap();
    node.wait_for_log(&format!("\"trace_id\":\"{trace}\""));
}

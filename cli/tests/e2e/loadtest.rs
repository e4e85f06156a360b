//! The load test, against real clusters.

use std::path::Path;

use guildhall_testkit::cluster::{Cluster, demo, start_router};
use guildhall_testkit::process::Process;
use serde_json::Value;

use super::load::{ADMIN, KEY, whole};

/// A load test with more arguments, and where its answer is.
fn loadtest(server: &str, args: &[&str]) -> Process {
    let first = ["loadtest", "--server", server, "--warmup", "0s", "--output-tokens", "8"];
    Process::start([&first, args].concat())
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn sums(pairs: &Value) -> Vec<u64> {
    let layers = pairs.as_array().unwrap().iter();
    layers.map(|layer| layer.as_array().unwrap().iter().map(count).sum()).collect()
}

/// What must be in any result of a run without failures.
fn check_numbers(found: &Value) {
    let requests = &found["requests"];
    let succeeded = count(&requests["succeeded"]);
    assert!(succeeded > 0 && count(&requests["sent"]) == succeeded, "{requests}");
    assert_eq!(count(&requests["output_tokens"]), 8 * succeeded);
    let seconds = found["timeline"].as_array().unwrap();
    let tokens: u64 = seconds.iter().map(|second| count(&second["tokens"])).sum();
    assert_eq!(tokens, 8 * (succeeded + count(&requests["warm_up"])));
    for time in ["ttft", "tpot", "itl", "e2e", "send_lag"] {
        let names = ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"];
        let times = names.map(|name| found["latency"][time][name].as_f64().unwrap());
        assert!(times.is_sorted() && times[0] >= 0.0, "{time}: {times:?}");
    }
    let p50 = |time: &str| found["latency"][time]["p50_ms"].as_f64().unwrap();
    assert!(p50("ttft") > 0.0 && p50("e2e") > p50("ttft"), "{}", found["latency"]);
}

/// What must be known of the experts of the demonstration model on two nodes.
fn check_experts(found: &Value) {
    let experts = &found["experts"];
    let of_layers = sums(&experts["pairs"]);
    assert_eq!(of_layers.len(), 4);
    assert!(of_layers.iter().all(|pairs| *pairs > 0 && *pairs == of_layers[0]), "{of_layers:?}");
    let slices = experts["slices"].as_array().unwrap().iter();
    let of_slices: u64 = slices.map(|slice| sums(&slice["pairs"])[0]).sum();
    assert_eq!(of_slices, of_layers[0]);
    let hot = experts["whole"]["layers"].as_array().unwrap().iter();
    assert!(hot.clone().any(|layer| !layer["hot"].as_array().unwrap().is_empty()));
    for layer in hot {
        let even = layer["nodes"]["balancedness"].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&even), "{layer}");
    }
    let nodes = experts["intervals"][0]["nodes"].as_object().unwrap();
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["node-0", "node-1"]);
}

fn check_page(page: &str) {
    for outside in ["http://", "https://", "<script", "src="] {
        // The address that was loaded is text, and nothing that a browser follows.
        let text = page.replace("<td>http://127.0.0.1:", "");
        assert!(!text.contains(outside), "the page needs {outside}");
    }
    for shown in ["class=\"heatmap\"", "layer 3", "node-1", "Balancedness of the nodes over time"] {
        assert!(page.contains(shown), "no {shown} in the page");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_test_shows_latencies_and_the_use_of_every_expert() {
    let cluster = Cluster::start(&demo(), "bf16", 2, ADMIN);
    whole(&cluster, 2).await;
    let admin = cluster.admin.clone().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (result, report, lines) = (file("a.json"), file("a.html"), file("a.csv"));
    let watched = ["--admin", &admin, "--admin-api-key", KEY, "--skew", "hot-set"];
    let files = ["--json", &result, "--report", &report, "--csv", &lines];
    let limits = ["--slo", "ttft:60s", "--assert", "failed<=0,p99_ttft<60s,goodput>=100%"];
    let length = ["--duration", "3s", "--warmup", "500ms", "--concurrency", "4"];
    let first = ["loadtest", "--server", &cluster.address, "--output-tokens", "8"];
    let args = [&first[..], &watched, &files, &limits, &length].concat();
    let mut run = Process::start(args);
    run.line_after("holds: failed<=0, p99_ttft<60s");
    assert!(run.wait().success());

    let found = json(result.as_ref());
    check_numbers(&found);
    check_experts(&found);
    let kinds = found["requests"]["kinds"].as_object().unwrap();
    let mut kinds: Vec<u64> = kinds.values().map(count).collect();
    kinds.sort_unstable_by(|a, b| b.cmp(a));
    let all: u64 = kinds.iter().sum();
    assert!(10 * (kinds[0] + kinds[1]) > 7 * all, "two kinds of six are hot: {kinds:?}");
    let sent = all + count(&found["requests"]["warm_up"]);
    assert_eq!(std::fs::read_to_string(&lines).unwrap().lines().count() as u64, sent + 1);
    check_page(&std::fs::read_to_string(&report).unwrap());

    let mut compare = Process::start(["loadtest", "compare", &result, &result]);
    assert!(compare.line_after("tokens_per_second").ends_with("+0.0%"));
    assert!(compare.wait().success());

    let few = ["--requests", "4", "--assert", "tokens_per_second>1000000000"];
    let mut run = loadtest(&cluster.address, &few);
    assert!(!run.wait().success());
    run.wait_for_log("does not hold: tokens_per_second>1000000000: it is ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_api_can_be_loaded_at_a_pace_and_failures_are_counted() {
    let router = start_router(&demo(), "bf16", 0, &[]);
    let http = router.line_after("HTTP API on ");
    let grpc = router.line_after("router listening on ");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let open = ["--rate", "50", "--arrivals", "gamma:0.5", "--requests", "10"];
    for (api, server) in [("guildhall", &grpc), ("vllm", &grpc), ("openai", &http)] {
        let more = ["--target", api, "--prompts", "random", "--json", path.to_str().unwrap()];
        let mut run = loadtest(server, &[&open[..], &more].concat());
        assert!(run.wait().success(), "{api}: {}", run.log());
        let found = json(&path);
        check_numbers(&found);
        let requests = &found["requests"];
        let asked = (count(&requests["sent"]), count(&requests["prompt_tokens"]));
        assert_eq!(asked, (10, 640), "{api}");
    }

    let wrong = [("guildhall", &grpc, "InvalidArgument"), ("openai", &http, "400")];
    for (api, server, code) in wrong {
        let more = ["--target", api, "--prompts", "random", "--vocabulary", "4000000000"];
        let run = loadtest(server, &[&open[..], &more].concat());
        run.line_after(&format!("10 × {code}"));
        run.wait_for_log("no request succeeded");
    }
    let mut nobody = loadtest("http://127.0.0.1:1", &[]);
    assert!(!nobody.wait().success());
    nobody.wait_for_log("guildhall: http://127.0.0.1:1: cannot connect");
}

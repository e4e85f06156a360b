//! The load test, against real clusters.

use std::path::Path;

use guildhall_testkit::cluster::{Cluster, Up, demo, start_router};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_replayed_and_a_sweep_finds_what_is_borne() {
    let router = start_router(&demo(), "bf16", 0, &[]);
    let grpc = router.line_after("router listening on ");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (trace, result, report) = (file("trace.jsonl"), file("a.json"), file("a.html"));
    let ours = "{\"at\": 10, \"prompt\": \"Once\", \"output_tokens\": 8}\n";
    let mooncake =
        "{\"timestamp\": 11000, \"input_length\": 40, \"output_length\": 8, \"hash_ids\": [1]}\n";
    std::fs::write(&trace, ours.repeat(3) + mooncake).unwrap();
    let first = ["loadtest", "--server", &grpc, "--warmup", "0s", "--json", &result];
    let mut run = Process::start([&first[..], &["--trace", &trace, "--trace-speed", "4"]].concat());
    assert!(run.wait().success(), "{}", run.log());
    let found = json(result.as_ref());
    check_numbers(&found);
    assert_eq!(count(&found["requests"]["sent"]), 4);
    // The last one is a second after the first in the trace, and a quarter of it in the run.
    let seconds = found["throughput"]["seconds"].as_f64().unwrap();
    assert!((0.25..5.0).contains(&seconds), "{seconds}");

    // The second rate asks for far more tokens in a second than the machine can compute.
    let rates = ["--sweep", "2:400:2", "--arrivals", "constant", "--duration", "2s"];
    let answers = ["--output-tokens", "300", "--timeout", "3s", "--slo", "e2e:2s"];
    let more = ["--report", &report, "--assert", "max_rate>=2,max_rate<=2"];
    let mut run = Process::start([&first[..], &rates, &answers, &more].concat());
    run.line_after("the highest rate that was borne: 2.0000 requests/s");
    assert!(run.wait().success(), "{}", run.log());
    let found = json(result.as_ref());
    let levels = found["sweep"]["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2);
    assert!(levels[0]["saturated"].is_null() && levels[1]["saturated"].is_string(), "{levels:?}");
    assert_eq!(count(&found["requests"]["sent"]), 3, "all else is of the level that was borne");
    assert!(std::fs::read_to_string(&report).unwrap().contains(">knee</text>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_under_load_fail_no_request_and_change_no_answer() {
    let up = Up::start(&demo(), &[], &[]);
    let control = up.control();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (result, report) = (file("a.json"), file("a.html"));
    let faults = "kill:expert-node-1@1s+500ms,pause:expert-node-2@4s+1s,slow:expert-node-0@7s*5+1s";
    let server = ["loadtest", "--server", &up.address, "--warmup", "0s", "--duration", "9s"];
    let chaos = ["--chaos", faults, "--control", &control, "--concurrency", "8"];
    let holds = ["--assert", "differing<=0,failed<=0,longest_gap<20s"];
    let files = ["--json", &result, "--report", &report, "--output-tokens", "200"];
    let mut run = Process::start([&server[..], &chaos, &holds, &files].concat());
    run.line_after("holds: differing<=0, failed<=0, longest_gap<20s");
    assert!(run.wait().success(), "{}", run.log());
    let found = &json(result.as_ref())["chaos"];
    assert!(count(&found["compared"]) > 8, "{found}");
    let done = found["faults"].as_array().unwrap();
    let names: Vec<&str> = done.iter().map(|fault| fault["fault"].as_str().unwrap()).collect();
    assert_eq!(names.join(","), faults);
    for (fault, (at, lasts)) in done.iter().zip([(1.0, 0.5), (4.0, 1.0), (7.0, 0.9)]) {
        let time = |name: &str| fault[name].as_f64().unwrap_or_else(|| panic!("{name}: {fault}"));
        assert!(time("at") >= at && time("over") >= time("at") + lasts, "{fault}");
        assert!(fault["problem"].is_null(), "{fault}");
    }
    assert!(std::fs::read_to_string(&report).unwrap().contains(">kill:expert-node-1</text>"));

    let refused = [
        ("kill:expert-node-9@1s", "no node \"expert-node-9\", only expert-node-0, expert-node-1"),
        ("kill:router@1s", "the router is never killed"),
        ("etcd-down@1s+1s", "this cluster has no etcd: start it with up --etcd"),
    ];
    for (fault, why) in refused {
        let more = ["--chaos", fault, "--control", &control];
        let mut run = Process::start([&server[..], &more].concat());
        assert!(!run.wait().success());
        run.wait_for_log(why);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_of_the_cluster_goes_down_and_comes_back_unnoticed() {
    let etcd = guildhall_testkit::etcd::program();
    let up = Up::start(&demo(), &["--etcd", etcd.to_str().unwrap()], &[]);
    let control = up.control();
    let server = ["loadtest", "--server", &up.address, "--warmup", "0s", "--duration", "4s"];
    let chaos = ["--chaos", "etcd-down@1s+1s", "--control", &control, "--concurrency", "4"];
    let holds = ["--assert", "differing<=0,failed<=0"];
    let mut run = Process::start([&server[..], &chaos, &holds].concat());
    run.line_after("etcd-down@1s+1s: ");
    run.line_after("holds: differing<=0, failed<=0");
    assert!(run.wait().success(), "{}", run.log());
}

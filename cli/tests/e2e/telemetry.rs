//! Traces and metrics, as a collector of OpenTelemetry gets them from real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_proto::v1;
use guildhall_testkit::certificates::Certificates;
use guildhall_testkit::client::{connect, greedy};
use guildhall_testkit::cluster::{Cluster, demo, golden};
use guildhall_testkit::collector::{
    Collected, Collector, Metric, NumberDataPoint, metric, number_data_point,
};
use guildhall_testkit::impostor::Impostor;
use guildhall_testkit::process::Process;
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Layers of the demonstration model, all of which have experts.
const LAYERS: usize = 4;

/// A request with these headers.
fn asking(headers: &[(&'static str, &str)], tokens: u32) -> tonic::Request<v1::GenerateRequest> {
    let mut request = tonic::Request::new(greedy(&[1, 2, 3], tokens));
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// Stops a cluster as an operator would, so that its processes send what they have.
fn stop(mut cluster: Cluster) {
    cluster.router.signal("TERM");
    cluster.router.wait();
    for node in &mut cluster.nodes {
        node.signal("TERM");
        node.wait();
    }
}

/// All spans by their parent.
fn by_parent(spans: &[Collected]) -> BTreeMap<&[u8], Vec<&Collected>> {
    let mut parts: BTreeMap<&[u8], Vec<&Collected>> = BTreeMap::new();
    for span in spans {
        parts.entry(&span.span.parent_span_id).or_default().push(span);
    }
    parts
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names(spans: &[&Collected]) -> Vec<String> {
    let mut names: Vec<String> = spans.iter().map(|of| of.span.name.clone()).collect();
    names.sort();
    names
}

/// The parts of a span that have this name.
fn parts<'a>(
    all: &BTreeMap<&[u8], Vec<&'a Collected>>,
    of: &Collected,
    name: &str,
) -> Vec<&'a Collected> {
    let parts = all.get(&of.span.span_id[..]).into_iter().flatten().copied();
    parts.filter(|part| part.span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generate_call_is_one_trace_from_the_client_into_two_expert_nodes() {
    let collector = Collector::start().await;
    let export = ["--otlp-endpoint", &collector.address];
    let more = [&export[..], &["--min-replicas", "1", "--spare-replicas", "0"]].concat();
    let cluster = Cluster::start_with(&demo(), "bf16", 2, &export, &more);
    let mut client = connect(&cluster.address).await;
    let caller = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", caller.as_str()), ("x-guildhall-deep-trace", "1")];
    client.generate(asking(&headers, 5)).await.unwrap();
    stop(cluster);

    let spans = collector.spans();
    assert!(spans.iter().all(|of| hex(&of.span.trace_id) == TRACE), "another trace");
    let all = by_parent(&spans);
    let ids: BTreeSet<&[u8]> = spans.iter().map(|of| &of.span.span_id[..]).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an identity of its own");
    let roots: Vec<&Collected> =
        spans.iter().filter(|of| !ids.contains(&of.span.parent_span_id[..])).collect();
    let [request] = roots[..] else { panic!("not one root: {:?}", names(&roots)) };
    assert_eq!(hex(&request.span.parent_span_id), CALLER);
    assert_eq!(request.span.name, "text_completion demo");
    assert_eq!(request.service, "guildhall-router");
    assert_eq!(request.number("gen_ai.usage.input_tokens"), 3);
    assert_eq!(request.number("gen_ai.usage.output_tokens"), 5);
    assert_eq!(names(&all[&request.span.span_id[..]]), ["decode", "prefill", "queue"]);

    let phases = ["prefill", "decode"].map(|name| parts(&all, request, name)[0]);
    let steps = phases.map(|phase| parts(&all, phase, "step"));
    assert_eq!(steps.each_ref().map(Vec::len), [1, 4]);
    let mut nodes = BTreeSet::new();
    for step in steps.into_iter().flatten() {
        let layers = parts(&all, step, "layer");
        let numbers: BTreeSet<i64> = layers.iter().map(|of| of.number("guildhall.layer")).collect();
        assert_eq!(numbers.len(), LAYERS);
        for layer in layers {
            assert_eq!(parts(&all, layer, "combine").len(), 1);
            let calls = parts(&all, layer, "dispatch");
            let pairs: i64 = calls.iter().map(|of| of.number("guildhall.pairs")).sum();
            assert_eq!(pairs, 2 * step.number("guildhall.tokens"), "two experts for each token");
            nodes.extend(calls.into_iter().map(|call| check_call(&all, call)));
        }
    }
    assert_eq!(nodes, BTreeSet::from(["node-0".into(), "node-1".into()]));
}

/// The trace ids in the log lines with this message, as soon as there are so many.
fn logged_traces(process: &Process, message: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let log = process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let about = lines.filter(|line| line["message"] == message);
        let trace = |line: Value| line["trace_id"].as_str().unwrap_or_default().to_owned();
        let found: Vec<_> = about.map(trace).collect();
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "fewer than {count} lines {message:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_about_a_request_name_its_trace() {
    let json = ["--log-format", "json"];
    let (cluster, impostors) = Cluster::start_behind_impostors(&demo(), "bf16", 2, &json);
    let mut client = connect(&cluster.address).await;
    client.generate(asking(&[], 2)).await.unwrap();
    impostors.iter().for_each(Impostor::spoil);
    let caller = format!("00-{TRACE}-{CALLER}-01");
    client.generate(asking(&[("traceparent", &caller)], 5)).await.unwrap_err();
    assert_eq!(logged_traces(&cluster.router, "a step failed", 1), [TRACE]);
    let quarantined = logged_traces(&cluster.router, "expert node is in quarantine", 1);
    assert!(quarantined.iter().all(|id| id == TRACE), "{quarantined:?}");
    // Who names no trace is logged without one.
    client.generate(asking(&[], 5)).await.unwrap_err();
    assert_eq!(logged_traces(&cluster.router, "a step failed", 2), [TRACE, ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_trace_shows_experts_that_are_computed_in_the_router() {
    let collector = Collector::start().await;
    let export = ["--otlp-endpoint", &collector.address];
    let cluster = Cluster::start(&demo(), "bf16", 0, &export);
    let mut client = connect(&cluster.address).await;
    client.generate(asking(&[("x-guildhall-deep-trace", "1")], 3)).await.unwrap();
    stop(cluster);
    let spans = collector.spans();
    let all = by_parent(&spans);
    let steps: Vec<_> = spans.iter().filter(|of| of.span.name == "step").collect();
    assert_eq!(steps.len(), 3);
    for step in steps {
        let layers = parts(&all, step, "layer");
        let numbers: BTreeSet<i64> = layers.iter().map(|of| of.number("guildhall.layer")).collect();
        assert_eq!((layers.len(), numbers.len()), (LAYERS, LAYERS));
        for layer in layers {
            assert_eq!(names(&all[&layer.span.span_id[..]]), ["combine", "experts"]);
            let [experts, combine] = ["experts", "combine"].map(|name| parts(&all, layer, name)[0]);
            assert_eq!(experts.number("guildhall.pairs"), 2 * step.number("guildhall.tokens"));
            let sum = experts.nanoseconds() + combine.nanoseconds();
            assert!(experts.nanoseconds() > 0 && sum <= layer.nanoseconds());
        }
    }
}

/// The parts of a call add up to it; returns the node that answered it.
fn check_call(all: &BTreeMap<&[u8], Vec<&Collected>>, call: &Collected) -> String {
    assert!(!call.has_failed());
    let only = |of: &Collected, name: &str| match parts(all, of, name)[..] {
        [part] => part.clone(),
        ref parts => panic!("{} parts are called {name}", parts.len()),
    };
    let experts = only(call, "experts");
    assert_eq!(experts.service, "guildhall-expert-node");
    assert_eq!(experts.instance, call.text("guildhall.node"));
    assert_eq!(experts.number("guildhall.pairs"), call.number("guildhall.pairs"));
    let (queue, device) = (only(&experts, "queue"), only(&experts, "device"));
    assert_eq!((&queue.instance, &device.instance), (&experts.instance, &experts.instance));
    let network = ["network out", "network back"].map(|name| only(call, name).nanoseconds());
    let sum = queue.nanoseconds() + device.nanoseconds() + network.iter().sum::<u64>();
    let whole = call.nanoseconds();
    assert!(sum.abs_diff(whole) * 20 <= whole, "the parts are {sum} ns of {whole}");
    assert!(device.nanoseconds() > 0);
    experts.instance
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_are_recorded_unless_somebody_asks_or_a_step_is_slow() {
    let check = async |more: &[&str], headers: &[(&'static str, &str)], expected: &[&str]| {
        let collector = Collector::start().await;
        let export = ["--otlp-endpoint", &collector.address, "--deep-trace-ratio", "0"];
        let cluster = Cluster::start_with(
            &golden("mixtral"),
            "f32",
            1,
            &export[..2],
            &[&export[..], more].concat(),
        );
        let mut client = connect(&cluster.address).await;
        client.generate(asking(headers, 2)).await.unwrap();
        stop(cluster);
        let spans = collector.spans();
        let found: BTreeSet<&str> = spans.iter().map(|of| of.span.name.as_str()).collect();
        assert_eq!(found, expected.iter().copied().collect(), "{more:?} {headers:?}");
    };
    let request = ["text_completion mixtral", "queue", "prefill", "decode"];
    let caller = format!("00-{TRACE}-{CALLER}-00");
    check(&[], &[("x-guildhall-deep-trace", "0")], &request).await;
    check(&[], &[("traceparent", &caller), ("x-guildhall-deep-trace", "1")], &[]).await;
    // Its own clock says when a step was slow, so nodes record nothing.
    let slow = ["step", "layer", "dispatch", "network out", "network back", "combine"];
    check(&["--deep-trace-slow-step", "0"], &[], &[&request[..], &slow].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_exported_as_they_are_shown() {
    let collector = Collector::start().await;
    let export = ["--otlp-metrics-endpoint", &collector.address, "--otlp-metrics-interval", "100"];
    let cluster = Cluster::start_with(&golden("mixtral"), "f32", 1, &export, &export);
    let mut client = connect(&cluster.address).await;
    client.generate(asking(&[], 5)).await.unwrap();
    stop(cluster);
    let router = |name| collector.metric("guildhall-router", name).unwrap();
    assert_eq!(total(&router("guildhall_generation_tokens_total")), 5.0);
    let gaps = router("guildhall_inter_token_latency_seconds");
    assert_eq!(gaps.unit, "s");
    let Some(metric::Data::Histogram(gaps)) = gaps.data else { panic!("{gaps:?}") };
    let gaps = &gaps.data_points[0];
    assert_eq!((gaps.count, gaps.bucket_counts.iter().sum()), (4, 4));
    assert_eq!(gaps.bucket_counts.len(), gaps.explicit_bounds.len() + 1);
    let pairs = router("guildhall_expert_pairs_total");
    let computed = collector.metric("guildhall-expert-node", "guildhall_node_pairs_total").unwrap();
    assert_eq!(total(&pairs), total(&computed));
    assert!(collector.spans().is_empty(), "nobody asked for traces");
}

/// All that a counter has counted.
fn total(metric: &Metric) -> f64 {
    let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    let value = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        other => panic!("{other:?}"),
    };
    sum.data_points.iter().map(value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_go_over_http_too() {
    let collector = Collector::start_http();
    let export = ["--otlp-endpoint", &collector.address, "--otlp-protocol", "http/protobuf"];
    let more = [&export[..], &["--deep-trace-ratio", "0"]].concat();
    let cluster = Cluster::start(&golden("mixtral"), "f32", 0, &more);
    let mut client = connect(&cluster.address).await;
    client.generate(asking(&[], 2)).await.unwrap();
    stop(cluster);
    assert_eq!(collector.spans().len(), 4);
    let tokens = collector.metric("guildhall-router", "guildhall_generation_tokens_total");
    assert_eq!(total(&tokens.unwrap()), 2.0);
}

/// A router that exports and computes experts itself, with variables of OpenTelemetry; asked once and stopped.
async fn export_once(more: &[&str], variables: &[(&str, &str)]) {
    let model = golden("mixtral");
    let args =
        ["router", "--grpc-port", "0", "--port", "0", "--dtype", "f32", "--experts", "local"];
    let named = ["--model", model.to_str().unwrap()];
    let mut router = Process::start_with([&args[..], &named, more].concat(), variables);
    let mut client = connect(&router.line_after("router listening on ")).await;
    client.generate(asking(&[], 2)).await.unwrap();
    router.signal("TERM");
    router.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_get_the_headers_of_the_standard_variables() {
    let check = async |collector: Collector, protocol: &str| {
        let export = ["--otlp-endpoint", &collector.address, "--otlp-protocol", protocol];
        let all = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=one%20key,tenant=a");
        export_once(&export, &[all]).await;
        let values = |of: &[&str]| of.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let keys = ["one key"; 2].map(|key| values(&[key]));
        assert_eq!(collector.header("api-key"), keys, "{protocol}");
        assert_eq!(collector.header("tenant"), [values(&["a"]), values(&["a"])], "{protocol}");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "tenant=b");
        export_once(&export, &[all, own]).await;
        assert_eq!(collector.header("tenant"), [values(&["a"]), values(&["a", "b"])], "{protocol}");
    };
    check(Collector::start().await, "grpc").await;
    check(Collector::start_http(), "http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_are_spoken_to_over_tls_if_they_are_trusted() {
    let (known, stranger) = (Certificates::generate(), Certificates::generate());
    let check = async |collector: Collector, (protocol, variable): (&str, &str), trusted: bool| {
        let file = if trusted { known.authority_file() } else { stranger.authority_file() };
        let export = ["--otlp-endpoint", &collector.address, "--otlp-protocol", protocol];
        export_once(&export, &[(variable, file.to_str().unwrap())]).await;
        let tokens = collector.metric("guildhall-router", "guildhall_generation_tokens_total");
        assert_eq!(tokens.is_some(), trusted, "metrics over {protocol}, {variable}");
        assert_eq!(!collector.spans().is_empty(), trusted, "traces over {protocol}, {variable}");
    };
    for trusted in [true, false] {
        // The second one says whom the system trusts.
        for variable in ["OTEL_EXPORTER_OTLP_CERTIFICATE", "SSL_CERT_FILE"] {
            let collector = Collector::start_tls(&known.identity).await;
            check(collector, ("grpc", variable), trusted).await;
            let collector = Collector::start_http_tls(&known.identity);
            check(collector, ("http/protobuf", variable), trusted).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{away}");
    let admin = ["--admin-port", "0", "--admin-api-key", "secret"];
    let export = ["--otlp-endpoint", &endpoint, "--otlp-max-queued-spans", "600"];
    let deep = ["--deep-trace-ratio", "1"];
    let more = [&admin[..], &export, &deep].concat();
    let cluster = Cluster::start(&demo(), "bf16", 2, &more);
    let mut client = connect(&cluster.address).await;
    let request = || asking(&[], 60);
    let first = client.generate(request()).await.unwrap().into_inner();
    let quiet = Cluster::start(&demo(), "bf16", 0, &[]);
    let mut other = connect(&quiet.address).await;
    let second = other.generate(request()).await.unwrap().into_inner();
    assert_eq!(first.choices, second.choices);
    cluster.router.wait_for_log("the collector does not take traces");
    let page = super::metrics::scrape(cluster.admin.as_deref().unwrap(), "secret");
    let dropped = super::metrics::value(&page, "guildhall_spans_dropped_total{reason=\"export\"}");
    assert!(dropped > 0.0);
    stop(cluster);
}

//! The page with the metrics of a router.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use guildhall_telemetry::Sample;
use guildhall_testkit::client::{connect, greedy, idle_status, status};
use guildhall_testkit::cluster::{Cluster, demo};

/// Layers of the demonstration model, and experts of each.
const LAYERS: usize = 4;
const EXPERTS: usize = 16;

const ADMIN: [&str; 4] = ["--admin-port", "0", "--admin-api-key", "secret"];

/// What a scraper gets, headers and all.
pub(crate) fn scrape(address: &str, key: &str) -> String {
    let host = address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    let key = format!("authorization: Bearer {key}\r\n\r\n");
    stream.write_all((head + &key).as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// The value of a line of a page.
pub(crate) fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}")).trim().parse().unwrap()
}

/// The number of tokens of an expert.
fn load(layer: usize, expert: usize) -> String {
    format!("guildhall_expert_load_total{{layer=\"{layer}\",expert=\"{expert}\"}}")
}

/// What the two requests needed of the nodes.
fn check_calls(page: &str) {
    // 40 tokens of a prompt, 8 of the same one of which 32 were found, 9 of each answer; two experts for each.
    let tokens = f64::from(40 + 8 + 2 * 9);
    for layer in 0..LAYERS {
        let loads: f64 = (0..EXPERTS).map(|expert| value(page, &load(layer, expert))).sum();
        assert!((loads - 2.0 * tokens).abs() < 1e-9, "{loads}");
        let of_layer = |name: &str| -> f64 {
            let on = |node| {
                format!("guildhall_expert_{name}_total{{node=\"{node}\",layer=\"{layer}\"}}")
            };
            ["node-0", "node-1"].map(|node| value(page, &on(node))).iter().sum()
        };
        assert!((of_layer("pairs") - 2.0 * tokens).abs() < 1e-9, "{}", of_layer("pairs"));
        assert!(of_layer("tokens") >= tokens && of_layer("tokens") <= of_layer("pairs"));
        assert!(of_layer("distinct") > 0.0 && of_layer("distinct") <= of_layer("pairs"));
    }
    let row = 2.0 * 192.0;
    for layer in 0..LAYERS {
        let bytes = |direction: &str| -> f64 {
            let of = |node| {
                let labels = format!("node=\"{node}\",layer=\"{layer}\",direction=\"{direction}\"");
                format!("guildhall_expert_call_bytes_total{{{labels}}}")
            };
            ["node-0", "node-1"].map(|node| value(page, &of(node))).iter().sum()
        };
        assert!((bytes("back") - 2.0 * tokens * row).abs() < 1e-9, "a row for each pair");
        assert!(bytes("out") >= tokens * row && bytes("out") <= bytes("back"));
    }
}

/// The times of a node's calls are the same whether they are added up by layer or not.
fn check_times(page: &str, node: &str) {
    for part in ["queue", "compute", "network"] {
        let labels = |layer| format!("node=\"{node}\",layer=\"{layer}\",part=\"{part}\"");
        let of_layer = |layer| {
            value(page, &format!("guildhall_expert_call_part_seconds_total{{{}}}", labels(layer)))
        };
        let layers: f64 = (0..LAYERS).map(of_layer).sum();
        let labels = format!("node=\"{node}\",part=\"{part}\"");
        let whole = value(page, &format!("guildhall_expert_call_seconds_sum{{{labels}}}"));
        assert!(whole > 0.0 && (layers - whole).abs() < 1e-6, "{part}: {layers} s of {whole} s");
    }
}

#[tokio::test]
async fn requests_and_calls_are_counted_and_timed() {
    let more = [&ADMIN[..], &["--metrics-per-expert"]].concat();
    let cluster = Cluster::start_with(&demo(), "bf16", 2, &["--probe", "127.0.0.1:0"], &more);
    let mut client = connect(&cluster.address).await;
    let mut request = greedy(&[7; 40], 10);
    request.outputs = None;
    for _ in 0..2 {
        client.generate(request.clone()).await.unwrap();
    }
    let admin = cluster.admin.clone().unwrap();
    assert!(scrape(&admin, "wrong").starts_with("HTTP/1.1 401 "));
    idle_status(&admin, "secret").await;
    let page = scrape(&admin, "secret");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    let is = |name: &str, expected: f64| {
        let found = value(&page, &format!("guildhall_{name}"));
        assert!((found - expected).abs() < 1e-9, "{name} is {found}, not {expected}");
    };
    is("request_success_total{finished_reason=\"length\"}", 2.0);
    is("prompt_tokens_total", 80.0);
    is("generation_tokens_total", 20.0);
    is("prefix_cache_queries_total", 80.0);
    is("prefix_cache_hits_total", 32.0);
    is("time_to_first_token_seconds_count", 2.0);
    is("time_to_first_token_seconds_bucket{le=\"+Inf\"}", 2.0);
    is("inter_token_latency_seconds_count", 18.0);
    is("e2e_request_latency_seconds_count", 2.0);
    is("num_requests_running", 0.0);
    is("expert_nodes{state=\"serving\"}", 2.0);
    is("missing_experts", 0.0);
    is("is_leader", 1.0);
    is("expert_moves_total{kind=\"load\"}", 2.0 * 64.0);
    assert!(value(&page, "guildhall_placements_total") >= 1.0);
    let sum = |name: &str| value(&page, &format!("guildhall_{name}_seconds_sum"));
    let parts = ["request_queue_time", "request_prefill_time", "request_decode_time"].map(sum);
    let whole = sum("e2e_request_latency");
    assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-3, "{parts:?} {whole}");
    for node in ["node-0", "node-1"] {
        let calls = |part| format!("expert_call_seconds_count{{node=\"{node}\",part=\"{part}\"}}");
        let calls = |part| value(&page, &format!("guildhall_{}", calls(part)));
        assert!(calls("queue") > 0.0);
        assert_eq!(calls("queue").to_bits(), calls("compute").to_bits());
        assert_eq!(calls("queue").to_bits(), calls("network").to_bits());
        check_times(&page, node);
    }
    check_calls(&page);
    check_labels(&page);
    assert!(value(&page, "process_resident_memory_bytes") > 1e6);
    let layer = |name, of| format!("guildhall_{name}{{layer=\"3\",of=\"{of}\"}}");
    for of in ["experts", "nodes"] {
        let balancedness = value(&page, &layer("balancedness", of));
        assert!(balancedness > 0.0 && balancedness <= 1.0, "{balancedness}");
    }
    let probe = cluster.nodes[0].line_after("probes on ");
    let page = scrape(&probe, "none is needed");
    let number = |name: &str| value(&page, &format!("guildhall_node_{name}"));
    assert!(number("resident_experts") > 0.0 && number("resident_bytes") > 0.0, "{page}");
    assert!(number("queue_seconds_count") >= number("compute_seconds_count"));
    assert_eq!(number("batch_pairs_count").to_bits(), number("compute_seconds_count").to_bits());
    let of_layers = (0..LAYERS).map(|layer| number(&format!("pairs_total{{layer=\"{layer}\"}}")));
    assert_eq!(of_layers.sum::<f64>().to_bits(), number("batch_pairs_sum").to_bits());
    assert!(number("experts_read_total{layer=\"0\"}") > 0.0);
    for part in ["queue", "compute"] {
        let of_layer =
            |layer| number(&format!("layer_seconds_total{{layer=\"{layer}\",part=\"{part}\"}}"));
        let (layers, whole): (f64, f64) =
            ((0..LAYERS).map(of_layer).sum(), number(&format!("{part}_seconds_sum")));
        assert!(whole > 0.0 && (layers - whole).abs() < 1e-6, "{part}: {layers} s of {whole} s");
    }
    assert!(number("queued_calls").abs() < 1e-9);
    // gRPC is on the same port.
    assert!(status(&admin, "secret").await.ready);
}

/// Whatever is asked for, the values of labels are of the model, of the cluster, or of a few words.
fn check_labels(page: &str) {
    let samples = page.lines().filter(|line| line.starts_with("guildhall_"));
    for sample in samples.filter_map(Sample::read) {
        for (label, value) in &sample.labels {
            let below = |limit| value.parse::<usize>().is_ok_and(|number| number < limit);
            let is_known = match *label {
                "layer" => below(LAYERS),
                "expert" => below(EXPERTS),
                "node" => ["node-0", "node-1"].contains(&value.as_str()),
                "le" => value.parse::<f64>().is_ok(),
                "part" | "direction" | "state" | "kind" | "of" | "finished_reason" => {
                    value.bytes().all(|letter| letter.is_ascii_lowercase())
                }
                _ => false,
            };
            assert!(is_known, "{}: {label} is {value:?}", sample.name);
        }
    }
}

/// The names of a page's numbers of Guildhall, with their labels.
fn series(page: &str) -> BTreeSet<String> {
    let numbers = page.lines().filter(|line| line.starts_with("guildhall_"));
    numbers.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn experts_have_series_where_that_is_wanted_and_no_request_adds_any() {
    let check = async |more: &[&str], experts: usize| {
        let cluster = Cluster::start(&demo(), "bf16", 0, &[&ADMIN, more].concat());
        let admin = cluster.admin.clone().unwrap();
        let mut client = connect(&cluster.address).await;
        let mut pages = Vec::new();
        for prompt in [&[7; 40][..], &[1, 2, 3, 4, 5]] {
            client.generate(greedy(prompt, 4)).await.unwrap();
            idle_status(&admin, "secret").await;
            pages.push(scrape(&admin, "secret"));
        }
        let [first, second] = &pages[..] else { unreachable!() };
        assert_eq!(series(first), series(second), "{more:?}");
        let of = |layer| (0..experts).map(move |expert| load(layer, expert));
        let expected: BTreeSet<String> = (0..LAYERS).flat_map(of).collect();
        let mut found = series(second);
        found.retain(|name| name.starts_with("guildhall_expert_load"));
        assert_eq!(found, expected, "{more:?}");
    };
    check(&[], 0).await;
    check(&["--metrics-per-expert"], EXPERTS).await;
}

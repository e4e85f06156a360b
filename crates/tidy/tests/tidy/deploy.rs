//! What is deployed beside the processes names only metrics that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PREFIX: &str = "guildhall_";
/// What Prometheus appends to the name of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices(PREFIX).map(|(at, _)| &text[at..]);
    let word = |from: &str| from.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    starts.map(word).collect()
}

fn files(folder: &str) -> Vec<(String, String)> {
    let entries =
        std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn dashboards_and_alerts_name_only_metrics_that_there_are() {
    let known = names(&std::fs::read_to_string(root().join("METRICS.md")).unwrap());
    assert!(known.len() > 30, "{known:?}");
    let is_known = |name: &String| {
        let stripped = OF_HISTOGRAMS.iter().find_map(|ending| name.strip_suffix(ending));
        known.contains(name) || stripped.is_some_and(|stripped| known.contains(stripped))
    };
    let mut used = 0;
    for (path, text) in files("deploy/prometheus").into_iter().chain(files("deploy/grafana")) {
        let names = names(&text);
        used += names.len();
        let unknown: Vec<&String> = names.iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}, which are not in METRICS.md");
    }
    assert!(used > 40, "{used}");
}

#[test]
fn dashboards_are_json_with_queries() {
    for (path, text) in files("deploy/grafana") {
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect(&path);
        let panels = dashboard["panels"].as_array().expect(&path);
        for panel in panels {
            let expr = panel["targets"][0]["expr"].as_str().unwrap_or_default();
            assert!(expr.contains(PREFIX), "{path}: {} asks for nothing", panel["title"]);
        }
    }
}

//! Settings as people give them.

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    config: LoadtestConfig,
}

fn config(args: &[&str]) -> Result<LoadtestConfig, String> {
    let args = ["loadtest"].iter().chain(args);
    Ok(Options::try_parse_from(args).map_err(|error| error.to_string())?.config)
}

#[test]
fn without_flags_it_is_a_closed_loop_against_up() {
    let config = config(&[]).unwrap();
    let Load::Drawn(load) = config.load().unwrap() else { panic!("nothing is replayed") };
    assert_eq!(load.arrivals, Arrivals::Closed);
    assert_eq!(config.server().address, "http://127.0.0.1:50051");
    assert!(config.watch().is_none() && matches!(load.prompts, Prompts::DemoKinds));
}

#[test]
fn contradictions_are_named() {
    let check = |args: &[&str], expected: &str| {
        let error = match config(args) {
            Ok(config) => config.faults().and_then(|_| config.load()).unwrap_err().to_string(),
            Err(error) => error,
        };
        assert!(error.contains(expected), "{args:?}: {error}");
    };
    check(&["--rate", "5", "--ramp", "1:2"], "--ramp");
    check(&["--ramp", "1"], "FROM:TO");
    check(&["--rate", "0"], "\"0\" is no rate");
    check(&["--skew", "zipf"], "\"zipf\"");
    check(&["--slo", "ttft"], "ttft:200ms");
    check(&["--assert", "p99<3"], "p99");
    check(&["--shared-prefix", "3"], "--prompts random");
    check(&["--prompts", "/no/such/file"], "/no/such/file");
    check(
        &["--prompts", "random", "--input-tokens", "8", "--shared-prefix", "8"],
        "--shared-prefix 8",
    );
    check(&["--ramp", "1:2", "--duration", "0s", "--warmup", "0s"], "--duration");
    check(&["--concurrency", "0"], "--concurrency");
    check(&["--trace", "/no/such/file"], "--trace /no/such/file");
    check(&["--trace", "a", "--rate", "5"], "--rate");
    check(&["--sweep", "5:1:3"], "FROM is below TO");
    check(&["--sweep", "5", "--rate", "3"], "--rate");
    check(&["--chaos", "kill:n@1s"], "--control");
    check(&["--chaos", "stop:n@1s", "--control", "a"], "\"stop:n@1s\": it is not kill:");
    check(&["--chaos", "kill:n@40s", "--control", "a"], "kill:n@40s: the run has ended by then");
    check(&["--chaos", "kill:n@1s", "--control", "a", "--sweep", "5"], "--sweep");
    check(&["--trace-speed", "2"], "--trace");
    check(&["--trace", "a", "--trace-speed", "0"], "\"0\" is not between");
}

#[test]
fn keys_are_in_no_file() {
    let config = config(&["--api-key", "hush", "--admin-api-key", "hush"]).unwrap();
    assert!(config.settings().values().all(|value| !value.contains("hush")));
}

#[test]
fn a_trace_is_played_to_its_end_unless_somebody_says() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "{\"at\": 0, \"input_tokens\": 5, \"output_tokens\": 1}\n").unwrap();
    let path = file.path().to_str().unwrap();
    let to_its_end = config(&["--trace", path, "--trace-speed", "2"]).unwrap();
    let Load::Replayed(replay) = to_its_end.load().unwrap() else { panic!("it is replayed") };
    assert_eq!((replay.n_requests(), to_its_end.window().to), (1, None));
    assert_eq!(to_its_end.settings()["trace-speed"], "2");
    let shorter = config(&["--trace", path, "--duration", "3s", "--warmup", "1s"]).unwrap();
    assert_eq!(shorter.window().to, Some(Duration::from_secs(4)));
}

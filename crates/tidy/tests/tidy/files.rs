//! What every source file must look like.

use std::path::{Path, PathBuf};

/// Lines of a file. What is larger has become two files.
const MAX_FILE_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every source file of ours, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["cli", "crates", "expert-node", "loadtest", "proto", "router"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50, "the sources are not where they were");
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

/// Files with a line that contains `pattern`, comments left out.
fn files_with(pattern: &str) -> Vec<String> {
    let uses = |text: &str| {
        let code = without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
        code.into_iter().any(|line| line.contains(pattern))
    };
    sources().into_iter().filter(|(_, text)| uses(text)).map(|(name, _)| name).collect()
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.contains("/benches/") || name.contains("_tests.rs")
}

#[test]
fn files_say_their_role_first_and_stay_small() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} does not begin with a //! sentence");
        let lines = text.lines().count();
        assert!(lines <= MAX_FILE_LINES, "{name} has {lines} lines, over {MAX_FILE_LINES}");
    }
}

#[test]
fn the_environment_is_read_only_in_config_files() {
    let reads = ["env::var", "env::vars", "env = \"GUILDHALL_"];
    for pattern in reads {
        for name in files_with(pattern) {
            let allowed = name.ends_with("/config.rs") || name.ends_with("build.rs");
            assert!(allowed || is_test(&name), "{name} reads the environment");
        }
    }
}

#[test]
fn every_flag_of_a_process_has_its_environment_variable() {
    for process in [
        "router/src/config.rs",
        "expert-node/src/config.rs",
        "crates/cluster/src/config.rs",
        "loadtest/src/config.rs",
    ] {
        let text = std::fs::read_to_string(root().join(process)).unwrap();
        let flags = text.matches("#[arg(").count();
        assert_eq!(flags, text.matches("env = \"GUILDHALL_").count(), "{process}");
    }
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    for name in files_with("unsafe ") {
        let allowed = name.starts_with("crates/kernels/")
            || name.ends_with("checkpoint/src/mapped.rs")
            || name.ends_with("transport/tests/copies.rs");
        assert!(allowed || name.starts_with("crates/tidy/"), "{name} has unsafe code");
    }
}

#[test]
fn placement_reads_no_clock_and_draws_no_numbers() {
    for pattern in ["Instant", "SystemTime", "rand::", "std::fs", "std::net", "tokio", "async "] {
        let found = files_with(pattern);
        let placement = found.iter().find(|name| name.starts_with("crates/placement/src"));
        assert_eq!(placement, None, "placement uses {pattern}");
    }
}

#[test]
fn one_model_file_knows_that_experts_may_be_elsewhere() {
    for pattern in ["guildhall_transport", "guildhall_placement", "dispatch::"] {
        let found = files_with(pattern);
        let model = found.iter().find(|name| name.starts_with("router/src/model/"));
        assert_eq!(model, None, "the model uses {pattern}");
    }
}

#[test]
fn wire_types_stop_at_the_api_the_transport_and_the_store() {
    for name in files_with("guildhall_proto::v1") {
        let allowed = [
            "router/src/api/",
            "crates/transport/",
            "crates/cluster/",
            "crates/testkit/",
            "crates/tidy/",
            "loadtest/src/target/",
            "loadtest/src/experts/sampler.rs",
            "loadtest/benches/",
            "cli/",
        ];
        assert!(allowed.iter().any(|place| name.starts_with(place)), "{name} uses wire types");
    }
}

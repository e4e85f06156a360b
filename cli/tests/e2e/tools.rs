//! Commands that are told of no cluster: they need none, or find the one on this machine.

use guildhall_testkit::cluster::{Up, demo};
use guildhall_testkit::process::Process;

#[test]
fn the_doctor_tries_every_instruction_set_and_knows_what_a_model_can_get() {
    let model = demo();
    let args = ["doctor", "--threads", "1", "--model", model.to_str().unwrap()];
    let mut doctor = Process::start(args);
    assert!(doctor.line_after("portable ").ends_with("computes as plain code does"));
    let bound = doctor.line_after("bf16  a token reads ");
    assert!(bound.starts_with("2.8 MB of weights: one stream gets "), "{bound}");
    assert!(doctor.wait().success());
}

#[test]
fn commands_find_the_cluster_that_was_started_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let here = [("XDG_RUNTIME_DIR", folder.path().to_str().unwrap())];
    let mut alone = Process::start_with(["status"], &here);
    assert!(!alone.wait().success());
    alone.wait_for_log("no `guildhall up` runs here: give --admin and --admin-api-key");

    // Whoever gives a key to everything by its environment gives it to `up`, too.
    let here = [here[0], ("GUILDHALL_ADMIN_API_KEY", "hush")];
    let up = Up::start(&demo(), &[], &here);
    for here in [&here[..], &here[..1]] {
        let status = Process::start_with(["status"], here);
        assert!(status.line_after("expert-node-3 ").starts_with("serving"));
    }
    let generate = ["generate", "--max-tokens", "1", "Work out 47 + 38."];
    let generate = Process::start_with(generate, &here);
    assert!(generate.line_after(" Tens").is_empty());
    for target in ["guildhall", "openai"] {
        let load = ["loadtest", "--target", target, "--concurrency", "2", "--output-tokens", "4"];
        let time = ["--duration", "1s", "--warmup", "0s", "--assert", "failed<=0,balancedness>0"];
        let mut load = Process::start_with([&load[..], &time].concat(), &here);
        load.line_after("holds: ");
        assert!(load.wait().success(), "{}", load.log());
    }
    let faults = ["--chaos", "pause:expert-node-1@300ms+100ms", "--assert", "differing<=0"];
    let time = ["--duration", "1s", "--warmup", "0s", "--output-tokens", "4"];
    let chaos = Process::start_with([&["loadtest"], &faults[..], &time].concat(), &here);
    chaos.line_after("holds: ");

    drop(up);
    let mut alone = Process::start_with(["drain", "expert-node-1"], &here);
    assert!(!alone.wait().success());
    assert!(!folder.path().join("guildhall/up.json").exists());
}

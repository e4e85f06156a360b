//! Commands that need no cluster.

use guildhall_testkit::cluster::demo;
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

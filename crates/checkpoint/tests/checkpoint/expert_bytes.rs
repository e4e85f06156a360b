//! Experts that go from one directory to another as bytes.

use std::path::Path;

use guildhall_checkpoint::{
    Checkpoint, Error, ExpertBytes, ExpertHash, ExpertTensors, FloatType, ValueType, has_weights,
};
use guildhall_ids::ExpertId;

use crate::support::{INDEX, Model, WEIGHTS, message};

const EXPERT: ExpertId =
    ExpertId { layer: guildhall_ids::LayerIdx(0), expert: guildhall_ids::ExpertIdx(1) };

/// A model directory of the golden tests.
fn golden(case: &str) -> Checkpoint {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../router/tests/golden");
    Checkpoint::open(&golden.join(case)).unwrap()
}

/// Types, shapes and values of all three matrices.
fn essence(expert: &ExpertTensors) -> String {
    let ExpertTensors { gate, up, down } = expert;
    // Every value has its own shortest text.
    let describe = |matrix: &candle_core::Tensor| {
        let values = matrix.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
        let values = values.to_vec1::<f32>().unwrap();
        format!("{:?} {:?} {values:?}", matrix.dtype(), matrix.dims())
    };
    [gate, up, down].map(describe).join("\n")
}

#[test]
fn what_is_received_is_what_was_read_bit_for_bit() {
    // In f32, f16, bf16 and quantised ones.
    for case in [
        "mixtral",
        "mixtral_f16",
        "qwen3_moe_tied",
        "qwen3_moe_fp8",
        "qwen3_moe_gptq",
        "qwen3_moe_awq",
        "qwen3_moe_packed",
        "qwen3_moe_int8",
    ] {
        let checkpoint = golden(case);
        for id in checkpoint.config().experts() {
            let bytes = checkpoint.expert_bytes(id).unwrap();
            // They arrive anywhere in memory, one part behind the other.
            let matrices = [&bytes.gate, &bytes.up, &bytes.down];
            let arrived = matrices.map(|of| [&[0], of.parts.concat().as_slice()].concat());
            let arrived = [0, 1, 2].map(|n| (matrices[n].value_type, &arrived[n][1..]));
            let received = ExpertBytes::split(checkpoint.config(), arrived);
            let made = received.to_tensors(id, checkpoint.config(), &bytes.hash()).unwrap();
            assert_eq!(essence(&made), essence(&checkpoint.expert(id).unwrap()), "{case} {id}");
        }
    }
}

/// Changes what is received of a good expert and expects a refusal with these words.
fn check(change: impl FnOnce(&mut ExpertBytes<'_>, &mut ExpertHash), words: &str) {
    let model = Model::new();
    let checkpoint = model.open().unwrap();
    let mut bytes = checkpoint.expert_bytes(EXPERT).unwrap();
    let mut expected = bytes.hash();
    change(&mut bytes, &mut expected);
    let refused = bytes.to_tensors(EXPERT, checkpoint.config(), &expected).map(drop);
    let error = refused.expect_err(words);
    assert!(matches!(error, Error::Received { expert: EXPERT, .. }), "{error:?}");
    let text = message(&error);
    assert!(text.starts_with("expert 0/1 as it was received: "), "{text}");
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[test]
fn wrong_bytes_are_refused() {
    let flipped: Vec<u8> = {
        let model = Model::new();
        let checkpoint = model.open().unwrap();
        let mut bytes = checkpoint.expert_bytes(EXPERT).unwrap().up.parts[0].to_vec();
        bytes[7] ^= 0x10;
        bytes
    };
    let flipped: &'static [u8] = flipped.leak();
    check(|bytes, _| bytes.up.parts[0] = flipped, "its hash is ");
    check(|_, expected| expected[31] ^= 1, "its hash is ");
    check(|bytes, _| bytes.down.value_type = ValueType::Plain(FloatType::F16), "its hash is ");
}

/// The same where the hash was expected: whoever made it had other files.
fn check_expected(change: impl FnOnce(&mut ExpertBytes<'_>), words: &str) {
    let change = |bytes: &mut ExpertBytes<'_>, expected: &mut ExpertHash| {
        change(bytes);
        *expected = bytes.hash();
    };
    check(change, words);
}

#[test]
fn what_does_not_fit_the_configuration_is_refused_even_if_it_was_expected() {
    check_expected(
        |bytes| bytes.down.parts[0] = &bytes.down.parts[0][1..],
        "down has [15] bytes, not [16]",
    );
    check_expected(|bytes| bytes.gate.parts[0] = &[], "gate has [0] bytes, not [16]");
    check_expected(
        |bytes| bytes.up.value_type = ValueType::Plain(FloatType::F32),
        "up has [16] bytes, not [32]",
    );
    check_expected(|bytes| bytes.up.parts.push(&[0; 3]), "up has [16, 3] bytes, not [16]");
    let quantised = |bytes: &mut ExpertBytes<'_>| {
        bytes.gate.value_type = ValueType::Quantised(FloatType::Bf16);
    };
    check_expected(quantised, "gate is quantised, but config.json has no quantization_config");
    let infinite: &'static [u8] = [0x80, 0x7f].repeat(8).leak();
    check_expected(|bytes| bytes.up.parts[0] = infinite, "up value 0 is not a finite number");
}

#[test]
fn types_are_read_and_printed() {
    for value_type in ValueType::ALL {
        assert_eq!(value_type.to_string().parse::<ValueType>().unwrap(), value_type);
    }
    assert!("f64".parse::<ValueType>().unwrap_err().contains("\"f64\""));
}

#[test]
fn a_directory_without_weights_is_told_from_one_with_broken_ones() {
    let model = Model::new();
    assert!(has_weights(model.dir()));
    std::fs::remove_file(model.path(WEIGHTS)).unwrap();
    assert!(!has_weights(model.dir()));
    model.write(INDEX, "{}");
    assert!(has_weights(model.dir()));
}

//! Weights that are not what they should be: each is a clear error.

use serde_json::{Value, json};

use crate::support::{
    EMBEDDING, EXPERT_DOWN, GATE, Model, RawTensor, WEIGHTS, assemble, bf16, check, file, info,
    read_everything, tensors,
};

fn check_bytes(bytes: impl AsRef<[u8]>, expected: &str) {
    check(|model| model.write(WEIGHTS, bytes), &[WEIGHTS, "not a safetensors file", expected]);
}

fn check_header(header: &Value, data: &[u8], expected: &str) {
    check_bytes(assemble(header.to_string(), data), expected);
}

/// Changes the last tensor of the model, the down projection of expert 1.
fn check_down(change: impl FnOnce(&mut RawTensor), expected: &str) {
    let breaking = |model: &Model| {
        model.write_tensors(|tensors| change(tensors.last_mut().unwrap()));
    };
    check(breaking, &[EXPERT_DOWN, expected]);
}

#[test]
fn a_good_model_is_read() {
    read_everything(Model::new().dir()).unwrap();
}

#[test]
fn a_truncated_file_is_named() {
    let whole = file(&tensors());
    check_bytes(&whole[..0], "header too small");
    check_bytes(&whole[..7], "header too small");
    check_bytes(&whole[..8], "invalid header length");
    check_bytes(&whole[..60], "invalid header length");
    check_bytes(&whole[..whole.len() - 1], "incomplete metadata");
}

#[test]
fn a_header_length_that_cannot_be_is_refused_before_memory_is_taken() {
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    check_bytes(with_length(u64::MAX), "header too large");
    check_bytes(with_length(100_000_001), "header too large");
    check_bytes(with_length(3), "invalid header length");
    let sparse = |model: &Model| {
        let file = std::fs::File::create(model.path(WEIGHTS)).unwrap();
        std::io::Write::write_all(&mut &file, &150_000_000u64.to_le_bytes()).unwrap();
        file.set_len(200_000_000).unwrap();
    };
    check(sparse, &[WEIGHTS, "header too large"]);
}

#[test]
fn a_header_that_is_no_table_of_tensors_is_refused() {
    check_bytes(assemble([0xff, 0xfe], &[]), "invalid UTF-8");
    check_bytes(assemble("", &[]), "invalid JSON");
    check_bytes(assemble("{\"a\":", &[]), "invalid JSON");
    check_bytes(assemble("[]", &[]), "invalid JSON");
    check_bytes(assemble("[".repeat(100_000), &[]), "invalid JSON");
    check_header(&json!({"a": {"dtype": "F32"}}), &[], "invalid JSON");
    let negative = json!({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}});
    check_header(&negative, &[0; 4], "invalid JSON");
    let unknown = json!({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}});
    check_header(&unknown, &[0; 4], "F33");
}

#[test]
fn offsets_that_overlap_or_leave_gaps_or_the_file_are_refused() {
    let overlap = json!({"a": info("F32", &[2], [0, 8]), "b": info("F32", &[2], [4, 12])});
    check_header(&overlap, &[0; 12], "invalid offset for tensor `b`");
    let gap = json!({"a": info("F32", &[1], [0, 4]), "b": info("F32", &[1], [8, 12])});
    check_header(&gap, &[0; 12], "invalid offset for tensor `b`");
    check_header(
        &json!({"a": info("F32", &[1], [4, 8])}),
        &[0; 8],
        "invalid offset for tensor `a`",
    );
    check_header(
        &json!({"a": info("F32", &[1], [4, 0])}),
        &[0; 8],
        "invalid offset for tensor `a`",
    );
    let one = json!({"a": info("F32", &[2], [0, 8])});
    check_header(&one, &[0; 4], "incomplete metadata");
    check_header(&one, &[0; 12], "incomplete metadata");
    check_header(&json!({}), &[0; 1], "incomplete metadata");
}

#[test]
fn a_shape_that_does_not_take_its_bytes_is_refused() {
    let expected = "invalid shape, data type, or offset for tensor";
    check_header(&json!({"a": info("F32", &[3], [0, 8])}), &[0; 8], expected);
    check_header(&json!({"a": info("BF16", &[2, 2], [0, 12])}), &[0; 12], expected);
    check_header(&json!({"a": info("F32", &[0, 9], [0, 4])}), &[0; 4], expected);
    let overflow = json!({"a": info("F32", &[usize::MAX, 2], [0, 8])});
    check_header(&overflow, &[0; 8], "overflow");
}

#[test]
fn a_tensor_of_another_type_is_refused_by_name() {
    check_down(|down| down.dtype = "I16", "has type I16, which no format has");
    for (dtype, size) in [("I32", 4), ("F64", 8), ("U8", 1), ("F8_E5M2", 1)] {
        let change = |down: &mut RawTensor| {
            down.dtype = dtype;
            down.bytes = vec![0; 8 * size];
        };
        check_down(change, &format!("has type {dtype}"));
    }
}

#[test]
fn a_missing_tensor_and_one_of_another_shape_are_refused_by_name() {
    for name in [GATE, EMBEDDING, EXPERT_DOWN] {
        let remove = |tensors: &mut Vec<RawTensor>| tensors.retain(|tensor| tensor.name != name);
        check(|model| model.write_tensors(remove), &[name, "is missing"]);
    }
    let expected = "but the configuration says [4, 2]";
    check_down(|down| down.shape = vec![2, 4], expected);
    check_down(|down| down.shape = vec![8], expected);
    check_down(|down| *down = bf16(EXPERT_DOWN, &[4, 3]), expected);
    check_down(|down| *down = bf16(EXPERT_DOWN, &[0]), "has shape [0]");
}

/// Writes `bits` as the value 5 of a tensor whose other values are 0.
fn with_value(dtype: &'static str, bits: &[u8]) -> impl FnOnce(&mut RawTensor) {
    let bytes = [vec![0; 5 * bits.len()], bits.to_vec(), vec![0; 2 * bits.len()]].concat();
    move |tensor| {
        tensor.dtype = dtype;
        tensor.bytes = bytes;
    }
}

#[test]
fn a_value_that_is_not_finite_is_refused_by_name_and_index() {
    let expected = "value 5 is not a finite number";
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
        check_down(with_value("F32", &value.to_le_bytes()), expected);
    }
    for bits in [0x7c00u16, 0xfc00, 0x7c01, 0x7e00, 0xffff] {
        check_down(with_value("F16", &bits.to_le_bytes()), expected);
    }
    for bits in [0x7f80u16, 0xff80, 0x7f81, 0x7fc0, 0xffff] {
        check_down(with_value("BF16", &bits.to_le_bytes()), expected);
    }
}

#[test]
fn the_largest_and_smallest_numbers_are_accepted() {
    let f32_cases = [f32::MAX, f32::MIN, -0.0, 1e-45].map(|value| ("F32", value.to_le_bytes()));
    for (dtype, bits) in f32_cases {
        accept(with_value(dtype, &bits));
    }
    for (dtype, bits) in
        [("F16", 0x7bffu16), ("F16", 0xfbff), ("F16", 1), ("BF16", 0x7f7f), ("BF16", 0x8001)]
    {
        accept(with_value(dtype, &bits.to_le_bytes()));
    }
}

fn accept(change: impl FnOnce(&mut RawTensor)) {
    let model = Model::new();
    model.write_tensors(|tensors| change(tensors.last_mut().unwrap()));
    read_everything(model.dir()).unwrap();
}

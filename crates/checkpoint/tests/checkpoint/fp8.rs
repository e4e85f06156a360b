//! Matrices that are stored as FP8 with a scale for each block.

use guildhall_checkpoint::{Checkpoint, Error, ExpertTensors};
use guildhall_ids::ExpertId;
use serde_json::json;

use crate::support::{EXPERT_DOWN, Model, RawTensor, changed, config, message};

const SCALES: &str = "model.layers.0.mlp.experts.1.down_proj.weight_scale_inv";

/// A model whose second expert has a `down` of [4, 2] in blocks of [3, 1], after a change.
fn open(change: impl FnOnce(&mut RawTensor, &mut RawTensor)) -> Result<ExpertTensors, Error> {
    let model = Model::new();
    let quantised = json!({"quantization_config": {
        "quant_method": "fp8", "weight_block_size": [3, 1], "activation_scheme": "dynamic",
    }});
    model.write("config.json", changed(config(), &quantised).to_string());
    read(&model, change)
}

fn read(
    model: &Model,
    change: impl FnOnce(&mut RawTensor, &mut RawTensor),
) -> Result<ExpertTensors, Error> {
    model.write_tensors(|tensors| {
        let down = tensors.iter_mut().find(|tensor| tensor.name == EXPERT_DOWN).unwrap();
        // 1, 1.5, and so on.
        down.bytes = vec![0x38, 0x3c, 0x40, 0x44, 0x48, 0x4c, 0xb8, 0x00];
        down.dtype = "F8_E4M3";
        let scales: Vec<u8> = [1f32, 2.0, 4.0, 8.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        let mut scales =
            RawTensor { name: SCALES.into(), dtype: "F32", shape: vec![2, 2], bytes: scales };
        change(down, &mut scales);
        tensors.push(scales);
    });
    Checkpoint::open(model.dir())?.expert(ExpertId::new(0, 1))
}

#[test]
fn values_are_scaled_block_by_block() {
    let check = |change: fn(&mut RawTensor, &mut RawTensor)| {
        let down = open(change).unwrap().down.to_vec2::<f32>().unwrap();
        assert_eq!(down, [[1.0, 3.0], [2.0, 6.0], [4.0, 12.0], [-4.0, 0.0]]);
    };
    check(|_, _| {});
    check(|_, scales| {
        scales.dtype = "BF16";
        scales.bytes = scales.bytes.chunks(4).flat_map(|four| [four[2], four[3]]).collect();
    });
}

fn check(change: fn(&mut RawTensor, &mut RawTensor), words: &str) {
    let error = open(change).map(drop).unwrap_err();
    let text = message(&error);
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[test]
fn scales_that_do_not_fit_are_refused_by_name() {
    check(|_, scales| scales.name = "other".into(), "down_proj.weight_scale_inv: is missing");
    check(|_, scales| scales.shape = vec![4, 1], "weight_scale_inv: has shape [4, 1]");
    check(
        |_, scales| (scales.dtype, scales.shape) = ("F16", vec![4, 2]),
        "weight_scale_inv: has shape [4, 2]",
    );
    check(
        |_, scales| scales.dtype = "I32",
        "weight_scale_inv: has type I32, of which the quantization_config of config.json says nothing",
    );
    check(|down, _| down.bytes[3] = 0xff, "down_proj.weight: value 3 is not a finite number");
    check(
        |_, scales| scales.bytes[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes()),
        "down_proj.weight: scale 2 is not a finite number",
    );
}

#[test]
fn fp8_without_its_configuration_is_refused() {
    let error = read(&Model::new(), |_, _| {}).map(drop).unwrap_err();
    let text = message(&error);
    assert!(text.contains("has type F8_E4M3, of which the quantization_config"), "{text}");
}

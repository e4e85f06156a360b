//! Configurations that are broken or ask for what Guildhall does not do: each is a clear error.

use std::path::Path;

use guildhall_checkpoint::{Error, ModelConfig};
use serde_json::{Value, json};

use crate::support::{Model, changed, check as check_model, config, parse};

/// Changes some keys of a good configuration.
fn check(changes: &Value, expected: &str) {
    let text = parse(&changed(config(), changes)).expect_err(expected).to_string();
    assert!(text.starts_with("config.json: "), "{text:?} does not name the file");
    assert!(text.contains(expected), "{text:?} does not say {expected:?}");
}

fn check_unsupported(changes: &Value, expected: &str) {
    check(changes, expected);
    let error = parse(&changed(config(), changes)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_missing_or_no_object_is_named() {
    let remove = |model: &Model| std::fs::remove_file(model.path("config.json")).unwrap();
    check_model(remove, &["config.json", "No such file"]);
    for text in ["", "{", "{}}", "\u{0}", "{\"a\": 1e999}", &"[".repeat(100_000)] {
        check_model(|model| model.write("config.json", text), &["config.json: not JSON"]);
    }
    check_model(|model| model.write("config.json", [b'"', 0xff, b'"']), &["config.json: not JSON"]);
    for text in ["[]", "1", "null", "\"mixtral\""] {
        check_model(|model| model.write("config.json", text), &["config.json: not a JSON object"]);
    }
}

const SIZES: [&str; 8] = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
];

#[test]
fn a_size_that_is_no_size_is_named_with_its_value() {
    for key in SIZES {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("4"),
            json!([4]),
            json!(true),
            json!(1u64 << 31),
            json!(u64::MAX),
        ] {
            check(&json!({ key: value }), &format!("{key} is {value}, not a size from 1 to"));
        }
    }
}

#[test]
fn a_missing_size_is_named() {
    for key in SIZES.into_iter().filter(|key| *key != "num_key_value_heads") {
        // Either name will do, so it asks for the other one.
        let named = if key == "num_experts" { "num_local_experts" } else { key };
        check(&json!({ key: null }), &format!("{named} is missing"));
    }
    check(&json!({"model_type": null}), "model_type is missing");
    check(&json!({"model_type": "qwen2_moe"}), "shared_expert_intermediate_size is missing");
    check(&json!({"mlp_only_layers": [0]}), "intermediate_size is missing");
}

#[test]
fn a_value_of_another_type_is_named() {
    for (key, value, expected) in [
        ("model_type", json!(1), "a text"),
        ("hidden_act", json!([]), "a text"),
        ("rms_norm_eps", json!("small"), "a finite number"),
        ("rope_theta", json!("big"), "a number above 0"),
        ("rope_theta", json!(0), "a number above 0"),
        ("rope_theta", json!(-1), "a number above 0"),
        ("rope_scaling", json!("yarn"), "an object"),
        ("rope_parameters", json!([1]), "an object"),
        ("tie_word_embeddings", json!(1), "true or false"),
        ("norm_topk_prob", json!("yes"), "true or false"),
        ("mlp_only_layers", json!([-1]), "a list of layer numbers"),
        ("mlp_only_layers", json!(0), "a list of layer numbers"),
        ("decoder_sparse_step", json!(0), "a size from 1 to"),
    ] {
        check(&json!({ key: value }), &format!("{key} is {value}, not {expected}"));
    }
}

#[test]
fn a_long_wrong_value_is_cut_in_the_message() {
    let text = parse(&changed(config(), &json!({"hidden_size": "9".repeat(10_000)})));
    assert!(text.unwrap_err().to_string().len() < 200);
}

#[test]
fn numbers_that_f32_does_not_hold_are_refused() {
    for value in [1e39, 1e300, 1e-46, 1e-300] {
        check(&json!({"rope_theta": value}), "rope_theta is");
        check(
            &json!({"rope_scaling": {"type": "linear", "factor": value}}),
            "rope_scaling.factor is",
        );
    }
    for value in [1e39, -1e-6] {
        check(&json!({"rms_norm_eps": value}), "rms_norm_eps");
    }
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    check(&json!({"num_experts_per_tok": 3}), "num_experts_per_tok 3 is over the 2 experts");
    check(
        &json!({"num_attention_heads": 4, "num_key_value_heads": 3}),
        "num_attention_heads 4 is no multiple of num_key_value_heads 3",
    );
    check(&json!({"num_key_value_heads": 4}), "no multiple of num_key_value_heads 4");
    check(
        &json!({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": null}),
        "hidden_size is no multiple of num_attention_heads",
    );
    check(&json!({"head_dim": 3}), "head_dim 3 is odd");
    check(&json!({"decoder_sparse_step": 2, "intermediate_size": 8}), "no layer has experts");
    let dense = json!({"mlp_only_layers": [0], "intermediate_size": 8});
    check(&dense, "no layer has experts");
}

#[test]
fn a_model_larger_than_any_is_refused() {
    let large = (1u64 << 31) - 1;
    check(&json!({"num_hidden_layers": 10_001}), "num_hidden_layers is over 10000");
    check(&json!({"num_experts": 65_537}), "num_experts is over 65536");
    let every = json!({
        "vocab_size": large, "hidden_size": large, "num_hidden_layers": 10_000,
        "num_attention_heads": large, "num_key_value_heads": large, "head_dim": large - 1,
        "num_experts": 65_536, "moe_intermediate_size": large,
    });
    check(&every, "parameters, more than any model");
    for key in ["vocab_size", "moe_intermediate_size", "head_dim"] {
        let two = json!({"hidden_size": large, key: large - 1});
        check(&two, "parameters, more than any model");
    }
    let dense = json!({
        "hidden_size": large, "num_hidden_layers": 2, "mlp_only_layers": [1],
        "intermediate_size": large,
    });
    check(&dense, "parameters, more than any model");
}

#[test]
fn formats_of_compressed_tensors_that_guildhall_does_not_read_are_refused_by_name() {
    let group = |weights: Value, activations: Value| {
        let group = json!({"weights": weights, "input_activations": activations});
        json!({"config_groups": {"group_0": group}})
    };
    let check = |format: &str, mut of: Value, expected: &str| {
        of["quant_method"] = json!("compressed-tensors");
        of["format"] = json!(format);
        check_unsupported(&json!({"quantization_config": of}), expected);
    };
    let int4 = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32});
    let of_int4 = |activations| group(int4.clone(), activations);
    check("nvfp4-pack-quantized", of_int4(json!(null)), "format = \"nvfp4-pack-quantized\"");
    check("int-quantized", of_int4(json!(null)), "weights.num_bits = 4");
    check(
        "pack-quantized",
        of_int4(json!({"dynamic": false})),
        "input_activations.dynamic = false",
    );
    check("pack-quantized", group(json!({"type": "float"}), json!(null)), "weights.type = float");
    let of_all = json!({"strategy": "tensor", "num_bits": 8});
    check("int-quantized", group(of_all, json!(null)), "weights.strategy = tensor");
    let mut several = of_int4(json!(null));
    several["config_groups"]["group_1"] = several["config_groups"]["group_0"].clone();
    several["config_groups"]["group_1"]["weights"]["num_bits"] = json!(8);
    check("pack-quantized", several, "config_groups = (matrices of several formats)");
}

#[test]
fn what_guildhall_does_not_do_is_refused_by_name() {
    let unsupported = [
        (json!({"model_type": "llama"}), "model_type = llama is not supported"),
        (json!({"model_type": ""}), "model_type =  is not supported"),
        (json!({"hidden_act": "gelu"}), "hidden_act = gelu"),
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
            "quantization_config.quant_method = \"bitsandbytes\" is not supported",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 128}}),
            "quantization_config.bits = 3",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "checkpoint_format": "marlin"}}),
            "quantization_config.checkpoint_format = marlin",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}),
            "quantization_config.version = gemv",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "zero_point": false}}),
            "quantization_config.zero_point = false",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8"}}),
            "quantization_config.weight_block_size = (one scale for a whole matrix)",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}),
            "quantization_config.fmt = e5m2",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}),
            "quantization_config.activation_scheme = static",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "rope_parameters.partial_rotary_factor = 0.5",
        ),
        (json!({"rope_scaling": {"rope_type": "dynamic"}}), "rope_scaling.rope_type = dynamic"),
        (json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling.rope_type = longrope"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2, "stretch": 1}}),
            "rope_scaling.stretch",
        ),
        (json!({"rope_parameters": {"mrope_section": [1]}}), "rope_parameters.mrope_section"),
        (
            json!({
                "model_type": "qwen2_moe", "shared_expert_intermediate_size": 4,
                "use_sliding_window": true, "layer_types": ["chunked_attention"],
            }),
            "layer_types = chunked_attention",
        ),
    ];
    for (changes, expected) in unsupported {
        check_unsupported(&changes, expected);
    }
    parse(&changed(config(), &json!({"hidden_act": "silu", "partial_rotary_factor": 1.0})))
        .unwrap();
}

#[test]
fn a_scaling_without_its_numbers_is_refused() {
    check(&json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing");
    check(&json!({"rope_scaling": {"rope_type": "llama3"}}), "rope_scaling.factor is missing");
    let no_low = json!({"rope_type": "llama3", "factor": 8, "high_freq_factor": 4});
    check(&json!({"rope_parameters": no_low}), "rope_parameters.low_freq_factor is missing");
    let no_high = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1});
    check(&json!({"rope_scaling": no_high}), "rope_scaling.high_freq_factor is missing");
    let zero = json!({"rope_type": "yarn", "factor": 0});
    check(&json!({"rope_scaling": zero}), "rope_scaling.factor is 0, not a number above 0");
}

#[test]
fn layer_types_of_another_length_are_refused() {
    let types = json!({
        "model_type": "qwen2_moe", "shared_expert_intermediate_size": 4,
        "use_sliding_window": true, "layer_types": ["full_attention", "full_attention"],
    });
    check(&types, "layer_types has not one entry for each layer");
}

#[test]
fn unknown_keys_are_listed() {
    let unknown = |changes| parse(&changed(config(), &changes)).unwrap().unknown_keys;
    assert_eq!(unknown(json!({"use_cache": true, "torch_dtype": "float32"})), Vec::<String>::new());
    let changes = json!({"residual_multiplier": 2.0, "attention_sink": {"size": 4}});
    assert_eq!(unknown(changes), ["attention_sink", "residual_multiplier"]);
    // A key of another family is unknown to this one.
    assert_eq!(unknown(json!({"clip_qkv": 8.0})), ["clip_qkv"]);
}

#[test]
fn end_tokens_come_from_the_first_file_that_has_some() {
    let check = |generation: Option<&str>, config_ids: Value, expected: &[u32]| {
        let model = Model::new();
        let config = changed(config(), &json!({"eos_token_id": config_ids}));
        model.write("config.json", config.to_string());
        if let Some(text) = generation {
            model.write("generation_config.json", text);
        }
        assert_eq!(model.open().unwrap().generation().eos_token_ids, expected);
    };
    check(None, json!(null), &[]);
    check(None, json!(2), &[2]);
    check(None, json!([2, 3]), &[2, 3]);
    check(Some(r#"{"eos_token_id": [7, 8]}"#), json!(2), &[7, 8]);
    check(Some("{}"), json!(2), &[2]);
    for text in [r#"{"eos_token_id": -1}"#, r#"{"eos_token_id": "</s>"}"#, "[]", "{"] {
        check_model(
            |model| model.write("generation_config.json", text),
            &["generation_config.json: "],
        );
    }
}

#[test]
fn the_path_of_the_caller_is_in_the_message() {
    let error = ModelConfig::from_json(Path::new("/models/a/config.json"), b"[]").unwrap_err();
    assert_eq!(error.to_string(), "/models/a/config.json: not a JSON object");
}

//! What the keys of each family mean, layer by layer.

use guildhall_checkpoint::{FeedForward, ModelConfig, QkNorm, RopeScaling, SharedExpert};
use serde_json::{Value, json};

use crate::support::{changed, config, parse};

fn read(changes: &Value) -> ModelConfig {
    parse(&changed(config(), changes)).unwrap()
}

/// Both are given as changes of the same configuration.
fn check_same(left: &Value, right: &Value) {
    assert_eq!(read(left), read(right), "{left} and {right}");
}

#[test]
fn the_older_and_the_newer_style_mean_the_same() {
    check_same(
        &json!({"torch_dtype": "bfloat16"}),
        &json!({"dtype": "bfloat16", "rope_theta": null, "rope_parameters": {"rope_theta": 1e4}}),
    );
    check_same(
        &json!({"rope_theta": 5e5}),
        &json!({
            "rope_theta": null,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000},
        }),
    );
    let yarn = json!({"factor": 4.0, "original_max_position_embeddings": 32768});
    let with = |changes: Value| changed(yarn.clone(), &changes);
    check_same(
        &json!({"rope_theta": 1e6, "rope_scaling": with(json!({"type": "yarn"}))}),
        &json!({
            "rope_theta": null,
            "rope_parameters": with(json!({"rope_type": "yarn", "rope_theta": 1e6})),
        }),
    );
    check_same(&json!({"num_experts": 2}), &json!({"num_experts": null, "num_local_experts": 2}));
}

/// As in the reference.
#[test]
fn of_two_styles_in_one_file_the_older_is_in_force() {
    let both = json!({
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 3.0},
    });
    assert_eq!(read(&both).attention.rope.scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn defaults_are_those_of_the_family() {
    let bare = json!({"rope_theta": null, "rms_norm_eps": null, "num_key_value_heads": null});
    let family = |model_type: &str| {
        let more = json!({
            "model_type": model_type, "intermediate_size": 2, "num_attention_heads": 16,
            "shared_expert_intermediate_size": 4,
        });
        read(&changed(bare.clone(), &more))
    };
    for (model_type, theta, eps, kv_heads, positions) in [
        ("mixtral", 1e6, 1e-5, 8, 131_072),
        ("olmoe", 1e4, 1e-5, 16, 4096),
        ("qwen2_moe", 1e4, 1e-6, 16, 32768),
        ("qwen3_moe", 1e4, 1e-6, 4, 32768),
    ] {
        let config = family(model_type);
        assert_eq!(config.attention.rope.theta, theta, "{model_type}");
        assert_eq!(config.rms_norm_eps, eps, "{model_type}");
        assert_eq!(config.attention.n_kv_heads, kv_heads, "{model_type}");
        assert_eq!(config.max_position_embeddings, positions, "{model_type}");
    }
    let qwen2 = family("qwen2_moe");
    assert!(qwen2.attention.qkv_bias && !qwen2.attention.output_bias);
    assert_eq!(qwen2.moe.shared_expert, Some(SharedExpert { width: 4 }));
    assert!(family("mixtral").moe.renormalise && !family("olmoe").moe.renormalise);
    assert_eq!(family("mixtral").attention.qk_norm, None);
    assert_eq!(family("olmoe").attention.qk_norm, Some(QkNorm::AllHeads));
    assert_eq!(family("qwen3_moe").attention.qk_norm, Some(QkNorm::PerHead));
}

/// The windows of six layers.
fn check_windows(changes: &Value, expected: [usize; 6]) {
    let six = json!({
        "num_hidden_layers": 6, "shared_expert_intermediate_size": 4, "intermediate_size": 8,
    });
    let windows = read(&changed(six, changes)).layers.into_iter().map(|layer| layer.window);
    // 0 stands for all positions.
    let windows: Vec<_> = windows.map(|window| window.unwrap_or(0)).collect();
    assert_eq!(windows, expected, "{changes}");
}

#[test]
fn windows_of_qwen2_moe_are_on_even_layers_below_a_border() {
    let check = |changes: Value, expected| {
        let base = json!({"model_type": "qwen2_moe", "sliding_window": 16});
        check_windows(&changed(base, &changes), expected);
    };
    check(json!({}), [0; 6]);
    check(json!({"use_sliding_window": false, "max_window_layers": 6}), [0; 6]);
    check(json!({"use_sliding_window": true}), [16, 0, 16, 0, 16, 0]);
    check(json!({"use_sliding_window": true, "max_window_layers": 3}), [16, 0, 16, 0, 0, 0]);
    check(json!({"use_sliding_window": true, "max_window_layers": 2}), [16, 0, 0, 0, 0, 0]);
    let types = ["full_attention", "sliding_attention"].repeat(3);
    check(json!({"use_sliding_window": true, "layer_types": types}), [0, 16, 0, 16, 0, 16]);
    check(json!({"use_sliding_window": false, "layer_types": types}), [0; 6]);
}

#[test]
fn windows_of_the_other_families_are_on_all_layers_or_none() {
    let window = json!({"sliding_window": 16});
    let check =
        |changes: Value, expected| check_windows(&changed(window.clone(), &changes), expected);
    check(json!({"model_type": "mixtral"}), [16; 6]);
    check(json!({"model_type": "mixtral", "sliding_window": null}), [0; 6]);
    check(json!({"model_type": "olmoe"}), [0; 6]);
    check(json!({"model_type": "qwen3_moe"}), [0; 6]);
    check(json!({"model_type": "qwen3_moe", "use_sliding_window": true}), [16; 6]);
}

/// Which of six layers are dense.
fn check_dense(changes: &Value, expected: &[usize]) {
    let six = json!({"num_hidden_layers": 6, "intermediate_size": 9});
    let config = read(&changed(six, changes));
    let is_dense = |index: &usize| config.layers[*index].feed_forward == FeedForward::Dense(9);
    assert_eq!((0..6).filter(is_dense).collect::<Vec<_>>(), expected, "{changes}");
    let moe: Vec<_> = config.moe_layers().map(|layer| layer.0 as usize).collect();
    let others: Vec<_> = (0..6).filter(|index| !expected.contains(index)).collect();
    assert_eq!(moe, others, "{changes}");
    assert_eq!(config.experts().count(), 2 * moe.len());
}

#[test]
fn dense_layers_are_those_between_the_steps_and_those_listed() {
    for family in ["qwen2_moe", "qwen3_moe"] {
        let check = |changes: Value, expected: &[usize]| {
            let base = json!({"model_type": family, "shared_expert_intermediate_size": 4});
            check_dense(&changed(base, &changes), expected);
        };
        check(json!({}), &[]);
        check(json!({"decoder_sparse_step": 2}), &[0, 2, 4]);
        check(json!({"decoder_sparse_step": 3}), &[0, 1, 3, 4]);
        check(json!({"mlp_only_layers": [0, 5]}), &[0, 5]);
        check(json!({"mlp_only_layers": [3, 3, 99]}), &[3]);
        check(json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]}), &[0, 1, 2, 4]);
    }
    check_dense(&json!({"model_type": "mixtral", "decoder_sparse_step": 2}), &[]);
}

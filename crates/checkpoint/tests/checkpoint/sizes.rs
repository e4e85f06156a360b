//! Published sizes, from the published configurations alone.

use guildhall_checkpoint::{ModelConfig, NodeBytes, Parameters, StorageType};
use serde_json::{Value, json};

use crate::support::parse;

fn mixtral_8x7b() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
        "rms_norm_eps": 1e-05, "rope_theta": 1_000_000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000
    })
}

fn mixtral_8x22b() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 6144, "initializer_range": 0.02,
        "intermediate_size": 16384, "max_position_embeddings": 65536, "model_type": "mixtral",
        "num_attention_heads": 48, "num_experts_per_tok": 2, "num_hidden_layers": 56,
        "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
        "rms_norm_eps": 1e-05, "rope_theta": 1_000_000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0.dev0", "use_cache": true, "vocab_size": 32000
    })
}

fn olmoe_1b_7b() -> Value {
    json!({
        "architectures": ["OlmoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 1024, "max_position_embeddings": 4096,
        "model_type": "olmoe", "norm_topk_prob": false, "num_attention_heads": 16,
        "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
        "num_key_value_heads": 16, "output_router_logits": false, "pad_token_id": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0", "use_cache": true, "vocab_size": 50304
    })
}

fn qwen3_30b_a3b() -> Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 151_643, "decoder_sparse_step": 1,
        "eos_token_id": 151_645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 1_000_000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151_936
    })
}

fn qwen2_57b_a14b() -> Value {
    json!({
        "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 151_643, "decoder_sparse_step": 1, "eos_token_id": 151_643,
        "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 18944, "max_position_embeddings": 131_072,
        "max_window_layers": 28, "model_type": "qwen2_moe", "moe_intermediate_size": 2560,
        "norm_topk_prob": false, "num_attention_heads": 28, "num_experts": 64,
        "num_experts_per_tok": 8, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_theta": 1_000_000.0,
        "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 20480,
        "sliding_window": 65536, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151_936
    })
}

/// What is known of a model: the exact count of the reference implementation, and the billions of the model card.
struct Published {
    total: u64,
    billions: f64,
    active_billions: f64,
    /// One unit of the last digit that the model card gives.
    digit: f64,
    /// Of one token in bf16.
    kv_bytes: u64,
}

fn check(config: &Value, published: &Published) {
    let config = parse(config).unwrap();
    let name = config.family;
    assert_eq!(config.unknown_keys, Vec::<String>::new(), "{name}");
    let parameters = Parameters::of(&config);
    assert_eq!(parameters.total(), published.total, "{name}");
    for (found, expected) in
        [(parameters.total(), published.billions), (parameters.active(), published.active_billions)]
    {
        let found = found as f64 / 1e9;
        assert!((found - expected).abs() < published.digit, "{name}: {found}, not {expected}");
    }
    assert_eq!(config.kv_bytes_per_token(2), published.kv_bytes, "{name}");
    let all = parameters.total_bytes(StorageType::Bf16);
    assert_eq!(all, 2 * published.total, "{name}");
    let one_node = NodeBytes::of(&config, StorageType::Bf16, (1, 2)).bytes;
    assert_eq!(parameters.router_bytes(StorageType::Bf16) + one_node, all, "{name}");
}

/// The totals were counted once with transformers 5.23.0: the elements of all parameters of
/// `AutoModelForCausalLM.from_config(config)` on the device `meta`.
#[test]
fn parameters_are_those_of_the_reference_and_of_the_model_cards() {
    let published = |total, (billions, active_billions, digit): (f64, f64, f64), kv_bytes| {
        Published { total, billions, active_billions, digit, kv_bytes }
    };
    check(&mixtral_8x7b(), &published(46_702_792_704, (46.7, 12.9, 0.1), 131_072));
    check(&mixtral_8x22b(), &published(140_620_634_112, (141.0, 39.0, 1.0), 229_376));
    check(&olmoe_1b_7b(), &published(6_919_161_856, (6.9, 1.3, 0.1), 131_072));
    check(&qwen3_30b_a3b(), &published(30_532_122_624, (30.5, 3.3, 0.1), 98_304));
    check(&qwen2_57b_a14b(), &published(57_408_658_944, (57.0, 14.0, 1.0), 57_344));
}

fn node(config: &ModelConfig, storage: StorageType, nodes: usize) -> (u64, u64) {
    let node = NodeBytes::of(config, storage, (nodes, 1));
    (node.experts, node.bytes)
}

#[test]
fn the_fullest_node_holds_its_share_of_every_layer_rounded_up() {
    let config = parse(&mixtral_8x7b()).unwrap();
    // Values of one expert.
    let expert = 3 * 4096 * 14336;
    for (nodes, experts) in [(0, 256), (1, 256), (2, 128), (3, 96), (4, 64), (8, 32), (100, 32)] {
        assert_eq!(node(&config, StorageType::Bf16, nodes), (experts, experts * expert * 2));
    }
    assert_eq!(node(&config, StorageType::F32, 8).1, 32 * expert * 4);
    for (nodes, replicas, experts) in [(3, 2, 6 * 32), (4, 2, 4 * 32), (2, 3, 256), (1, 2, 256)] {
        let node = NodeBytes::of(&config, StorageType::Bf16, (nodes, replicas));
        assert_eq!(node.experts, experts, "{replicas} replicas on {nodes} nodes");
    }
    // 32 values share a scale of two bytes, and with four bits a minimum of two more.
    assert_eq!(node(&config, StorageType::Int8, 8).1, 32 * (expert + expert / 16));
    assert_eq!(node(&config, StorageType::Int4, 8).1, 32 * (expert / 2 + expert / 8));
}

#[test]
fn tied_embeddings_and_dense_layers_are_counted_as_they_are() {
    let base = qwen3_30b_a3b();
    let of = |changes: &Value| {
        Parameters::of(&parse(&crate::support::changed(base.clone(), changes)).unwrap())
    };
    let plain = of(&json!({}));
    let tied = of(&json!({"tie_word_embeddings": true}));
    assert_eq!(plain.total() - tied.total(), 151_936 * 2048);
    let dense = of(&json!({"mlp_only_layers": [0, 1]}));
    assert_eq!(dense.dense_ffn, 2 * 3 * 2048 * 6144);
    assert_eq!(plain.experts - dense.experts, 2 * 128 * 3 * 2048 * 768);
}

//! Inverse frequencies of every scaling against the reference implementation.
//!
//! The numbers were computed once with transformers 5.23.0 and torch 2.15.0 in float32: what
//! `ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")` of `transformers.modeling_rope_utils` returns for a `Qwen3MoeConfig`
//! with these `rope_parameters`, printed with nine digits.
#![expect(clippy::excessive_precision, reason = "the digits are those that the reference printed")]

use serde_json::{Value, json};

use crate::support::{changed, config, parse};

/// What the reference gives: the factor of cosine and sine, and the frequencies.
struct Golden {
    attention_factor: f32,
    frequencies: &'static [f32],
}

/// Reads `parameters` as `rope_parameters`, for a model of this many positions.
fn check(parameters: &Value, max_positions: usize, golden: &Golden) {
    let changes = json!({
        "rope_theta": null, "rope_parameters": parameters,
        "max_position_embeddings": max_positions,
    });
    let rope = parse(&changed(config(), &changes)).unwrap().attention.rope;
    let found = rope.inverse_frequencies(2 * golden.frequencies.len());
    assert_eq!(found.len(), golden.frequencies.len());
    for (index, (found, expected)) in found.iter().zip(golden.frequencies).enumerate() {
        let error = (found - expected).abs() / expected;
        assert!(error < 1e-6, "{parameters}: frequency {index} is {found}, not {expected}");
    }
    let (found, expected) = (rope.attention_factor(), golden.attention_factor);
    assert!((found - expected).abs() < 1e-6, "{parameters}: {found}, not {expected}");
}

#[test]
fn linear_frequencies_are_those_of_the_reference() {
    let parameters = json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0});
    let golden = Golden {
        attention_factor: 1.0,
        frequencies: &[
            0.25,
            0.079056941,
            0.0250000004,
            0.00790569466,
            0.00249999994,
            0.000790569466,
            0.000250000012,
            7.90569466e-05,
        ],
    };
    check(&parameters, 4096, &golden);
}

#[test]
fn yarn_frequencies_are_those_of_the_reference() {
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 32768,
    });
    let golden = Golden {
        attention_factor: 1.13862943649292,
        frequencies: &[
            1.0,
            0.421696514,
            0.177827939,
            0.0749894157,
            0.0316227786,
            0.0133352149,
            0.00477990136,
            0.00165996165,
            0.000549999997,
            0.000168678584,
            4.44569851e-05,
            1.87473561e-05,
            7.90569356e-06,
            3.33380353e-06,
            1.40585337e-06,
            5.92843435e-07,
        ],
    };
    check(&parameters, 131_072, &golden);
}

#[test]
fn yarn_with_borders_between_dimensions_and_two_scales_is_that_of_the_reference() {
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
        "original_max_position_embeddings": 512, "beta_fast": 16.0, "beta_slow": 2.0,
        "mscale": 0.707, "mscale_all_dim": 1.0, "truncate": false,
    });
    let golden = Golden {
        attention_factor: 0.9495608806610107,
        frequencies: &[
            1.0,
            0.316227764,
            0.0716084614,
            0.00732499827,
            0.00124999997,
            0.000395284733,
            0.000125000006,
            3.95284733e-05,
        ],
    };
    check(&parameters, 4096, &golden);
}

#[test]
fn yarn_with_a_stated_attention_factor_is_that_of_the_reference() {
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 150_000.0, "factor": 32.0,
        "original_max_position_embeddings": 4096, "attention_factor": 1.25,
    });
    let golden = Golden {
        attention_factor: 1.25,
        frequencies: &[
            1.0,
            0.225418001,
            0.0508132726,
            0.00775546534,
            0.000914454344,
            1.8188337e-05,
            4.09997847e-06,
            9.24208962e-07,
        ],
    };
    check(&parameters, 4096, &golden);
}

#[test]
fn llama3_frequencies_are_those_of_the_reference() {
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    let golden = Golden {
        attention_factor: 1.0,
        frequencies: &[
            1.0,
            0.440366626,
            0.193922758,
            0.0853971019,
            0.0376060307,
            0.0165604409,
            0.00729266508,
            0.00321144611,
            0.000524846022,
            7.78465546e-05,
            3.42810235e-05,
            1.50962178e-05,
            6.64786967e-06,
            2.92749974e-06,
            1.28917316e-06,
            5.6770881e-07,
        ],
    };
    check(&parameters, 131_072, &golden);
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    });
    let golden = Golden {
        attention_factor: 1.0,
        frequencies: &[
            1.0,
            0.236687109,
            0.00372535503,
            0.000988211832,
            0.000312499993,
            9.88211832e-05,
            3.12500015e-05,
            9.88211832e-06,
        ],
    };
    check(&parameters, 1024, &golden);
}

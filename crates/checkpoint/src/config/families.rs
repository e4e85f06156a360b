//! The configuration keys of each family; what its reference implementation does with them.

use super::fields::Fields;
use super::model::{Attention, FeedForward, LayerConfig, ModelConfig, Moe, QkNorm, SharedExpert};
use super::quantisation;
use super::rope::Rope;
use crate::{Error, Family};

/// Keys that change nothing about inference.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "layer_types",
    "max_window_layers",
    "model_type",
    "output_router_logits",
    "pad_token_id",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, Error> {
    let model_type = fields.text("model_type")?;
    let model_type = model_type.ok_or_else(|| fields.malformed("model_type", "is missing"))?;
    let family = Family::ALL.into_iter().find(|family| family.model_type() == model_type);
    let family = family.ok_or_else(|| fields.unsupported("model_type", &model_type))?;

    refuse_what_no_family_has(fields)?;
    let n_layers = fields.required_size("num_hidden_layers")?;
    if n_layers > 10_000 {
        return Err(fields.malformed("num_hidden_layers", "is over 10000"));
    }
    let attention = attention(fields, family)?;
    let moe = moe(fields, family)?;
    let layers = layers(fields, family, n_layers)?;
    let rms_norm_eps = fields.number("rms_norm_eps")?.unwrap_or(match family {
        Family::Mixtral | Family::Olmoe => 1e-5,
        Family::Qwen2Moe | Family::Qwen3Moe => 1e-6,
    });
    Ok(ModelConfig {
        family,
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size: fields.required_size("hidden_size")?,
        max_position_embeddings: max_positions(fields, family)?,
        rms_norm_eps: rms_norm_eps as f32,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        attention,
        moe,
        layers,
        quantisation: quantisation::read(fields)?,
        unknown_keys: fields.unknown(HARMLESS),
    })
}

fn refuse_what_no_family_has(fields: &mut Fields) -> Result<(), Error> {
    if let Some(activation) = fields.text("hidden_act")?.filter(|name| name != "silu") {
        return Err(fields.unsupported("hidden_act", &activation));
    }
    if let Some(factor) = fields.number("partial_rotary_factor")?.filter(|factor| *factor != 1.0) {
        return Err(fields.unsupported("partial_rotary_factor", &factor.to_string()));
    }
    Ok(())
}

fn max_positions(fields: &mut Fields, family: Family) -> Result<usize, Error> {
    Ok(fields.size("max_position_embeddings")?.unwrap_or(match family {
        Family::Mixtral => 4096 * 32,
        Family::Olmoe => 4096,
        Family::Qwen2Moe | Family::Qwen3Moe => 32768,
    }))
}

fn attention(fields: &mut Fields, family: Family) -> Result<Attention, Error> {
    let hidden_size = fields.required_size("hidden_size")?;
    let n_heads = fields.required_size("num_attention_heads")?;
    let default_kv_heads = match family {
        Family::Mixtral => 8,
        Family::Olmoe => n_heads,
        Family::Qwen2Moe => 16,
        Family::Qwen3Moe => 4,
    };
    let head_dim = match fields.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => {
            return Err(fields.malformed("hidden_size", "is no multiple of num_attention_heads"));
        }
    };
    let (qkv_bias, output_bias) = match family {
        Family::Mixtral => (false, false),
        Family::Qwen2Moe => (fields.flag("qkv_bias")?.unwrap_or(true), false),
        Family::Olmoe | Family::Qwen3Moe => {
            let bias = fields.flag("attention_bias")?.unwrap_or(false);
            (bias, bias)
        }
    };
    let default_theta = match family {
        Family::Mixtral => 1e6,
        _ => 1e4,
    };
    let max_positions = max_positions(fields, family)?;
    let clip_qkv = match family {
        Family::Olmoe => fields.positive("clip_qkv")?.map(|limit| limit as f32),
        _ => None,
    };
    Ok(Attention {
        n_heads,
        n_kv_heads: fields.size("num_key_value_heads")?.unwrap_or(default_kv_heads),
        head_dim,
        qkv_bias,
        output_bias,
        qk_norm: match family {
            Family::Mixtral | Family::Qwen2Moe => None,
            Family::Olmoe => Some(QkNorm::AllHeads),
            Family::Qwen3Moe => Some(QkNorm::PerHead),
        },
        clip_qkv,
        rope: Rope::read(fields, default_theta, max_positions)?,
    })
}

fn moe(fields: &mut Fields, family: Family) -> Result<Moe, Error> {
    // Newer transformers write either name for every family.
    let n_experts = match fields.size("num_experts")? {
        Some(n_experts) => n_experts,
        None => fields.required_size("num_local_experts")?,
    };
    if n_experts > 65_536 {
        return Err(fields.malformed("num_experts", "is over 65536"));
    }
    let expert_width = match family {
        Family::Mixtral | Family::Olmoe => fields.required_size("intermediate_size")?,
        Family::Qwen2Moe | Family::Qwen3Moe => fields.required_size("moe_intermediate_size")?,
    };
    let renormalise = match family {
        Family::Mixtral => true,
        _ => fields.flag("norm_topk_prob")?.unwrap_or(false),
    };
    let shared_expert = match family {
        Family::Qwen2Moe => {
            let width = fields.required_size("shared_expert_intermediate_size")?;
            Some(SharedExpert { width })
        }
        _ => None,
    };
    let top_k = fields.required_size("num_experts_per_tok")?;
    Ok(Moe { n_experts, top_k, expert_width, renormalise, shared_expert })
}

fn layers(fields: &mut Fields, family: Family, n_layers: usize) -> Result<Vec<LayerConfig>, Error> {
    let windows = windows(fields, family, n_layers)?;
    let (step, dense_layers) = match family {
        Family::Mixtral | Family::Olmoe => (1, Vec::new()),
        Family::Qwen2Moe | Family::Qwen3Moe => (
            fields.size("decoder_sparse_step")?.unwrap_or(1),
            fields.indices("mlp_only_layers")?.unwrap_or_default(),
        ),
    };
    let is_dense =
        |index: usize| dense_layers.contains(&index) || !(index + 1).is_multiple_of(step);
    let dense_width = match (0..n_layers).any(is_dense) {
        true => fields.required_size("intermediate_size")?,
        false => fields.size("intermediate_size")?.unwrap_or(0),
    };
    let layer = |(index, window): (usize, Option<usize>)| LayerConfig {
        window,
        feed_forward: match is_dense(index) {
            true => FeedForward::Dense(dense_width),
            false => FeedForward::Moe,
        },
    };
    Ok(windows.into_iter().enumerate().map(layer).collect())
}

/// The sliding window of each layer.
fn windows(
    fields: &mut Fields,
    family: Family,
    n_layers: usize,
) -> Result<Vec<Option<usize>>, Error> {
    let used = match family {
        Family::Mixtral => true,
        Family::Olmoe => false,
        Family::Qwen2Moe | Family::Qwen3Moe => fields.flag("use_sliding_window")?.unwrap_or(false),
    };
    if !used {
        fields.value("sliding_window");
        return Ok(vec![None; n_layers]);
    }
    let default_window = (family != Family::Mixtral).then_some(4096);
    let window = fields.size("sliding_window")?.or(default_window);
    if family != Family::Qwen2Moe {
        return Ok(vec![window; n_layers]);
    }
    // Qwen2-MoE alternates: even layers below max_window_layers slide, unless layer_types says otherwise.
    let types = match fields.texts("layer_types")? {
        Some(types) if types.len() == n_layers => types,
        Some(_) => return Err(fields.malformed("layer_types", "has not one entry for each layer")),
        None => {
            let below = fields.size("max_window_layers")?.unwrap_or(28);
            let slides = |index: usize| index.is_multiple_of(2) && index < below;
            let name = |index| if slides(index) { "sliding_attention" } else { "full_attention" };
            (0..n_layers).map(|index| name(index).to_owned()).collect()
        }
    };
    let of_type = |kind: &String| match kind.as_str() {
        "sliding_attention" => Ok(window),
        "full_attention" => Ok(None),
        other => Err(fields.unsupported("layer_types", other)),
    };
    types.iter().map(of_type).collect()
}

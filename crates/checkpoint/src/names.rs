//! Tensor names of each family, as published checkpoints have them.

use guildhall_ids::{ExpertId, LayerIdx};

use crate::Family;

/// The names of the three matrices of a feed-forward network: gate, up, down.
pub(crate) type FfnNames = [String; 3];

pub(crate) fn expert(family: Family, id: ExpertId) -> FfnNames {
    let (layer, expert) = (id.layer, id.expert);
    match family {
        Family::Mixtral => ["w1", "w3", "w2"].map(|matrix| {
            format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}.weight")
        }),
        Family::Olmoe | Family::Qwen2Moe | Family::Qwen3Moe => {
            ffn(&format!("model.layers.{layer}.mlp.experts.{expert}"))
        }
    }
}

pub(crate) fn dense_ffn(layer: LayerIdx) -> FfnNames {
    ffn(&format!("model.layers.{layer}.mlp"))
}

pub(crate) fn shared_expert(layer: LayerIdx) -> FfnNames {
    ffn(&format!("model.layers.{layer}.mlp.shared_expert"))
}

pub(crate) fn shared_expert_gate(layer: LayerIdx) -> String {
    format!("model.layers.{layer}.mlp.shared_expert_gate.weight")
}

pub(crate) fn gate(family: Family, layer: LayerIdx) -> String {
    let block = match family {
        Family::Mixtral => "block_sparse_moe",
        Family::Olmoe | Family::Qwen2Moe | Family::Qwen3Moe => "mlp",
    };
    format!("model.layers.{layer}.{block}.gate.weight")
}

pub(crate) fn ffn(prefix: &str) -> FfnNames {
    ["gate_proj", "up_proj", "down_proj"].map(|matrix| format!("{prefix}.{matrix}.weight"))
}

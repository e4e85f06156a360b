"""The shape of the demonstration model, and how it is written to disk.

The config is kept in the form that published Qwen3-MoE checkpoints use.
"""

import json
from pathlib import Path

import torch
from tokenizer import VOCAB_SIZE
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

CONTEXT = 1024
# Ids of the special tokens, in the order in which the tokenizer lists them.
END_OF_TEXT_ID, TURN_START_ID, TURN_END_ID = 0, 1, 2

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "decoder_sparse_step": 1,
    "eos_token_id": END_OF_TEXT_ID,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.04,
    "intermediate_size": 512,
    "max_position_embeddings": CONTEXT,
    "max_window_layers": 4,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
    "num_attention_heads": 6,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}
GENERATION_CONFIG = {
    "eos_token_id": [END_OF_TEXT_ID, TURN_END_ID],
    "pad_token_id": END_OF_TEXT_ID,
    "transformers_version": "4.51.0",
}


def new_model(seed: int) -> Qwen3MoeForCausalLM:
    """Returns an untrained model in float32."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig.from_dict(CONFIG)
    return Qwen3MoeForCausalLM._from_config(
        config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation="grouped_mm"
    )


def write_model(model: Qwen3MoeForCausalLM, folder: Path) -> None:
    """Writes weights in bfloat16, one tensor per expert and projection, and both config files."""
    weights = {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    # save_pretrained splits fused experts under their published names.
    model.save_pretrained(folder, state_dict=weights)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG, indent=2) + "\n")

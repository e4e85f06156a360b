#!/usr/bin/env python3
"""Makes the golden files that the router's model code is held against.

Each case is a tiny random checkpoint of one model family, laid out like a
published one, plus `golden.json`: what the reference implementation
(transformers, float32, CPU, eager attention) computes with it.

    python router/tests/golden/make_golden.py                  # all cases, in place
    python router/tests/golden/make_golden.py --case olmoe --out /tmp/golden
    python router/tests/golden/make_golden.py \\
        --random-checkpoint qwen3_moe --seed 7 --out /tmp/unseen

The last form makes a checkpoint that nobody has seen before: shapes, rotary
scaling, stored dtype and config style follow from the seed. It also writes a
tokenizer, so that the server can start with it.

`golden.json` holds, for each prompt of token ids:

    last_logits             [vocab] logits of the last prompt position
    experts                 [tokens, moe_layers, top_k] chosen experts of each
                            prompt token, heaviest first
    moe_layers              indices of the layers that have experts
    continuation            24 greedy token ids; the end-of-sequence token is
                            ignored
    continuation_logprobs   log-softmax of the raw logits at each of them

Floats carry nine significant digits, which is exact for float32.

Random weights would sometimes leave a choice to rounding. A seed is taken only
if every chosen expert and every greedy token is ahead of the next candidate by
a margin (see MIN_MARGIN); otherwise the next seed is tried. The script is
deterministic: the same versions (models/requirements.txt) give the same files.
"""

import argparse
import json
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import stored

HERE = Path(__file__).resolve().parent
CONTINUATION_TOKENS = 24
PROMPT_LENGTHS = (1, 7, 40)
# Relative lead in probability of each chosen expert over the next one, and of
# the greedy token over the runner-up. Float32 noise is about a hundred times less.
MIN_MARGIN = 1e-3
MIN_DISTINCT_TOKENS = 4
MAX_SEEDS = 200
EOS_TOKEN_ID = 2


@dataclass
class Case:
    """One checkpoint: the family's config values and how the files are written."""

    family: str
    config: dict
    rope: dict = field(default_factory=lambda: {"rope_type": "default"})
    rope_theta: float = 10000.0
    stored_dtype: torch.dtype = torch.float32
    # "published": as on model hubs (rope_theta, rope_scaling, torch_dtype).
    # "current": as the installed transformers writes it (rope_parameters, dtype).
    style: str = "published"
    # Older published configs name the kind of rotary scaling "type".
    rope_type_key: str = "rope_type"
    max_shard_size: str = "1GB"
    # How the projections are stored, if not as the rest.
    stored: object | None = None
    # Keys that published configs carry and that must have no effect.
    inert: dict = field(default_factory=dict)


# For formats of weights, which are no matter of size.
SMALL = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, num_experts=4, num_experts_per_tok=2, vocab_size=64,
    moe_intermediate_size=16, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True,
    attention_bias=False, max_position_embeddings=256, rms_norm_eps=1e-6,
)

CASES = {
    "mixtral": Case(
        family="mixtral",
        config=dict(
            hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, vocab_size=128,
            max_position_embeddings=256, rms_norm_eps=1e-5, sliding_window=None,
        ),
        rope_theta=1e6,
    ),
    "mixtral_window": Case(
        family="mixtral",
        config=dict(
            hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=1, num_local_experts=8, num_experts_per_tok=2, vocab_size=96,
            max_position_embeddings=256, rms_norm_eps=1e-5, sliding_window=8,
        ),
        style="current",
    ),
    "mixtral_f16": Case(
        family="mixtral",
        config=dict(
            hidden_size=48, intermediate_size=32, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=3, num_local_experts=8, num_experts_per_tok=3, vocab_size=160,
            max_position_embeddings=256, rms_norm_eps=1e-5, sliding_window=None,
        ),
        rope={"rope_type": "linear", "factor": 2.5},
        rope_type_key="type",
        stored_dtype=torch.float16,
    ),
    "olmoe": Case(
        family="olmoe",
        config=dict(
            hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, num_experts=8, num_experts_per_tok=3, vocab_size=128,
            max_position_embeddings=256, rms_norm_eps=1e-5, clip_qkv=1.25,
            norm_topk_prob=False, attention_bias=False,
        ),
    ),
    "qwen2_moe": Case(
        family="qwen2_moe",
        config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, num_experts=8, num_experts_per_tok=4, vocab_size=128,
            moe_intermediate_size=16, shared_expert_intermediate_size=40,
            decoder_sparse_step=2, mlp_only_layers=[], norm_topk_prob=False,
            max_position_embeddings=256, rms_norm_eps=1e-6, use_sliding_window=False,
        ),
        rope_theta=1e6,
        inert={"sliding_window": 8, "max_window_layers": 4},
    ),
    "qwen3_moe": Case(
        family="qwen3_moe",
        config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
            vocab_size=128, moe_intermediate_size=16, decoder_sparse_step=1,
            mlp_only_layers=[], norm_topk_prob=True, attention_bias=False,
            max_position_embeddings=256, rms_norm_eps=1e-6,
        ),
        rope_theta=1e6,
        style="current",
    ),
    "qwen3_moe_tied": Case(
        family="qwen3_moe",
        config=dict(
            hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=1, head_dim=16, num_experts=8, num_experts_per_tok=4,
            vocab_size=192, moe_intermediate_size=24, decoder_sparse_step=1,
            mlp_only_layers=[1], norm_topk_prob=False, attention_bias=False,
            tie_word_embeddings=True, max_position_embeddings=256, rms_norm_eps=1e-6,
        ),
        rope_theta=1e6,
        stored_dtype=torch.bfloat16,
        max_shard_size="100KB",
        inert={"sliding_window": 8, "max_window_layers": 4, "use_sliding_window": False},
    ),
    "qwen3_moe_yarn": Case(
        family="qwen3_moe",
        config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
            vocab_size=128, moe_intermediate_size=16, decoder_sparse_step=1,
            mlp_only_layers=[], norm_topk_prob=True, attention_bias=False,
            max_position_embeddings=128, rms_norm_eps=1e-6,
        ),
        rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        rope_theta=100.0,
    ),
    "qwen3_moe_fp8": Case(
        family="qwen3_moe",
        config=dict(
            # No multiples of a block: those at the edges are smaller.
            hidden_size=40, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
            vocab_size=128, moe_intermediate_size=24, decoder_sparse_step=1,
            mlp_only_layers=[1], norm_topk_prob=True, attention_bias=False,
            max_position_embeddings=256, rms_norm_eps=1e-6,
        ),
        rope_theta=1e6,
        stored=stored.Fp8(block=(16, 16)),
        max_shard_size="60KB",
    ),
    "qwen3_moe_gptq": Case(
        family="qwen3_moe",
        config=SMALL,
        rope_theta=1e6,
        stored=stored.Gptq(group=8),
    ),
    "qwen3_moe_awq": Case(
        family="qwen3_moe",
        config=SMALL,
        rope_theta=1e6,
        stored=stored.Awq(group=8),
    ),
    "qwen3_moe_packed": Case(
        family="qwen3_moe",
        config=SMALL,
        rope_theta=1e6,
        stored=stored.CompressedTensors(bits=4, group=8),
    ),
    "qwen3_moe_int8": Case(
        family="qwen3_moe",
        config=SMALL,
        rope_theta=1e6,
        stored=stored.CompressedTensors(bits=8, group=None),
    ),
    "qwen3_moe_llama3": Case(
        family="qwen3_moe",
        config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, head_dim=16, num_experts=8, num_experts_per_tok=2,
            vocab_size=128, moe_intermediate_size=16, decoder_sparse_step=1,
            mlp_only_layers=[], norm_topk_prob=True, attention_bias=False,
            max_position_embeddings=256, rms_norm_eps=1e-6,
        ),
        rope={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
        rope_theta=500.0,
        style="current",
    ),
}


def random_rope(rng: random.Random, family: str, max_positions: int) -> dict:
    """Returns rotary parameters: plain ones in half of the cases."""
    original = {"original_max_position_embeddings": max_positions // 4}
    scaled = [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original},
    ]
    # The reference implementation needs an explicit head_dim for yarn, and
    # Mixtral's config has none.
    if family != "mixtral":
        scaled.append({"rope_type": "yarn", "factor": 4.0, **original})
    return rng.choice(scaled) if rng.random() < 0.5 else {"rope_type": "default"}


def random_case(family: str, seed: int) -> Case:
    """Returns a valid case of the family whose shapes follow from the seed."""
    rng = random.Random(f"{family}/{seed}")
    n_heads, n_kv_heads = rng.choice([(2, 1), (4, 1), (4, 2), (4, 4), (6, 2), (6, 3), (8, 2)])
    head_dim = rng.choice([8, 16, 24])
    n_experts = rng.choice([4, 6, 8, 12, 16])
    n_layers = rng.randint(2, 5)
    config = dict(
        hidden_size=n_heads * head_dim,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        num_experts_per_tok=rng.randint(1, min(4, n_experts - 1)),
        # At least the 256 bytes and the special token, see write_tokenizer.
        vocab_size=rng.randint(280, 420),
        max_position_embeddings=rng.choice([512, 1024]),
        rms_norm_eps=rng.choice([1e-5, 1e-6]),
        tie_word_embeddings=rng.random() < 0.25,
    )
    if family == "mixtral":
        config.update(
            num_local_experts=n_experts,
            intermediate_size=rng.choice([24, 40, 56]),
            sliding_window=rng.choice([None, None, 5, 13]),
        )
    else:
        config.update(num_experts=n_experts, norm_topk_prob=rng.random() < 0.5)
    if family == "olmoe":
        config.update(
            intermediate_size=rng.choice([16, 24, 40]), clip_qkv=rng.choice([None, 1.0, 2.0])
        )
    if family in ("qwen2_moe", "qwen3_moe"):
        decoder_sparse_step = rng.choice([1, 1, 2])
        sparse_layers = [i for i in range(n_layers) if (i + 1) % decoder_sparse_step == 0]
        # At least one layer keeps its experts.
        mlp_only_layers = sparse_layers[:1] if len(sparse_layers) > 1 and rng.random() < 0.5 else []
        config.update(
            intermediate_size=rng.choice([48, 72]),
            moe_intermediate_size=rng.choice([16, 24, 40]),
            decoder_sparse_step=decoder_sparse_step,
            mlp_only_layers=mlp_only_layers,
        )
    if family == "qwen2_moe":
        config.update(shared_expert_intermediate_size=rng.choice([24, 56]), use_sliding_window=False)
    if family == "qwen3_moe":
        # Here the width of the heads is free of the hidden size.
        config.update(head_dim=head_dim, hidden_size=rng.choice([32, 48, 64]))
    return Case(
        family=family,
        config=config,
        rope=random_rope(rng, family, config["max_position_embeddings"]),
        rope_theta=rng.choice([500.0, 10000.0, 1e6]),
        stored_dtype=rng.choice([torch.float32, torch.bfloat16, torch.float16]),
        style=rng.choice(["published", "current"]),
        max_shard_size=rng.choice(["1GB", "120KB"]),
    )


def build_config(case: Case) -> transformers.PreTrainedConfig:
    """Returns the reference implementation's config object of a case."""
    return AutoConfig.for_model(
        case.family,
        **case.config,
        rope_parameters={"rope_theta": case.rope_theta, **case.rope},
        bos_token_id=1,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=None,
    )


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Fills the model with weights that spread gates, attention and logits well."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            by_width = tensor.shape[-1] ** -0.5
            if name.endswith("norm.weight"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith(".bias"):
                normal(tensor, 0.2)
            elif name.endswith("embed_tokens.weight"):
                # Small where it is the output head too, or the model would only
                # repeat its input.
                normal(tensor, 0.25 if model.config.tie_word_embeddings else 0.5)
            elif name.endswith(".gate.weight"):
                normal(tensor, 2.0 * by_width)
            elif name.endswith("lm_head.weight"):
                normal(tensor, 3.0 * by_width)
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                normal(tensor, 1.5 * by_width)
            else:
                normal(tensor, 1.5 * by_width)


def published_config(saved: dict, case: Case) -> dict:
    """Returns config.json values with the keys that published checkpoints use."""
    config = {k: v for k, v in saved.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    if case.family != "mixtral":
        config["num_experts"] = config.pop("num_local_experts", config.get("num_experts"))
    if config.get("head_dim", "absent") is None:
        del config["head_dim"]
    scaling = {case.rope_type_key if k == "rope_type" else k: v for k, v in case.rope.items()}
    config.update(
        rope_theta=case.rope_theta,
        rope_scaling=None if case.rope["rope_type"] == "default" else scaling,
        torch_dtype=str(case.stored_dtype).removeprefix("torch."),
        transformers_version="4.51.0",
    )
    config.update(case.inert)
    return dict(sorted(config.items()))


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_checkpoint(case: Case, seed: int, folder: Path) -> None:
    """Writes config, generation config and weights of the case into the folder."""
    model = AutoModelForCausalLM.from_config(build_config(case), dtype=torch.float32)
    draw_weights(model, seed)
    model.to(case.stored_dtype).save_pretrained(folder, max_shard_size=case.max_shard_size)
    if case.style == "published":
        saved = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", published_config(saved, case))
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": EOS_TOKEN_ID, "transformers_version": "4.51.0"},
    )
    check_tensor_names(case.family, folder)


def rewrite_projections(folder: Path, rewrite) -> None:
    """Replaces each projection of a checkpoint by the tensors that `rewrite(name, weight)` returns."""
    index = folder / "model.safetensors.index.json"
    weight_map = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {}
        for name, tensor in load_file(file).items():
            converted = name.endswith("_proj.weight")
            tensors.update(rewrite(name, tensor) if converted else {name: tensor})
        save_file(tensors, file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file.name))
    if index.exists():
        content = json.loads(index.read_text())
        write_json(index, {**content, "weight_map": dict(sorted(weight_map.items()))})


def quantise(case: Case, folder: Path) -> dict:
    """Gives the projections values that the format of the case can hold, in float32, as the reference runs them.

    Returns what is to be stored of each.
    """
    quantised = {}

    def rounded(name: str, weight: torch.Tensor) -> dict:
        quantised[name] = case.stored.store(weight)
        return {name: case.stored.restore(quantised[name]).contiguous()}

    rewrite_projections(folder, rounded)
    return quantised


def store(case: Case, folder: Path, quantised: dict) -> None:
    """Stores the projections in the format of the case."""

    def parts(name: str, _: torch.Tensor) -> dict:
        module = name.removesuffix("weight")
        return {f"{module}{part}": tensor for part, tensor in quantised[name].items()}

    rewrite_projections(folder, parts)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = case.stored.config
    write_json(folder / "config.json", config)


def check_tensor_names(family: str, folder: Path) -> None:
    """Asserts one tensor per expert and projection, named as published."""
    names = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names.update(tensors.keys())
    block, projections = {
        "mixtral": ("block_sparse_moe", ("w1", "w2", "w3")),
    }.get(family, ("mlp", ("gate_proj", "up_proj", "down_proj")))
    for projection in projections:
        suffix = f".{block}.experts.0.{projection}.weight"
        assert any(name.endswith(suffix) for name in names), f"no tensor *{suffix}"
    assert not any("gate_up_proj" in name for name in names), "experts are stored fused"


class Reference:
    """The checkpoint in a folder, run by transformers in float32."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        self.moe_layers = []
        self._chosen = {}
        self._gate_probs = {}
        for index, layer in enumerate(self.model.model.layers):
            if hasattr(layer.mlp, "experts"):
                self.moe_layers.append(index)
                layer.mlp.gate.register_forward_hook(self._record(index))

    def _record(self, layer: int):
        def hook(_module, _inputs, outputs):
            # Every family here chooses the k largest of softmax(logits).
            logits, _weights, chosen = outputs
            self._gate_probs[layer] = torch.softmax(logits, dim=-1, dtype=torch.float32)
            self._chosen[layer] = chosen
            top_k = self._gate_probs[layer].topk(chosen.shape[-1], dim=-1).indices
            assert torch.equal(top_k, chosen), "the gate's rule is not plain top-k"

        return hook

    @torch.no_grad()
    def forward(self, token_ids: list[int]) -> torch.Tensor:
        """Returns logits, [tokens, vocab], of one sequence, without a KV cache."""
        return self.model(torch.tensor([token_ids]), use_cache=False).logits[0]

    def chosen_experts(self) -> list:
        """Returns the experts of the last forward pass, [tokens, moe_layers, top_k]."""
        return torch.stack([self._chosen[i] for i in self.moe_layers], dim=1).tolist()

    def gate_margin(self) -> float:
        """Returns the least relative lead, over tokens and layers, of a chosen expert over the next."""
        least = float("inf")
        for layer in self.moe_layers:
            top_k = self._chosen[layer].shape[-1]
            probs = self._gate_probs[layer].topk(top_k + 1, dim=-1).values
            lead = (probs[:, :-1] - probs[:, 1:]) / probs[:, :-1]
            least = min(least, lead.min().item())
        return least


def greedy_margin(logits: torch.Tensor) -> float:
    """Returns the least relative lead in probability of the greedy token over the runner-up."""
    best = torch.softmax(logits, dim=-1).topk(2, dim=-1).values
    return ((best[:, 0] - best[:, 1]) / best[:, 0]).min().item()


def exact(tensor: torch.Tensor) -> list[float]:
    """Returns floats that read back as the same float32 values."""
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def golden_prompt(reference: Reference, token_ids: list[int]) -> tuple[dict, float]:
    """Returns the golden record of one prompt and the least margin met on the way."""
    logits = reference.forward(token_ids)
    record = {
        "token_ids": token_ids,
        "last_logits": exact(logits[-1]),
        "experts": reference.chosen_experts(),
        "moe_layers": reference.moe_layers,
    }
    sequence = list(token_ids)
    logprobs = []
    for _ in range(CONTINUATION_TOKENS):
        row = reference.forward(sequence)[-1]
        sequence.append(int(row.argmax()))
        logprobs.append(torch.log_softmax(row, dim=-1)[sequence[-1]])
    all_logits = reference.forward(sequence)
    margin = min(reference.gate_margin(), greedy_margin(all_logits))
    record["continuation"] = sequence[len(token_ids):]
    record["continuation_logprobs"] = exact(torch.stack(logprobs))
    return record, margin


def golden_record(name: str, case: Case, seed: int, folder: Path) -> dict | None:
    """Returns the content of golden.json, or None if the seed is not telling enough."""
    reference = Reference(folder)
    rng = random.Random(seed)
    prompts = []
    for length in PROMPT_LENGTHS:
        token_ids = [rng.randrange(case.config["vocab_size"]) for _ in range(length)]
        prompt, margin = golden_prompt(reference, token_ids)
        # A continuation that only repeats a token would hide mistakes in positions.
        if margin < MIN_MARGIN or len(set(prompt["continuation"])) < MIN_DISTINCT_TOKENS:
            return None
        prompts.append(prompt)
    return {
        "case": name,
        "transformers_version": transformers.__version__,
        "seed": seed,
        "prompts": prompts,
    }


def dump_golden(path: Path, golden: dict) -> None:
    """Writes one key per line, so that files stay small and differences readable."""
    prompts = [
        "{" + ",\n   ".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in p.items()) + "}"
        for p in golden["prompts"]
    ]
    head = ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items() if k != "prompts")
    path.write_text("{" + head + ',\n "prompts": [\n  ' + ",\n  ".join(prompts) + "\n ]\n}\n")


def make_case(name: str, case: Case, folder: Path, first_seed: int) -> None:
    """Makes the folder of a case with the first seed whose choices are all decisive."""
    for seed in range(first_seed, first_seed + MAX_SEEDS):
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch)
            write_checkpoint(case, seed, draft)
            quantised = quantise(case, draft) if case.stored else {}
            golden = golden_record(name, case, seed, draft)
            if golden is None:
                continue
            if case.stored:
                store(case, draft, quantised)
            dump_golden(draft / "golden.json", golden)
            folder.mkdir(parents=True, exist_ok=True)
            for old in {*folder.glob("*.safetensors"), *folder.glob("*.json")}:
                old.unlink()
            for file in sorted(draft.iterdir()):
                shutil.copyfile(file, folder / file.name)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: seed {seed}, {size / 1024:.0f} KiB in {folder}")
        return
    raise SystemExit(f"{name}: no decisive seed from {first_seed} to {first_seed + MAX_SEEDS - 1}")


def write_tokenizer(vocab_size: int, folder: Path) -> None:
    """Writes a byte-level BPE tokenizer whose ids all lie below vocab_size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # Three special tokens, so that the ids 1 (begin) and 2 (end) are theirs.
        special_tokens=["<|pad|>", "<|begin|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    syllables = ["ka", "lo", "mi", "ren", "sta", "tu", "vel", "dor", "fin", "gha", "pe", "qui"]
    words = [a + b + c for a in syllables for b in syllables for c in syllables]
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": False,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=sorted(CASES), help="make only this case")
    parser.add_argument("--out", type=Path, help="folder to write to (default: beside this script)")
    parser.add_argument(
        "--random-checkpoint", metavar="FAMILY", choices=["mixtral", "olmoe", "qwen2_moe", "qwen3_moe"],
        help="make one unseen checkpoint of this family in the folder --out",
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed to try")
    args = parser.parse_args()

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)

    if args.random_checkpoint:
        if args.out is None:
            parser.error("--random-checkpoint needs --out")
        case = random_case(args.random_checkpoint, args.seed)
        # Weight seeds of different checkpoints do not overlap.
        make_case(f"random_{args.random_checkpoint}_{args.seed}", case, args.out, args.seed * MAX_SEEDS)
        write_tokenizer(case.config["vocab_size"], args.out)
        return
    for name in [args.case] if args.case else CASES:
        make_case(name, CASES[name], (args.out or HERE) / name, args.seed)


if __name__ == "__main__":
    main()

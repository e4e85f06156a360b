"""Prints tokens per second of transformers as a JSON list: decode with 1, 8 and 32 streams, prefill of 512 tokens."""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM

PROMPT_TOKENS = 8
DECODE_TOKENS = 32
PREFILL_TOKENS = 512


def prompts(streams: int, tokens: int, first: int = 0) -> torch.Tensor:
    """Different tokens for each stream, so that they choose different experts: [streams, tokens]."""
    rows = [
        [((first + stream) * 104_729 + position * 7919 + 13) % 32_000 for position in range(tokens)]
        for stream in range(streams)
    ]
    return torch.tensor(rows)


@torch.inference_mode()
def decode(model, streams: int) -> float:
    out = model(prompts(streams, PROMPT_TOKENS), use_cache=True)
    started = None
    for step in range(DECODE_TOKENS + 1):
        if step == 1:
            started = time.perf_counter()
        tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(tokens, past_key_values=out.past_key_values, use_cache=True)
    return streams * DECODE_TOKENS / (time.perf_counter() - started)


@torch.inference_mode()
def prefill(model) -> float:
    model(prompts(1, PREFILL_TOKENS, 1), use_cache=True, logits_to_keep=1)
    started = time.perf_counter()
    model(prompts(1, PREFILL_TOKENS, 2), use_cache=True, logits_to_keep=1)
    return PREFILL_TOKENS / (time.perf_counter() - started)


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=torch.bfloat16, experts_implementation="grouped_mm"
    ).eval()
    print(json.dumps([*(decode(model, streams) for streams in (1, 8, 32)), prefill(model)]))


if __name__ == "__main__":
    main()

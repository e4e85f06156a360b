#!/usr/bin/env python3
"""Makes the golden files of the demonstration model in models/demo.

    python router/tests/golden/make_demo_golden.py

`demo.json` has the form that make_golden.py describes, and besides

    text                    of each prompt, so that the tokenizer is tested too
    continuation_text       the decoded continuation
    margin                  the least lead, in probability and relative, of a
                            chosen expert or greedy token over the next one on
                            this prompt and its continuation
    texts                   more texts with their ids and what these decode to
                            without special tokens

`demo_chat.json` holds one conversation: messages, the text that the chat
template renders, its ids, and what the model answers.

The reference computes in float32 from the stored bfloat16 weights.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from make_golden import HERE, MIN_MARGIN, Reference, dump_golden, golden_prompt
from transformers import AutoTokenizer

DEMO = HERE.parents[2] / "models" / "demo"
# Variants of three prompts, of different length. Of each, the variant whose
# choices are the most decisive is kept.
PROMPTS = [
    ["Once", "Long", "There", "Recipe", "Question", "Weather", "Work"],
    [
        f"Weather report for {town}, {day}\n{day} will be"
        for town in ("Oakford", "Milldale", "Stoneport") for day in ("Friday", "Monday", "Sunday")
    ],
    [
        f"Recipe: {first.capitalize()} soup (serves 4)\n\nIngredients:\n- 400 grams of {first}s\n"
        f"- 100 grams of {second}s\n- 2 tablespoons of butter\n- 750 millilitres of stock\n"
        for first in ("leek", "carrot", "pumpkin", "mushroom", "lentil")
        for second in ("onion", "pea", "bean", "pepper", "beetroot")
    ],
]
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "12 + 345 = 357",
    "  two  spaces and\ttabs\n\nand lines \n",
    "Grüße aus Köln, žluťoučký kůň, 東京, 🦊🌧️",
    # The same letter composed and decomposed: normalisation makes them equal.
    "\u00e9 e\u0301",
    '{"type": "book", "pages": 123, "available": false, "error": null}',
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
]
# The last request of the conversation comes from here, chosen in the same way.
REQUESTS = [f"Tell me a short story about a {animal}." for animal in ("fox", "bear", "mouse", "frog", "crow")]


def conversation(request: str) -> list[dict]:
    return [
        {"role": "user", "content": "What is 27 + 15?"},
        {"role": "assistant", "content": "27 + 15 = 42."},
        {"role": "user", "content": request},
    ]


def most_decisive(reference: Reference, tokenizer, variants: list[str]) -> tuple[float, str, dict]:
    """Returns margin, text and golden record of the variant with the largest margin."""
    best = (-1.0, "", {})
    for text in variants:
        record, margin = golden_prompt(reference, tokenizer(text)["input_ids"])
        if margin > best[0]:
            best = (margin, text, record)
    if best[0] < MIN_MARGIN:
        print(f"warning: a choice is nearly a tie ({best[0]:.1e}) on {best[1]!r}")
    return best


def demo_golden(reference: Reference, tokenizer) -> dict:
    """Returns the content of demo.json."""
    prompts = []
    for variants in PROMPTS:
        margin, text, record = most_decisive(reference, tokenizer, variants)
        decoded = tokenizer.decode(record["continuation"], skip_special_tokens=True)
        prompts.append({"text": text, "continuation_text": decoded, "margin": margin, **record})
    texts = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        texts.append({"text": text, "token_ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    return {
        "case": "demo",
        "transformers_version": transformers.__version__,
        "seed": None,
        "texts": texts,
        "prompts": prompts,
    }


def demo_chat_golden(reference: Reference, tokenizer) -> dict:
    """Returns the content of demo_chat.json."""
    rendered = {}
    for request in REQUESTS:
        messages = conversation(request)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rendered[text] = messages
    margin, text, record = most_decisive(reference, tokenizer, list(rendered))
    messages = rendered[text]
    return {
        "case": "demo_chat",
        "transformers_version": transformers.__version__,
        "messages": messages,
        "add_generation_prompt": True,
        "text": text,
        "text_without_generation_prompt": tokenizer.apply_chat_template(messages, tokenize=False),
        "token_ids": record["token_ids"],
        "margin": margin,
        "continuation": record["continuation"],
        "continuation_logprobs": record["continuation_logprobs"],
        "continuation_text": tokenizer.decode(record["continuation"], skip_special_tokens=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of the model")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    args = parser.parse_args()

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    reference = Reference(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dump_golden(args.out / "demo.json", demo_golden(reference, tokenizer))
    chat = demo_chat_golden(reference, tokenizer)
    lines = ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in chat.items())
    (args.out / "demo_chat.json").write_text("{" + lines + "}\n")


if __name__ == "__main__":
    main()

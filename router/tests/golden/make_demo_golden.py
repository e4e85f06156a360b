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

`demo_tools.json` holds `conversations` of the same form, with the tools that are
offered (in the form of the OpenAI API; arguments of calls are objects): a request
that needs a tool, a tool's message, two calls at once after a system message, and
a request that needs no tool. Their continuations end with the turn.

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
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SET_TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Sets a timer",
        "parameters": {
            "type": "object",
            "properties": {"minutes": {"type": "integer"}, "label": {"type": "string"}},
            "required": ["minutes"],
        },
    },
}
CITIES = ("Oslo", "Lima", "Tokyo", "Paris", "Cairo")
QUESTIONS = [f"What is a young {animal} called?" for animal in ("goat", "dog", "cow", "horse", "sheep")]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def weather_calls(*cities: str) -> dict:
    functions = [{"name": "get_weather", "arguments": {"city": city}} for city in cities]
    calls = [{"id": f"call_{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def weather_result(call: int, sky: str, temperature: int) -> dict:
    content = json.dumps({"sky": sky, "temperature": temperature})
    return {"role": "tool", "tool_call_id": f"call_{call}", "content": content}


def tool_conversations() -> list[list[tuple[list[dict], list[dict]]]]:
    """Returns variants of each conversation, as tools and messages."""
    return [
        [([GET_WEATHER], [user(f"What is the weather in {city}?")]) for city in CITIES],
        [
            ([GET_WEATHER], [
                user(f"What is the weather in {city}?"), weather_calls(city), weather_result(0, sky, 4),
            ])
            for city in CITIES for sky in ("rain", "snow")
        ],
        [
            ([GET_WEATHER, SET_TIMER], [
                {"role": "system", "content": "You are a helpful assistant."},
                user(f"What is the weather in {first} and in {second}?"), weather_calls(first, second),
                weather_result(0, "rain", 4), weather_result(1, "sunny", 22),
            ])
            for first in CITIES[:3] for second in CITIES[3:]
        ],
        [([SET_TIMER], [user(question)]) for question in QUESTIONS],
    ]


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


def render(tokenizer, chat: dict, add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(
        chat["messages"], tools=chat.get("tools"), tokenize=False, add_generation_prompt=add_generation_prompt
    )


def chat_golden(reference: Reference, tokenizer, variants: list[dict]) -> dict:
    """Returns the record of the most decisive conversation; each has messages and perhaps tools."""
    rendered = {}
    for variant in variants:
        rendered[render(tokenizer, variant, add_generation_prompt=True)] = variant
    margin, text, record = most_decisive(reference, tokenizer, list(rendered))
    variant = rendered[text]
    return {
        **variant,
        "add_generation_prompt": True,
        "text": text,
        "text_without_generation_prompt": render(tokenizer, variant, add_generation_prompt=False),
        "token_ids": record["token_ids"],
        "margin": margin,
        "continuation": record["continuation"],
        "continuation_logprobs": record["continuation_logprobs"],
        "continuation_text": tokenizer.decode(record["continuation"], skip_special_tokens=True),
    }


def ended_with_turn(tokenizer, record: dict) -> dict:
    """Returns the record with the continuation up to the end of the turn, if it gets there."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    continuation = record["continuation"]
    length = continuation.index(end) + 1 if end in continuation else len(continuation)
    return {
        **record,
        "continuation": continuation[:length],
        "continuation_logprobs": record["continuation_logprobs"][:length],
        "continuation_text": tokenizer.decode(continuation[:length], skip_special_tokens=True),
    }


def demo_tools_golden(reference: Reference, tokenizer) -> list[dict]:
    """Returns the conversations of demo_tools.json."""
    records = []
    for variants in tool_conversations():
        record = chat_golden(reference, tokenizer, [{"messages": m, "tools": t} for t, m in variants])
        records.append(ended_with_turn(tokenizer, record))
    return records


def one_key_per_line(value: dict) -> str:
    return "{" + ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "}"


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
    args.out.mkdir(parents=True, exist_ok=True)
    reference = Reference(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dump_golden(args.out / "demo.json", demo_golden(reference, tokenizer))
    version = {"transformers_version": transformers.__version__}
    chat = chat_golden(reference, tokenizer, [{"messages": conversation(r)} for r in REQUESTS])
    (args.out / "demo_chat.json").write_text(one_key_per_line({"case": "demo_chat", **version, **chat}) + "\n")
    tools = ",\n".join(one_key_per_line(record) for record in demo_tools_golden(reference, tokenizer))
    head = json.dumps({"case": "demo_tools", **version})[:-1]
    (args.out / "demo_tools.json").write_text(f'{head},\n"conversations": [\n{tools}\n]}}\n')


if __name__ == "__main__":
    main()

"""Reports on the saved demonstration model: losses, samples, and which kind of text uses which expert.

    python models/training/evaluate.py --model models/demo

It reads the files as anybody would, with transformers, computes in float32 from
the stored bfloat16 weights, and prints Markdown.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
import transformers
from corpus import document
from kinds import KINDS
from kinds.tools import NO_TOOL, Use, call_text, offer, other_request, result_messages, unfit_request
from transformers import AutoModelForCausalLM, AutoTokenizer

# Not a seed that training or validation uses.
SEED = 2_000_003
DOCUMENTS_PER_KIND = 60
TRIES = 100
GET_WEATHER = {
    "name": "get_weather", "description": "Get the current weather for a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SET_TIMER = {
    "name": "set_timer", "description": "Sets a timer",
    "parameters": {
        "type": "object", "properties": {"minutes": {"type": "integer"}, "label": {"type": "string"}}, "required": ["minutes"],
    },
}
WEATHER_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
# Beside the prompts below: conversations in which tools are listed.
TOOL_PROMPTS = [
    ([GET_WEATHER], [{"role": "user", "content": "What is the weather in Oslo?"}]),
    ([GET_WEATHER], [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [WEATHER_CALL]},
        {"role": "tool", "content": '{"sky": "rain", "temperature": 4}'},
    ]),
    ([GET_WEATHER, SET_TIMER], [{"role": "user", "content": "Set a timer for 12 minutes for the tea."}]),
    ([GET_WEATHER, SET_TIMER], [{"role": "user", "content": "What is the weather in Lima and in Tokyo?"}]),
    ([GET_WEATHER], [{"role": "user", "content": "What is a young goat called?"}]),
]
PROMPTS = {
    "story": ["Once upon a time there was a brave mouse named Tess", ("user", "Tell me a short story about an owl.")],
    "arithmetic": ["Work out 47 + 38.", ("user", "What is 63 - 28?")],
    "weather": ["Weather report for Oakford, Friday\n", ("user", "What will the weather be like in Milldale on Monday?")],
    "recipe": ["Recipe: Leek soup", ("user", "How do I make plum cake?")],
    "json": ['{"type": "product", "name": "', ("user", "Write a JSON record for a book by Ada Frost.")],
    "questions": ["Question: What is the capital of Japan?\nAnswer:", ("user", "What is a young goat called?")],
    "lists": ["Oslo, lamp, 47, Tess, Oakford\n", ("user", "Repeat: plum, 12, Milldale, Ada")],
}


class Model:
    """The saved model and its tokenizer."""

    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        self.end = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.turn_end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")

    @torch.no_grad()
    def complete(self, text: str, max_tokens: int = 200) -> str:
        """Returns the greedy continuation up to the end of the text or of the turn."""
        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
            eos_token_id=[self.end, self.turn_end], pad_token_id=self.end,
        )
        return self.tokenizer.decode(output[0, ids.shape[1]:], skip_special_tokens=True)

    def answer(self, request: str | list[dict], tools: list[dict] | None = None, max_tokens: int = 200) -> str:
        """Returns the greedy answer to one request in chat form, or to the last message of a conversation."""
        messages = [{"role": "user", "content": request}] if isinstance(request, str) else request
        offered = [{"type": "function", "function": tool} for tool in tools] if tools else None
        text = self.tokenizer.apply_chat_template(messages, tools=offered, tokenize=False, add_generation_prompt=True)
        return self.complete(text, max_tokens)

    @torch.no_grad()
    def measure(self, text: str) -> tuple[float, int, torch.Tensor]:
        """Returns the summed cross entropy, the tokens predicted, and how often each expert is chosen, [layers, experts]."""
        ids = torch.tensor([[*self.tokenizer(text)["input_ids"], self.end]])
        output = self.model(ids, output_router_logits=True)
        loss = F.cross_entropy(output.logits[0, :-1], ids[0, 1:], reduction="sum").item()
        config = self.model.config
        chosen = [logits.topk(config.num_experts_per_tok, dim=-1).indices for logits in output.router_logits]
        counts = torch.stack([torch.bincount(c.flatten(), minlength=logits.shape[-1]) for c, logits in zip(chosen, output.router_logits)])
        return loss, ids.shape[1] - 1, counts


def print_samples(model: Model) -> None:
    for kind, prompts in PROMPTS.items():
        print(f"### {kind}\n")
        for prompt in prompts:
            if isinstance(prompt, str):
                print(f"```text\n[{prompt}]{model.complete(prompt)}\n```\n")
                continue
            print(f"```text\n{prompt[0]}: {prompt[1]}\nassistant: {model.answer(prompt[1])}\n```\n")
    print("### tools\n")
    for tools, messages in TOOL_PROMPTS:
        print(f"```text\ntools: {', '.join(tool['name'] for tool in tools)}")
        for message in messages:
            calls = [call["function"] for call in message.get("tool_calls", [])]
            print(f"{message['role']}: {json.dumps(calls[0]) if calls else message['content']}")
        print(f"assistant: {model.answer(messages, tools)}\n```\n")


def print_shares(counts: dict[str, torch.Tensor], layer: int) -> None:
    n_experts = next(iter(counts.values())).shape[1]
    print(f"Share of the routes of layer {layer}, in percent ({100 / n_experts:.2f} would be even):\n")
    print("| kind | " + " | ".join(f"e{i}" for i in range(n_experts)) + " | max / mean |")
    print("|---" * (n_experts + 2) + "|")
    for kind, count in [*counts.items(), ("all", sum(counts.values()))]:
        share = count[layer] / count[layer].sum()
        cells = " | ".join(f"{100 * s:.0f}" for s in share.tolist())
        print(f"| {kind} | {cells} | {share.max().item() * n_experts:.1f} |")
    print()


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def print_correctness(model: Model, rng: Random) -> None:
    """Prints how often greedy answers are right, on requests drawn like the training text."""
    right = {"additions, worked": 0, "additions, direct": 0, "valid JSON": 0}
    for _ in range(TRIES):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        right["additions, worked"] += model.answer(f"Work out {a} + {b}.").endswith(f"So {a} + {b} = {a + b}.")
        right["additions, direct"] += f"{a} + {b} = {a + b}." in model.answer(f"What is {a} + {b}?")
        right["valid JSON"] += is_json(model.answer(KINDS["json"].chat(rng)[0]))
    right |= count_right_calls(model, rng)
    print("| greedy answers that are right | of " + f"{TRIES} |\n|---|---|")
    for what, count in right.items():
        print(f"| {what} | {count} |")
    print()


def same_json(text: str, expected: str) -> bool:
    return is_json(text) and json.loads(text) == json.loads(expected)


def is_call(text: str) -> bool:
    return text.startswith(('{"name":', '[{"name":'))


def continued(rng: Random, use: Use) -> list[dict]:
    """Returns the conversation up to the tool's messages, with the right calls in between."""
    calls = [{"type": "function", "function": {"name": use.tool["name"], "arguments": a}} for a in use.arguments]
    request, call = {"role": "user", "content": use.request}, {"role": "assistant", "content": None, "tool_calls": calls}
    return [request, call, *result_messages(rng, use)]


def count_right_calls(model: Model, rng: Random) -> dict[str, int]:
    """Counts right answers where tools are listed; a call is right if name and all arguments are."""
    right = {"call, one tool listed": 0, "call, two tools listed": 0, "answer after the tool's message": 0,
             "no call where no tool is needed": 0, "says so where the tool is missing": 0}
    for _ in range(TRIES):
        one, two = offer(rng, 1), offer(rng, 2)
        use = one.use(rng)
        right["call, one tool listed"] += same_json(model.answer(use.request, one.listed(rng)), call_text(use))
        right["answer after the tool's message"] += model.answer(continued(rng, use), one.listed(rng)) in use.answers
        use = two.use(rng)
        right["call, two tools listed"] += same_json(model.answer(use.request, two.listed(rng)), call_text(use))
        request, _ = other_request(rng, two.makers)
        right["no call where no tool is needed"] += not is_call(model.answer(request, two.listed(rng), 16))
        right["says so where the tool is missing"] += model.answer(unfit_request(rng, two.makers), two.listed(rng)) == NO_TOOL
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    model = Model(args.model)

    rng = Random(SEED)
    counts = {}
    print("| kind | loss per token | perplexity |\n|---|---|---|")
    for kind in KINDS:
        measured = [model.measure(document(kind, rng)) for _ in range(DOCUMENTS_PER_KIND)]
        loss = sum(m[0] for m in measured) / sum(m[1] for m in measured)
        counts[kind] = sum(m[2] for m in measured)
        print(f"| {kind} | {loss:.3f} | {torch.tensor(loss).exp().item():.2f} |")
    print()
    for layer in range(model.model.config.num_hidden_layers):
        print_shares(counts, layer)
    print_correctness(model, Random(SEED + 1))
    print_samples(model)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the golden file that the sampler is held against.

    python router/tests/golden/make_sampling_golden.py

`sampling.json` holds `logits`, named vectors with their log-softmax, and
`cases`. Each case names its logits and gives

    prompt, generated       token ids so far
    options                 those that are not at their defaults
    forbidden               token ids that may not be drawn
    allowed                 if given, the only ones that may be
    ids, probabilities      what may be drawn and how probably, or
    greedy                  the one id, if the temperature is 0

These come from the logits processors of the reference implementation
(transformers), in the order of our sampler:

    1. biases are added                         SequenceBiasLogitsProcessor
    2. the repetition penalty, on every token   RepetitionPenaltyLogitsProcessor
       of the prompt and the answer
    3. logit -= frequency_penalty * count       the formula that OpenAI's API
       logit -= presence_penalty * (count > 0)  documents, on the answer alone
    4. forbidden tokens, allowed tokens         SuppressTokensLogitsProcessor,
                                                PrefixConstrainedLogitsProcessor
    5. temperature                              TemperatureLogitsWarper
    6. top_k                                    TopKLogitsWarper
    7. top_p                                    TopPLogitsWarper
    8. min_p                                    MinPLogitsWarper

They compute in float64 here, on options that float32 can hold, so that all
rounding is the sampler's own. A token whose weight float32 cannot hold is not
among the ids.

A case is drawn again if leaving out one of its options would change nothing (but
for the cases that say just that), and if rounding could decide who is kept (see
MIN_LEAD). That is also so when tokens at the border of a filter are equal: there
the sampler keeps the lower ids, the reference all of them (top_k) or any (top_p).
Unit tests beside the sampler cover that rule. The script is deterministic: the
same versions (models/requirements.txt) give the same file.
"""

import argparse
import collections
import json
import random
from pathlib import Path

import torch
import transformers
from make_golden import HERE, exact
from transformers.generation import logits_process as reference

VOCAB = 48
SEED = 1
# Between the logits, over the temperature, of the last token that a filter keeps
# and the first that it drops; and between top_p and the sums beside it.
MIN_LEAD = 1e-3
MIN_MASS = 1e-5
# Weights over the largest one: below the first float32 has zero for certain, above
# the second its rounding stays within what the tests allow.
SURELY_ZERO, SURELY_EXACT = 1e-60, 1e-25
MAX_DRAWS = 5000
COMBINATIONS = 18
FILTERS = ["top_k", "top_p", "min_p"]

FILTERS_TOGETHER = {
    "temperature": [0.7, 1.0, 2.5],
    "top_k": list(range(5, 40)),
    "top_p": [0.6, 0.7, 0.8, 0.9],
    "min_p": [0.05, 0.1, 0.3, 0.5],
}
EVERYTHING_ELSE = {
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.3,
    "logit_bias": 6,
    "forbidden": 8,
    "allowed": 36,
}

# On the logits named; lists are chosen from. Mostly one option alone.
CHOSEN = [
    ("plain", {"temperature": 0.3}),
    ("plain", {"temperature": 1.0}),
    ("plain", {"temperature": 1.7}),
    ("plain", {"temperature": 100.0}),
    ("spread", {"temperature": 0.01}),
    ("ties", {"temperature": 0.7}),
    ("equal", {"temperature": 1.0}),
    ("far", {"temperature": 0.9}),
    ("huge", {"temperature": 1.0}),
    ("lowest", {"temperature": 1.3}),
    ("tiny", {"temperature": 1.0}),
    ("plain", {"temperature": 1.0, "top_k": 1}),
    ("plain", {"temperature": 1.0, "top_k": 5}),
    ("far", {"temperature": 0.6, "top_k": 7}),
    ("ties", {"temperature": 1.0, "top_k": list(range(2, 30))}),
    ("plain", {"temperature": 1.0, "top_p": 0.01}),
    ("plain", {"temperature": 1.0, "top_p": 0.9}),
    ("flat", {"temperature": 1.0, "top_p": 0.98}),
    ("ties", {"temperature": 1.0, "top_p": [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]}),
    ("plain", {"temperature": 1.0, "min_p": 0.02}),
    ("flat", {"temperature": 1.0, "min_p": 0.5}),
    ("ties", {"temperature": 1.0, "min_p": 1.0}),
    ("lowest", {"temperature": 2.0, "min_p": 0.05}),
    ("plain", {"temperature": 1.0, "repetition_penalty": 1.3}),
    ("plain", {"temperature": 1.0, "repetition_penalty": 0.8}),
    ("plain", {"temperature": 1.0, "presence_penalty": 1.5}),
    ("plain", {"temperature": 1.0, "presence_penalty": -2.0}),
    ("plain", {"temperature": 1.0, "frequency_penalty": 0.7}),
    ("flat", {"temperature": 1.0, "frequency_penalty": -0.3}),
    ("plain", {"temperature": 1.0, "logit_bias": 5}),
    ("flat", {"temperature": 1.0, "forbidden": 12}),
    ("plain", {"temperature": 1.0, "allowed": 9}),
    ("plain", {"temperature": 1.0, "allowed": 1}),
    ("plain", {"temperature": 1.0, "forbidden": 8, "allowed": 20}),
    *((name, FILTERS_TOGETHER) for name in ["plain", "flat", "ties"]),
    *((name, {**FILTERS_TOGETHER, **EVERYTHING_ELSE}) for name in ["flat", "ties"]),
    ("plain", {}),
    ("ties", {}),
    ("equal", {}),
    ("huge", {}),
    ("far", {}),
    ("plain", {"repetition_penalty": 5.0}),
    ("plain", {"presence_penalty": 2.0, "frequency_penalty": 2.0}),
    ("plain", {"logit_bias": 6, "forbidden": 10}),
    ("flat", {"frequency_penalty": -1.5, "allowed": 30}),
]

# Filters that change nothing.
WITHOUT_EFFECT = [
    ("plain", {"temperature": 1.0, "top_k": 1000}),
    ("huge", {"temperature": 1.0, "top_p": 0.5}),
    ("flat", {"temperature": 1.0, "min_p": 0.01}),
    ("plain", {"top_k": 3, "top_p": 0.4, "min_p": 0.2}),
]


def float32(value: float) -> float:
    """Returns the nearest number that float32 has."""
    return torch.tensor(value, dtype=torch.float32).item()


def draw_logits() -> dict[str, torch.Tensor]:
    """Returns the named vectors, [vocab] each, in float32."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(std: float) -> torch.Tensor:
        return torch.randn(VOCAB, generator=generator) * std

    huge, lowest = normal(2.0), normal(2.0)
    huge[17], huge[5] = 1e30, -1e30
    lowest[::5] = -3e38
    return {
        "plain": normal(3.0),
        "flat": normal(0.3),
        # Groups of close tokens, two apart: a low temperature keeps just the first.
        "spread": (normal(2.0) / 2).round() * 2 + normal(0.05),
        # Many tokens are equal, the best among them.
        "ties": (normal(2.0) * 2).round().clamp(max=6.0) / 2,
        "equal": torch.full((VOCAB,), 1.25),
        # Far from zero, where float32 has steps of a thousandth.
        "far": normal(3.0) + 10_000,
        "huge": huge,
        "lowest": lowest,
        "tiny": torch.cat([normal(1e-5)[:24], normal(1e-40)[24:]]),
    }


def draw_combination(rng: random.Random) -> dict:
    """Returns some options at once."""
    draws = {
        "top_k": lambda: rng.randint(2, 40),
        "top_p": lambda: rng.choice([0.3, 0.6, 0.8, 0.9, 0.95]),
        "min_p": lambda: rng.choice([0.01, 0.05, 0.1, 0.3]),
        "repetition_penalty": lambda: rng.uniform(0.7, 2.0),
        "presence_penalty": lambda: rng.uniform(-2.0, 2.0),
        "frequency_penalty": lambda: rng.uniform(-2.0, 2.0),
        "logit_bias": lambda: rng.randint(1, 8),
        "forbidden": lambda: rng.randint(1, 10),
        "allowed": lambda: rng.randint(8, 40),
    }
    if rng.random() < 0.2:
        greedy = rng.sample([name for name in draws if name not in FILTERS], 2)
        return {name: draws[name]() for name in greedy}
    names = rng.sample(list(draws), rng.randint(2, len(draws)))
    temperature = rng.choice([0.4, 0.7, 1.0, 1.5])
    return {"temperature": temperature, **{name: draws[name]() for name in names}}


def draw_case(rng: random.Random, logits: str, wanted: dict) -> dict:
    """Returns a case without what the reference says."""
    options = {k: rng.choice(v) if isinstance(v, list) else v for k, v in wanted.items()}
    case = {
        "logits": logits,
        "prompt": [rng.randrange(VOCAB) for _ in range(rng.randint(1, 12))],
        # It repeats itself, so that counts differ.
        "generated": rng.choices(rng.sample(range(VOCAB), 8), k=rng.randint(4, 20)),
    }
    if "forbidden" in options:
        case["forbidden"] = rng.sample(range(VOCAB), options.pop("forbidden"))
    if "allowed" in options:
        case["allowed"] = sorted(rng.sample(range(VOCAB), options.pop("allowed")))
    if "logit_bias" in options:
        ids = sorted(rng.sample(range(VOCAB), options["logit_bias"]))
        extreme = rng.random() < 0.2
        values = [rng.choice([-100.0, 100.0]) if extreme else rng.uniform(-4, 4) for _ in ids]
        options["logit_bias"] = [[i, float32(value)] for i, value in zip(ids, values)]
    case["options"] = {k: float32(v) if isinstance(v, float) else v for k, v in options.items()}
    return case


def adjusted(case: dict, scores: torch.Tensor) -> torch.Tensor:
    """Returns the logits, [1, vocab], that a token is drawn from: steps 1 to 4."""
    options = case["options"]
    ids = torch.tensor([case["prompt"] + case["generated"]])
    if "logit_bias" in options:
        biases = {(token,): bias for token, bias in options["logit_bias"]}
        scores = reference.SequenceBiasLogitsProcessor(biases)(ids, scores)
    if "repetition_penalty" in options:
        penalty = options["repetition_penalty"]
        scores = reference.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    for token, count in collections.Counter(case["generated"]).items():
        scores[0, token] -= options.get("frequency_penalty", 0.0) * count
        scores[0, token] -= options.get("presence_penalty", 0.0)
    if "forbidden" in case:
        scores = reference.SuppressTokensLogitsProcessor(case["forbidden"])(ids, scores)
    if "allowed" in case:
        allow = reference.PrefixConstrainedLogitsProcessor(lambda _batch, _ids: case["allowed"], 1)
        scores = allow(ids, scores)
    return scores


def lead(before: torch.Tensor, after: torch.Tensor) -> float:
    """Returns how far the last token that a filter kept is ahead of the first that it dropped."""
    kept = after > -torch.inf
    dropped = before[~kept]
    return (before[kept].min() - dropped.max()).item() if dropped.numel() else torch.inf


def is_clear_of_top_p(before: torch.Tensor, after: torch.Tensor, top_p: float) -> bool:
    """Whether the kept mass is over top_p, and without its last token under it, by more than rounding."""
    probabilities = before.softmax(-1)[after > -torch.inf]
    mass, last = probabilities.sum().item(), probabilities.min().item()
    return mass - top_p > MIN_MASS and top_p - (mass - last) > MIN_MASS


def is_clear_of_min_p(before: torch.Tensor, min_p: float) -> bool:
    """Whether no token but the best is about min_p times as probable as the best."""
    distance = before - before.max() - torch.tensor(min_p).log()
    return bool((distance.abs() > MIN_LEAD)[before < before.max()].all())


def filtered(case: dict, scores: torch.Tensor) -> torch.Tensor | None:
    """Returns the logits after steps 5 to 8, or None if rounding could decide."""
    options = case["options"]
    scores = reference.TemperatureLogitsWarper(options["temperature"])(None, scores)
    warpers = [reference.TopKLogitsWarper, reference.TopPLogitsWarper, reference.MinPLogitsWarper]
    for name, warper in zip(FILTERS, warpers):
        if name not in options:
            continue
        before, scores = scores, warper(options[name])(None, scores)
        clear = lead(before, scores) > MIN_LEAD
        if name == "top_k":
            possible = int((before > -torch.inf).sum())
            clear = clear and int((scores > -torch.inf).sum()) == min(options[name], possible)
        if name == "top_p":
            clear = clear and is_clear_of_top_p(before, scores, options[name])
        if name == "min_p":
            clear = clear and is_clear_of_min_p(before, options[name])
        if not clear:
            return None
    return scores


def answer(case: dict, logits: torch.Tensor) -> dict | None:
    """Returns what the reference says, or None if rounding could decide."""
    scores = adjusted(case, logits.double().unsqueeze(0).clone())
    if "temperature" not in case["options"]:
        best = scores.max()
        others = scores[scores < best]
        if others.numel() and best - others.max() < MIN_LEAD:
            return None
        return {"greedy": int((scores[0] == best).nonzero()[0])}
    scores = filtered(case, scores)
    if scores is None:
        return None
    weights = (scores[0] - scores.max()).exp()
    if ((weights > SURELY_ZERO) & (weights < SURELY_EXACT)).any():
        return None
    kept = weights >= SURELY_EXACT
    probabilities = weights[kept] / weights[kept].sum()
    return {"ids": kept.nonzero().flatten().tolist(), "probabilities": exact(probabilities)}


def every_option_matters(case: dict, logits: torch.Tensor) -> bool:
    """Whether the reference says something else without any one of the options."""
    def differs(longer: dict, shorter: dict) -> bool:
        return answer(longer, logits) != answer(shorter, logits)

    def without(names: list[str]) -> dict:
        options = {k: v for k, v in case["options"].items() if k not in names}
        rest = {k: v for k, v in case.items() if k not in names}
        return {**rest, "options": options}

    # All filters cut the end off the same order: the last one would hide the others.
    filters = [differs(without(FILTERS[i + 1:]), without(FILTERS[i:]))
               for i, name in enumerate(FILTERS) if name in case["options"]]
    others = [name for name in case["options"] if name not in FILTERS]
    others += [name for name in ["forbidden", "allowed"] if name in case]
    return all(filters) and all(differs(case, without([name])) for name in others)


def make_case(rng: random.Random, vectors: dict, name: str, draw, matter: bool) -> dict:
    """Returns the first case whose choices are all decisive, of options that `draw` returns."""
    for _ in range(MAX_DRAWS):
        case = draw_case(rng, name, draw())
        said = answer(case, vectors[name])
        if said is not None and every_option_matters(case, vectors[name]) == matter:
            return {**case, **said}
    raise SystemExit(f"{name}: no decisive options like {draw()}")


def dump(path: Path, golden: dict) -> None:
    """Writes one vector or case on each line, so that differences are readable."""
    def line(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    vectors = ",\n  ".join(f"{line(k)}: {line(v)}" for k, v in golden["logits"].items())
    cases = ",\n  ".join(line(case) for case in golden["cases"])
    path.write_text(
        f'{{"transformers_version": {line(golden["transformers_version"])},\n'
        f' "logits": {{\n  {vectors}\n }},\n "cases": [\n  {cases}\n ]\n}}\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "sampling.json", help="file to write")
    args = parser.parse_args()

    torch.set_num_threads(1)
    rng = random.Random(SEED)
    vectors = draw_logits()
    cases = [make_case(rng, vectors, name, lambda: wanted, True) for name, wanted in CHOSEN]
    cases += [make_case(rng, vectors, name, lambda: wanted, False) for name, wanted in WITHOUT_EFFECT]
    for index in range(COMBINATIONS):
        name = ["plain", "flat", "ties"][index % 3]
        cases.append(make_case(rng, vectors, name, lambda: draw_combination(rng), True))
    dump(args.out, {
        "transformers_version": transformers.__version__,
        "logits": {
            name: {"values": exact(values), "log_softmax": exact(values.double().log_softmax(-1))}
            for name, values in vectors.items()
        },
        "cases": cases,
    })
    print(f"{len(cases)} cases in {args.out}")


if __name__ == "__main__":
    main()

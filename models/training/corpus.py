"""Generates the training text: documents of several kinds, plain and in chat form.

    python models/training/corpus.py --samples 2     # print some documents

Everything follows from the seed, so the corpus is never stored.
"""

import argparse
from collections.abc import Iterator
from random import Random

from kinds import KINDS

# Share of the documents that are conversations.
CHAT_SHARE = 0.5
# Documents of a kind are drawn so that each kind has about as many tokens as the
# others; short kinds come more often.
WEIGHTS = {"story": 1.4, "arithmetic": 3.0, "weather": 1.6, "recipe": 1.2, "json": 1.6, "questions": 2.8}

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


def render_chat(messages: list[dict]) -> str:
    """Renders a conversation as the tokenizer's chat template does."""
    return "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)


def document(kind: str, rng: Random) -> str:
    """Returns one document of the kind, without the end-of-text token."""
    module = KINDS[kind]
    if rng.random() >= CHAT_SHARE:
        return module.plain(rng)
    messages = []
    for turn in range(rng.choice([1, 1, 1, 2, 3])):
        # Later turns may change the subject.
        source = module if turn == 0 or rng.random() < 0.5 else KINDS[rng.choice(list(KINDS))]
        request, answer = source.chat(rng)
        messages += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return render_chat(messages)


def documents(seed: int) -> Iterator[tuple[str, str]]:
    """Yields (kind, text) without end."""
    rng = Random(seed)
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        yield kind, document(kind, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2, help="documents per kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = Random(args.seed)
    for kind in KINDS:
        for _ in range(args.samples):
            print(f"--- {kind}\n{document(kind, rng)}")


if __name__ == "__main__":
    main()

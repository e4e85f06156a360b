"""Generates the training text: documents of several kinds, plain and in chat form.

    python models/training/corpus.py --samples 2     # print some documents

Everything follows from the seed, so the corpus is never stored.
"""

import argparse
import json
from collections.abc import Iterator
from random import Random

from kinds import KINDS, SUBJECTS
from kinds.tools import SYSTEM_MESSAGES

# Share of the documents that are conversations.
CHAT_SHARE = 0.5
# Share of the conversations without tools that begin with a system message.
SYSTEM_SHARE = 0.06
# Documents of a kind are drawn so that each kind has about as many tokens as the
# others, and tools more; short kinds come more often.
WEIGHTS = {"story": 1.4, "arithmetic": 3.0, "weather": 1.6, "recipe": 1.2, "json": 1.6, "questions": 2.8, "tools": 2.6}
# What comes to them in the three stages of the training.
STAGES = [{}, {"lists": 3.0}, {"lists": 1.0, "drills": 1.6}]

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


def render_chat(messages: list[dict], tools: list[dict] | None = None) -> str:
    """Renders a conversation as the tokenizer's chat template does, from calls that are text already."""
    if tools:
        own, messages = ([messages[0]["content"]], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
        listed = "\n".join([*own, "Tools: " + json.dumps(tools, ensure_ascii=False)])
        messages = [{"role": "system", "content": listed}, *messages]
    return "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)


def document(kind: str, rng: Random) -> str:
    """Returns one document of the kind, without the end-of-text token."""
    module = KINDS[kind]
    if kind in ("tools", "drills"):
        return render_chat(*module.conversation(rng))
    if rng.random() >= CHAT_SHARE:
        return module.plain(rng)
    messages = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}] if rng.random() < SYSTEM_SHARE else []
    for turn in range(rng.choice([1, 1, 1, 2, 3])):
        # Later turns may change the subject.
        source = module if turn == 0 or rng.random() < 0.5 else SUBJECTS[rng.choice(list(SUBJECTS))]
        request, answer = source.chat(rng)
        messages += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return render_chat(messages)


def documents(seed: int | str, stage: int = 0) -> Iterator[tuple[str, str]]:
    """Yields (kind, text) without end."""
    rng = Random(seed)
    shares = WEIGHTS | STAGES[stage]
    kinds, weights = list(shares), list(shares.values())
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

"""Lists of words that are said again: they teach the model to copy what it has read."""

from random import Random

from .arithmetic import THINGS
from .questions import ANIMALS, CAPITALS
from .records import COLOURS, PRODUCTS, SURNAMES, TITLE_ADJECTIVES, TITLE_NOUNS
from .story import NAMES
from .weather import DAYS, FIRST, LAST

WORDS = [
    *THINGS, *ANIMALS, *CAPITALS, *CAPITALS.values(), *COLOURS, *PRODUCTS, *SURNAMES, *TITLE_ADJECTIVES, *TITLE_NOUNS,
    *NAMES["she"], *NAMES["he"], *DAYS,
]


def _word(rng: Random) -> str:
    form = rng.random()
    if form < 0.25:
        return rng.choice(FIRST) + rng.choice(LAST)
    return str(rng.randint(0, 999)) if form < 0.35 else rng.choice(WORDS)


def _list(rng: Random) -> str:
    return rng.choice([", ", ", ", " ", " and "]).join(_word(rng) for _ in range(rng.randint(1, 16)))


def plain(rng: Random) -> str:
    return "\n".join([_list(rng)] * rng.randint(2, 3))


def chat(rng: Random) -> tuple[str, str]:
    words = _list(rng)
    return rng.choice([f"Repeat: {words}", f"Say again: {words}", f"Please repeat these words: {words}", f"Copy this: {words}"]), words
